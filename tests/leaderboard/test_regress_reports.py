"""The findings as JUnit XML and JSON."""

import json
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.leaderboard.regression import VERDICTS, RegressionFinding
from madeleine_bench.leaderboard.regression_gate import count_words, document, in_order, to_junit

FINDINGS = (
    RegressionFinding(
        "encoders", "a", "bcnb-er linear-probe/v2", "same", "equal predictions", 0.8, "", 0.8
    ),
    RegressionFinding(
        "encoders", "a", "bcnb-pr linear-probe/v2", "regressed", "p < .05 & <worse>",
        0.8, "b" * 64, 0.7, "c" * 64, -0.1, (-0.15, -0.05), 0.002,
    ),
    RegressionFinding(
        "encoders", "b", "bcnb-er linear-probe/v2", "improved", "better", explained="new weights"
    ),
    RegressionFinding(
        "scorers", "cox/v2", "survival labels", "scorer-changed", "tol was 1 and is 2"
    ),
)  # fmt: skip


def test_junit_has_the_shape_that_readers_expect():
    root = ElementTree.fromstring(to_junit("shipped", FINDINGS, phantom=True))
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "2", "0")
    assert [suite.get("name") for suite in root] == ["encoders.a", "encoders.b", "scorers.cox/v2"]
    for suite in root:
        cases = suite.findall("testcase")
        assert suite.tag == "testsuite"
        assert int(suite.get("tests")) == len(cases)
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert suite.get("skipped") == suite.get("errors") == "0"
        assert "PHANTOM" in suite.find("properties/property").get("value")
        for case in cases:
            assert case.get("name")
            assert case.get("classname").startswith("mbench.regress.")
            float(case.get("time"))
    failure = root.find("testsuite/testcase/failure")
    assert failure.get("type") == "regressed"
    assert "p < .05 & <worse>" in failure.get("message")
    assert "record in the baseline: " + "b" * 64 in failure.text


def test_an_explanation_is_told_and_real_data_is_not_called_phantom():
    text = to_junit("mine", FINDINGS, phantom=False)
    assert "explained: new weights" in text
    assert "PHANTOM" not in text


@given(st.text(max_size=40))
def test_any_reason_makes_xml_that_can_be_read(reason):
    finding = RegressionFinding("encoders", "a", "bcnb-er linear-probe/v2", "failed", reason)
    ElementTree.fromstring(to_junit("s", [finding], phantom=True))


def test_json_holds_every_number():
    content = json.loads(json.dumps(document("shipped", "phantom", FINDINGS, ["gone"])))
    assert content["phantom"] is True
    assert content["passed"] is False
    assert content["counts"]["regressed"] == 1
    assert set(content["counts"]) == set(VERDICTS)
    assert content["findings"][1]["ci95"] == [-0.15, -0.05]
    assert [finding["passes"] for finding in content["findings"]] == [True, False, True, False]
    assert content["stale_explanations"] == ["gone"]
    assert document("s", "local", FINDINGS[:1], [])["passed"] is True


def test_the_worst_stands_first():
    found = [f.verdict for f in in_order(FINDINGS)]
    assert found == ["scorer-changed", "regressed", "improved", "same"]
    assert count_words(FINDINGS) == "1 scorer-changed, 1 regressed, 1 improved, 1 same"

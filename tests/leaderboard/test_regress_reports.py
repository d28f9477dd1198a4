"""The findings as JSON, and their order."""

import json

from madeleine_bench.leaderboard.regression import VERDICTS, RegressionFinding
from madeleine_bench.leaderboard.regression_gate import count_words, document, in_order

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


def test_json_holds_every_number():
    content = json.loads(json.dumps(document("shipped", "phantom", FINDINGS)))
    assert content["phantom"] is True
    assert content["passed"] is False
    assert content["counts"]["regressed"] == 1
    assert set(content["counts"]) == set(VERDICTS)
    assert content["findings"][1]["ci95"] == [-0.15, -0.05]
    assert [finding["passes"] for finding in content["findings"]] == [True, False, True, False]
    assert document("s", "local", FINDINGS[:1])["passed"] is True


def test_the_worst_stands_first():
    found = [f.verdict for f in in_order(FINDINGS)]
    assert found == ["scorer-changed", "regressed", "improved", "same"]
    assert count_words(FINDINGS) == "1 scorer-changed, 1 regressed, 1 improved, 1 same"

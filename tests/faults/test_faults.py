"""Nothing is lost and nothing is silently wrong, whatever breaks; docs/faults.md has the table."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import faults
from tests.faults.cases import FORMATS, SCENARIOS, Case, all_cases, fast_cases
from tests.faults.damage import DAMAGES, damaged

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / faults.REPORT).read_text())


def name(case: Case) -> str:
    return f"{case.kind}-{case.where}-{case.how}-{case.seed}".replace(" ", "_")


@pytest.mark.parametrize("case", fast_cases(), ids=name)
def test_some_of_every_kind(harness, case):
    verdict = harness.run(case)
    assert verdict.ending == "survived", verdict.seen


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in all_cases() if c not in fast_cases()], ids=name)
def test_all_others(harness, case):
    verdict = harness.run(case)
    assert verdict.ending == "survived", verdict.seen


def test_there_are_enough_cases_and_none_stands_twice():
    cases = all_cases()
    assert len(cases) >= 200
    assert len(set(cases)) == len(cases)
    assert len(fast_cases()) >= 20
    assert {case.kind for case in fast_cases()} >= {case.kind for case in cases} - {
        "worker", "disk error",
    }  # fmt: skip
    assert {case.where for case in cases} == {*FORMATS, *SCENARIOS}


def test_the_harness_knows_a_wrong_result(harness):
    """A guarded format without its guard is silently wrong, and an uncaught error is lost."""
    sound = harness.formats["frozen splits"]
    case = Case("damaged file", sound.name, "flip", 2)
    noted = sound.path.with_name(f"{sound.path.name}.sha256")
    before = noted.read_bytes()
    noted.unlink()
    try:
        endings = {
            harness.run(Case(case.kind, case.where, case.how, seed)).ending for seed in range(12)
        }
    finally:
        noted.write_bytes(before)
    assert "silently wrong" in endings


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_the_same_again_and_changes_bytes(how):
    data = bytes(range(256)) * 3
    assert damaged(data, how, 4) == damaged(data, how, 4) != data


def test_the_committed_table_is_of_these_cases():
    expected = Counter(case.kind for case in all_cases())
    assert {row["kind"]: row["cases"] for row in COMMITTED["rows"]} == dict(expected)
    for row in COMMITTED["rows"]:
        assert row["survived"] == row["cases"]
        assert row["lost"] == row["silently_wrong"] == 0


def test_the_page_has_the_committed_table():
    page = (ROOT / "docs" / "faults.md").read_text()
    for line in faults.markdown_rows(COMMITTED):
        assert line in page

"""docs/audit.md quotes the committed results, and they show what was to be shown."""

import json
from pathlib import Path

import pytest

from benchmarks.site_splits import RESULTS, rows, sentences
from madeleine_bench.data import audit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text()
FOUND = json.loads(RESULTS.read_text())


def test_the_page_quotes_the_committed_results():
    assert "\n".join(rows(FOUND)) in PAGE
    assert len(rows(FOUND)) == 2 + 5
    for sentence in sentences(FOUND):
        assert sentence in PAGE


@pytest.mark.parametrize("task", sorted(FOUND["tasks"]))
def test_ours_are_within_two_cases_or_proved_the_nearest(task):
    each = FOUND["tasks"][task]
    ours = each["optimal"]["largest"]
    assert ours <= 2 or ours == each["bound"]["largest"]
    assert each["optimal"]["sum"] == each["bound"]["sum"]
    others = [each["stratified"], each["group"]]
    assert all(ours < other["largest"] for other in others)
    assert all(each["optimal"]["sum"] < other["sum"] for other in others)
    assert ours < each["shuffled"]["least_largest"]


def test_the_page_says_of_every_kind_of_finding_what_it_means():
    own_advice = {"look-alike", "time-unit", "changed"}
    for kind in own_advice | audit._ADVICE.keys():
        assert f"| `{kind}` |" in PAGE

"""docs/finetuning.md and docs/multistain.md quote the committed results."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import stains_phantom, supervised_baselines

ROOT = Path(__file__).resolve().parents[2]


def committed(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("page", "results", "rows"),
    [
        ("finetuning", "supervised_baselines", supervised_baselines.ucsb_rows),
        ("finetuning", "supervised_baselines", supervised_baselines.board_rows),
        ("finetuning", "supervised_baselines", supervised_baselines.finetuned_rows),
        ("multistain", "stains_phantom", stains_phantom.fusion_rows),
        ("multistain", "stains_phantom", stains_phantom.curve_rows),
    ],
)
def test_a_page_quotes_the_committed_results(page, results, rows):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = rows(committed(results))
    assert len(found) > 3
    assert "\n".join(found) in text


def test_scores_fall_as_stains_are_dropped():
    """With 210 cases and a chosen penalty a step up of .02 is noise."""
    for each in committed("stains_phantom")["tasks"]:
        for points in each["curves"].values():
            means = [point["mean"] for point in points]
            assert means[-1] < means[0]
            assert all(fewer < more + 0.03 for more, fewer in pairwise(means))
            steps = [more - fewer for more, fewer in pairwise(means)]
            assert max(steps) < 0.09


def test_every_core_task_has_a_record_of_each_of_four_encoders():
    rows = supervised_baselines.board_rows(committed("supervised_baselines"))
    assert len(rows) == 2 + 21

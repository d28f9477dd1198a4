"""Published scores and adjudications: as their source has them, and refused when broken."""

import csv
import datetime
from pathlib import Path

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.reference import read_adjudications, read_published

SHARED = Path(__file__).resolve().parents[3] / "shared"
TASKS = load_catalogue().tasks
SHIPPED = resource_folder("leaderboard")
TARGETS = {"ER": "bcnb-er", "PR": "bcnb-pr", "HER2": "bcnb-her2"}


def test_the_shipped_numbers_are_those_of_their_source():
    path = SHARED / "data" / "published" / "bcnb_published.csv"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    expected = {
        (r["encoder"], r["source"], TARGETS[r["target"]], int(r["k"])): float(r["auc"])
        for r in rows
    }
    (scores,) = read_published(SHIPPED / "published", TASKS)
    found = {
        (row.encoder, row.source, task, shots): value
        for row in scores.encoders
        for task, by_shots in row.scores.items()
        for shots, value in by_shots.items()
    }
    assert found == expected
    assert len(found) == 72


def test_the_shipped_adjudications_can_be_read():
    assert isinstance(read_adjudications(SHIPPED / "adjudications.yaml"), tuple)


PUBLISHED = """metric: auroc
sources: {A: "Someone 2024"}
encoders:
  - {encoder: x, source: A, scores: {bcnb-er: {1: 0.5}}}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bcnb-er", "bcnb-err", "did you mean 'bcnb-er'"),
        ("source: A", "source: B", "does not cite"),
        ("0.5", "1.5", "less than or equal to 1"),
        ("{1: 0.5}", "{0: 0.5}", "greater than 0"),
        ("metric: auroc", "metric: accuracy", "metric"),
        ("metric: auroc", "metrik: auroc", "metric"),
    ],
)
def test_broken_published_scores_are_refused_by_file(tmp_path, old, new, says):
    assert old in PUBLISHED
    (tmp_path / "p.yaml").write_text(PUBLISHED.replace(old, new))
    with pytest.raises(InputError, match=says) as error:
        read_published(tmp_path, TASKS)
    assert "p.yaml" in str(error.value)


def test_adjudications_are_read_and_a_date_that_is_none_refused(tmp_path):
    path = tmp_path / "a.yaml"
    entry = "date: {}, encoder: x, task: null, decision: d, reason: r, by: me"
    path.write_text("adjudications:\n  - {" + entry.format("2026-11-25") + "}\n")
    (found,) = read_adjudications(path)
    assert (found.date, found.encoder, found.task) == (datetime.date(2026, 11, 25), "x", None)
    path.write_text("adjudications:\n  - {" + entry.format("yesterday") + "}\n")
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_adjudications(path)

"""The committed results of the probe benchmarks: what must hold, and the tables that pages show."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.phantom_problems import phantom_problems
from benchmarks.probe_width import ENCODERS, counts, scored, table
from benchmarks.real_probes import orion, table_of, tasks

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
WIDTH = json.loads((RESULTS / "probe_width.json").read_text())
REAL = json.loads((RESULTS / "real_probes.json").read_text())
DATA = ROOT.parent / "shared" / "data"


def test_the_page_shows_what_was_measured() -> None:
    assert table(WIDTH) in PAGE
    assert table_of(REAL["rows"]) in PAGE


def test_version_2_does_not_reward_narrow_vectors() -> None:
    """Version 1 scored 64 random dimensions above all 512 on 18 of 20 tasks."""
    first, second = (WIDTH["counts"][f"linear-probe/v{v}"] for v in (1, 2))
    narrow = second["against_mean_pool"]["64 random dimensions"]
    assert narrow["tasks"] == 20
    assert narrow["better_than_mean_pool_on"] <= 5
    assert narrow["mean_difference_from_mean_pool"] < 0
    assert first["against_mean_pool"]["64 random dimensions"]["better_than_mean_pool_on"] > 10
    lost = [
        -version["against_mean_pool"]["512 noise columns"]["mean_difference_from_mean_pool"]
        for version in (first, second)
    ]
    assert lost[1] < lost[0]
    assert second["not_below_the_oracle"] == []


def test_the_counts_are_those_of_the_scores() -> None:
    for version, scores in WIDTH["scores"].items():
        assert counts(scores) == WIDTH["counts"][version]


def test_a_problem_is_scored_as_a_run_scores_it(tmp_path: Path) -> None:
    (problem,) = phantom_problems(
        tmp_path, ENCODERS, ["linear-probe/v2"], ["aidpath-ki67"], signal=None
    )
    task, protocol, row = scored(problem)
    assert (task, protocol) == ("aidpath-ki67", "linear-probe/v2")
    known = WIDTH["scores"][protocol][task]
    assert row["mean-pool"] == pytest.approx(known["mean-pool"], abs=1e-6)
    assert row["columns doubled"] == pytest.approx(row["mean-pool"], abs=1e-6)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_the_real_bags_are_read_as_they_are() -> None:
    bags, table_ = orion(DATA / "orion_crc")
    assert (len(bags), table_["case_id"].nunique()) == (41, 40)
    assert table_["Grade"].value_counts().to_dict() == {"Low": 27, "High": 14}
    found = {task.id: (len(units.table), own) for task, own, units, _ in tasks(DATA)}
    assert {name: n for name, (n, _) in found.items()} == {
        "ucsb-breast-malignancy": 58,
        "orion-grade": 41,
        "orion-mismatch-repair": 37,
        "orion-pfs": 41,
    }
    assert all(np.isfinite(rows).all() for _, own in found.values() for rows in own.values())

"""A class that a task declares and no unit has: the task is refused, or scored as another one."""

import json
import shutil

import pytest

from madeleine_bench.resources import resource_folder

BOARD = ("leaderboard", "show", "--results")
TASK = """\
id: bcnb-grade
version: 1
title: Made-up grades
family: subtyping
cohort: bcnb
labels:
  type: multiclass
  column: grade
  classes: [low, middle, high]
  map: {g1: low, g2: middle, g3: high}
protocols: [linear-probe/v2]
metric: {name: auroc, chance: 0.5}
expected: {n: 1058, classes: {low: 400, middle: 400, high: 258}}
provenance:
  task: &made {status: reconstructed, source: made up}
  cohort: *made
  labels: *made
  counts: *made
  splits: *made
  metric: *made
citation: none
licence: none
"""


@pytest.fixture
def grades(bcnb, mbench, tmp_path):
    """A cohort of 40 slides of which `high` are of class high; returns how to run its task."""
    catalogue = tmp_path / "tasks"
    shutil.copytree(resource_folder("tasks"), catalogue)
    (catalogue / "bcnb-grade.yaml").write_text(TASK)
    results = tmp_path / "results"

    def call(high=0, entry="", command=("run", "--encoder", "mean-pool", "--jobs", "1")):
        lines = ["slide_id,grade"]
        for number in range(1, 41):
            grade = "g2" if number % 3 == 0 else "g1"
            lines.append(f"{number},{'g3' if number <= high else grade}")
        bcnb.labels.write_text("\n".join(lines) + "\n")
        bcnb.config.write_text(
            '[cohorts.bcnb]\nfeatures = "features"\nlabels = "labels.csv"\n'
            f"[cohorts.bcnb.tasks.bcnb-grade]\n{entry}"
        )
        common = ["--task", "bcnb-grade", "--config", bcnb.config, "--results", results]
        said = mbench(*command, *common, "--catalogue", catalogue)
        found = [json.loads(path.read_text()) for path in results.rglob("records/**/*.json")]
        return said, found

    call.catalogue, call.results = catalogue, results
    return call


def test_a_class_without_a_unit_is_refused_with_counts_and_cures(grades):
    """It was scored .500 in every fold, with exit code 0 and no warning."""
    said, records = grades()
    assert (said.code, records) == (2, [])
    plain = " ".join(said.err.split())
    assert 'no unit with features is of class "high" (units: low 27, middle 13, high 0)' in plain
    assert 'without = ["high"] under [cohorts.bcnb.tasks.bcnb-grade] in mbench.toml' in plain
    assert grades(command=["audit"])[0].code == 1


def test_too_few_units_of_a_class_name_the_same_cure(grades):
    said, _ = grades(high=3)
    assert said.code == 2
    plain = " ".join(said.err.split())
    assert "3 case(s) of class 'high' cannot fill 5 folds" in plain
    assert 'or leave the class out (without = ["high"] in mbench.toml)' in plain


@pytest.mark.parametrize("high", [0, 3])
def test_without_the_class_it_is_another_task(grades, mbench, high):
    said, (record,) = grades(high=high, entry='without = ["high"]\n')
    assert said.code == 0, said.err
    assert record["task"]["id"] == "bcnb-grade-without-high"
    assert record["scores"]["main"]["value"] > 0.9, "the toy features know middle from low"
    assert record["inputs"]["n"] == 40 - high
    assert {k: len(v) for k, v in record["inputs"]["missing"].items()} == (
        {"no label: 'g3'": 3} if high else {}
    )
    assert "bcnb-grade is scored without a class, as bcnb-grade-without-high@1" in said.err
    assert "bcnb-grade-without-high" in said.out, "the table at the end of the run has it"
    shown = mbench(*BOARD, grades.results, "--catalogue", grades.catalogue)
    assert shown.code == 2, "it is no task of the catalogue, so that no board has it"
    assert "no records for this in" in shown.err


def test_both_tasks_can_lie_in_one_results_folder(grades, mbench):
    grades(high=6)
    said, records = grades(high=6, entry='without = ["high"]\n')
    assert said.code == 0, said.err
    assert sorted(record["task"]["id"] for record in records) == [
        "bcnb-grade", "bcnb-grade-without-high",
    ]  # fmt: skip
    assert len({record["task"]["task_hash"] for record in records}) == 2
    shown = mbench(*BOARD, grades.results, "--catalogue", grades.catalogue, "--format", "csv")
    assert shown.code == 0, shown.err
    assert "bcnb-grade," in shown.out
    assert "without-high" not in shown.out, "it never shares a board with the whole task"


def test_given_splits_serve_the_variant(grades, bcnb):
    rows = "".join(f"0,{number % 4},{number}\n" for number in range(1, 41))
    (bcnb.folder / "folds.csv").write_text(f"repeat,fold,unit_id\n{rows}")
    said, (record,) = grades(high=3, entry='without = ["high"]\nsplits = "folds.csv"\n')
    assert said.code == 0, said.err
    assert len(record["folds"]) == 4


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('without = ["hgih"]', "mbench.toml:5: bcnb-grade: 'without' names ['hgih']; the classes"),
        ('without = ["high", "low"]', "'without' leaves 1 of the classes; a task needs two"),
        ("without = 3", "'cohorts.bcnb.tasks.bcnb-grade.without'"),
    ],
)
def test_what_without_may_not_say(grades, entry, words):
    said, records = grades(entry=entry + "\n")
    assert (said.code, records) == (2, [])
    assert words in " ".join(said.err.split())

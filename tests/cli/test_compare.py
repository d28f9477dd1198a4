"""`mbench compare`: the table, the sentences, the numbers and figure, and wrong inputs."""

import json

import pytest

from madeleine_bench.leaderboard.pairwise import (
    EncoderComparison,
    TaskDifference,
    comparison_report,
)
from madeleine_bench.stats.paired import across_tasks
from tests.leaderboard.survival_records import keep, predictions


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    keep(folder, "mean-pool", predictions(0, skill=0.1), 0.55, kind="baseline")
    keep(folder, "madeleine", predictions(0, skill=1.5), 0.7)
    return folder


def test_one_task_is_compared_and_says_what_cannot_be_concluded(mbench, results, tmp_path):
    said = mbench("compare", "madeleine", "mean-pool", "--results", results, "--out", tmp_path)
    assert said.code == 0, said.err
    assert "madeleine scores significantly higher on 1 of 1 tasks: tcga-breast-os." in said.out
    assert "1 task(s) are too few for a test over tasks, which needs 6" in said.out
    assert "PHANTOM: synthetic data" in said.out
    (content,) = json.loads((tmp_path / "compare.json").read_text())["comparisons"]
    (task,) = content["tasks"]
    assert (task["first"], task["second"]) == (0.7, 0.55)
    assert task["ci95"][0] < task["difference"] < task["ci95"][1]
    assert "tcga-breast-os" in (tmp_path / "compare-phantom.svg").read_text()
    assert (tmp_path / "compare-phantom.png").stat().st_size > 1000


def test_the_order_of_the_two_turns_the_sign_alone(mbench, results):
    contents = []
    for pair in (("madeleine", "mean-pool"), ("mean-pool", "madeleine")):
        said = mbench("compare", *pair, "--results", results, "--format", "json")
        contents.append(json.loads(said.out)["comparisons"][0]["tasks"][0])
    one, other = contents
    assert one["difference"] == -other["difference"]
    assert one["ci95"] == [-end for end in reversed(other["ci95"])]
    assert one["p_value"] == other["p_value"]


def _task(name, difference, p_holm, is_external=False):
    return TaskDifference(
        name, "auroc", "linear-probe/v2", 0.7 + difference, 0.7, difference,
        (difference - 0.02, difference + 0.02), p_holm, p_holm, 2 * difference, is_external,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.05] * 7, "Over the 7 tasks A scores higher (signed-rank test, p = 0.016; A scores hi"),
        ([-0.05] * 7, "Over the 7 tasks B scores higher"),
        ([0.05, -0.05] * 3, "Over the 6 tasks the difference is not significant"),
        ([0.05] * 5, "5 task(s) are too few for a test over tasks"),
    ],
)
def test_sentences_over_tasks(differences, words):
    tasks = tuple(_task(f"t{i}", each, 0.5) for i, each in enumerate(differences))
    across = across_tasks([task.corrected for task in tasks])
    lines = EncoderComparison("local", "A", "B", tasks, across, ()).conclusions
    assert words in lines[-1]
    assert "which does not show that they are equal" in lines[0]


def test_external_validation_stands_apart_and_is_not_counted():
    tasks = [_task(f"t{i}", 0.05, 0.5) for i in range(5)] + [_task("t0@x", 0.05, 0.5, True)]
    across = across_tasks([task.corrected for task in tasks[:5]])
    comparison = EncoderComparison("local", "A", "B", tuple(tasks), across, ())
    assert "5 task(s) are too few for a test over tasks" in comparison.conclusions[-1]
    tables = [each for each in comparison_report([comparison]).body if not isinstance(each, str)]
    assert [(each.title, len(each.rows)) for each in tables] == [
        ("A against B, board local", 5), ("A against B, board local: external validation", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("madeleine", "mean-pol"), "no encoder is called 'mean-pol'; did you mean 'mean-pool'?"),
        (("madeleine", "mean-pool", "--task", "bcnb-er"), "no task is scored for both"),
        (("madeleine", "mean-pool", "--task", "tcga-brest"), "no task is called 'tcga-brest'"),
        (("madeleine", "mean-pool", "--board", "local"), "no board is called 'local'"),
        (("madeleine", "mean-pool", "--protocol", "few-shot"), "no records under few-shot"),
    ],
)
def test_wrong_inputs_end_in_one_clear_line(mbench, results, arguments, words):
    said = mbench("compare", *arguments, "--results", results)
    assert said.code == 2
    assert words in said.err


def test_a_folder_that_is_not_there(mbench, tmp_path):
    said = mbench("compare", "a", "b", "--results", tmp_path / "absent")
    assert said.code == 2
    assert "no folder" in said.err

"""A task where a control beats the mean of the patches is flagged, and no other."""

import pytest

from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import controls_ahead
from tests.leaderboard.records import CATALOGUE, CORE, full_row, make_record


def never(column):
    return False


def ahead(records, task, reads_the_answer=never, half=0.05):
    """The flags of a task where each paired difference has an interval of this half width."""
    (board,) = build_boards(records, CATALOGUE)
    cells = {c.label: c.cells[task.id].value for c in board.columns if task.id in c.cells}

    gaps = {(a, b): cells[a] - cells[b] for a in cells for b in cells if half is not None}
    gains = {pair: (gap - half, gap + half) for pair, gap in gaps.items()}
    return controls_ahead(board, task, reads_the_answer, gains)


def row(name, value, task, there, kind="control"):
    return [make_record(name, t, there if t is task else value, kind=kind) for t in CORE]


def test_a_control_above_mean_pool_is_named_on_its_task_alone():
    first, second = CORE[:2]
    records = full_row("mean-pool", 0.7, kind="baseline")
    records += row("site-only", 0.5, first, 0.9) + row("patch-count", 0.5, first, 0.8)
    found = ahead(records, first)
    assert [(c["label"], c["value"], c["baseline"]) for c in found] == [
        ("site-only", 0.9, 0.7),
        ("patch-count", 0.8, 0.7),
    ]
    assert found[0]["gain_ci95"] == pytest.approx((0.15, 0.25))
    assert ahead(records, second) == []


def test_a_tie_is_not_ahead_and_an_encoder_is_no_control():
    task = CORE[0]
    records = full_row("mean-pool", 0.7, kind="baseline") + row("site-only", 0.5, task, 0.7)
    records += row("madeleine", 0.8, task, 0.9, kind="encoder")
    assert ahead(records, task) == []


def test_a_control_that_reads_the_answer_is_a_ceiling():
    task = CORE[0]
    records = full_row("mean-pool", 0.7, kind="baseline") + row("oracle", 0.99, task, 0.99)
    assert ahead(records, task, lambda column: column.label == "oracle") == []
    assert [c["label"] for c in ahead(records, task)] == ["oracle"]


def test_without_mean_pool_there_is_nothing_to_beat():
    assert ahead(row("site-only", 0.5, CORE[0], 0.9), CORE[0]) == []


@pytest.mark.parametrize("half", [None, 0.25])
def test_a_difference_within_noise_is_not_flagged(half):
    task = CORE[0]
    records = full_row("mean-pool", 0.7, kind="baseline") + row("site-only", 0.5, task, 0.9)
    assert ahead(records, task, half=half) == []

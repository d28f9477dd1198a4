"""Tasks on which a control beats the mean of the patches: they may measure something else.

A control that is blind to tissue (patch count, site, case) then says that the task can be solved
without looking. A random projection or an untrained network sees the tissue; it says that training,
or the width of the embedding, counts for little there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from madeleine_bench.leaderboard.aggregate import Board, Column, on_same_features
from madeleine_bench.leaderboard.comparison import BASELINE
from madeleine_bench.specs.task import TaskSpec


@dataclass(frozen=True)
class ControlAhead:
    """A control that scores above the mean of the patches on a task.

    Attributes:
        label: of the control.
        value: its score; higher is better.
        baseline: the score of the mean of the patches.
        beyond: whether its score lies above the 95% interval of the baseline, where it has one.
    """

    label: str
    value: float
    baseline: float
    beyond: bool


def controls_ahead(
    board: Board, task: TaskSpec, reads_the_answer: Callable[[Column], bool]
) -> tuple[ControlAhead, ...]:
    """Return the controls that beat the mean of the patches on a task, the best first.

    A control is held against mean-pool of the same features, and left out without one, as are
    scores that are not on the data of the rest.

    Args:
        board: with its controls.
        task: one of its tasks.
        reads_the_answer: whether a control is a ceiling, as the phantom's oracle is, and no floor.
    """
    scored = [column for column in board.columns if column.has([task.id])]
    found = []
    for column in scored:
        pooled = on_same_features(column, scored, BASELINE, [task.cohort])
        if column.kind != "control" or pooled is None or reads_the_answer(column):
            continue
        baseline, value = pooled.cells[task.id], column.cells[task.id].value
        if value > baseline.value:
            interval = baseline.record.scores.main.ci95
            beyond = interval is not None and value > interval[1]
            found.append(ControlAhead(column.label, value, baseline.value, beyond))
    return tuple(sorted(found, key=lambda each: (-each.value, each.label)))

"""Tasks on which a control beats the mean of the patches: they may measure something else.

A control that is blind to tissue (patch count, site, case) then says that the task can be solved
without looking. A random projection or an untrained network sees the tissue; it says that training,
or the width of the embedding, counts for little there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from madeleine_bench.leaderboard.aggregate import Board, Column
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

    Empty where the board has no mean-pool on the task. Scores that are not on the data of the rest
    are left out.

    Args:
        board: with its controls.
        task: one of its tasks.
        reads_the_answer: whether a control is a ceiling, as the phantom's oracle is, and no floor.
    """
    scored = {c.label: c for c in board.columns if c.has([task.id])}
    if BASELINE not in scored:
        return ()
    baseline = scored[BASELINE].cells[task.id]
    interval = baseline.record.scores.main.ci95
    found = [
        ControlAhead(label, value, baseline.value, interval is not None and value > interval[1])
        for label, column in scored.items()
        if column.kind == "control"
        and not reads_the_answer(column)
        and (value := column.cells[task.id].value) > baseline.value
    ]
    return tuple(sorted(found, key=lambda each: (-each.value, each.label)))

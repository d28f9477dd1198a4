"""The drop from internal to external validation, of each encoder of a board."""

import math
from typing import Any

from madeleine_bench.leaderboard.aggregate import Board
from madeleine_bench.specs.record import MainScore


def drops(board: Board) -> list[dict[str, Any]]:
    """Return how much lower each encoder scores on another cohort than on that it is trained on.

    Each row has the `encoder` by its label, the external `task`, the task it is `trained_on`, the
    `metric`, the score of cross-validation on the training cohort as `internal`, that on the tested
    one as `external`, their 95% confidence intervals (None with too few cases), and `drop`, the
    first less the second, with `drop_ci95`. Both scores are under the same protocol and of the same
    features of the training cohort; an encoder without one of them is left out.
    """
    rows: list[dict[str, Any]] = []
    for task in board.tasks:
        for column in board.columns:
            cell = column.cells.get(task.id)
            if cell is None or (training := cell.record.training) is None:
                continue
            other = column.cells.get(training.task)
            if other is None or other.record.features != training.features:
                continue
            ours, theirs = cell.record.scores.main, other.record.scores.main
            if (cell.record.protocol, ours.metric) == (other.record.protocol, theirs.metric):
                place = {"encoder": column.label, "task": task.id, "trained_on": training.task}
                scores = {"internal": theirs.value, "internal_ci95": theirs.ci95}
                scores |= {"external": ours.value, "external_ci95": ours.ci95}
                drop = theirs.value - ours.value
                ends = _drop_interval(drop, theirs, ours)
                scores |= {"drop": drop, "drop_ci95": ends}
                rows.append({**place, "metric": ours.metric, **scores})
    return rows


def _drop_interval(
    drop: float, internal: MainScore, external: MainScore
) -> tuple[float, float] | None:
    """Return the 95% confidence interval of the difference of two scores on different patients.

    The scores are taken as independent: the two cohorts share no patient. They share training
    patients, which moves both scores the same way, so that the interval is too wide, if anything.

    References:
        Zou and Donner, Construction of confidence limits about effect measures, Statistics in
        Medicine 27 (2008) 1693-1702, equation 2, with r = 0.
    """
    if internal.ci95 is None or external.ci95 is None:
        return None
    (low, high), (other_low, other_high) = internal.ci95, external.ci95
    below = math.hypot(internal.value - low, other_high - external.value)
    above = math.hypot(high - internal.value, external.value - other_low)
    return drop - below, drop + above

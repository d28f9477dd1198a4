"""The units of stored predictions, scored under any weights: what every bootstrap works on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.protocols.class_scoring import ClassJudge
from madeleine_bench.protocols.folds import Fold, Judge, mean_of_groups, require_columns
from madeleine_bench.protocols.survival_scoring import SurvivalJudge
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import Weights, resample_blocks
from madeleine_bench.stats.paired import ScoredUnits


def judge_of(task: TaskSpec, predictions: pd.DataFrame, where: str) -> Judge:
    """Return what judges the predictions of a task.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    if isinstance(task.labels, ClassLabels):
        return ClassJudge(task, task.labels, predictions, where)
    return SurvivalJudge(task, predictions, where)


def folds_of(
    protocol: ProtocolSpec, predictions: pd.DataFrame, where: str
) -> tuple[list[Fold], list[int]]:
    """Return the rows of each fit, sorted by key and unit, and its group: its number of shots.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    few_shot = protocol.shot_plan is not None
    names = ["shots", "draw"] if few_shot else ["repeat", "fold"]
    require_columns(predictions, ["unit_id", *names], where)
    major, minor = (predictions[name].to_numpy(dtype=np.int64) for name in names)
    # Units too: a mean over the rows of a fold is rounded by their order.
    unit, _ = pd.factorize(predictions["unit_id"].to_numpy(dtype=object), sort=True)
    order = np.lexsort((unit, minor, major)).astype(np.int32)
    changes = np.flatnonzero(np.diff(major[order]) | np.diff(minor[order])) + 1
    folds = [
        Fold((int(major[rows[0]]), int(minor[rows[0]])), rows) for rows in np.split(order, changes)
    ]
    return folds, [fold.key[0] if few_shot else 0 for fold in folds]


def scored_units(
    task: TaskSpec, protocol: ProtocolSpec, predictions: pd.DataFrame, splits: str, where: str
) -> ScoredUnits:
    """Return the units of stored predictions, scored under weights as a record's main score is.

    Under weights of one this is the main score; under the record's resamples it gives the record's
    interval. `splits` names what the encoder had no part in: splits, labels, task and protocol.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    judge = judge_of(task, predictions, where)
    folds, groups = folds_of(protocol, predictions, where)
    once = [judge.resampled(fold, np.ones((len(fold.rows), 1))) for fold in folds]
    defined = [bool(np.isfinite(value[0])) for value in once]
    return units_of(judge, folds, groups, defined, predictions, task.metric.chance, splits)


def units_of(
    judge: Judge,
    folds: Sequence[Fold],
    groups: Sequence[int],
    defined: Sequence[bool],
    predictions: pd.DataFrame,
    chance: float,
    splits: str = "",
) -> ScoredUnits:
    """Return units scored by a judge; a fold whose metric is undefined stays at chance."""
    row, names = pd.factorize(predictions["unit_id"].to_numpy(dtype=object))
    row = row.astype(np.int32)  # of a table of all folds, which is long
    first = np.empty(len(names), dtype=np.intp)
    first[row[::-1]] = np.arange(len(row))[::-1]

    def scores(weights: Weights) -> NDArray[np.float64]:
        values = np.full((len(folds), weights.shape[1]), chance)
        for part in resample_blocks(*weights.shape):
            block = weights[:, part]
            for i, fold in enumerate(folds):
                if defined[i]:
                    values[i, part] = judge.resampled(fold, block[row[fold.rows]])
        return mean_of_groups(values, groups, chance)

    return ScoredUnits(
        unit=tuple(names),
        case=tuple(predictions["case_id"].to_numpy(dtype=object)[first]),
        stratum=tuple(judge.strata_of_rows[first]),
        splits=splits,
        scores=scores,
    )

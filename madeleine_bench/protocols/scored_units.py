"""The units of stored predictions, scored under any weights: what every bootstrap works on."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.protocols.class_scoring import ClassJudge
from madeleine_bench.protocols.folds import Fold, Judge, mean_of_groups, require_columns
from madeleine_bench.protocols.survival_scoring import SurvivalJudge
from madeleine_bench.specs.protocol import Cox, FewShot, LinearProbe, ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import Weights, resample_blocks
from madeleine_bench.stats.intervals import FIVE_FOLDS, ScoreDesign, fit_noise
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
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    splits: str,
    where: str,
    dim: int | None = None,
) -> ScoredUnits:
    """Return the units of stored predictions, scored under weights as a record's main score is.

    Under weights of one this is the main score. `splits` names what the encoder had no part in:
    splits, labels, task and protocol. `dim` is the width of the embeddings that a linear model was
    fitted to; None where there was none.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    judge = judge_of(task, predictions, where)
    folds, groups = folds_of(protocol, predictions, where)
    once = [judge.resampled(fold, np.ones((len(fold.rows), 1)))[0] for fold in folds]
    values = [float(value) if np.isfinite(value) else None for value in once]
    return units_of(judge, task, protocol, folds, groups, values, predictions, dim, splits)


def units_of(
    judge: Judge,
    task: TaskSpec,
    protocol: ProtocolSpec,
    folds: Sequence[Fold],
    groups: Sequence[int],
    values: Sequence[float | None],
    predictions: pd.DataFrame,
    dim: int | None,
    splits: str = "",
) -> ScoredUnits:
    """Return units scored by a judge; a fold whose metric is undefined (None) stays at chance."""
    chance, metric = task.metric.chance, task.metric.name
    row, names = pd.factorize(predictions["unit_id"].to_numpy(dtype=object))
    row = row.astype(np.int32)  # of a table of all folds, which is long
    first = np.empty(len(names), dtype=np.intp)
    first[row[::-1]] = np.arange(len(row))[::-1]

    def scores(weights: Weights) -> NDArray[np.float64]:
        resampled = np.full((len(folds), weights.shape[1]), chance)
        for part in resample_blocks(*weights.shape):
            block = weights[:, part]
            for i, fold in enumerate(folds):
                if values[i] is not None:
                    resampled[i, part] = judge.resampled(fold, block[row[fold.rows]])
        return mean_of_groups(resampled, groups, chance)

    few_shot = protocol.shot_plan is not None
    case_ids = predictions["case_id"].to_numpy(dtype=object)[first]
    case, _ = pd.factorize(case_ids)
    stratum = judge.strata_of_rows[first]
    tested = [row[fold.rows] for fold in folds]
    fitted = isinstance(protocol.method, LinearProbe | FewShot | Cox)
    moving = [judge.flag(f, v is None) is None for f, v in zip(folds, values, strict=True)]
    draw_scores: dict[int, list[float]] = defaultdict(list)
    for fold, value in zip(folds, values, strict=True) if few_shot else ():
        draw_scores[fold.key[1]].append(chance if value is None else value)
    return ScoredUnits(
        unit=tuple(names),
        case=tuple(case_ids),
        stratum=tuple(stratum),
        splits=splits,
        scores=scores,
        design=design_of(
            case,
            stratum,
            tested,
            dim if fitted else None,
            metric,
            few_shot=few_shot,
            moving=float(np.mean(moving)),
        ),
        draw_scores=tuple(float(np.mean(draw_scores[draw])) for draw in sorted(draw_scores)),
    )


def design_of(
    case: NDArray[np.intp],
    stratum: NDArray[Any],
    tested: Sequence[NDArray[np.integer[Any]]],
    dim: int | None,
    metric: str,
    *,
    few_shot: bool = False,
    moving: float = 1.0,
) -> ScoreDesign:
    """Return how a score was estimated, counted in cases.

    Args:
        case: (unit,) a number for each case.
        stratum: (unit,) its class, or whether it has an event.
        tested: the units that each fit is tested on; it is trained on all others.
        dim: width of the embeddings that a linear model is fitted to, or None.
        metric: what is scored.
        few_shot: whether the fits of a number of shots draw their training cases.
        moving: as in `ScoreDesign`.
    """
    rare, n_cases = math.inf, len(np.unique(case))
    for kind in sorted(set(stratum)):
        if (count := len(np.unique(case[stratum == kind]))) < rare:
            rare, rarest = count, kind
    is_rare = stratum == rarest
    in_test = [(len(np.unique(case[rows])), len(np.unique(case[rows[is_rare[rows]]])))
               for rows in tested]  # fmt: skip
    per_test = float(np.mean([rare_test for _, rare_test in in_test]))
    test_sets = rare / per_test if per_test else math.inf
    shares = []
    for n_test, rare_test in in_test:
        n_train, rare_train = n_cases - n_test, rare - rare_test
        noise = fit_noise(dim, rare_train, n_train - rare_train, metric)
        five_folds = few_shot or not n_train
        shares.append(noise * (FIVE_FOLDS if five_folds else test_sets * n_test / n_train))
    return ScoreDesign(rare, per_test, float(np.mean(shares)), moving)

"""Scores as a pure function of stored predictions: no embedding, no model, no clock."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.multilabel import ColumnsScorer
from madeleine_bench.protocols.regression import NumberScorer
from madeleine_bench.protocols.results import FitReport
from madeleine_bench.protocols.retrieval import retrieval_scores
from madeleine_bench.protocols.scorers import (
    ClassScorer,
    Fold,
    SurvivalScorer,
    mean_of_groups,
    require_columns,
)
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.metric import score_range
from madeleine_bench.specs.protocol import (
    Cox,
    FewShot,
    LinearProbe,
    ProtocolSpec,
    Retrieval,
    RidgeRegression,
)
from madeleine_bench.specs.record import MainScore, RecordFold, RecordScores
from madeleine_bench.specs.task import ClassLabels, ContinuousLabels, MultiLabels, TaskSpec
from madeleine_bench.stats.bootstrap import Weights, blocks, case_weights
from madeleine_bench.stats.intervals import (
    FIVE_FOLDS,
    LEAST_PER_TEST,
    LEAST_RARE_CASES,
    ScoreDesign,
    fit_noise,
    standard_error,
    t_interval,
)
from madeleine_bench.stats.paired import ScoredUnits

Key = tuple[int, int]
# Scores the folds of one task. `strata` says in words what resampling stays within; `chance` is
# what a blind guess scores.
TaskScorer = ClassScorer | SurvivalScorer | NumberScorer | ColumnsScorer


def task_scorer(task: TaskSpec, predictions: pd.DataFrame, where: str) -> TaskScorer:
    """Return what judges the predictions of a task.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    if isinstance(task.labels, ClassLabels):
        return ClassScorer(task, task.labels, predictions, where)
    if isinstance(task.labels, MultiLabels):
        return ColumnsScorer(task, task.labels, predictions, where)
    if isinstance(task.labels, ContinuousLabels):
        return NumberScorer(task, predictions, where)
    return SurvivalScorer(task, predictions, where)


def each_label(task: TaskSpec) -> list[str]:
    """Return the names under which a record states the metric of each of several labels."""
    columns = task.labels.columns if isinstance(task.labels, MultiLabels) else ()
    return [f"{task.metric.name}@{name}" for name in columns]


def folds_of(
    protocol: ProtocolSpec, predictions: pd.DataFrame, where: str
) -> tuple[list[Fold], list[int]]:
    """Return the rows of each fit, sorted by key and unit, and its group: its number of shots.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    require_columns(predictions, ["unit_id", *protocol.key_names], where)
    major, minor = (predictions[name].to_numpy(dtype=np.int64) for name in protocol.key_names)
    # Units too: a mean over the rows of a fold is rounded by their order.
    unit, _ = pd.factorize(predictions["unit_id"].to_numpy(dtype=object), sort=True)
    order = np.lexsort((unit, minor, major)).astype(np.int32)
    changes = np.flatnonzero(np.diff(major[order]) | np.diff(minor[order])) + 1
    folds = [
        Fold((int(major[rows[0]]), int(minor[rows[0]])), rows) for rows in np.split(order, changes)
    ]
    return folds, [fold.key[0] if protocol.shot_plan else 0 for fold in folds]


def scored_units(
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    splits: str,
    where: str,
    dim: int | None = None,
    trained: Mapping[Key, int] | None = None,
) -> ScoredUnits:
    """Return the units of stored predictions, scored under weights as a record's main score is.

    Under weights of one this is the main score. `splits` names what the encoder had no part in:
    splits, labels, task and protocol. `dim` is the width of the embeddings that a linear model was
    fitted to; None where there was none. `trained` is by key of a split how many units it was
    trained on; None takes all that it did not test.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    scorer = task_scorer(task, predictions, where)
    folds, groups = folds_of(protocol, predictions, where)
    once = [scorer.resampled(fold, np.ones((len(fold.rows), 1)))[0] for fold in folds]
    values = [float(value) if np.isfinite(value) else None for value in once]
    return units_of(
        scorer, task, protocol, folds, groups, values, predictions, dim, splits, trained
    )


def units_of(
    scorer: TaskScorer,
    task: TaskSpec,
    protocol: ProtocolSpec,
    folds: Sequence[Fold],
    groups: Sequence[int],
    values: Sequence[float | None],
    predictions: pd.DataFrame,
    dim: int | None,
    splits: str,
    trained: Mapping[Key, int] | None = None,
) -> ScoredUnits:
    """Return units scored by a scorer; a fold whose metric is undefined (None) stays at chance."""
    chance, metric = scorer.chance, task.metric.name
    row, names = pd.factorize(predictions["unit_id"].to_numpy(dtype=object))
    row = row.astype(np.int32)  # of a table of all folds, which is long
    first = np.empty(len(names), dtype=np.intp)
    first[row[::-1]] = np.arange(len(row))[::-1]

    def scores(weights: Weights) -> NDArray[np.float64]:
        resampled = np.full((len(folds), weights.shape[1]), chance)
        for part in blocks(*weights.shape):
            block = weights[:, part]
            for i, fold in enumerate(folds):
                if values[i] is not None:
                    resampled[i, part] = scorer.resampled(fold, block[row[fold.rows]])
        return mean_of_groups(resampled, groups, chance)

    few_shot = protocol.shot_plan is not None
    case_ids = predictions["case_id"].to_numpy(dtype=object)[first]
    case, _ = pd.factorize(case_ids)
    stratum = scorer.strata_of_rows[first]
    tested = [row[fold.rows] for fold in folds]
    fitted = isinstance(protocol.method, LinearProbe | FewShot | Cox | RidgeRegression)
    moving = [scorer.flag(f, v is None) is None for f, v in zip(folds, values, strict=True)]
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
            trained=[(trained or {}).get(fold.key) for fold in folds],
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
    trained: Sequence[int | None] | None = None,
) -> ScoreDesign:
    """Return how a score was estimated, counted in cases.

    Args:
        case: (unit,) a number for each case.
        stratum: (unit,) its class, or whether it has an event.
        tested: the units that each fit is tested on.
        dim: width of the embeddings that a linear model is fitted to, or None.
        metric: what is scored.
        few_shot: whether the fits of a number of shots draw their training cases.
        moving: as in `ScoreDesign`.
        trained: how many units each fit is trained on. Where that is not all that it does not test
            (a hold-out, an official split, another cohort), they are taken to be of as many units a
            case, and as often of the rarest class, as those tested.
    """
    n_cases, n_units = len(np.unique(case)), len(case)
    rare, rarest = min((len(np.unique(case[stratum == kind])), kind) for kind in set(stratum))
    is_rare = stratum == rarest
    in_test = [(len(np.unique(case[rows])), len(np.unique(case[rows[is_rare[rows]]])))
               for rows in tested]  # fmt: skip
    per_test = float(np.mean([rare_test for _, rare_test in in_test]))
    test_sets = rare / per_test if per_test else math.inf
    shares = []
    given = trained or [None] * len(tested)
    for (n_test, rare_test), rows, n_units_trained in zip(in_test, tested, given, strict=True):
        n_train, rare_train = float(n_cases - n_test), float(rare - rare_test)
        if n_units_trained is not None and n_units_trained != n_units - len(rows):
            n_train = n_units_trained * n_cases / n_units
            rare_train = n_train * rare / n_cases
        noise = fit_noise(dim, rare_train, n_train - rare_train, metric)
        five_folds = few_shot or not n_train
        shares.append(noise * (FIVE_FOLDS if five_folds else test_sets * n_test / n_train))
    return ScoreDesign(rare, per_test, float(np.mean(shares)), moving)


# Of whatever turns embeddings into predictions and scores. 2: logistic fits on up to 100 units and
# ridge Cox fits at their optimum, 1e-5 in probability from where the solvers of 1 stopped. 3: those
# on up to 400 units too, where they are no more than the dimensions. 4: intervals that count the
# training cases and few cases of a class; none where those are too few. 5: all logistic fits that
# ask for the optimum come from one solver, up to 1e-6 in probability from where L-BFGS stopped.
SCORING_VERSION = 5
RESAMPLES = 1000


def score(
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    fits: Sequence[FitReport],
    dim: int | None = None,
) -> tuple[RecordScores, tuple[RecordFold, ...]]:
    """Return the scores of stored predictions, and the score of each fit, sorted by key.

    Arguments, errors and statistics are those of `score_with_units`.
    """
    return score_with_units(task, protocol, predictions, fits, dim)[:2]


def score_with_units(
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    fits: Sequence[FitReport],
    dim: int | None = None,
    splits: str = "",
) -> tuple[RecordScores, tuple[RecordFold, ...], ScoredUnits]:
    """Return the scores of predictions, the score of each fit, and the units to compare by.

    Folds, and the draws of one number of shots, count equally; then the numbers of shots do. A
    fold on which the metric is undefined (a class is absent, nobody has an event) is scored at
    chance and flagged. The interval is that of Student's t; its standard error comes from a
    bootstrap of cases, 1,000 resamples within classes (or within event and no event), each applied
    to all fits at once, corrected for the training cases and for few cases (`stats.intervals`).

    Secondary scores of few-shot also hold the main metric at each number of shots,
    "<metric>@k=<k>"; those of several labels that of each, "<metric>@<column>"; those of retrieval
    the accuracies and the mean average precision of `retrieval_scores`.

    Args:
        task: the task.
        protocol: what the predictions were made by.
        predictions: as `evaluate` returns them.
        fits: the report of each fit.
        dim: width of the embeddings that a linear model was fitted to; None where there was none.
        splits: as in `scored_units`.

    Raises:
        InputError: a column is missing, or predictions and fits are not of the same splits.
    """
    where = f"predictions of {task.name} under {protocol.name}"
    scorer = task_scorer(task, predictions, where)
    folds, groups = folds_of(protocol, predictions, where)
    if sorted(report.key for report in fits) != [fold.key for fold in folds]:
        raise InputError(
            f"{where}: {len(folds)} splits were predicted and {len(fits)} fits reported, or their "
            "keys differ; run the task again with --resume never"
        )
    chance = scorer.chance
    with threadpool_limits(1):
        values = [scorer.value(fold) for fold in folds]
        scored = [chance if value is None else value for value in values]
        secondary: dict[str, float | None] = {}
        names = [*task.secondary, *each_label(task)]
        secondary |= {name: scorer.secondary(name, folds, groups) for name in names}
        trained = {report.key: report.n_train for report in fits}
        units = units_of(
            scorer, task, protocol, folds, groups, values, predictions, dim, splits, trained
        )
        rng = rng_for(task.name, protocol.name, "bootstrap")
        weights = case_weights(units.case, units.stratum, RESAMPLES, rng)
        deviation = float(units.scores(weights).std(ddof=1))
    if protocol.shot_plan:
        for shots in sorted(set(groups)):
            chosen = [v for v, group in zip(scored, groups, strict=True) if group == shots]
            secondary[f"{task.metric.name}@k={shots}"] = float(np.mean(chosen))
    if isinstance(protocol.method, Retrieval) and isinstance(task.labels, ClassLabels):
        classes = task.labels.classes
        secondary |= retrieval_scores(protocol.method, classes, predictions, folds, where)
    value = float(mean_of_groups(np.array(scored)[:, None], groups, chance)[0])
    interval, method = _interval(value, deviation, units, task.metric.name, scorer.strata)
    main = MainScore(
        metric=task.metric.name,
        value=value,
        chance=chance,
        ci95=interval,
        method=method,
        rare_cases=int(units.design.rare_cases),
    )
    reports = {report.key: asdict(report) for report in fits}
    scored_folds = tuple(
        RecordFold.model_validate(
            {
                **reports[fold.key],
                "key": dict(zip(protocol.key_names, fold.key, strict=True)),
                "value": value,
                "flag": scorer.flag(fold, undefined is None),
            }
        )
        for fold, value, undefined in zip(folds, scored, values, strict=True)
    )
    return RecordScores(main=main, secondary=secondary), scored_folds, units


def _interval(
    value: float, deviation: float, units: ScoredUnits, metric: str, strata: str
) -> tuple[tuple[float, float] | None, str]:
    """Return the 95% confidence interval of a score, or None, and how it was made, or why not."""
    design = units.design
    if not design.covers:
        return None, (
            f"too few cases for an interval: {design.rare_cases:.0f} of the rarest of {strata}, "
            f"{design.rare_per_test:.1f} in a test set; {LEAST_RARE_CASES} and "
            f"{LEAST_PER_TEST:g} are needed"
        )
    error = standard_error(deviation, design, units.draw_scores)
    interval = t_interval(value, error, design.degrees_of_freedom, *score_range(metric))
    if interval is None:
        return None, "no interval: the score is the same in every resample"
    return interval, (
        f"Student's t, {design.degrees_of_freedom:.0f} degrees of freedom; bootstrap of cases "
        f"within {strata} ({RESAMPLES} resamples), widened {design.factor:.2f} times for training "
        f"cases and few cases{', and folds at chance' if design.moving < 1 else ''}"
    )

"""Scores as a pure function of stored predictions: no embedding, no model, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.fits import FitReport
from madeleine_bench.protocols.folds import mean_of_groups
from madeleine_bench.protocols.retrieval import retrieval_scores
from madeleine_bench.protocols.scored_units import folds_of, judge_of, units_of
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import ProtocolSpec, Retrieval
from madeleine_bench.specs.task import ClassLabels, TaskSpec, score_range
from madeleine_bench.stats.bootstrap import case_weights
from madeleine_bench.stats.intervals import (
    LEAST_PER_TEST,
    LEAST_RARE_CASES,
    standard_error,
    t_interval,
)
from madeleine_bench.stats.paired import ScoredUnits

# Of whatever turns embeddings into predictions and scores. 2: logistic fits on up to 100 units and
# ridge Cox fits at their optimum, 1e-5 in probability from where the solvers of 1 stopped. 3: those
# on up to 400 units too, where they are no more than the dimensions. 4: intervals that count the
# training cases and few cases of a class; none where those are too few. 5: all logistic fits that
# ask for the optimum come from one solver, up to 1e-6 in probability from where L-BFGS stopped.
SCORING_VERSION = 5
RESAMPLES = 1000


@dataclass(frozen=True)
class FoldScore:
    """The main metric of one fit.

    Attributes:
        key: key of the split.
        value: the metric; the chance level where it is undefined.
        n_train: units fitted on.
        n_test: units predicted.
        converged: whether the fit converged.
        reason: why it did not, or what is odd about the fit.
        flag: why the value is at chance without the encoder being at fault, or None.
    """

    key: tuple[int, int]
    value: float
    n_train: int
    n_test: int
    converged: bool
    reason: str | None
    flag: str | None


@dataclass(frozen=True)
class Scores:
    """The scores of one task under one protocol.

    Attributes:
        value: the main metric: the mean over folds, or over shots of the mean over draws.
        ci95: lower and upper end of its 95% confidence interval; None where there are too few cases
            for one, or where nothing varies.
        ci_method: how the interval was made, or why there is none, in words.
        rare_cases: distinct test cases of the rarest class, or with an event.
        secondary: the other metrics by name, None where undefined; for few-shot also the main
            metric at each number of shots, "<metric>@k=<k>"; for retrieval also the accuracies
            and the mean average precision of `retrieval_scores`.
        folds: one score for each fit, sorted by key.
    """

    value: float
    ci95: tuple[float, float] | None
    ci_method: str
    rare_cases: int
    secondary: dict[str, float | None]
    folds: tuple[FoldScore, ...]


def score(
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    fits: Sequence[FitReport],
    dim: int | None = None,
) -> Scores:
    """Return the scores of stored predictions.

    Folds, and the draws of one number of shots, count equally; then the numbers of shots do. A
    fold on which the metric is undefined (a class is absent, nobody has an event) is scored at
    chance and flagged. The interval is that of Student's t; its standard error comes from a
    bootstrap of cases, 1,000 resamples within classes (or within event and no event), each applied
    to all fits at once, corrected for the training cases and for few cases (`stats.intervals`).

    Args:
        task: the task.
        protocol: what the predictions were made by.
        predictions: as `evaluate` returns them.
        fits: the report of each fit.
        dim: width of the embeddings that a linear model was fitted to; None where there was none.

    Raises:
        InputError: a column is missing, or predictions and fits are not of the same splits.
    """
    where = f"predictions of {task.name} under {protocol.name}"
    judge = judge_of(task, predictions, where)
    folds, groups = folds_of(protocol, predictions, where)
    if sorted(report.key for report in fits) != [fold.key for fold in folds]:
        raise InputError(
            f"{where}: {len(folds)} splits were predicted and {len(fits)} fits reported, or their "
            "keys differ; run the task again with --resume never"
        )
    chance = task.metric.chance
    with threadpool_limits(1):
        values = [judge.value(fold) for fold in folds]
        scored = [chance if value is None else value for value in values]
        secondary: dict[str, float | None] = {}
        secondary |= {name: judge.secondary(name, folds, groups) for name in task.secondary}
        units = units_of(judge, task, protocol, folds, groups, values, predictions, dim)
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
    reports = {report.key: report for report in fits}
    value = float(mean_of_groups(np.array(scored)[:, None], groups, chance)[0])
    interval, method = _interval(value, deviation, units, task.metric.name, judge.strata)
    return Scores(
        value=value,
        ci95=interval,
        ci_method=method,
        rare_cases=int(units.design.rare_cases),
        secondary=secondary,
        folds=tuple(
            _fold_score(reports[fold.key], value, judge.flag(fold, undefined is None))
            for fold, value, undefined in zip(folds, scored, values, strict=True)
        ),
    )


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


def _fold_score(report: FitReport, value: float, flag: str | None) -> FoldScore:
    return FoldScore(
        report.key,
        value,
        report.n_train,
        report.n_test,
        report.converged,
        report.reason,
        flag,
    )

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
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import case_weights, percentile_interval

# Of whatever turns embeddings into predictions and scores. 2: logistic fits on up to 100 units and
# ridge Cox fits at their optimum, 1e-5 in probability from where the solvers of 1 stopped. 3: those
# on up to 400 units too, where they are no more than the dimensions.
SCORING_VERSION = 3
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
        ci95: lower and upper end of its 95% interval.
        ci_method: how the interval was made, in words.
        secondary: the other metrics by name, None where undefined; for few-shot also the main
            metric at each number of shots, "<metric>@k=<k>"; for retrieval also the accuracies
            and the mean average precision of `retrieval_scores`.
        folds: one score for each fit, sorted by key.
    """

    value: float
    ci95: tuple[float, float]
    ci_method: str
    secondary: dict[str, float | None]
    folds: tuple[FoldScore, ...]


def score(
    task: TaskSpec,
    protocol: ProtocolSpec,
    predictions: pd.DataFrame,
    fits: Sequence[FitReport],
) -> Scores:
    """Return the scores of stored predictions.

    Folds, and the draws of one number of shots, count equally; then the numbers of shots do. A
    fold on which the metric is undefined (a class is absent, nobody has an event) is scored at
    chance and flagged. The interval is the percentile bootstrap of cases: 1,000 resamples within
    classes (or within event and no event), each applied to all fits at once. It covers the choice
    of test cases, not the choice of training cases.

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
        defined = [value is not None for value in values]
        units = units_of(judge, folds, groups, defined, predictions, chance)
        rng = rng_for(task.name, protocol.name, "bootstrap")
        weights = case_weights(units.case, units.stratum, RESAMPLES, rng)
        interval = percentile_interval(units.scores(weights))
    if protocol.shot_plan:
        for shots in sorted(set(groups)):
            chosen = [v for v, group in zip(scored, groups, strict=True) if group == shots]
            secondary[f"{task.metric.name}@k={shots}"] = float(np.mean(chosen))
    if isinstance(protocol.method, Retrieval) and isinstance(task.labels, ClassLabels):
        classes = task.labels.classes
        secondary |= retrieval_scores(protocol.method, classes, predictions, folds, where)
    reports = {report.key: report for report in fits}
    return Scores(
        value=float(mean_of_groups(np.array(scored)[:, None], groups, chance)[0]),
        ci95=interval,
        ci_method=f"percentile bootstrap of cases within {judge.strata}, {RESAMPLES} resamples",
        secondary=secondary,
        folds=tuple(
            _fold_score(reports[fold.key], value, judge.flag(fold, undefined is None))
            for fold, value, undefined in zip(folds, scored, values, strict=True)
        ),
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

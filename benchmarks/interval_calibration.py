"""Do the intervals of single scores cover, and does the test of two encoders on one task hold?

    python benchmarks/interval_calibration.py         # about 25 min on 1 core

draws cohorts with known truth, scores three encoders by the protocols as they are, and counts: how
often the interval of a record, if it has one, holds the expected score, how often two equal
encoders differ with p < .05, and how often a better one does. Beside the interval that is used
stand three others: the plain bootstrap of test cases, the same widened 1.5 times, and Nadeau and
Bengio's t on folds. Each row of benchmarks/results/interval_calibration.json is one kind of cohort;
docs/statistics.md shows them. All of it is SIMULATED.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.files import write_text
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import folds_of, scored_units, task_scorer
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.metric import score_range
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import ClassLabels, ContinuousLabels, TaskSpec
from madeleine_bench.stats.bootstrap import case_weights
from madeleine_bench.stats.intervals import ScoreDesign, standard_error, t_interval, t_test
from madeleine_bench.stats.paired import ScoredUnits
from madeleine_bench.types import Split, Splits, Units

OUT = Path(__file__).resolve().parent / "results" / "interval_calibration.json"
FOLDS, RESAMPLES = 5, 200
SIGNAL_DIMENSIONS = 4
# How plain the signal is to each encoder: the first two are equal, the third is better.
SKILL = (1.0, 1.0, 1.4)
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Cohort:
    """A kind of cohort.

    Attributes:
        task: the task whose labels, metric and protocol it has; or a metric of continuous labels.
        n: number of cases.
        share: of the rarest class; for survival of those with an event; unused for levels and
            numbers, which count as two halves.
        dim: dimensions of the embeddings.
        few_shot: scored by few-shot/v2, else by the task's first protocol.
    """

    task: str
    n: int
    share: float
    dim: int = 32
    few_shot: bool = False


AUROC, KAPPA, LEVELS, SURVIVAL = "bcnb-er", "aidpath-her2", "mgh-breast-er-quant", "tcga-breast-os"
COHORTS = (
    *(Cohort(AUROC, n, share) for share in (0.1, 0.5) for n in (60, 200, 1000)),
    *(Cohort(KAPPA, n, 1 / 3) for n in (25, 60, 200)),
    *(Cohort(SURVIVAL, n, 0.3) for n in (200, 1000)),
    *(Cohort(AUROC, 1000, 0.1, dim) for dim in (8, 128, 512)),
    *(Cohort(AUROC, 200, 0.5, dim) for dim in (8, 128, 512)),
    Cohort(LEVELS, 600, 1 / 6, 128),
    *(Cohort("r2", n, 0.5, 32) for n in (60, 200, 1000)),
    *(Cohort("r2", 200, 0.5, dim) for dim in (8, 512)),
    *(Cohort("spearman", n, 0.5, 32) for n in (60, 200, 1000)),
    Cohort("spearman", 200, 0.5, 512),
    *(Cohort("pearson", n, 0.5, 32) for n in (60, 200)),
    Cohort(AUROC, 1000, 0.2, 32, few_shot=True),
    Cohort(AUROC, 400, 0.2, 128, few_shot=True),
)


@dataclass(frozen=True)
class Trial:
    """One drawn cohort: the scores of the three encoders, and what each method says of them.

    Attributes:
        scores: (encoder,) main scores.
        covers: whether there are enough cases for an interval.
        intervals: by method, (encoder, 2); NaN where nothing varies.
        p_values: by method, of the pairs first-second and third-first.
    """

    scores: tuple[float, ...]
    covers: bool
    intervals: dict[str, list[tuple[float, float]]]
    p_values: dict[str, list[float]]


def trial(cohort: Cohort, number: int) -> Trial:
    """Return trial number `number` of a kind of cohort."""
    catalogue = _catalogue()
    task = catalogue.tasks[cohort.task]
    protocol = catalogue.protocol("few-shot/v2" if cohort.few_shot else task.protocols[0])
    rng = rng_for("interval calibration", *asdict(cohort).values(), number)
    units, stratum, embeddings = _cohort(cohort, task, rng)
    splits = _shots(stratum, protocol, rng) if cohort.few_shot else _folds(stratum, rng)
    with threadpool_limits(1):
        scored, folds = zip(
            *(_scored(task, protocol, matrix, units, splits) for matrix in embeddings), strict=True
        )
        one = scored[0]
        weights = case_weights(one.case, one.stratum, RESAMPLES, rng)
        resampled = [each.scores(weights) for each in scored]
    low, high = score_range(task.metric.name)
    df = one.design.degrees_of_freedom  # the same for all encoders
    scores = tuple(each.score for each in scored)
    # What an error comes from; of a difference of two encoders it is the difference of these.
    grounds = [
        (
            draws,
            each.design.factor * (draws - each.score),
            each.design.training_factor * np.array(each.draw_scores),
            of_folds,
        )
        for each, draws, of_folds in zip(scored, resampled, folds, strict=True)
    ]
    intervals: dict[str, list[tuple[float, float]]] = {}
    for value, ground in zip(scores, grounds, strict=True):
        for method, (error, df_of_method) in _errors(*ground, df, cohort).items():
            ends = t_interval(value, error, df_of_method, low, high) or (np.nan, np.nan)
            intervals.setdefault(method, []).append(ends)
    p_values: dict[str, list[float]] = {}
    for first, second in ((0, 1), (2, 0)):
        gap = [a - b for a, b in zip(grounds[first], grounds[second], strict=True)]
        for method, (error, df_of_method) in _errors(*gap, df, cohort).items():
            p_values.setdefault(method, []).append(
                t_test(scores[first] - scores[second], error, df_of_method)
            )
    return Trial(scores, one.design.covers, intervals, p_values)


@cache
def _catalogue() -> Catalogue:
    shipped = load_catalogue()
    numbers = {
        metric: TaskSpec.model_validate(
            {
                "id": metric,
                "cohort": "bcnb",
                "stains": ["H&E"],
                "labels": {"type": "continuous", "column": "value"},
                "metric": {"name": metric},
            }
        )
        for metric in ("r2", "spearman", "pearson")
    }
    return replace(shipped, tasks={**shipped.tasks, **numbers})


def _errors(
    draws: Matrix, widened: Matrix, between: Matrix, folds: Matrix, df: float, cohort: Cohort
) -> dict[str, tuple[float, float]]:
    """Return by method the standard error and its degrees of freedom.

    Args:
        draws: the score in each resample of test cases.
        widened: the same less the score, times the factor of its design.
        between: the score of each draw of few-shot training cases, times its factor.
        folds: the score of each fold.
        df: degrees of freedom of the method that is used.
        cohort: what is scored.
    """
    deviation = float(draws.std(ddof=1))
    errors = {
        "used": (standard_error(float(widened.std(ddof=1)), ScoreDesign(), between.tolist()), df),
        "bootstrap": (deviation, np.inf),
        "widened 1.5": (1.5 * deviation, np.inf),
    }
    if not cohort.few_shot:  # there n_test / n_train means nothing
        share = 1 / FOLDS + 1 / (FOLDS - 1)
        errors["folds"] = (float(np.sqrt(share * folds.var(ddof=1))), FOLDS - 1)
    return errors


def _cohort(
    cohort: Cohort, task: TaskSpec, rng: np.random.Generator
) -> tuple[Units, NDArray[np.intp], list[Matrix]]:
    """Return the units, the stratum of each, and what each encoder sees."""
    n, ids = cohort.n, [f"u{i:05d}" for i in range(cohort.n)]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": ""})
    if isinstance(task.labels, ClassLabels):
        classes = task.labels.classes
        counts = np.full(len(classes), 1.0 / len(classes))
        if len(classes) == 2:
            counts = np.array([1.0 - cohort.share, cohort.share])
        stratum = np.searchsorted(np.round(np.cumsum(counts) * n)[:-1], np.arange(n), side="right")
        state = (stratum - stratum.mean()) * {2: 1.0, 3: 0.8}.get(len(classes), 0.5)
        table["label"] = [classes[i] for i in stratum]
    elif isinstance(task.labels, ContinuousLabels):
        state = 0.5 * rng.standard_normal(n)
        table["value"] = state
        stratum = (state > np.median(state)).astype(np.intp)
    else:
        state = 0.5 * rng.standard_normal(n)
        time = rng.exponential(size=n) * np.exp(-1.5 * state)
        censored = rng.exponential(size=n)
        limit = np.quantile(time / censored, cohort.share) * censored
        table["time_days"], table["event"] = 1000 * np.minimum(time, limit) + 1, time <= limit
        stratum = table["event"].to_numpy().astype(np.intp)
    direction = np.zeros(cohort.dim)
    direction[:SIGNAL_DIMENSIONS] = 0.5
    tissue = rng.standard_normal((n, cohort.dim))
    embeddings = [
        (tissue + rng.standard_normal((n, cohort.dim))) / np.sqrt(2.0)
        + skill * state[:, None] * direction
        for skill in SKILL
    ]
    return Units(table, {}, {}, "simulated"), stratum, embeddings


def _folds(stratum: NDArray[np.intp], rng: np.random.Generator) -> Splits:
    fold, start = np.empty(len(stratum), dtype=np.intp), 0
    for kind in np.unique(stratum):
        rows = rng.permutation(np.flatnonzero(stratum == kind))
        fold[rows] = (start + np.arange(len(rows))) % FOLDS
        start += len(rows)
    splits = [Split((0, k), np.flatnonzero(fold != k), np.flatnonzero(fold == k))
              for k in range(FOLDS)]  # fmt: skip
    return Splits(("repeat", "fold"), splits, "simulated")


def _shots(stratum: NDArray[np.intp], protocol: ProtocolSpec, rng: np.random.Generator) -> Splits:
    plan = protocol.shot_plan
    assert plan is not None
    splits = []
    for shots in plan.shots:
        for draw in range(plan.draws):
            train = np.sort(np.concatenate(
                [rng.permutation(np.flatnonzero(stratum == kind))[:shots] for kind in (0, 1)]
            ))  # fmt: skip
            splits.append(Split((shots, draw), train, np.setdiff1d(np.arange(len(stratum)), train)))
    return Splits(("shots", "draw"), splits, "simulated")


def _scored(
    task: TaskSpec, protocol: ProtocolSpec, matrix: Matrix, units: Units, splits: Splits
) -> tuple[ScoredUnits, Matrix]:
    """Return the scored units of one encoder, and its score in each fold."""
    predictions = evaluate(task, protocol, matrix, units, splits).predictions
    where, dim = "simulated", matrix.shape[1]
    judge, chance = task_scorer(task, predictions, where), task.chance
    values = [judge.value(fold) for fold in folds_of(protocol, predictions, where)[0]]
    return scored_units(task, protocol, predictions, where, where, dim), np.array(
        [chance if value is None else value for value in values]
    )


def summary(cohort: Cohort, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return coverage, false and true differences, and half widths by method, as shares."""
    scores = np.array([each.scores for each in trials])
    truth = scores.mean(axis=0)
    truth[:2] = truth[:2].mean()  # equal encoders have one truth
    used = np.array([each.intervals["used"] for each in trials])
    printed = np.array([each.covers for each in trials])[:, None] & ~np.isnan(used[..., 0])
    row: dict[str, Any] = {
        **asdict(cohort),
        "trials": len(trials),
        "expected_score": round(float(truth[0]), 4),
        "deviation": round(float(np.sqrt(np.square(scores - truth).mean(axis=0))[:2].mean()), 4),
        "with_an_interval": round(float(printed.mean()), 4),
    }
    for method in trials[0].intervals:
        ends = np.array([each.intervals[method] for each in trials])
        held = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
        p = np.array([each.p_values[method] for each in trials])
        row[method] = {
            "coverage": round(float(held[~np.isnan(ends[..., 0])].mean()), 4),
            "half_width": round(float(np.nanmean(ends[..., 1] - ends[..., 0]) / 2), 4),
            "false": round(float((p[:, 0] < 0.05).mean()), 4),
            "found": round(float((p[:, 1] < 0.05).mean()), 4),
        }
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return docs/statistics.md's table: coverage, false and true differences by method."""
    methods = ("used", "bootstrap", "widened 1.5", "folds")
    lines = [
        f"| metric | n | rarest | dim | interval | {' | '.join(methods)} | false | others | found "
        "| others |",
        "|---|---:|---:|---:|---|" + "---:|" * (len(methods) + 4),
    ]  # fmt: skip
    for row in rows:
        printed = "yes" if row["with_an_interval"] > 0.5 else "no, too few cases"
        name = _METRICS.get(row["task"], row["task"]) + (", few-shot" if row["few_shot"] else "")

        def cell(method: str, key: str, row: dict[str, Any] = row) -> str:
            return f"{100 * row[method][key]:.1f}" if method in row else "-"

        coverage = [cell(method, "coverage") for method in methods]
        marks = []
        for key in ("false", "found"):
            marks += [cell("used", key), "; ".join(cell(m, key) for m in methods[1:])]
        lines.append(
            f"| {name} | {row['n']} | {100 * row['share']:.0f}% | {row['dim']} | {printed} | "
            + " | ".join([*coverage, *marks]) + " |"
        )  # fmt: skip
    return "\n".join(lines)


_METRICS = {AUROC: "AUROC", KAPPA: "kappa, 3 levels", LEVELS: "kappa, 6 levels", SURVIVAL: "c"}


def main() -> None:
    """Draw the trials of every kind of cohort, print and write what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300, help="half of it for wide embeddings")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for cohort in COHORTS:
            count = given.trials // (2 if cohort.dim > 32 else 1)
            trials = list(pool.map(partial(trial, cohort), range(count), chunksize=5))
            rows.append(summary(cohort, trials))
            print(json.dumps(rows[-1]), flush=True)
    about = "SIMULATED cohorts with known truth: benchmarks/interval_calibration.py"
    write_text(given.out, json.dumps({"about": about, "cohorts": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""One few-shot task, ours against a plain loop over scikit-learn: fits, metrics, bootstrap.

1,000 embeddings of 512 dimensions, k in 1, 5, 10, 25, 50 per class, 10 draws each (`few-shot/v1`).
The named baseline, in the same run and also on one BLAS thread, is what one would write first:

    fits       for each draw: LogisticRegression(tol=1e-10).fit, then predict_proba of the rest
    metrics    for each draw: the metrics of the task by scikit-learn
    bootstrap  for each resample and draw: the metric by scikit-learn on the repeated rows

Agreement of probabilities is against scikit-learn's second-order solver (newton-cholesky) at tol
1e-10, which reaches the optimum; L-BFGS stops where the loss falls by less than 64 epsilon, some
1e-6 (two classes) to 1e-3 (several) away from it, whatever its tolerance. Both are reported.

    python -m benchmarks.few_shot_speed
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)
from sksurv.metrics import concordance_index_censored
from threadpoolctl import threadpool_limits

from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.files import write_text
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.logistic import fit_and_predict
from madeleine_bench.protocols.scorers import class_index
from madeleine_bench.protocols.scoring import folds_of, score, task_scorer
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.protocol import FewShot
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import (
    case_weights,
    weighted_auroc,
    weighted_harrell_c,
    weighted_quadratic_kappa,
)
from madeleine_bench.types import Splits, Survival, Units

RESULTS = Path(__file__).resolve().parent / "results"
TASKS = {"bcnb-er": 0.15, "bwh-kidney-ifta": 0.15, "mgh-breast-er-quant": 0.15}
UNITS, DIM, RESAMPLES = 1000, 512, 1000
PLAIN_RESAMPLES = 100


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    wanted = parser.parse_args()
    units, dim, resamples, repeats = (500, 32, 5, 1) if wanted.quick else (
        UNITS, DIM, PLAIN_RESAMPLES, 3
    )  # fmt: skip
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the baseline says of its tolerance
        found = {
            **machine_provenance(),
            "blas_threads": 1,
            "load_before": round(os.getloadavg()[0], 2),
            "units": units,
            "dim": dim,
            "baseline": "a loop over scikit-learn, one BLAS thread",
            "tasks": [
                measure_task(task, spread, units, dim, resamples, repeats)
                for task, spread in TASKS.items()
            ],
            "bootstrap": measure_bootstrap(units, resamples, repeats),
        }
    write_text(wanted.out / "few_shot_speed.json", json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: found[k] for k in ("tasks", "bootstrap")}, indent=1))


def measure_task(
    task_id: str, spread: float, units: int, dim: int, resamples: int, repeats: int
) -> dict[str, Any]:
    """Return seconds of both ways, their ratios, and how far the probabilities are apart.

    Args:
        task_id: a task of classes; its labels are drawn evenly.
        spread: of the centres of the classes, in units of the noise.
        units: number of embeddings.
        dim: of an embedding.
        resamples: of the plain bootstrap; its time is scaled up to 1,000 where fewer.
        repeats: of ours, of which the median counts; the plain loop runs once.
    """
    catalogue = load_catalogue(None)
    task, protocol = catalogue.tasks[task_id], catalogue.protocol("few-shot/v1")
    assert isinstance(task.labels, ClassLabels)
    assert isinstance(protocol.method, FewShot)
    classes = task.labels.classes
    rng = rng_for("few-shot-speed", task_id)
    label = rng.integers(len(classes), size=units)
    rows = rng.normal(size=(units, dim)) + spread * rng.normal(size=(len(classes), dim))[label]
    ids = [f"unit-{i:04d}" for i in range(units)]
    names = [classes[c] for c in label]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", "label": names})
    everything = Units(table, {i: (i,) for i in ids}, {}, "made up")
    with tempfile.TemporaryDirectory() as folder:
        splits = frozen_splits(Path(folder), task, protocol, everything)
    index = class_index(table, classes, task_id)
    method = protocol.method

    fits_s, mine = _timed(
        lambda: list(fit_and_predict(method.model, rows, index, classes, splits.splits)), repeats
    )
    metrics_s, _ = _timed(lambda: _metrics(task, protocol, rows, everything, splits), repeats)
    sweep_s, scores = _timed(lambda: _sweep(task, protocol, rows, everything, splits), repeats)
    plain_fits_s, theirs = _timed(lambda: _plain_fits(rows, index, splits, "lbfgs"), 1)
    exact = _plain_fits(rows, index, splits, "newton-cholesky")
    plain_metrics_s, _ = _timed(lambda: _plain_metrics(task, theirs, index, splits), 1)
    few = _timed(lambda: _plain_bootstrap(task, theirs, index, splits, resamples), 1)[0]
    plain_bootstrap_s = few * RESAMPLES / resamples
    plain_s = plain_fits_s + plain_metrics_s + plain_bootstrap_s
    return {
        "task": task_id,
        "classes": len(classes),
        "fits": len(splits.splits),
        "ours_s": {
            "fits": _3(fits_s),
            "fits_and_metrics": _3(metrics_s),
            "all": _3(sweep_s),
        },
        "plain_s": {
            "fits": _3(plain_fits_s),
            "metrics": _3(plain_metrics_s),
            "bootstrap": _3(plain_bootstrap_s),
            "bootstrap_resamples_run": resamples,
            "all": _3(plain_s),
        },
        "times_faster": {
            "fits": _3(plain_fits_s / fits_s),
            "all": _3(plain_s / sweep_s),
            "all_but_the_bootstrap": _3((plain_fits_s + plain_metrics_s) / metrics_s),
        },
        "largest_difference_of_probabilities": {
            "newton-cholesky": _3(_apart(mine, exact)),
            "lbfgs": _3(_apart(mine, theirs)),
        },
        "score": scores,
    }


def measure_bootstrap(units: int, resamples: int, repeats: int) -> list[dict[str, Any]]:
    """Return for each metric the seconds of 1,000 resamples, ours and by the library in a loop."""
    rng = rng_for("few-shot-speed", "bootstrap")
    positive = rng.random(units) < 0.3
    risk = rng.normal(size=units) + positive
    level = rng.integers(6, size=units).astype(np.intp)
    guess = np.clip(level + rng.integers(-1, 2, size=units), 0, 5).astype(np.intp)
    survival = Survival(
        np.ceil(rng.exponential(1000.0, size=units) * np.exp(-0.5 * risk)), positive
    )
    ids = [str(i) for i in range(units)]
    stratum = ["event" if p else "none" for p in positive]
    weights = case_weights(ids, stratum, RESAMPLES, rng)
    drawn = [np.repeat(np.arange(units), weights[:, r]) for r in range(resamples)]
    cases: list[tuple[str, str, Callable[[], Any], Callable[[NDArray[np.intp]], float]]] = [
        (
            "auroc", "sklearn.metrics.roc_auc_score",
            lambda: weighted_auroc(positive, risk, weights),
            lambda rows: roc_auc_score(positive[rows], risk[rows]),
        ),
        (
            "quadratic-kappa", "sklearn.metrics.cohen_kappa_score",
            lambda: weighted_quadratic_kappa(level, guess, 6, weights),
            lambda rows: cohen_kappa_score(level[rows], guess[rows], weights="quadratic"),
        ),
        (
            "harrell-c", "sksurv.metrics.concordance_index_censored",
            lambda: weighted_harrell_c(survival, risk, weights),
            lambda rows: concordance_index_censored(
                survival.event[rows], survival.time_days[rows], risk[rows], tied_tol=0.0
            )[0],
        ),
    ]  # fmt: skip
    found = []
    for metric, baseline, ours, plain in cases:
        ours_s, values = _timed(ours, repeats)
        few_s, loop = _timed(lambda plain=plain: [plain(rows) for rows in drawn], 1)  # type: ignore[misc]
        plain_s = few_s * RESAMPLES / resamples
        found.append(
            {
                "metric": metric,
                "baseline": baseline,
                "units": units,
                "ours_s": _3(ours_s),
                "plain_s": _3(plain_s),
                "plain_resamples_run": resamples,
                "times_faster": _3(plain_s / ours_s),
                "largest_difference": _3(float(np.abs(values[:resamples] - loop).max())),
            }
        )
    return found


def _metrics(
    task: TaskSpec, protocol: Any, rows: NDArray[np.float64], units: Units, splits: Splits
) -> list[float | None]:
    """Return what a record shows of a task but for the interval: all of a sweep but that."""
    predictions = evaluate(task, protocol, rows, units, splits).predictions
    judge = task_scorer(task, predictions, task.name)
    folds, groups = folds_of(protocol, predictions, task.name)
    found = [judge.value(fold) for fold in folds]
    return found + [judge.secondary(name, folds, groups) for name in task.secondary]


def _sweep(
    task: TaskSpec, protocol: Any, rows: NDArray[np.float64], units: Units, splits: Splits
) -> dict[str, Any]:
    evaluation = evaluate(task, protocol, rows, units, splits)
    scores, _ = score(task, protocol, evaluation.predictions, evaluation.fits)
    return {"value": scores.main.value, "ci95": scores.main.ci95}


def _plain_fits(
    rows: NDArray[np.float64], label: NDArray[np.intp], splits: Splits, solver: str
) -> list[NDArray[np.float64]]:
    found = []
    for split in splits.splits:
        model = LogisticRegression(tol=1e-10, max_iter=10_000, solver=solver)
        model.fit(rows[split.train], label[split.train])
        found.append(model.predict_proba(rows[split.test]))
    return found


def _plain_metrics(
    task: TaskSpec,
    probabilities: list[NDArray[np.float64]],
    label: NDArray[np.intp],
    splits: Splits,
) -> list[list[float]]:
    names = [task.metric.name, *task.secondary]
    return [
        [_plain_value(name, label[split.test], probability) for name in names]
        for probability, split in zip(probabilities, splits.splits, strict=True)
    ]


def _plain_value(name: str, truth: NDArray[np.intp], probability: NDArray[np.float64]) -> float:
    second, guess = probability[:, 1], probability.argmax(axis=1)
    if name == "auroc" and probability.shape[1] == 2:
        return float(roc_auc_score(truth, second))
    plain: dict[str, Callable[[], float]] = {
        "auroc": lambda: roc_auc_score(truth, probability, multi_class="ovr"),
        "quadratic-kappa": lambda: cohen_kappa_score(truth, guess, weights="quadratic"),
        "balanced-accuracy": lambda: recall_score(truth, guess, average="macro"),
        "macro-f1": lambda: f1_score(truth, guess, average="macro"),
        "average-precision": lambda: average_precision_score(truth, second),
        "log-loss": lambda: log_loss(truth, probability),
        "brier": lambda: np.square(second - truth).mean(),
    }
    return float(plain[name]())


def _plain_bootstrap(
    task: TaskSpec,
    probabilities: list[NDArray[np.float64]],
    label: NDArray[np.intp],
    splits: Splits,
    resamples: int,
) -> list[float]:
    rng = rng_for("few-shot-speed", "plain")
    found = []
    for _ in range(resamples):
        for probability, split in zip(probabilities, splits.splits, strict=True):
            rows = rng.integers(len(split.test), size=len(split.test))
            truth, drawn = label[split.test][rows], probability[rows]
            found.append(_plain_value(task.metric.name, truth, drawn))
    return found


def _apart(mine: Any, theirs: list[NDArray[np.float64]]) -> float:
    each = [np.abs(a.probability - b).max() for a, b in zip(mine, theirs, strict=True)]
    return float(max(each))


def _timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median seconds of some runs and what the last one returned."""
    seconds, made = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - began)
    return median(seconds), made


def _3(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    main()

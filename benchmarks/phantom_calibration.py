"""Measure the phantoms against the numbers they are calibrated on; write them as JSON.

Run from the repository root, with one BLAS thread (about five minutes):

    OMP_NUM_THREADS=1 python benchmarks/phantom_calibration.py
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.task import ClassLabels, TaskSpec

RESULTS = Path(__file__).parent / "results" / "phantom_calibration.json"
SHOTS = (1, 10, 25)
DRAWS = 10
# Mean of CONCH patch features, README of MADELEINE: AUC at k = 1, 10, 25.
PUBLISHED = {
    "bcnb-er": (0.575, 0.759, 0.785),
    "bcnb-pr": (0.528, 0.678, 0.724),
    "bcnb-her2": (0.509, 0.603, 0.647),
}
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """A phantom cohort and, for each of its slides, three embeddings."""

    cohort: PhantomCohort
    rows: dict[str, Matrix]


def pool(cohort: PhantomCohort) -> Pooled:
    """Return the mean, the maximum and the latents of every slide."""
    rows: dict[str, list[Any]] = {"mean-pool": [], "max-pool": [], "oracle": []}
    for slide_id in cohort.slides["slide_id"]:
        bag = cohort.read_bag(slide_id)
        latents = bag.latents or {}
        rows["mean-pool"].append(bag.features.mean(axis=0, dtype=np.float64))
        rows["max-pool"].append(bag.features.max(axis=0))
        rows["oracle"].append([latents[name] for name in sorted(latents)])
    return Pooled(cohort, {name: np.array(values, dtype=float) for name, values in rows.items()})


def units(pooled: Pooled, task: TaskSpec, column: str, row: str) -> tuple[Matrix, list[list[str]]]:
    """Return the embeddings of the units that have a label, and the rows of the label table."""
    table = pooled.cohort.slides
    chosen = (table["stain"].isin(task.stains) & (table[column] != "")).to_numpy()
    names = table.loc[chosen, "case_id" if task.unit == "case" else "slide_id"].to_numpy()
    first, where = np.unique(names, return_index=True)
    matrix = pooled.rows[row][chosen]
    means = np.stack([matrix[names == name].mean(axis=0) for name in first])
    return means, table[chosen].iloc[where].to_dict("records")


def class_units(pooled: Pooled, task: TaskSpec, row: str) -> tuple[Matrix, NDArray[np.intp]]:
    """Return embeddings and class indices of a task's units."""
    labels = task.labels
    assert isinstance(labels, ClassLabels)
    matrix, records = units(pooled, task, labels.column, row)
    return matrix, np.array([labels.classes.index(labels.map[r[labels.column]]) for r in records])


def score(model: Any, task: TaskSpec, x: Matrix, y: NDArray[np.intp]) -> float:
    """Return the task's main metric on test units."""
    if task.metric.name == "quadratic-kappa":
        return float(cohen_kappa_score(y, model.predict(x), weights="quadratic"))
    p = model.predict_proba(x)
    return float(roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr"))


def few_shot(
    task: TaskSpec, x: Matrix, y: NDArray[np.intp], k: int, draws: int, seed: int
) -> float:
    """Return the mean score over draws of k per class, logistic regression C=1, no scaling."""
    values = []
    for draw in range(draws):
        rng = rng_for("phantom-calibration", task.id, seed, k, draw)
        train = np.concatenate(
            [rng.choice(np.flatnonzero(y == c), k, replace=False) for c in np.unique(y)]
        )
        test = np.setdiff1d(np.arange(len(y)), train)
        model = LogisticRegression(C=1.0, max_iter=1000).fit(x[train], y[train])
        values.append(score(model, task, x[test], y[test]))
    return float(np.mean(values))


def linear_probe(task: TaskSpec, x: Matrix, y: NDArray[np.intp]) -> float:
    """Return the mean score over five stratified folds, z-score and logistic regression C=1."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    values = []
    for train, test in folds.split(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=3000))
        values.append(score(model.fit(x[train], y[train]), task, x[test], y[test]))
    return float(np.mean(values))


def calibration(catalogue: Catalogue, seeds: int, signal: float | None) -> dict[str, Any]:
    """Return few-shot AUCs on phantom bcnb: mean over seeds, their spread, and seed 0 alone."""
    found: dict[str, list[list[float]]] = {task_id: [] for task_id in PUBLISHED}
    for seed in range(seeds):
        cohort = catalogue.cohorts["bcnb"]
        pooled = pool(
            PhantomCohort(cohort, list(catalogue.tasks.values()), seed=seed, signal=signal)
        )
        for task_id, values in found.items():
            task = catalogue.tasks[task_id]
            x, y = class_units(pooled, task, "mean-pool")
            values.append([few_shot(task, x, y, k, DRAWS, seed) for k in SHOTS])
    report = {}
    for task_id, values in found.items():
        mean = np.mean(values, axis=0)
        report[task_id] = {
            "auc": mean.round(4).tolist(),
            "std_over_seeds": np.std(values, axis=0, ddof=1).round(4).tolist(),
            "published": list(PUBLISHED[task_id]),
            "difference": (mean - np.array(PUBLISHED[task_id])).round(4).tolist(),
        }
    return report


def boards(catalogue: Catalogue, signal: float | None) -> dict[str, Any]:
    """Return linear-probe and few-shot scores of mean-pool, max-pool and oracle on every task."""
    report: dict[str, Any] = {}
    tasks = [task for task in catalogue.tasks.values() if isinstance(task.labels, ClassLabels)]
    for cohort_id in sorted({task.cohort for task in tasks}):
        cohort = catalogue.cohorts[cohort_id]
        if cohort.phantom is None:
            continue
        pooled = pool(PhantomCohort(cohort, list(catalogue.tasks.values()), signal=signal))
        for task in (task for task in tasks if task.cohort == cohort_id):
            report[task.id] = {}
            for row in pooled.rows:
                x, y = class_units(pooled, task, row)
                shots = [k for k in (1, 5, 25) if k < np.bincount(y).min()]
                report[task.id][row] = {
                    "linear_probe": round(linear_probe(task, x, y), 4),
                    "few_shot": {k: round(few_shot(task, x, y, k, DRAWS, 0), 4) for k in shots},
                }
    return report


def reading_time(catalogue: Catalogue) -> dict[str, float]:
    """Return how many slides the downstream phantoms have and the seconds to make them all."""
    slides, start = 0, time.perf_counter()
    for cohort in catalogue.cohorts.values():
        if cohort.role == "downstream" and cohort.phantom is not None:
            phantom = PhantomCohort(cohort, list(catalogue.tasks.values()))
            for slide_id in phantom.slides["slide_id"]:
                phantom.read_bag(slide_id)
            slides += len(phantom.slides)
    return {"slides": slides, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = parser.parse_args().seeds
    catalogue = load_catalogue()
    report = {
        "shots": SHOTS,
        "draws": DRAWS,
        "seeds": seeds,
        "few_shot_bcnb_mean_pool": calibration(catalogue, seeds, None),
        "few_shot_bcnb_mean_pool_null": calibration(catalogue, max(seeds // 2, 2), 0.0),
        "boards": {"signal-1": boards(catalogue, None), "signal-0": boards(catalogue, 0.0)},
        "reading": reading_time(catalogue),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

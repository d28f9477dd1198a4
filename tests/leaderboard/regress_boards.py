"""Made-up results folders for the regression gate: real predictions and scores, no encoder."""

from dataclasses import replace
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from madeleine_bench.leaderboard.regression import (
    RegressionCheck,
    RegressionFinding,
    SuiteCell,
    compare,
)
from madeleine_bench.protocols.results import FitReport
from madeleine_bench.protocols.scoring import score
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import Record, RecordFold, RecordScores

CATALOGUE = load_catalogue()
PROTOCOL = "linear-probe/v2"
N_UNITS = 120
TASKS = ("bcnb-er", "bcnb-pr")


def predictions_of(signal: float, seed: int = 0, nudge: float = 0.0) -> pd.DataFrame:
    """Return 5 folds of a binary task; the log odds hold the label `signal` times its noise."""
    rng = rng_for("regress", seed)
    positive = np.arange(N_UNITS) % 2 == 0
    fold = np.arange(N_UNITS) // 2 % 5
    odds = signal * np.where(positive, 1.0, -1.0) + rng.standard_normal(N_UNITS) + nudge
    probability = 1.0 / (1.0 + np.exp(-odds))
    ids = np.array([f"s{i:03d}" for i in range(N_UNITS)], dtype=object)
    table = pd.DataFrame(
        {
            "repeat": 0,
            "fold": fold,
            "unit_id": ids,
            "case_id": ids,
            "label": np.where(positive, "positive", "negative").astype(object),
            "prob_negative": 1.0 - probability,
            "prob_positive": probability,
        }
    )
    return table.sort_values(["fold", "unit_id"], ignore_index=True)


@lru_cache
def _scores(
    task_id: str, converged: bool, predictions: str
) -> tuple[RecordScores, tuple[RecordFold, ...]]:
    table = pd.read_json(StringIO(predictions), precise_float=True)
    reports = [FitReport((0, f), 96, 24, converged, None if converged else "x") for f in range(5)]
    return score(CATALOGUE.tasks[task_id], CATALOGUE.protocol(PROTOCOL), table, reports)


def add(
    store: ResultStore,
    encoder: str,
    task_id: str,
    predictions: pd.DataFrame,
    created: str = "2026-01-01T00:00:00+00:00",
    /,
    converged: bool = True,
    **changes: Any,
) -> Record:
    """Write a record scored from predictions; `changes` replace fields of its parts."""
    task = CATALOGUE.tasks[task_id]
    scores, folds = _scores(task_id, converged, predictions.to_json(double_precision=15))
    content: dict[str, Any] = {
        "resume_key": "0" * 64,
        "source": "phantom",
        "variant": "",
        "encoder": {
            "name": encoder, "revision": "1", "title": encoder, "kind": "encoder",
            "fingerprint": "f", "training_cohorts": [],
        },
        "task": {
            "id": task_id, "version": 1, "task_hash": f"hash of {task_id}",
            "family": task.family, "cohort": task.cohort,
        },
        "protocol": PROTOCOL,
        "scoring_version": 1,
        "inputs": {
            "embeddings": "e", "labels": "l", "splits": "s", "n": N_UNITS, "dim": 2, "missing": {},
        },
        "scores": scores.model_dump(exclude={"main": {"rare_cases"}}),
        "folds": [fold.model_dump() for fold in folds],
        "provenance": {"created": created, "home": "/home/somebody", "python": "3.11"},
        "status": "ok" if converged else "partly-failed",
    }  # fmt: skip
    for part, values in changes.items():
        content[part] = {**content[part], **values} if isinstance(values, dict) else values
    version = content["task"]["version"]
    written = store.write_predictions(
        ("phantom", encoder, f"{task_id}@{version}", PROTOCOL, "0" * 64), predictions
    )
    return store.write_record({**content, "predictions": written})


def board(folder: Path, signals: dict[str, float], seed: int = 0, **changes: Any) -> ResultStore:
    """Return a store with a record of each encoder on each task, as good as its signal."""
    store = ResultStore(folder)
    for number, (encoder, signal) in enumerate(signals.items()):
        for task in TASKS:
            add(store, encoder, task, predictions_of(signal, seed + number), **changes)
    return store


def asked(baseline: ResultStore, current: ResultStore, *encoders: str) -> RegressionCheck:
    """Return the comparison of two stores over both tasks."""
    cells = frozenset(SuiteCell(e, t, PROTOCOL) for e in encoders for t in TASKS)
    return RegressionCheck(baseline, current, CATALOGUE, cells, "phantom")


def judged(comparison: RegressionCheck, **changes: Any) -> dict[tuple[str, str], RegressionFinding]:
    """Return the finding of each cell, by encoder and task."""
    found = compare(replace(comparison, **changes))
    return {(f.subject, f.case.split(" ")[0]): f for f in found}


def words(comparison: RegressionCheck, **changes: Any) -> dict[tuple[str, str], str]:
    """Return the verdict of each cell, by encoder and task."""
    return {cell: finding.verdict for cell, finding in judged(comparison, **changes).items()}

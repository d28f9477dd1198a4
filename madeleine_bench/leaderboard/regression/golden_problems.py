"""Small fixed inputs for every protocol, made of whole numbers so that every machine has the same.

Embeddings are products of small integers divided by a power of two, drawn by SHA-256: no random
generator, no logarithm and no rounded sum takes part, so the bytes are equal everywhere. They are
conditioned so that a solver's tolerance shows: directions of unlike size, classes that overlap.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.specs.protocol import LabelType, ProtocolSpec
from madeleine_bench.specs.task import CHANCE, FACTS, TaskSpec
from madeleine_bench.types import Split, Splits, Units

_UNITS = 60
_FOLDS = 3
_SHOTS = (1, 5)
_DRAWS = 2
_CLASSES: dict[str, tuple[str, ...]] = {
    "binary": ("negative", "positive"),
    "multiclass": ("ductal", "lobular", "other"),
    "ordered": ("low", "middle", "high"),
}
_METRIC = {"ordered": "quadratic-kappa", "survival": "harrell-c"}
_CLASS_SCORES = ("auroc", "balanced-accuracy", "average-precision", "macro-f1", "log-loss", "brier")
_SURVIVAL_SCORES = ("uno-c", "td-auc", "integrated-brier", "logrank-p")

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class GoldenProblem:
    """All that a protocol takes, and a digest of it."""

    task: TaskSpec
    embeddings: NDArray[np.float64]
    units: Units
    splits: Splits
    digest: str


def golden_problem(protocol: ProtocolSpec, labels: LabelType) -> GoldenProblem:
    """Return the fixed input of a protocol on one type of labels."""
    factors = _bell(f"{labels}/factors", _UNITS, 4)
    embeddings = _embeddings(labels, factors)
    latent = 2 * factors[:, 0] + _bell(f"{labels}/latent", _UNITS, 1)[:, 0]
    ids = [f"unit-{number:02d}" for number in range(_UNITS)]
    outcome, stratum = _outcome(labels, latent)
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", **outcome})
    splits = _splits(labels, stratum, protocol.shot_plan is not None)
    listed = {name: column.tolist() for name, column in outcome.items()}
    places = [[*s.key, s.train.tolist(), s.test.tolist()] for s in splits]
    digest = hash_json([hash_array(ids, embeddings), listed, places])
    units = Units(table, {name: (name,) for name in ids}, {}, digest)
    return GoldenProblem(_task(labels), embeddings, units, splits, digest)


def _embeddings(labels: str, factors: Whole) -> NDArray[np.float64]:
    """Return unit x dim: few factors in many directions for survival, many and noisy otherwise.

    A ridge of thousands leaves nothing of 12 free dimensions; 512 that repeat four factors are
    hardly held by it, so the optimiser has to walk and its tolerance shows.
    """
    dim, grain = (512, 8) if labels == "survival" else (12, 16)
    whole = factors @ _bell(f"{labels}/loadings", factors.shape[1], dim)
    whole = whole + grain * _bell(f"{labels}/grain", _UNITS, dim)
    return whole / 4096.0


def _outcome(
    labels: str, latent: Whole
) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp] | NDArray[np.bool_]]:
    """Return the label columns, and what the folds are balanced by."""
    if labels == "survival":
        chance = _whole(f"{labels}/time", _UNITS, 1, 1000)[:, 0]
        days = 1 + chance * np.maximum(500 - latent, 50) // 400
        event = _whole(f"{labels}/event", _UNITS, 1, 10)[:, 0] < 7
        return {"time_days": days.astype(np.float64), "event": event}, event
    classes = _CLASSES[labels]
    place = np.argsort(np.argsort(latent, kind="stable"), kind="stable")
    index = (place * len(classes) // _UNITS).astype(np.intp)
    return {"label": np.array(classes, dtype=object)[index]}, index


def _splits(labels: str, stratum: NDArray[Any], few_shot: bool) -> Splits:
    if not few_shot:
        order = _shuffled(f"{labels}/folds", stratum)
        fold = np.empty(_UNITS, dtype=np.intp)
        fold[order] = np.arange(_UNITS) % _FOLDS
        folds = [
            Split((0, f), np.flatnonzero(fold != f), np.flatnonzero(fold == f))
            for f in range(_FOLDS)
        ]
        return Splits(("repeat", "fold"), folds, "golden")
    draws = []
    for shots in _SHOTS:
        for draw in range(_DRAWS):
            order = _shuffled(f"{labels}/{shots}/{draw}", stratum)
            kinds = np.unique(stratum)
            train = np.sort(np.concatenate([order[stratum[order] == k][:shots] for k in kinds]))
            draws.append(Split((shots, draw), train, np.setdiff1d(np.arange(_UNITS), train)))
    return Splits(("shots", "draw"), draws, "golden")


def _shuffled(purpose: str, stratum: NDArray[Any]) -> NDArray[np.intp]:
    """Return positions sorted by stratum, shuffled within."""
    return np.lexsort((_whole(purpose, _UNITS, 1, 2**31)[:, 0], stratum))


def _task(labels: str) -> TaskSpec:
    classes = _CLASSES.get(labels, ())
    metric = _METRIC.get(labels, "auroc")
    survival = {"time": "time", "event": "event", "event_value": "1", "censored_value": "0"}
    by_class = {"column": "label", "classes": classes, "map": {c: c for c in classes}}
    counts = {"classes": dict.fromkeys(classes, _UNITS // len(classes))} if classes else {}
    return TaskSpec.model_validate(
        {
            "id": f"golden-{labels}",
            "version": 1,
            "title": "Fixed inputs of the regression gate",
            "family": "prognosis",
            "cohort": "golden",
            "unit": "slide",
            "stains": ["H&E"],
            "labels": {"type": labels, **(by_class if classes else survival)},
            "splits": {"scheme": "case-stratified", "folds": _FOLDS},
            "metric": {"name": metric, "chance": CHANCE[metric]},
            "secondary": _CLASS_SCORES if classes else _SURVIVAL_SCORES,
            "protocols": ["any/v1"],
            "expected": {"n": _UNITS, **(counts or {"events": 1})},
            "provenance": {f: {"status": "reconstructed", "source": "made up"} for f in FACTS},
            "citation": "none",
            "licence": "Apache-2.0",
        }
    )


def _whole(purpose: str, rows: int, columns: int, below: int) -> Whole:
    """Return whole numbers from 0 up to `below`, row x column, fixed by the purpose."""
    size = rows * columns
    raw = b"".join(_digests(purpose, range(-(-size // 8))))
    drawn = np.frombuffer(raw, dtype=">u4")[:size].astype(np.int64)
    return (drawn % below).reshape(rows, columns)


def _digests(purpose: str, numbers: Sequence[int]) -> list[bytes]:
    return [hashlib.sha256(f"golden/{purpose}/{number}".encode()).digest() for number in numbers]


def _bell(purpose: str, rows: int, columns: int) -> Whole:
    """Return whole numbers of mean 0 and deviation 37, nearly normal: sums of four."""
    drawn: Whole = np.zeros((rows, columns), dtype=np.int64)
    for part in range(4):
        drawn = drawn + _whole(f"{purpose}/{part}", rows, columns, 65) - 32
    return drawn

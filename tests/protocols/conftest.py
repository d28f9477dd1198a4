"""Small hand-made tasks, units and splits; no file, no cohort, no encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.results import Evaluation, FitReport
from madeleine_bench.protocols.scoring import score
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.metric import CHANCE
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import RecordFold, RecordScores
from madeleine_bench.specs.task import FACTS, TaskSpec
from madeleine_bench.types import Split, Splits, Units

CLASS_SECONDARY = ["balanced-accuracy", "average-precision", "macro-f1", "log-loss", "brier"]
SURVIVAL_SECONDARY = ["uno-c", "td-auc", "integrated-brier", "logrank-p"]


def view(scored: tuple[RecordScores, tuple[RecordFold, ...]]) -> SimpleNamespace:
    """Return scores flat: the main one's fields, the secondary ones and the folds."""
    scores, folds = scored
    return SimpleNamespace(**dict(scores.main), secondary=scores.secondary, folds=folds)


@dataclass(frozen=True)
class Problem:
    """Everything `evaluate` and `score` take."""

    task: TaskSpec
    protocol: ProtocolSpec
    embeddings: NDArray[np.float64]
    units: Units
    splits: Splits

    def evaluate(self) -> Evaluation:
        return evaluate(self.task, self.protocol, self.embeddings, self.units, self.splits)

    def score(self) -> SimpleNamespace:
        evaluation = self.evaluate()
        return self.score_of(evaluation.predictions, evaluation.fits)

    def score_of(
        self, table: pd.DataFrame, fits: Sequence[FitReport], dim: int | None = None
    ) -> SimpleNamespace:
        return view(score(self.task, self.protocol, table, fits, dim))

    def but(self, **changes: Any) -> "Problem":
        return replace(self, **changes)

    def with_table(self, table: pd.DataFrame) -> "Problem":
        return self.but(units=Units(table, {}, {}, "changed"))


def protocol(name: str) -> ProtocolSpec:
    path = resource_folder("tasks") / "protocols" / f"{name.replace('/', '-')}.yaml"
    return parse_spec(ProtocolSpec, read_yaml(path), path)


def make_task(kind: str, classes: tuple[str, ...] = ()) -> TaskSpec:
    metric = {"ordered": "quadratic-kappa", "survival": "harrell-c"}.get(kind, "auroc")
    labels: dict[str, Any] = {"type": kind}
    expected: dict[str, Any] = {"n": 10 * max(1, len(classes))}
    if kind == "survival":
        labels |= {"time": "t", "event": "e", "event_value": "1", "censored_value": "0"}
        expected["events"] = 5
    else:
        labels |= {"column": "x", "classes": classes, "map": {c: c for c in classes}}
        expected["classes"] = dict.fromkeys(classes, 10)
    return TaskSpec.model_validate(
        {
            "id": f"toy-{kind}",
            "version": 1,
            "title": "a toy",
            "family": "prognosis",
            "cohort": "toy",
            "unit": "slide",
            "stains": ["H&E"],
            "labels": labels,
            "splits": {"scheme": "case-stratified"},
            "metric": {"name": metric, "chance": CHANCE[metric]},
            "secondary": SURVIVAL_SECONDARY if kind == "survival" else CLASS_SECONDARY,
            "protocols": ["any/v1"],
            "expected": expected,
            "provenance": {f: {"status": "reconstructed", "source": "toy"} for f in FACTS},
            "citation": "none",
            "licence": "none",
        }
    )


def folds(stratum: NDArray[Any], n_folds: int = 5, repeats: int = 1) -> Splits:
    splits = []
    for repeat in range(repeats):
        rng = np.random.default_rng(100 + repeat)
        fold = np.empty(len(stratum), dtype=int)
        for kind in np.unique(stratum):
            rows = rng.permutation(np.flatnonzero(stratum == kind))
            fold[rows] = np.arange(len(rows)) % n_folds
        for f in range(n_folds):
            splits.append(Split((repeat, f), np.flatnonzero(fold != f), np.flatnonzero(fold == f)))
    return Splits(("repeat", "fold"), splits, "toy")


def draws(label: NDArray[Any], shots: tuple[int, ...], n_draws: int) -> Splits:
    splits = []
    for k in shots:
        for draw in range(n_draws):
            rng = np.random.default_rng([k, draw])
            kinds = np.unique(label)
            train = np.sort(
                np.concatenate([rng.choice(np.flatnonzero(label == c), k, False) for c in kinds])
            )
            splits.append(Split((k, draw), train, np.setdiff1d(np.arange(len(label)), train)))
    return Splits(("shots", "draw"), splits, "toy")


def class_problem(
    name: str = "linear-probe/v1",
    classes: tuple[str, ...] = ("negative", "positive"),
    kind: str = "binary",
    n_units: int = 120,
    dim: int = 9,
    signal: float = 1.0,
    seed: int = 0,
) -> Problem:
    """Return a problem whose classes are `signal` apart along the first dimension."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.arange(n_units) % len(classes))
    embeddings = rng.normal(size=(n_units, dim))
    embeddings[:, 0] += signal * index
    ids = [f"u{i:04d}" for i in range(n_units)]
    table = pd.DataFrame(
        {
            "unit_id": ids,
            "case_id": [f"c{i // 2:04d}" for i in range(n_units)],
            "site": "",
            "label": np.array(classes, dtype=object)[index],
        }
    )
    declared = protocol(name)
    few_shot = declared.method.kind == "few-shot"
    splits = draws(index, (1, 5), 4) if few_shot else folds(index)
    task = make_task(kind, classes)
    return Problem(task, declared, embeddings, Units(table, {}, {}, "toy"), splits)


def survival_problem(
    name: str = "cox/v1", n_units: int = 150, dim: int = 6, signal: float = 1.0, seed: int = 0
) -> Problem:
    """Return a problem whose log hazard is `signal` times the first dimension."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n_units, dim))
    death = rng.exponential(500 * np.exp(-signal * embeddings[:, 0]))
    leave = rng.uniform(100, 1200, n_units)
    table = pd.DataFrame(
        {
            "unit_id": [f"u{i:04d}" for i in range(n_units)],
            "case_id": [f"c{i:04d}" for i in range(n_units)],
            "site": "",
            "time_days": np.ceil(np.minimum(death, leave)),
            "event": death < leave,
        }
    )
    return Problem(
        make_task("survival"),
        protocol(name),
        embeddings,
        Units(table, {}, {}, "toy"),
        folds(table["event"].to_numpy()),
    )


@pytest.fixture
def classes_of() -> Callable[..., Problem]:
    return class_problem


@pytest.fixture
def survival_of() -> Callable[..., Problem]:
    return survival_problem


@pytest.fixture
def load_protocol() -> Callable[[str], ProtocolSpec]:
    return protocol


@pytest.fixture
def view_of() -> Callable[..., SimpleNamespace]:
    return view

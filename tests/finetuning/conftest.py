"""A small cohort in memory: units whose bags say their outcome in every other patch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from madeleine_bench.data.packed import FeatureStore, PackedSlide
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.finetuning.evaluation import FitRequest
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Split, Splits, Units

DIM = 6
CATALOGUE = load_catalogue()


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are faster, and the same to the last bit, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_store(bags: list[np.ndarray], slide_ids: list[str]) -> FeatureStore:
    """Return a feature store that lies in memory."""
    return FeatureStore(
        path=Path("store"),
        cohort_id="bcnb",
        source="phantom",
        variant="",
        content="",
        missing=(),
        patch_encoder=None,
        dim=bags[0].shape[1],
        dtype="float16",
        parts=(),
        slides=[
            PackedSlide(name, name, "H&E", len(bag))
            for name, bag in zip(slide_ids, bags, strict=True)
        ],
        shards=(np.concatenate(bags).astype(np.float16),),
    )


@dataclass
class World:
    """Units of a task and their bags, in which every other patch says the outcome."""

    store: FeatureStore
    units: Units
    splits: Splits

    @property
    def bags(self) -> UnitBags:
        return UnitBags(self.store, self.units)

    def request(self, task: str, protocol: str, split: int = 0, **changes) -> FitRequest:
        """Return a fit of a shipped protocol with some of its settings changed."""
        spec = CATALOGUE.protocol(protocol)
        method = spec.method.model_copy(update=changes)
        return FitRequest(
            CATALOGUE.tasks[task],
            spec.model_copy(update={"method": method}),
            self.units,
            self.splits.splits[split],
            "breast",
        )


def world(outcome: dict[str, np.ndarray], signal: np.ndarray) -> World:
    """Return units of which every other patch is shifted by four times `signal` (unit,)."""
    n = len(signal)
    rng = rng_for("finetuning tests", *sorted(outcome))
    bags = []
    for unit in range(n):
        bag = rng.normal(size=(int(rng.integers(4, 10)), DIM))
        bag[::2, 0] += 4.0 * signal[unit]
        bags.append(bag)
    ids = [f"u{i:02d}" for i in range(n)]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", **outcome})
    fold = np.arange(n) % 2
    splits = [Split((0, f), np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in (0, 1)]
    units = Units(table, {i: (i,) for i in ids}, {}, "hash")
    return World(make_store(bags, ids), units, Splits(("repeat", "fold"), splits, "splits"))


@pytest.fixture
def classes() -> World:
    """40 units of bcnb-er's classes."""
    positive = np.arange(40) % 4 < 2
    names = CATALOGUE.tasks["bcnb-er"].labels.classes
    label = np.where(positive, names[1], names[0]).astype(object)
    return world({"label": label}, np.where(positive, 1.0, -1.0))


@pytest.fixture
def levels() -> World:
    """60 units of mgh-breast-er-quant's six levels."""
    level = (np.arange(60) // 2) % 6
    names = np.array(CATALOGUE.tasks["mgh-breast-er-quant"].labels.classes, dtype=object)
    return world({"label": names[level]}, (level - 2.5) / 2.5)


@pytest.fixture
def survivors() -> World:
    """60 units with follow-up; a third are censored."""
    rng = rng_for("finetuning tests", "survival")
    risk = rng.normal(size=60)
    time = np.round(400.0 * rng.exponential(size=60) * np.exp(-1.5 * risk)) + 1.0
    return world({"time_days": time, "event": np.arange(60) % 3 > 0}, risk)


@pytest.fixture
def encoder():
    """Load a shipped encoder by name."""
    return lambda name: load_encoder(find_encoder(name))

"""What a bag, a task of the scheduler, and a row of a table cost, measured on this machine."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed.protocol.pickle import dumps
from threadpoolctl import threadpool_limits

from madeleine_bench.data.bags import read_bag_file, write_bag_file
from madeleine_bench.data.packed import INDEX, pack_cohort, read_index
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.hashing import hash_file, hash_json
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import score
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embedding import SHARD_SLIDES, EmbedJob
from madeleine_bench.runner.workers import open_executor
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.types import Bag, Silence, Source, Units

DIM = 512
_PACKED = 8
TASK = "bcnb-er"
PROTOCOLS = ("linear-probe", "few-shot")


def fastest(work: Callable[[], Any], repeats: int) -> float:
    """Return the least seconds that some work took."""
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


@dataclass(frozen=True)
class EqualBags:
    """A cohort whose bags are all read from one file."""

    file: Path
    number: int
    cohort_id: str = "made-up"
    source: Source = "local"
    variant: str = ""
    no_bag: frozenset[str] = frozenset()

    @property
    def slides(self) -> pd.DataFrame:
        """The table."""
        ids = [f"slide-{number:08d}-of-a-usual-length" for number in range(self.number)]
        return pd.DataFrame({"slide_id": ids, "case_id": ids, "stain": "H&E", "site": ""})

    def read_bag(self, slide_id: str) -> Bag:
        """Return the bag of a slide."""
        found = read_bag_file(self.file, None)
        return Bag(slide_id, slide_id, found.features, coords=found.coords)

    def content_key(self, slide_id: str) -> str:
        """Return a hash of the slide."""
        return hash_json(slide_id)


def bag_costs(patches: int, repeats: int) -> dict[str, float]:
    """Return bytes of a bag, and seconds to read, hash, pack and embed it, on one thread."""
    rng = rng_for("million slides", "bag")
    features = rng.standard_normal((patches, DIM), dtype=np.float32)
    coords = rng.integers(0, 100_000, (patches, 2))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        path = Path(folder) / "bag.h5"
        write_bag_file(path, features, coords, layout="trident", patch_encoder="made-up")
        found["bag_file_bytes"] = path.stat().st_size
        found["read_bag_s"] = fastest(lambda: read_bag_file(path, None), repeats)
        found["hash_bag_s"] = fastest(lambda: hash_file(path), repeats)
        began = time.perf_counter()
        pack_cohort(EqualBags(path, _PACKED), Path(folder) / "store")
        found["pack_s"] = (time.perf_counter() - began) / _PACKED
        found["packed_bytes"] = features.nbytes / 2 + coords.nbytes
    bag = Bag("s", "c", features, organ="breast")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("mean-pool", "madeleine"):
        encoder = load_encoder(find_encoder(name))
        with threadpool_limits(1):
            encoder.encode(bag)
            found[f"embed_s {name}"] = fastest(lambda one=encoder: one.encode(bag), repeats)  # type: ignore[misc]
    torch.set_num_threads(threads)
    return found


def scheduler_costs(tasks: int) -> dict[str, float]:
    """Return seconds of one task that does nothing: submitted, scheduled, and its result fetched.

    Two workers share the machine with scheduler and client, so a scheduler of its own is faster.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_executor("dask", None, 2, Path(folder), Silence()) as executor,
    ):
        list(executor.run(_nothing, range(20), _lost))  # opens the cluster
        spent = fastest(lambda: list(executor.run(_nothing, range(tasks), _lost)), 2)
    return {"scheduler_task_s": spent / tasks}


def table_costs(slides: int) -> dict[str, float]:
    """Return what a cohort of many slides costs before anything is computed, for one slide.

    A job of embedding is of one shard, whatever the cohort.
    """
    ids = [f"slide-{number:08d}-of-a-usual-length" for number in range(slides)]
    table = pd.DataFrame(
        {
            "slide_id": ids,
            "case_id": [name[:14] for name in ids],
            "stain": "H&E",
            "site": [f"site-{number % 40}" for number in range(slides)],
            "er": ["0", "1"] * (slides // 2),
        }
    )
    catalogue = load_catalogue()
    cohort = PhantomCohort(catalogue.cohorts["bcnb"], catalogue.tasks_of("bcnb"), table=table)
    shard = tuple(ids[slides // 2 :][:SHARD_SLIDES])
    rows = np.zeros((slides, DIM), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        table.to_csv(path, index=False)
        columns = Columns(slide="slide_id", case="case_id", stain="stain", site="site")
        found = {"label_table_s": fastest(lambda: read_label_table(path, columns), 1)}
        read = read_label_table(path, columns)
        store = EmbeddingStore(Path(folder))
        whole = store.path("phantom", "made-up", "bcnb", "0" * 64)
        found["write_embeddings_s"] = fastest(lambda: store.write(whole, ids, rows), 1)
        found["embeddings_bytes"] = whole.stat().st_size
    known = [[*row, "0" * 64] for row in table.itertuples(index=False)]
    found["label_table_bytes"] = float(read.memory_usage(deep=True).sum())
    found["key_s"] = fastest(lambda: hash_json(known), 1)
    found["embedding_header_bytes"] = found["embeddings_bytes"] - rows.nbytes

    def sent() -> bytes:
        return dumps(EmbedJob("bcnb", cohort.part(shard), shard, ()))

    job = {"job_bytes": float(len(sent())), "job_s": fastest(sent, 20)}
    return {name: value / slides for name, value in found.items()} | job


def index_costs(slides: int) -> dict[str, float]:
    """Return bytes of the index of a packed store, and seconds to read it, for one slide."""
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "bag.h5", Path(folder) / "store"
        write_bag_file(path, np.ones((1, 4), np.float32), layout="clam")
        pack_cohort(EqualBags(path, slides), store)
        size = (store / INDEX).stat().st_size
        return {
            "index_bytes": size / slides,
            "index_s": fastest(lambda: read_index(store), 2) / slides,
        }


def evaluation_costs(slides: int) -> dict[str, float]:
    """Return seconds and bytes of one task under each protocol, for one slide."""
    catalogue = load_catalogue()
    task = catalogue.tasks[TASK]
    rng = rng_for("million slides", "evaluation", slides)
    positive = rng.random(slides) < 0.785
    matrix = rng.standard_normal((slides, DIM), dtype=np.float32)
    matrix[:, :10] += 0.4 * positive[:, None]
    ids = [f"s{number:08d}" for number in range(slides)]
    labels = np.where(positive, "positive", "negative")
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", "label": labels})
    units = Units(table, {name: (name,) for name in ids}, {}, hash_json([ids, labels.tolist()]))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        for name in PROTOCOLS:
            protocol = catalogue.protocol(name)
            began = time.perf_counter()
            splits = frozen_splits(Path(folder), task, protocol, units)
            found[f"splits_s {name}"] = time.perf_counter() - began
            began = time.perf_counter()
            evaluation = evaluate(task, protocol, matrix, units, splits)
            found[f"fit_s {name}"] = time.perf_counter() - began
            began = time.perf_counter()
            score(task, protocol, evaluation.predictions, evaluation.fits)
            found[f"score_s {name}"] = time.perf_counter() - began
            kept = ResultStore(Path(folder)).write_predictions(
                "phantom", "made-up", task.name, protocol.name, "0" * 64, evaluation.predictions
            )
            found[f"predictions_bytes {name}"] = (Path(folder) / kept.path).stat().st_size
            used = evaluation.predictions.memory_usage(deep=True).sum()
            found[f"predictions_memory_bytes {name}"] = float(used)
            found[f"prediction_rows {name}"] = kept.rows
    return {name: value / slides for name, value in found.items()}


def _nothing(_job: int) -> None:
    """Do nothing, as a job."""


def _lost(_job: int, reason: str) -> None:
    raise RuntimeError(reason)

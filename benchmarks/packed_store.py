"""Reading 2,048 random patches of a slide: the packed store against usual HDF5 files.

Made-up bags (24 of 2,000 to 10,000 patches x 512, 150 MB in float16) are written in each layout,
read once, so that every file is in memory (warm), then sampled, the ways of reading in turn:

    packed store            rows of the memory map taken into an array that is there (`np.take`)
    h5py default chunks     float32, `create_dataset(..., chunks=True)`, as MADELEINE's own files
    one chunk a row         float32, chunks of (1, 512), as CLAM and TRIDENT write
    in one piece            float16 without chunks, as `mbench features extract` writes

HDF5 files are open already and read by h5py's fancy index (rows in increasing order, as it asks
for) or as a whole, the rows then picked. Besides: how fast packing and checking are, and what the
index of a store of a million slides takes. Run it on a machine with nothing else to do:

    PYTHONPATH=. python benchmarks/packed_store.py --out benchmarks/results

Writes packed_store.json; under a minute. `--quick` goes through it at a size whose numbers mean
nothing.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.packed import (
    INDEX,
    FeatureStore,
    PackedSlide,
    open_store,
    read_index,
    write_index,
)
from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.files import write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag, Source

REPORT = "packed_store.json"
BASELINE = "h5py default chunks, fancy index"
OURS = "packed store"
Read = Callable[[int, NDArray[np.int64]], NDArray[Any]]


@dataclass(frozen=True)
class Amounts:
    """How much of each thing there is.

    Attributes:
        bags: number of slides.
        fewest: patches of a slide, at least.
        most: patches of a slide, at most.
        dim: of a patch.
        sample: patches drawn of a slide.
        repeats: draws from each slide.
        index_slides: slides of the index that is written and read.
    """

    bags: int
    fewest: int
    most: int
    dim: int
    sample: int
    repeats: int
    index_slides: int


USUAL = Amounts(24, 2_000, 10_000, 512, 2_048, 5, 1_000_000)
QUICK = Amounts(3, 40, 90, 8, 20, 2, 50)


class MadeUpBags:
    """Noise in float16; implements `CohortData`."""

    cohort_id, variant = "made-up", ""
    source: Source = "phantom"
    no_bag: frozenset[str] = frozenset()

    def __init__(self, amounts: Amounts) -> None:
        self.amounts = amounts
        # A slide that has fewer patches than the sample would be another question.
        low = max(amounts.fewest, amounts.sample)
        self.lengths = rng_for("packed-store", "lengths").integers(
            low, amounts.most, amounts.bags, endpoint=True
        )
        ids = [f"slide-{number:04d}" for number in range(amounts.bags)]
        self.slides = pd.DataFrame({"slide_id": ids, "case_id": ids, "stain": "H&E", "site": ""})

    def read_bag(self, slide_id: str) -> Bag:
        """Return a bag."""
        shape = (int(self.lengths[int(slide_id[-4:])]), self.amounts.dim)
        rng = rng_for("packed-store", slide_id)
        return Bag(slide_id, slide_id, rng.standard_normal(shape, np.float32).astype(np.float16))

    def content_key(self, slide_id: str) -> str:
        """Return the name of a slide, as its bag never changes."""
        return slide_id


def write_h5(data: MadeUpBags, folder: Path, dtype: str, chunks: Any) -> list[Path]:
    """Return HDF5 files of all bags, one a slide."""
    folder.mkdir()
    paths = []
    for slide_id in data.slides["slide_id"]:
        paths.append(folder / f"{slide_id}.h5")
        with h5py.File(paths[-1], "w") as handle:
            features = data.read_bag(slide_id).features.astype(dtype)
            handle.create_dataset("features", data=features, chunks=chunks)
    return paths


def by_fancy_index(paths: Sequence[Path], opened: ExitStack) -> Read:
    """Return the reading of rows by h5py's fancy index."""
    sets = [opened.enter_context(h5py.File(path))["features"] for path in paths]
    return lambda slide, rows: np.asarray(sets[slide][np.sort(rows)])


def by_full_read(paths: Sequence[Path], opened: ExitStack) -> Read:
    """Return the reading of a whole bag, from which the rows are picked."""
    sets = [opened.enter_context(h5py.File(path))["features"] for path in paths]
    return lambda slide, rows: np.asarray(sets[slide][...][rows])


def by_store(store: FeatureStore, sample: int) -> Read:
    """Return the reading of rows from a packed store, as a batch of pretraining takes them."""
    scratch = np.empty((sample, store.dim), np.float16)

    def read(slide: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.take(store.bag(slide), rows, axis=0, out=scratch[: len(rows)], mode="clip")

    return read


def time_reads(reads: Mapping[str, Read], data: MadeUpBags) -> dict[str, list[float]]:
    """Return the milliseconds of every draw by every way, the ways in turn, after a warm one."""
    amounts = data.amounts
    found: dict[str, list[float]] = {name: [] for name in reads}
    for number in range(amounts.repeats + 1):
        for slide, length in enumerate(data.lengths):
            rng = rng_for("packed-store", "rows", number, slide)
            rows = rng.choice(int(length), amounts.sample, replace=False)
            for name, read in reads.items():
                began = time.perf_counter()
                read(slide, rows)
                took = time.perf_counter() - began
                if number:
                    found[name].append(1e3 * took)
    return found


def all_agree(reads: Mapping[str, Read], data: MadeUpBags) -> bool:
    """Return whether every way of reading gives the same numbers."""
    rows = np.arange(0, data.amounts.sample, 7)
    expected = data.read_bag("slide-0000").features[rows]
    return all(np.array_equal(read(0, rows), expected) for read in reads.values())


def measure_reads(data: MadeUpBags, store: FeatureStore, work: Path) -> list[dict[str, Any]]:
    """Return a row of the table for each way of reading."""
    layouts = {
        "h5py default chunks": write_h5(data, work / "default", "float32", True),
        "one chunk a row": write_h5(data, work / "rows", "float32", (1, data.amounts.dim)),
        "in one piece, float16": write_h5(data, work / "piece", "float16", None),
    }
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in layouts.items()}
    sizes[OURS] = sum(path.stat().st_size for path in store.path.iterdir())
    with ExitStack() as opened:
        reads = {OURS: by_store(store, data.amounts.sample)}
        for name, paths in layouts.items():
            reads[f"{name}, fancy index"] = by_fancy_index(paths, opened)
            reads[f"{name}, full read"] = by_full_read(paths, opened)
        if not all_agree(reads, data):
            raise AssertionError("two ways of reading gave different numbers")
        spent = time_reads(reads, data)
    middle = {name: median(values) for name, values in spent.items()}
    return [
        {
            "name": name,
            "ms": float(f"{middle[name]:.4g}"),
            "ms_slowest_tenth": float(f"{np.quantile(spent[name], 0.9):.4g}"),
            "times_ours": round(middle[name] / middle[OURS], 2),
            "mb": round(next(size for of, size in sizes.items() if name.startswith(of)) / 1e6, 2),
        }
        for name in reads
    ]


def measure_packing(data: MadeUpBags, path: Path) -> tuple[FeatureStore, dict[str, Any]]:
    """Return the store of the bags, and how long packing, checking and opening it take."""
    began = time.perf_counter()
    for slide_id in data.slides["slide_id"]:
        data.read_bag(slide_id)
    making = time.perf_counter() - began
    spent = {}
    for name, work in (
        ("pack", lambda: pack_cohort(data, path)),
        ("check", lambda: open_store(path, verify=True)),
        ("open", lambda: open_store(path)),
    ):
        began = time.perf_counter()
        store = work()
        spent[name] = time.perf_counter() - began
    megabytes = store.nbytes / 1e6
    return store, {
        # Making the numbers up is no part of packing.
        "pack_mb_per_s": round(megabytes / max(spent["pack"] - making, 1e-9)),
        "check_mb_per_s": round(megabytes / spent["check"]),
        "open_ms": round(1e3 * spent["open"], 2),
    }


def made_up_index(slides: int, folder: Path) -> FeatureStore:
    """Return the index of a store of that many slides of 6,000 patches, in files of 1 GB."""
    rows, dim = 6_000, 512
    a_file = 10**9 // (2 * dim * rows)
    hashes = [hash_bytes(b"%d" % number) for number in range(slides)]
    members = [
        PackedSlide(
            slide_id=f"slide-{number:08d}",
            case_id=f"case-{number // 4:08d}",
            stain="H&E",
            patches=rows,
            sha256=hashes[number],
            source_key=hashes[number],
            rounded=True,
            coords_dtype="<i8",
            magnification=20.0,
            patch_size=512,
            patch_size_level0=1024,
            part=number // a_file,
            begin=2 * dim * rows * (number % a_file),
            coords_begin=16 * rows * (number % a_file),
        )
        for number in range(slides)
    ]
    return FeatureStore(
        path=folder,
        cohort_id="made-up",
        source="phantom",
        variant="",
        content=hashes[0],
        missing=(),
        patch_encoder=None,
        dim=dim,
        dtype="float16",
        parts=[
            (f"features-{hashes[0][:8]}-{number:04d}.safetensors", 10**9)
            for number in range(-(-slides // a_file))
        ],
        slides=members,
    )


def measure_index(slides: int, folder: Path) -> dict[str, Any]:
    """Return what the index of a store of that many slides takes; it has no rows."""
    index = made_up_index(slides, folder)
    began = time.perf_counter()
    write_index(index)
    written = time.perf_counter()
    read_index(folder)
    return {
        "slides": slides,
        "write_s": round(written - began, 2),
        "read_s": round(time.perf_counter() - written, 2),
        "mb": round((folder / INDEX).stat().st_size / 1e6, 2),
    }


def markdown_rows(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table that docs/data.md shows, a line each."""
    yield "| layout and reading method | ms | ratio to packed store | MB |"
    yield "|---|---|---|---|"
    for row in report["rows"]:
        shown = f"{row['ms']:.2g}" if row["ms"] < 10 else f"{row['ms']:.0f}"
        yield f"| {row['name']} | {shown} | {row['times_ours']:.3g} | {row['mb']:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the report."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="a trial of the script itself")
    parser.add_argument("--index-slides", type=int, help="by default 1,000,000")
    parser.add_argument("--work", type=Path, help="folder for what is written and read; temporary")
    chosen = parser.parse_args(arguments)
    amounts = QUICK if chosen.quick else USUAL
    if chosen.index_slides is not None:
        amounts = replace(amounts, index_slides=chosen.index_slides)
    work = Path(tempfile.mkdtemp(prefix="packed-store-", dir=chosen.work))
    try:
        report = measure(amounts, work, quick=chosen.quick)
    finally:
        shutil.rmtree(work)
    write_text(chosen.out / REPORT, json.dumps(report, indent=1) + "\n")
    print("\n".join(markdown_rows(report)))
    print(json.dumps({name: report[name] for name in ("packing", "index")}))


def measure(amounts: Amounts, work: Path, *, quick: bool) -> dict[str, Any]:
    """Return the report of all that is measured."""
    data = MadeUpBags(amounts)
    store, packing = measure_packing(data, work / "store")
    rows = measure_reads(data, store, work)
    ratio = next(row["times_ours"] for row in rows if row["name"] == BASELINE)
    (work / "index").mkdir()
    return {
        **machine_provenance(),
        "h5py": {"version": h5py.version.version, "hdf5": h5py.version.hdf5_version},
        "quick": quick,
        "amounts": vars(amounts),
        "patches": store.patches,
        "mean_patches": round(store.patches / len(store), 1),
        "rows": rows,
        "ratio_to_default_chunks": ratio,
        "goal": {"ratio_at_least": 10, "ms_at_most": 1.0},
        "packing": packing,
        "index": measure_index(amounts.index_slides, work / "index"),
    }


if __name__ == "__main__":
    main()

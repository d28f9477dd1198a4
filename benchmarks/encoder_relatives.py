"""What tells a copy of an encoder from its honest relatives: the share that a linear map explains.

    mbench data fetch ucsb-breast --into data
    python benchmarks/encoder_relatives.py [--ucsb data/ucsb-breast/mbench.toml] [--out FILE]

compares the shipped encoders with one another, mean-pool with encoders that stand near it, and
mean-pool with disguised copies of it, on phantom cohorts of 50, 200 and 1,000 slides and on 58 real
images. Answers: benchmarks/results/encoder_relatives.json.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.compute import encode_checked
from madeleine_bench.encoders.registry import load_encoder, shipped_encoders
from madeleine_bench.files import write_text
from madeleine_bench.runner.cohorts import open_cohort, slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import Config, load_config
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.similarity import linear_share
from madeleine_bench.submissions.suspicion import COPY_SHARE
from madeleine_bench.types import CohortData

OUT = Path(__file__).resolve().parent / "results" / "encoder_relatives.json"
SIZES = {
    "aidpath": (50,), "bcnb": (50, 200, 1000), "bwh-breast": (50, 200), "bwh-kidney": (50, 200),
    "mgh-breast": (50, 200), "tcga-breast": (50, 200),
}  # fmt: skip
# Those without an embedding of the tissue are no relatives; random-projection is a linear function.
ENCODERS = ("intra-ssl", "madeleine", "madeleine-se", "max-pool", "mean-pool", "untrained")
TRIM = 0.1
# What is no copy and no threshold can part from one.
LINEAR = ("random-projection", "half of the columns", "mean without the outer tenths", "median")
Matrix = NDArray[np.float64]
Rows = dict[str, Matrix]


def summaries(features: Matrix, slide_id: str) -> Rows:
    """Return what encoders close to mean-pool make of a bag."""
    mixed = rng_for("relatives", slide_id).permutation(len(features))
    outer = int(TRIM * len(features))
    inner = np.sort(features, axis=0)[outer : len(features) - outer]
    mean = features.mean(axis=0)
    return {
        "mean and deviation": np.concatenate([mean, features.std(axis=0)]),
        "mean of half of the patches": features[mixed[: len(mixed) // 2]].mean(axis=0),
        "mean without the outer tenths": inner.mean(axis=0),
        "median": np.median(features, axis=0),
        "half of the columns": mean[: len(mean) // 2],
    }


def copies(mean: Matrix, name: str) -> Rows:
    """Return disguised copies of embeddings, in float32 as a submission has them."""
    rng = rng_for("disguise", name, len(mean))
    slides, dim = mean.shape
    turned = mean @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    left, values, _ = np.linalg.svd(mean - mean.mean(axis=0), full_matrices=False)
    most = int(np.searchsorted(np.cumsum(values**2) / np.sum(values**2), 0.99)) + 1
    replaced = turned.copy()
    rows = rng.permutation(slides)[: slides // 20]
    replaced[rows] = turned[rng.permutation(slides)[: len(rows)]]
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    centred = turned - turned.mean(axis=0)
    made = {
        "turned": 7.0 * turned + 3.0,
        "noise of 3%": turned + 0.03 * turned.std(axis=0) * rng.standard_normal(turned.shape),
        "columns scaled by 1/30 to 30": turned * 30.0 ** rng.uniform(-1, 1, dim),
        "64 principal components": (left * values)[:, :64],
        "whitened, 99% of the variance": left[:, :most],
        "rows of length 1": turned / length,
        "rows of length 1, centred": centred / np.linalg.norm(centred, axis=1, keepdims=True),
        "5% of the rows replaced": replaced,
        "whitened": left[:, : min(dim, slides - 1)],
    }
    return {key: matrix.astype(np.float32).astype(float) for key, matrix in made.items()}


def embedded(data: CohortData, slides: int, encoders: Sequence[str]) -> Rows:
    """Return the embeddings by shipped encoders and relatives of slides drawn from a cohort."""
    shipped = shipped_encoders()
    loaded = {name: load_encoder(shipped[name]) for name in encoders}
    ids = slides_with_bags(data)
    rows: dict[str, list[Matrix]] = {}
    for place in rng_for("relatives", data.cohort_id).permutation(len(ids))[:slides]:
        bag = data.read_bag(ids[place])
        made = {name: encode_checked(each, bag).astype(float) for name, each in loaded.items()}
        for name, row in {**made, **summaries(bag.features.astype(float), ids[place])}.items():
            rows.setdefault(name, []).append(row)
    return {name: np.stack(found) for name, found in rows.items()}


def pairs(rows: Rows, name: str) -> Iterator[tuple[str, str, Matrix, Matrix]]:
    """Yield kind, what it is, the known embeddings and those that are compared with them."""
    mean = rows["mean-pool"]
    for what, other in copies(mean, name).items():
        yield "copies", what, mean, other
    for what in rows:
        if what in LINEAR:
            yield "linear functions", what, mean, rows[what]
        elif what not in ENCODERS:
            yield "honest", what, mean, rows[what]
    for known, what in permutations([each for each in ENCODERS if each in rows], 2):
        yield "honest", f"{what}, by {known}", rows[known], rows[what]


def cohorts(ucsb: Path | None) -> Iterator[tuple[str, CohortData, Sequence[int], Sequence[str]]]:
    """Yield name, data, sizes and encoders; the real images fit those that take any features."""
    catalogue = load_catalogue(None)
    for cohort_id, sizes in SIZES.items():
        opened = open_cohort(Workspace(source="phantom"), catalogue, cohort_id, Config())
        yield cohort_id, opened.data, sizes, (*ENCODERS, "random-projection")
    if ucsb is not None:
        opened = open_cohort(Workspace(source="local"), catalogue, "ucsb-breast", load_config(ucsb))
        yield "ucsb-breast", opened.data, (58,), ("mean-pool", "max-pool", "random-projection",
                                                  "untrained")  # fmt: skip


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ucsb", type=Path, help="mbench.toml of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    shares: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, data, sizes, encoders in cohorts(options.ucsb):
        rows = embedded(data, max(sizes), encoders)
        for size in sizes:
            part = {key: matrix[:size] for key, matrix in rows.items()}
            for kind, what, known, other in pairs(part, name):
                share = linear_share(known, other)
                rounded = None if share is None else float(f"{share:.5f}")
                shares.setdefault(kind, {}).setdefault(what, {})[f"{name} {size}"] = rounded
            print(name, size, flush=True)
    summary: dict[str, Any] = {
        "about": "PHANTOM, and ucsb-breast (real). Share of embeddings that is a linear function "
        "of known ones, by cohort and slides; null where the slides are too few to say",
        "threshold": COPY_SHARE,
        "edges": {kind: edges(found) for kind, found in shares.items()},
        **shares,
    }
    write_text(options.out, json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary["edges"], indent=1))


def edges(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Return the least and the most share of each, the most alike first."""
    judged = {
        what: [share for share in each.values() if share is not None]
        for what, each in found.items()
    }
    spans = {what: [min(each), max(each)] for what, each in judged.items() if each}
    return dict(sorted(spans.items(), key=lambda item: -item[1][1]))


if __name__ == "__main__":
    main()

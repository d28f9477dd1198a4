"""What tells a copy of an encoder from an honest relative of it: CKA, and what a rotation leaves.

    python benchmarks/encoder_relatives.py [--slides 400] [--out FILE]

makes embeddings that stand near mean-pool, and disguised copies of it, on the slides of the phantom
cohorts. Answers: benchmarks/results/encoder_relatives.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.config import Config
from madeleine_bench.files import write_text
from madeleine_bench.runner.cohorts import PhantomChoice, open_cohort
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.stats.procrustes import procrustes_residual
from madeleine_bench.stats.similarity import linear_cka
from madeleine_bench.submissions.duplicates import SAME_RESIDUAL

OUT = Path(__file__).resolve().parent / "results" / "encoder_relatives.json"
COHORTS = ("aidpath", "bcnb", "bwh-breast", "bwh-kidney", "mgh-breast", "tcga-breast")
NOISE = (0.001, 0.01, 0.03)
TRIM = 0.1
Matrix = NDArray[np.float64]


def summaries(features: Matrix, slide_id: str) -> dict[str, Matrix]:
    """Return what encoders close to mean-pool make of a bag, and mean-pool."""
    mixed = rng_for("relatives", slide_id).permutation(len(features))
    outer = int(TRIM * len(features))
    inner = np.sort(features, axis=0)[outer : len(features) - outer]
    mean = features.mean(axis=0)
    return {
        "mean-pool": mean,
        "mean and deviation": np.concatenate([mean, features.std(axis=0)]),
        "mean of half of the patches": features[mixed[: len(mixed) // 2]].mean(axis=0),
        "mean without the outer tenths": inner.mean(axis=0),
        "half of the columns": mean[: len(mean) // 2],
    }


def copies(mean: Matrix, cohort: str) -> dict[str, Matrix]:
    """Return mean-pool turned, scaled, rounded or blurred."""
    rng = rng_for("disguise", cohort)
    turn, _ = np.linalg.qr(rng.standard_normal((mean.shape[1], mean.shape[1])))
    turned = 7.0 * (mean @ turn) + 3.0
    found = {"turned, float16": turned.astype(np.float16).astype(float)}
    for share in NOISE:
        noise = rng.standard_normal(mean.shape) * turned.std(axis=0)
        found[f"turned, noise of {share:.1%}"] = turned + share * noise
    return found


def compared(cohort_id: str, slides: int) -> dict[str, dict[str, float]]:
    """Return CKA and residual of each relative and copy with mean-pool, on a phantom cohort."""
    cohort = open_cohort(
        load_catalogue(None), cohort_id, "phantom", Config(), Path("cache"), PhantomChoice()
    )
    rows: dict[str, list[Matrix]] = {}
    for slide_id in slides_with_bags(cohort.data)[:slides]:
        features = cohort.data.read_bag(slide_id).features.astype(float)
        for name, row in summaries(features, slide_id).items():
            rows.setdefault(name, []).append(row)
    made = {name: np.stack(found) for name, found in rows.items()}
    mean = made.pop("mean-pool")
    return {
        name: {"cka": linear_cka(mean, other), "residual": procrustes_residual(mean, other)}
        for name, other in {**made, **copies(mean, cohort_id)}.items()
    }


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=400, help="of each cohort, at most")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found = {cohort: compared(cohort, options.slides) for cohort in COHORTS}
    summary: dict[str, Any] = {
        "about": "PHANTOM. Relatives and copies of mean-pool: least and most over six cohorts",
        "slides": options.slides,
        "limit_of_residual": SAME_RESIDUAL,
    }
    for name in found[COHORTS[0]]:
        summary[name] = {
            key: [float(f"{edge(each[name][key] for each in found.values()):.6g}")
                  for edge in (min, max)]
            for key in ("cka", "residual")
        }  # fmt: skip
    print(json.dumps(summary, indent=1))
    write_text(options.out, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

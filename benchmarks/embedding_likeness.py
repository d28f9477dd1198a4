"""How alike are honest encoders, and how alike is a disguised copy: what a duplicate is told by.

    python benchmarks/embedding_likeness.py --results results

computes linear CKA for each pair of the encoders of a phantom board on each cohort, and for copies
of mean-pool that were rotated and rounded, or made noisy. Answers:
benchmarks/results/embedding_likeness.json.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.files import write_text
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.similarity import linear_cka

OUT = Path(__file__).resolve().parent / "results" / "embedding_likeness.json"
NOISE = (0.03, 0.1)
Matrix = NDArray[np.float64]


def matrices(results: Path) -> dict[str, dict[str, Matrix]]:
    """Return the embeddings of the phantom board by cohort and encoder, slides in one order."""
    found: dict[str, dict[str, Matrix]] = {}
    for path in sorted((results / "embeddings" / "phantom").glob("*/*.safetensors")):
        cohort = path.name.split(".")[0]
        embeddings = read_embeddings(path)
        order = np.argsort(np.array(embeddings.ids))
        found.setdefault(cohort, {})[path.parent.name] = embeddings.matrix[order].astype(float)
    return found


def bfloat16(matrix: Matrix) -> Matrix:
    """Return the numbers cut to the 16 bits of bfloat16."""
    bits = matrix.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(float)


def disguised(matrix: Matrix, cohort: str) -> dict[str, float]:
    """Return the CKA of a matrix with copies of it that somebody tried to hide."""
    rng = rng_for("disguise", cohort)
    turn, _ = np.linalg.qr(rng.standard_normal((matrix.shape[1], matrix.shape[1])))
    copies = {"rotated, bfloat16": bfloat16(matrix @ turn)}
    for share in NOISE:
        noise = rng.standard_normal(matrix.shape) * matrix.std(axis=0)
        copies[f"noise of {share:.0%}"] = matrix + share * noise
    return {name: linear_cka(matrix, copy) for name, copy in copies.items()}


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with the phantom board")
    cohorts = matrices(parser.parse_args().results)
    pairs = [
        (linear_cka(one, other), cohort, first, second)
        for cohort, encoders in cohorts.items()
        for (first, one), (second, other) in combinations(sorted(encoders.items()), 2)
    ]
    cka, cohort, first, second = max(pairs)
    hidden = [disguised(encoders["mean-pool"], name) for name, encoders in cohorts.items()]
    summary: dict[str, Any] = {
        "about": "PHANTOM. Linear CKA of embeddings of the same slides",
        "pairs": len(pairs),
        "closest_pair": {
            "cka": round(cka, 4), "cohort": cohort, "encoders": [first, second],
        },
        "least_cka_of_a_copy": {
            name: round(min(found[name] for found in hidden), 6) for name in hidden[0]
        },
    }  # fmt: skip
    print(json.dumps(summary, indent=1))
    write_text(OUT, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

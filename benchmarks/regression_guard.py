"""How wide the guard of the regression gate must be: encoders that differ by nothing but a seed.

    mbench regress --results /tmp/regress
    python benchmarks/regression_guard.py --results /tmp/regress

Two random projections of mean-pool are equally good by construction. For many pairs of them, how
far do their scores differ, beside what the paired bootstrap says of it, and how often is p below
.05 without and with the guard? Then: what does a little noise on every embedding of one encoder do
to its score? Answers: benchmarks/results/regression_guard.json.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.regression import noise
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scored_units import scored_units
from madeleine_bench.protocols.scoring import RESAMPLES
from madeleine_bench.runner.plan import Assessment, Request, make_plan
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.paired import ScoredUnits, paired_difference

OUT = Path(__file__).resolve().parent / "results" / "regression_guard.json"
NORMAL_95 = 1.959964
DIRECTIONS = 64
# Task, protocol, and pairs: as many as a minute or two pays for.
CELLS = (
    ("aidpath-her2", "few-shot/v1", 60),
    ("aidpath-her2", "linear-probe/v1", 60),
    ("bcnb-er", "linear-probe/v1", 40),
    ("tcga-breast-os", "cox/v1", 20),
)
# Noise on each dimension, as a share of its deviation over the units.
NOISE = (1e-4, 1e-3, 1e-2, 1e-1)


def open_cell(
    results: Path, task: str, protocol: str
) -> tuple[Assessment, NDArray[np.float64], Callable[[NDArray[np.float64]], ScoredUnits]]:
    """Return a cell, the mean-pool embeddings of its units, and what scores any embeddings."""
    request = Request(("mean-pool",), (task,), (protocol,), "phantom", results)
    (cell,) = make_plan(request).assessments
    folder = results / "embeddings" / "phantom" / "mean-pool"
    path = max(folder.glob(f"{cell.task.cohort}.*.safetensors"), key=lambda p: p.stat().st_mtime)

    def scored(matrix: NDArray[np.float64]) -> ScoredUnits:
        found = evaluate(cell.task, cell.protocol, matrix, cell.units, cell.splits)
        return scored_units(cell.task, cell.protocol, found.predictions, "guard", task)

    return cell, unit_embeddings(read_embeddings(path), cell.units), scored


def of_pairs(results: Path, task: str, protocol: str, pairs: int) -> dict[str, Any]:
    """Return the spread about 0 of the differences of equal encoders, and what is said of it."""
    cell, matrix, scored = open_cell(results, task, protocol)
    plain, guarded = [], []
    for pair in range(pairs):
        ours, theirs = (
            scored(
                matrix
                @ rng_for("guard", task, pair, side).standard_normal((matrix.shape[1], DIRECTIONS))
            )
            for side in (0, 1)
        )
        name = (cell.task.name, cell.protocol.name, "bootstrap")
        plain.append(paired_difference(ours, theirs, RESAMPLES, rng_for(*name)))
        guarded.append(noise.change(ours, theirs, RESAMPLES, rng_for(*name)))
    deviation = math.sqrt(fmean(d.difference**2 for d in plain))
    error = fmean((d.ci95[1] - d.ci95[0]) / (2 * NORMAL_95) for d in plain)
    return {
        "pairs": pairs,
        "deviation_of_the_difference": deviation,
        "mean_bootstrap_error": error,
        "ratio": deviation / error,
        "share_of_p_below_05": fmean(d.p_value < 0.05 for d in plain),
        "share_of_guarded_p_below_05": fmean(d.p_value < 0.05 for d in guarded),
    }


def of_noise(results: Path, task: str, protocol: str, draws: int = 5) -> dict[str, float]:
    """Return for each size of noise the largest change of the score over some draws."""
    _, matrix, scored = open_cell(results, task, protocol)
    before, deviation = scored(matrix).score, matrix.std(axis=0)
    largest = {}
    for share in NOISE:
        moved = [
            scored(
                matrix
                + share
                * deviation
                * rng_for("noise", task, share, draw).standard_normal(matrix.shape)
            ).score
            for draw in range(draws)
        ]
        largest[f"noise of {share:g}"] = max(abs(score - before) for score in moved)
    return largest


def main() -> None:
    """Measure every cell, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results of mbench regress")
    results = parser.parse_args().results
    summary: dict[str, Any] = {"about": "PHANTOM: pairs of random projections; noise on mean-pool"}
    for task, protocol, pairs in CELLS:
        found = of_pairs(results, task, protocol, pairs) | of_noise(results, task, protocol)
        shown = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in found.items()}
        print(f"{task} {protocol}: {shown}", flush=True)
        summary[f"{task} {protocol}"] = shown
    write_text(OUT, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

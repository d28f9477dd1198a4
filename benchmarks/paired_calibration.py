"""How far the paired bootstrap of two encoders can be trusted: shuffle the labels and count.

    python benchmarks/paired_calibration.py --results /tmp/boards

takes two encoders of the null board of a results folder, deals the labels out anew many times, and
compares how much the difference of their scores varies with what the bootstrap says of it, and how
often p is below .05 where nothing differs. Answers: benchmarks/results/paired_calibration.json.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.null_board import NORMAL_95, NULL_BOARD, null_units, shuffled
from benchmarks.paired_scores import BoardScores, read_board
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.files import write_text
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scored_units import scored_units
from madeleine_bench.protocols.scoring import RESAMPLES
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.stats.paired import PairedDifference, paired_difference

OUT = Path(__file__).resolve().parent / "results" / "paired_calibration.json"
PAIR = ("mean-pool", "max-pool")
# Task, protocol, and shuffles: as many as a minute or two pays for.
CELLS = (
    ("bwh-kidney-amr", "linear-probe/v1", 150),
    ("bcnb-er", "linear-probe/v1", 60),
    ("bwh-kidney-amr", "few-shot/v1", 60),
    ("bcnb-er", "few-shot/v1", 30),
)


def differences(
    board: BoardScores, results: Path, task_id: str, protocol_id: str, shuffles: int
) -> list[PairedDifference]:
    """Return the paired difference of the two encoders for each shuffle of the labels."""
    task, protocol = board.catalogue.tasks[task_id], board.catalogue.protocol(protocol_id)
    records = [board.record(encoder, task_id, protocol_id) for encoder in PAIR]
    loaded = [null_units(board.catalogue, record, results) for record in records]
    units, found = loaded[0][0], []
    with tempfile.TemporaryDirectory() as scratch:
        for shuffle in range(shuffles):
            mixed = shuffled(units, rng_for("paired calibration", task.name, shuffle), shuffle)
            splits = frozen_splits(Path(scratch), task, protocol, mixed)
            first, second = (
                scored_units(
                    task,
                    protocol,
                    evaluate(task, protocol, matrix, mixed, splits).predictions,
                    splits.hash,
                    f"shuffle {shuffle}",
                )
                for _, matrix in loaded
            )
            rng = rng_for(task.name, protocol.name, "bootstrap")
            found.append(paired_difference(first, second, RESAMPLES, rng))
    return found


def calibration(found: list[PairedDifference]) -> dict[str, Any]:
    """Return the spread about 0 of the differences beside what their intervals say of it."""
    errors = [(d.ci95[1] - d.ci95[0]) / (2 * NORMAL_95) for d in found]
    return {
        "shuffles": len(found),
        "deviation_of_the_difference": math.sqrt(fmean(d.difference**2 for d in found)),
        "mean_bootstrap_error": fmean(errors),
        "share_of_p_below_05": fmean(d.p_value < 0.05 for d in found),
    }


def main() -> None:
    """Measure every cell, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with the null board")
    results = parser.parse_args().results
    board = read_board(ResultStore(results), load_catalogue(), NULL_BOARD)
    summary: dict[str, Any] = {"about": f"PHANTOM, labels shuffled: {' - '.join(PAIR)}"}
    for task, protocol, shuffles in CELLS:
        found = calibration(differences(board, results, task, protocol, shuffles))
        shown = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in found.items()}
        print(f"{task} {protocol}: {shown}", flush=True)
        summary[f"{task} {protocol}"] = shown
    write_text(OUT, json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

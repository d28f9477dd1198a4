"""Checks of the benchmark itself on full-size phantoms: the calibrated one and the null one.

    python benchmarks/phantom_boards.py --results /tmp/boards

runs every shipped encoder on the 21 tasks twice (signal as declared, and signal 0), then asks:
does the oracle stand above every other row on every task of both; and is every other row of the
null board at chance? The answers go to benchmarks/results/phantom_boards.json.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.hashing import hash_json
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import score
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import Record

OUT = Path(__file__).parent / "results" / "phantom_boards.json"
NORMAL_95, NORMAL_999 = 1.959964, 3.290527
SHUFFLES = 60
BOARDS = {"phantom": [], "phantom-signal-0": ["--phantom-signal", "0"]}


def distance_from_chance(record: Record) -> float:
    """Return how far a score is from chance, in standard errors of its bootstrap interval."""
    main = record.scores.main
    error = (main.ci95[1] - main.ci95[0]) / (2 * NORMAL_95)
    return 0.0 if main.value == main.chance else (main.value - main.chance) / max(error, 1e-12)


def below_oracle(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return each score that is not below the oracle's on the same task and protocol."""
    found = list(records)
    ceiling = {
        (r.task.id, r.protocol): r.scores.main.value for r in found if r.encoder.name == "oracle"
    }
    return [
        {**_named(r), "oracle": ceiling[r.task.id, r.protocol]}
        for r in found
        if r.encoder.name != "oracle" and r.scores.main.value >= ceiling[r.task.id, r.protocol]
    ]


def away_from_chance(records: Iterable[Record], results: Path) -> list[dict[str, Any]]:
    """Return each score outside its 99.9% interval around chance; the oracle is left out.

    The bootstrap of a record resamples test cases alone. Folds share most of their training cases,
    so it is too narrow for a null board; a score outside it is judged by the spread of the same
    protocol on the same embeddings over shuffled labels.
    """
    found = []
    for record in records:
        if record.encoder.name == "oracle" or abs(distance_from_chance(record)) <= NORMAL_999:
            continue
        spread = spread_over_shuffled_labels(record, results)
        distance = (record.scores.main.value - record.scores.main.chance) / spread
        found.append(
            {
                **_named(record),
                "bootstrap_standard_errors": round(distance_from_chance(record), 2),
                "shuffled_label_deviations": round(distance, 2),
                "outside": abs(distance) > NORMAL_999,
            }
        )
    return found


def spread_over_shuffled_labels(record: Record, results: Path, shuffles: int = SHUFFLES) -> float:
    """Return the standard deviation about chance of the main score when labels are shuffled."""
    catalogue = load_catalogue()
    task, protocol = catalogue.tasks[record.task.id], catalogue.protocol(record.protocol)
    data = PhantomCohort(
        catalogue.cohorts[task.cohort], catalogue.tasks_of(task.cohort), signal=0.0
    )
    units = build_units(task, data, "phantom")
    (path,) = (results / "embeddings" / record.board / record.encoder.name).glob(
        f"{task.cohort}.*.safetensors"
    )
    matrix = unit_embeddings(read_embeddings(path), units)
    outcome = [name for name in ("label", "time_days", "event") if name in units.table]
    values = []
    with tempfile.TemporaryDirectory() as scratch:
        for shuffle in range(shuffles):
            order = rng_for("shuffled labels", task.name, shuffle).permutation(len(units.table))
            table = units.table.copy()
            table[outcome] = units.table[outcome].to_numpy()[order]
            table = table.astype(units.table.dtypes.to_dict())
            mixed = replace(units, table=table, hash=hash_json([units.hash, shuffle]))
            splits = frozen_splits(Path(scratch), task, protocol, mixed)
            evaluation = evaluate(task, protocol, matrix, mixed, splits)
            values.append(score(task, protocol, evaluation.predictions, evaluation.fits).value)
    return math.sqrt(math.fsum((v - task.metric.chance) ** 2 for v in values) / len(values))


def summarise(results: Path) -> dict[str, Any]:
    """Return what the two boards of a results folder say."""
    records = list(ResultStore(results).records())
    summary: dict[str, Any] = {}
    for board in BOARDS:
        own = [r for r in records if r.board == board]
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for record in own:
            tasks = rows.setdefault(record.protocol, {}).setdefault(record.encoder.name, {})
            tasks[record.task.id] = round(record.scores.main.value, 4)
        summary[board] = {
            "scores": len(own),
            "not_below_the_oracle": below_oracle(own),
            "rows": rows,
        }
    null = [r for r in records if r.board == "phantom-signal-0" and r.encoder.name != "oracle"]
    distances = [distance_from_chance(r) for r in null]
    summary["null"] = {
        "scores": len(null),
        "outside_the_bootstrap_interval": away_from_chance(null, results),
        "expected_outside": round(0.001 * len(null), 2),
        "mean_standard_errors": round(math.fsum(distances) / max(len(null), 1), 3),
        "largest_standard_errors": round(max(map(abs, distances), default=0.0), 2),
    }
    return summary


def _named(record: Record) -> dict[str, Any]:
    return {
        "encoder": record.encoder.name,
        "task": record.task.id,
        "protocol": record.protocol,
        "score": round(record.scores.main.value, 4),
    }


def main() -> None:
    """Run both boards and write the summary; exit 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder for the two boards")
    results = parser.parse_args().results
    encoders = [part for name in shipped_encoders() for part in ("--encoder", name)]
    for options in BOARDS.values():
        command = [sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", "run"]
        grid = ["--task", "all", "--source", "phantom", *options, "--results", str(results)]
        subprocess.run([*command, *encoders, *grid], check=True)
    summary = summarise(results)
    OUT.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    suspects = summary["null"]["outside_the_bootstrap_interval"]
    faults = [suspect for suspect in suspects if suspect["outside"]]
    faults += [fault for board in BOARDS for fault in summary[board]["not_below_the_oracle"]]
    print(json.dumps({"null": summary["null"], "faults": faults}, indent=1))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.null_board import NULL_BOARD, OUTSIDE, away_from_chance, distance_from_chance, named
from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.record import Record

OUT = Path(__file__).parent / "results" / "phantom_boards.json"
BOARDS = {"phantom": [], NULL_BOARD: ["--phantom-signal", "0"]}


def run_boards(
    results: Path, encoders: Sequence[str], tasks: Sequence[str] = ("all",), jobs: int | None = None
) -> None:
    """Run the encoders on both boards; what the results folder holds already is not run again."""
    command = [sys.executable, "-c", "from madeleine_bench.cli.main import main; main()", "run"]
    grid = ["--source", "phantom", "--results", str(results)]
    grid += [part for name in encoders for part in ("--encoder", name)]
    grid += [part for task in tasks for part in ("--task", task)]
    grid += [] if jobs is None else ["--jobs", str(jobs)]
    for options in BOARDS.values():
        if code := subprocess.run([*command, *grid, *options]).returncode:
            sys.exit(code)  # mbench has said why


def below_oracle(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return each score that is not below the oracle's on the same task and protocol."""
    found = list(records)
    ceiling = {
        (r.task.id, r.protocol): r.scores.main.value for r in found if r.encoder.name == "oracle"
    }
    return [
        {**named(r), "oracle": ceiling[r.task.id, r.protocol]}
        for r in found
        if r.encoder.name != "oracle" and r.scores.main.value >= ceiling[r.task.id, r.protocol]
    ]


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
    summary["null"] = null_summary(records, results)
    return summary


def null_summary(records: Iterable[Record], results: Path) -> dict[str, Any]:
    """Return how far the scores of the null board are from chance; the oracle is left out."""
    null = [r for r in records if r.board == NULL_BOARD and r.encoder.name != "oracle"]
    found = [distance_from_chance(r) for r in null]
    distances = [distance for distance in found if distance is not None]
    return {
        "scores": len(null),
        "outside_the_interval": away_from_chance(null, results),
        "expected_outside": round(OUTSIDE * len(null), 2),
        "mean_standard_errors": round(math.fsum(distances) / max(len(null), 1), 3),
        "largest_standard_errors": round(max(map(abs, distances), default=0.0), 2),
    }


def main() -> None:
    """Run both boards and write the summary; exit 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder for the two boards")
    results = parser.parse_args().results
    run_boards(results, [n for n, e in shipped_encoders().items() if e.card.kind != "supervised"])
    summary = summarise(results)
    OUT.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    suspects = summary["null"]["outside_the_interval"]
    faults = [suspect for suspect in suspects if suspect["outside"]]
    faults += [fault for board in BOARDS for fault in summary[board]["not_below_the_oracle"]]
    print(json.dumps({"null": summary["null"], "faults": faults}, indent=1))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

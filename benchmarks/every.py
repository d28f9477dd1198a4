"""Every benchmark, one after the other, then the table of docs/speed.md from their results.

Each is a ratio against a named baseline in the same run. Times of one machine say little about
another; ratios say more. Run it on a machine with nothing else to do (`make benchmarks`):

    python -m benchmarks.every [--quick] [--only few_shot_speed ...] [--table]

`--table` runs nothing and writes the table anew. A benchmark that fails is named and the others go
on; the exit status is then 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- table of benchmarks/every.py -->", "<!-- end of table -->"
Found = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its module, and the lines of the table that its results give.

    A line is: what is measured, the baseline, how many times faster.
    """

    name: str
    lines: Callable[[Found], list[tuple[str, str, float]]]
    arguments: tuple[str, ...] = ()


def _few_shot(found: Found) -> list[tuple[str, str, float]]:
    lines = []
    for task in found["tasks"]:
        times = task["times_faster"]
        what = f"{task['classes']} classes, {task['fits']} fits"
        lines += [
            (f"few-shot fits, {what}", "scikit-learn L-BFGS loop, tol 1e-10", times["fits"]),
            (
                f"few-shot fits and metrics against our fits, metrics and bootstrap, {what}",
                "scikit-learn loop without a bootstrap",
                times["all_but_the_bootstrap"],
            ),
            (f"few-shot sweep, all of it, {what}", "scikit-learn loop", times["all"]),
        ]
    lines += [
        (
            f"1,000 resamples of {each['metric']}",
            f"loop over {each['baseline']}",
            each["times_faster"],
        )
        for each in found["bootstrap"]
    ]
    return lines


BENCHMARKS = (Benchmark("few_shot_speed", _few_shot),)


def main() -> None:
    """Run what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers, results thrown away")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS])
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    wanted = parser.parse_args()
    failed = []
    if not wanted.table:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) if wanted.quick else RESULTS
            chosen = [b for b in BENCHMARKS if not wanted.only or b.name in wanted.only]
            failed = [each.name for each in chosen if not _run(each, out, quick=wanted.quick)]
    if not wanted.quick:
        write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), table()))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def table() -> str:
    """Return the table of all committed results, in Markdown."""
    rows = ["| what | against, in the same run | times faster |", "|---|---|---|"]
    for each in BENCHMARKS:
        path = RESULTS / f"{each.name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        rows += [f"| {what} | {base} | {times:.3g} |" for what, base, times in each.lines(found)]
    return "\n".join(rows)


def with_table(page: str, rows: str) -> str:
    """Return a page with the table between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}"


def _run(each: Benchmark, out: Path, *, quick: bool) -> bool:
    print(f"--- {each.name}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{each.name}", "--out", str(out), *each.arguments]
    done = subprocess.run([*command, *(["--quick"] if quick else [])], cwd=ROOT, check=False)
    print(
        f"--- {each.name}: {time.perf_counter() - began:.0f} s, exit {done.returncode}", flush=True
    )
    return done.returncode == 0


if __name__ == "__main__":
    main()

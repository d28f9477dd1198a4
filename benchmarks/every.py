"""Every benchmark, one after the other, then the tables of docs/speed.md from their results.

Each is a ratio against a named baseline in the same run. Times of one machine say little about
another; ratios say more. Run it on a machine with nothing else to do (`make benchmarks`):

    python -m benchmarks.every [--quick] [--only few_shot_speed ...] [--tables]

`--tables` runs nothing and writes the tables anew. A benchmark that fails is named and the others
go on; the exit status is then 1.
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

from benchmarks.growth import markdown_rows
from madeleine_bench.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- {name}: written by benchmarks/every.py -->", "<!-- end of {name} -->"
_GROWTH_HEADER = (
    "| of what | sizes | seconds | slope | between the two largest | peak memory | ratio |",
    "|---|---|---|---|---|---|---|",
)
Found = Mapping[str, Any]


Lines = list[tuple[str, str, float]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of its module and of its results.
        lines: of the table, from its results: what is measured, the baseline, times faster.
        command: its arguments, given the folder of the results and whether to be quick.
    """

    name: str
    lines: Callable[[Found], Lines]
    command: Callable[[Path, bool], list[str]] = lambda out, quick: (
        ["--out", str(out)] + ["--quick"] * quick
    )


def _few_shot(found: Found) -> Lines:
    lines = []
    for task in found["tasks"]:
        times = task["times_faster"]
        what = f"{task['classes']} classes, {task['fits']} fits"
        lines += [
            (f"few-shot fits, {what}", "scikit-learn L-BFGS loop, tol 1e-10", times["fits"]),
            (
                f"few-shot fits and metrics, {what}",
                "scikit-learn loop",
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


def _cox(found: Found) -> Lines:
    what = "ridge Cox fit, {n_train} units of {dim} dimensions, penalty {alpha:g}"
    base = "scikit-survival CoxPHSurvivalAnalysis"
    return [(what.format(**row), base, row["times_faster"]["sksurv"]) for row in found["rows"]]


def _packed(found: Found) -> Lines:
    return [
        ("2,048 random patches of a slide from the packed store", row["name"], row["times_ours"])
        for row in found["rows"][1:]
    ]


def _growth_command(out: Path, quick: bool) -> list[str]:
    return ["--quick", "--out", str(out)] if quick else []  # its figure goes to docs/


def _extraction(found: Found) -> Lines:
    return [
        (
            f"features extract, {row['patch_encoder']}, {row['workers']} workers",
            "a loop that reads, then encodes",
            row["times_sequential"],
        )
        for row in found["rows"]
    ]


def _nothing(found: Found) -> Lines:
    return []


BENCHMARKS = (
    Benchmark("few_shot_speed", _few_shot),
    Benchmark("cox_speed", _cox),
    Benchmark("packed_store", _packed),
    Benchmark("growth", _nothing, _growth_command),
)
# Not run with the others: it needs slides, or draws them first (docs/slides.md says how).
TABLED = (*BENCHMARKS, Benchmark("extraction_speed", _extraction))


def main() -> None:
    """Run what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers, results thrown away")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS])
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    wanted = parser.parse_args()
    failed = []
    if not wanted.tables:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) if wanted.quick else RESULTS
            chosen = [b for b in BENCHMARKS if not wanted.only or b.name in wanted.only]
            failed = [each.name for each in chosen if not _run(each, out, quick=wanted.quick)]
    if not wanted.quick:
        write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def table() -> str:
    """Return the table of all committed results, in Markdown."""
    rows = ["| what | against, in the same run | times faster |", "|---|---|---|"]
    for each in TABLED:
        path = RESULTS / f"{each.name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        rows += [f"| {what} | {base} | {times:.3g} |" for what, base, times in each.lines(found)]
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """Return a page with what stands between its marks replaced by the committed results."""
    curves = json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))["curves"]
    growth = "\n".join([*_GROWTH_HEADER, *markdown_rows(curves)])
    for name, rows in (("ratios", table()), ("growth", growth)):
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}\n\n{rows}\n\n{end}{after}"
    return page


def _run(each: Benchmark, out: Path, *, quick: bool) -> bool:
    print(f"--- {each.name}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{each.name}", *each.command(out, quick)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    spent = time.perf_counter() - began
    print(f"--- {each.name}: {spent:.0f} s, exit {done.returncode}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()

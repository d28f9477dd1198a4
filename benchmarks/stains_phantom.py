"""What the stains of phantom kidney cases are worth: `mbench stains`, kept, and as rows of docs.

    python benchmarks/stains_phantom.py --work /tmp/stains

Writes benchmarks/results/stains_phantom.json and docs/stains_phantom.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from madeleine_bench.cli.main import main as mbench
from madeleine_bench.files import write_text

TASKS = ("bwh-kidney-amr", "bwh-kidney-tcmr", "bwh-kidney-ifta")
ENCODERS = ("madeleine", "intra-ssl", "mean-pool")
HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "stains_phantom.json"
FIGURE = HERE.parent / "docs" / "stains_phantom.svg"


def fusion_rows(content: dict[str, Any]) -> list[str]:
    """Return rows of Markdown: all stains by fusion against the one alone, with its interval."""
    head = ["PHANTOM", "encoder", "H&E alone", "late", "early", "per-stain"]
    head.append("late above H&E alone (95%)")
    rows = [_row(head), _row(["---"] * len(head))]
    for each in content["tasks"]:
        all_stains = {f["fusion"]: f for f in each["fusions"] if len(f["stains"]) > 1}
        alone = next(f for f in each["fusions"] if f["difference"] is None)
        gain = all_stains["late"]
        values = [alone["value"], *(all_stains[f]["value"] for f in ("late", "early", "per-stain"))]
        cells = [each["task"], each["encoder"], *(f"{value:.3f}" for value in values)]
        rows.append(_row([*cells, f"{gain['difference']:+.3f}{_interval(gain['ci95'])}"]))
    return rows


def _interval(ends: list[float] | None) -> str:
    return f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else " (too few cases)"


def curve_rows(content: dict[str, Any]) -> list[str]:
    """Return rows of Markdown: the mean score over all choices of 4, 3, 2 and 1 stains."""
    head = ["PHANTOM", "encoder", "trained", "4 stains", "3", "2", "1"]
    rows = [_row(head), _row(["---"] * len(head))]
    ways = {"alike": "with the same stains", "dropped": "with all stains"}
    for each in content["tasks"]:
        for way, said in ways.items():
            means = [f"{point['mean']:.3f}" for point in each["curves"][way]]
            rows.append(_row([each["task"], each["encoder"], said, *means]))
    return rows


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the command and keep what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="results folder")
    work = parser.parse_args().work
    encoders = [part for name in ENCODERS for part in ("--encoder", name)]
    tasks = [part for name in TASKS for part in ("--task", name)]
    arguments = ["stains", *encoders, *tasks, "--source", "phantom", "--results", str(work)]
    try:
        mbench(arguments)
    except SystemExit as end:
        if end.code:
            raise
    made = work / "stains" / "phantom" / "bwh-kidney.json"
    content = json.loads(made.read_text(encoding="utf-8"))
    write_text(OUT, json.dumps(content, indent=1) + "\n")
    write_text(FIGURE, made.with_suffix(".svg").read_text(encoding="utf-8"))
    print("\n".join([*fusion_rows(content), "", *curve_rows(content)]))


if __name__ == "__main__":
    main()

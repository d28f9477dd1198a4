"""Madeleine against its baselines on full-size phantoms, with paired intervals and tests.

    python benchmarks/phantom_madeleine.py --results /tmp/boards

runs the encoders below on the 21 tasks of two boards (signal as declared, and signal 0; what the
folder holds already is not run again), compares them in pairs on each task and over tasks, and asks
whether the null board is at chance. The answers go to benchmarks/results/phantom_madeleine.json
and, drawn, to phantom_madeleine.svg. docs/comparison.md says how to read them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.forest_plot import Difference, forest_svg
from benchmarks.null_board import NULL_BOARD
from benchmarks.paired_scores import read_board
from benchmarks.paired_summary import (
    CEILING,
    FLOOR,
    Pair,
    PairOverTasks,
    TaskComparison,
    compare_tasks,
    family_means,
    pairs_over_tasks,
    protocol_groups,
    recovered,
)
from benchmarks.phantom_boards import null_summary, run_boards
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.protocols.scoring import RESAMPLES
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.catalogue import load_catalogue

ENCODERS = (
    "madeleine", "madeleine-se", "intra-ssl", "mean-pool", "max-pool", "untrained", "oracle",
    "random-projection",
)  # fmt: skip
PAIRS = (("madeleine", "intra-ssl"), ("madeleine", "mean-pool"), ("madeleine-se", "madeleine"))
OUT = Path(__file__).resolve().parent / "results"
NAME = "phantom_madeleine"
ABOUT = "PHANTOM: synthetic data. It shows that code works, not that a method helps patients."
Groups = dict[str, list[TaskComparison]]
Verdicts = dict[str, dict[Pair, PairOverTasks]]


def null_board(
    results: Path, tasks: Sequence[str], encoders: Sequence[str], pairs: Sequence[Pair]
) -> dict[str, Any]:
    """Return how far the null board is from chance, and what pairs differ where none should."""
    board = read_board(ResultStore(results), load_catalogue(), NULL_BOARD)
    cells = compare_tasks(board, tasks, encoders, pairs)
    asked = [board.record(e, cell.task, cell.protocol) for cell in cells for e in encoders]
    found = [cell.paired[pair].p_value for cell in cells for pair in pairs]
    return {
        **null_summary(asked, results),
        "paired": {
            "tests": len(found),
            "p_below_05": sum(p < 0.05 for p in found),
            "expected": 0.05 * len(found),
        },
    }


def as_json(groups: Groups, verdicts: Verdicts, encoders: Sequence[str]) -> dict[str, Any]:
    """Return the comparisons as plain values: by task and protocol, and over tasks."""
    others = [e for e in encoders if e not in (FLOOR, CEILING)]
    tasks: dict[str, dict[str, Any]] = {}
    for cell in (cell for cells in groups.values() for cell in cells):
        tasks.setdefault(cell.task, {})[cell.protocol] = {
            "family": cell.family,
            "metric": cell.metric,
            "scores": {e: {"value": s.value, "ci95": s.ci95} for e, s in cell.scores.items()},
            "paired": {words(pair): asdict(found) for pair, found in cell.paired.items()},
            "recovered_headroom": {e: recovered([cell], e) for e in others},
        }
    over = {
        group: {
            "protocols": sorted({cell.protocol for cell in cells}),
            "n_tasks": len(cells),
            "paired": {words(pair): asdict(found) for pair, found in verdicts[group].items()},
            "family_means": {e: family_means(cells, e) for e in encoders},
            "recovered_headroom": {e: recovered(cells, e) for e in others},
        }
        for group, cells in groups.items()
    }
    return {"about": ABOUT, "resamples": RESAMPLES, "tasks": tasks, "over_tasks": over}


def words(pair: Pair) -> str:
    """Return the name of a pair: the first is better where the difference is above 0."""
    return " - ".join(pair)


def rounded(value: Any) -> Any:
    """Return plain values with every float to four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def tables(groups: Groups, verdicts: Verdicts, encoders: Sequence[str]) -> str:
    """Return the scores, the paired differences and the verdicts as text."""
    parts = [ABOUT]
    for group, cells in groups.items():
        scores = {cell.task: {e: cell.scores[e].value for e in encoders} for cell in cells}
        frame = pd.DataFrame.from_dict(scores, orient="index")
        parts.append(f"{group}: main scores\n{frame.to_string(float_format='{:.3f}'.format)}")
        pairs = list(verdicts[group])
        if not pairs:
            continue
        rows = {c.task: {words(pair): difference_text(c, pair) for pair in pairs} for c in cells}
        frame = pd.DataFrame.from_dict(rows, orient="index")
        parts.append(f"{group}: paired differences, 95% interval, p\n{frame.to_string()}")
        said = [
            f"{words(pair):28} {verdict_text(found)}" for pair, found in verdicts[group].items()
        ]
        parts.append(f"{group}: over {len(cells)} tasks, chance-corrected\n" + "\n".join(said))
    return "\n\n".join(parts)


def difference_text(cell: TaskComparison, pair: Pair) -> str:
    """Return a paired difference in one line."""
    found = cell.paired[pair]
    interval = "[{:+.3f}, {:+.3f}]".format(*found.ci95) if found.ci95 else "too few cases"
    return f"{found.difference:+.3f} {interval} {found.p_value:.3f}"


def verdict_text(found: PairOverTasks) -> str:
    """Return what is said of a pair over tasks in one line."""
    across = found.across
    return (
        f"mean {across.mean:+.3f}, {across.wins} won, {across.ties} tied, {across.losses} lost, "
        f"p {across.p_value:.2g} (Holm {found.holm_p:.2g})"
    )


def figure(groups: Groups, verdicts: Verdicts) -> str:
    """Return the forest plot of the paired differences."""
    minus = " − "  # longer than the hyphens in the names
    names = {
        group: ", ".join(dict.fromkeys(cell.protocol for cell in cells))
        for group, cells in groups.items()
    }
    order = {
        cell.task: (cell.family, cell.metric, cell.task) for c in groups.values() for cell in c
    }
    points = [
        Difference(
            minus.join(p),
            c.family,
            f"{c.task} ({c.metric})",
            names[group],
            d.difference,
            *(d.ci95 or (d.difference, d.difference)),  # without an interval, the point alone
        )
        for group, cells in groups.items()
        for c in sorted(cells, key=lambda cell: order[cell.task])
        for p, d in c.paired.items()
    ]
    captions = {
        minus.join(pair): [
            f"{names[group].split(',')[0]}: {found[pair].across.wins} of {len(groups[group])} won, "
            f"Wilcoxon p {found[pair].holm_p:.2g} (Holm)"
            for group, found in verdicts.items()
        ]
        for pair in next(iter(verdicts.values()))
    }
    return forest_svg(
        points,
        "Phantom: paired differences of encoders",
        "Main score of the first less that of the second, with 95% bootstrap interval (an arrow: "
        "it goes on); to the right of 0 the first is better",
        captions,
    )


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder for the two boards")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), metavar="NAME")
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("FIRST", "SECOND"),
        help="compare these; may be repeated (the default: those of PAIRS that are there)",
    )  # fmt: skip
    parser.add_argument("--task", nargs="+", default=["all"], help="ids, globs or all")
    parser.add_argument("--jobs", type=int, help="worker processes")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the JSON and the figure")
    return parser.parse_args()


def compare(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Run, compare, write and print; return the scores of the null board that are not at chance.

    Raises:
        InputError: an unknown name, or records that cannot be compared.
    """
    encoders = asked.encoders
    pairs = [(a, b) for a, b in asked.pair or PAIRS if asked.pair or {a, b} <= set(encoders)]
    if unknown := {name for pair in pairs for name in pair} - set(encoders):
        raise InputError(f"--pair names {', '.join(sorted(unknown))}; add it to --encoders")
    catalogue = load_catalogue()
    tasks = [task.id for task in catalogue.select(asked.task)]
    run_boards(asked.results, encoders, asked.task, asked.jobs)
    board = read_board(ResultStore(asked.results), catalogue, "phantom")
    groups = protocol_groups(compare_tasks(board, tasks, encoders, pairs))
    verdicts = {group: pairs_over_tasks(cells, pairs) for group, cells in groups.items()}
    null = null_board(asked.results, tasks, encoders, pairs)
    summary = {**as_json(groups, verdicts, encoders), "null": null}
    text = json.dumps(rounded(summary), indent=1, sort_keys=True, allow_nan=False)
    write_text(asked.out / f"{NAME}.json", text + "\n")
    if pairs:
        write_text(asked.out / f"{NAME}.svg", figure(groups, verdicts))
    print(tables(groups, verdicts, encoders))
    print("\nnull board\n" + json.dumps(rounded(null), indent=1))
    return [found for found in null["outside_the_interval"] if found["outside"]]


def main() -> None:
    """Exit 0, or 1 where the null board is not at chance or something is wrong."""
    try:
        faults = compare(arguments())
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

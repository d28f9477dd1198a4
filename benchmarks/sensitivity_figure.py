"""How much the protocol moves ranks on the phantom board, and what survival figures look like.

    python benchmarks/sensitivity_figure.py --results DIR

scores six encoders on all tasks under the protocols that start from embeddings, as `mbench
sensitivity` does (25 minutes of CPU time; what is in DIR is read), and writes
benchmarks/results/protocol_sensitivity.json, docs/protocol_sensitivity.svg and
docs/survival_phantom.svg. To see which part of linear-probe/v2 decides the ranks, the encoders are
scored under changes of it too, one thing changed in each. The tables of docs/sensitivity.md are
printed; all of it is PHANTOM.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from madeleine_bench.cli.main import main as mbench
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.leaderboard.sensitivity import fitting_protocols
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import load_catalogue

OUT = Path(__file__).resolve().parent / "results" / "protocol_sensitivity.json"
DOCS = Path(__file__).resolve().parents[1] / "docs"
ENCODERS = (
    "madeleine", "madeleine-se", "intra-ssl", "mean-pool", "max-pool", "random-projection"
)  # fmt: skip
# madeleine-se encodes the stain of a bag, so it has no embedding of a case's stains in one bag.
LEFT_OUT = ("linear-probe-early/v1", "linear-probe-early/v2")
REFERENCE = "linear-probe/v2"
# Protocols made of the reference by changing one thing: what of it decides the ranks?
CHANGES: dict[str, dict[str, Any]] = {
    "linear-probe-fixed": {"C": 1.0, "choice": None, "inner_folds": None},
    "linear-probe-z-score": {"scale": "z-score"},
    "linear-probe-common": {"scale": "common"},
    "linear-probe-3-folds": {"inner_folds": 3},
    "linear-probe-10-folds": {"inner_folds": 10},
    "linear-probe-coarse": {"C": {"lowest": 1e-3, "highest": 1e3, "count": 7}},
}
CHANGED_ON = ("bcnb-*", "bwh-breast-*")
SURVIVAL = "madeleine"
Json = dict[str, Any]


def protocols() -> list[str]:
    """Return the protocols that start from embeddings, but those left out."""
    catalogue = load_catalogue()
    names = fitting_protocols(catalogue, catalogue.select(["all"]))
    return [name for name in names if name not in LEFT_OUT]


def changed_catalogue(folder: Path) -> Path:
    """Return a copy of the catalogue, made in a folder, with the changed protocols."""
    shutil.copytree(resource_folder("tasks"), folder / "tasks")
    declared = folder / "tasks" / "protocols"
    for name, settings in CHANGES.items():
        spec = yaml.safe_load((declared / "linear-probe-v2.yaml").read_text())
        spec["id"] = name
        spec["method"]["model"] |= settings
        (declared / f"{name}-v2.yaml").write_text(yaml.safe_dump(spec))
    return folder / "tasks"


def board_of(document: Json) -> Json:
    """Return the one board of a document."""
    (board,) = document["boards"]
    found: Json = board
    return found


def reference_ranking(board: Json) -> Json:
    """Return the ranking under the reference."""
    ranking: Json
    (ranking,) = (one for one in board["rankings"] if one["protocol"] == REFERENCE)
    return ranking


def rank_table(board: Json) -> str:
    """Return rank and mean of each encoder under each protocol as Markdown, protocols down."""
    first = reference_ranking(board)
    labels = sorted(board["ranked"], key=lambda label: (first["ranks"][label], label))
    labels += board["controls"]
    lines = [f"| protocol | tasks | {' | '.join(labels)} |", "|---|---:|" + "---:|" * len(labels)]
    for ranking in board["rankings"]:
        cells = [
            f"{ranking['ranks'].get(label, '-')} ({ranking['means'][label]:.3f})"
            for label in labels
        ]
        lines.append(f"| {ranking['protocol']} | {len(ranking['tasks'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def version_pairs(board: Json) -> list[Json]:
    """Return the pairs that are two versions of one protocol."""
    return [pair for pair in board["pairs"] if _id(pair["first"]) == _id(pair["second"])]


def version_table(board: Json) -> str:
    """Return how far versions of a protocol agree as Markdown, one pair a line."""
    return _tau_lines(version_pairs(board))


def tau_table(board: Json) -> str:
    """Return tau of the reference with each other protocol of class tasks as Markdown."""
    versions = version_pairs(board)
    return _tau_lines(
        pair
        for pair in board["pairs"]
        if REFERENCE in (pair["first"], pair["second"]) and pair not in versions
    )


def _id(protocol: str) -> str:
    return protocol.partition("/")[0]


def _tau_lines(pairs: Iterable[Json]) -> str:
    lines = [
        "| protocols | tasks | tau | 95% over tasks | swaps | of them significant |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for pair in pairs:
        tau = "tied" if pair["tau"] is None else f"{pair['tau']:.2f}"
        ends = "{:.2f} to {:.2f}".format(*pair["tau_ci95"]) if pair["tau_ci95"] else "-"
        significant = sum(bool(swap["separated_by"]) for swap in pair["swaps"])
        lines.append(
            f"| {pair['first']}, {pair['second']} | {len(pair['tasks'])} | {tau} | {ends} "
            f"| {len(pair['swaps'])} | {significant} |"
        )
    return "\n".join(lines)


def swap_sentence(board: Json) -> str:
    """Return how many swaps there are, and how many are between encoders that differ."""
    swaps = [swap for pair in board["pairs"] for swap in pair["swaps"]]
    significant = [swap for swap in swaps if swap["separated_by"]]
    both = sum(len(swap["separated_by"]) == 2 for swap in swaps)
    pairs = sum(pair["tau"] is not None for pair in board["pairs"])
    return (
        f"{len(swaps)} swaps of two encoders in {pairs} pairs of protocols; {len(significant)} of "
        f"them are significant under one protocol or both, and {both} under both, in opposite "
        "directions."
    )


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        help="folder for all that is made, of this board alone",
    )
    parser.add_argument("--jobs", default="1", help="worker processes")
    parser.add_argument("--no-run", action="store_true", help="read what is there")
    asked = parser.parse_args()
    common = [
        *_repeated("--encoder", ENCODERS), "--source", "phantom", "--results", str(asked.results),
        "--jobs", asked.jobs, *(["--no-run"] if asked.no_run else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue = changed_catalogue(folder)
        _mbench("sensitivity", *common, *_repeated("--protocol", protocols()), "--out", name)
        _mbench(
            "sensitivity", *common, "--catalogue", str(catalogue), "--out", str(folder / "changed"),
            *_repeated("--task", CHANGED_ON),
            *_repeated("--protocol", [REFERENCE, *CHANGES, "linear-probe/v1"]),
        )  # fmt: skip
        _mbench("stratify", "--results", str(asked.results), "--encoder", SURVIVAL, "--out", name)
        document = json.loads((folder / "sensitivity.json").read_text())
        changed = json.loads((folder / "changed" / "sensitivity.json").read_text())
        whole = {**document, "changed": changed["boards"], "provenance": machine_provenance()}
        write_text(OUT, json.dumps(whole, indent=1) + "\n")
        write_bytes(DOCS / "protocol_sensitivity.svg", (folder / "sensitivity.svg").read_bytes())
        (survival,) = folder.rglob(f"{SURVIVAL}.cox-v2.svg")
        write_bytes(DOCS / "survival_phantom.svg", survival.read_bytes())
    board = board_of(document)
    tables = (version_table, rank_table, tau_table, swap_sentence)
    print(*(table(board) for table in tables), rank_table(board_of(changed)), sep="\n\n")


def _repeated(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _mbench(*words: str) -> None:
    try:
        mbench(list(words))
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main()

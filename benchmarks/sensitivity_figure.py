"""How much the protocol moves ranks on the phantom board, and what survival figures look like.

    python benchmarks/sensitivity_figure.py --results DIR

scores six encoders on all tasks under the protocols that start from embeddings, as `mbench
sensitivity` does (20 minutes of CPU time; what is in DIR is read), and writes
benchmarks/results/protocol_sensitivity.json, docs/protocol_sensitivity.svg and
docs/survival_phantom.svg. To see why the linear probes disagree, the encoders are scored under two
changes of linear-probe/v1 too, one thing changed in each. The tables of docs/sensitivity.md are
printed; all of it is PHANTOM.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
LEFT_OUT = ("linear-probe-early/v1",)
# Protocols made of linear-probe/v1 by changing one setting: what of it decides the ranks?
CHANGES = {
    "linear-probe-unscaled": ("scale: z-score", "scale: none"),
    "linear-probe-strong": ("C: 1.0", "C: 0.001"),
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
    given = (folder / "tasks" / "protocols" / "linear-probe-v1.yaml").read_text()
    for name, (old, new) in CHANGES.items():
        assert given.count(old) == 1, old
        text = given.replace("id: linear-probe", f"id: {name}").replace(old, new)
        (folder / "tasks" / "protocols" / f"{name}-v1.yaml").write_text(text)
    return folder / "tasks"


def board_of(document: Json) -> Json:
    """Return the one board of a document."""
    (board,) = document["boards"]
    found: Json = board
    return found


def class_rankings(board: Json) -> list[Json]:
    """Return the rankings over the most tasks: those of the protocols that score classes."""
    most = max(len(ranking["tasks"]) for ranking in board["rankings"])
    return [ranking for ranking in board["rankings"] if len(ranking["tasks"]) == most]


def rank_table(board: Json) -> str:
    """Return rank and mean of each encoder under each protocol as Markdown, protocols down."""
    first = class_rankings(board)[0]
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


def tau_table(board: Json) -> str:
    """Return tau of every two protocols of class tasks as Markdown, one pair a line."""
    lines = [
        "| protocols | tau | 95% over tasks | p | mean tau by task | tasks alike | swaps "
        "| of them significant |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for pair in board["pairs"]:
        if pair["tau"] is None:
            continue
        low, high = pair["tau_ci95"]
        told = sum(bool(swap["separated_by"]) for swap in pair["swaps"])
        lines.append(
            f"| {pair['first']}, {pair['second']} | {pair['tau']:.2f} | {low:.2f} to {high:.2f} "
            f"| {pair['p_value']:.3f} | {pair['mean_task_tau']:.2f} "
            f"| {len(pair['alike'])} of {len(pair['tasks'])} | {len(pair['swaps'])} | {told} |"
        )
    return "\n".join(lines)


def swap_sentence(board: Json) -> str:
    """Return how many swaps there are, and how many are between encoders that are told apart."""
    swaps = [swap for pair in board["pairs"] for swap in pair["swaps"]]
    told = [swap for swap in swaps if swap["separated_by"]]
    both = sum(len(swap["separated_by"]) == 2 for swap in swaps)
    pairs = sum(pair["tau"] is not None for pair in board["pairs"])
    return (
        f"{len(swaps)} swaps of two encoders in {pairs} pairs of protocols; in {len(told)} of them "
        f"a protocol or both tell the encoders apart, in {both} both do, each the other way round."
    )


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder for all that is made")
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
            *_repeated("--protocol", ["linear-probe", *CHANGES, "few-shot", "retrieval"]),
        )  # fmt: skip
        _mbench("stratify", "--results", str(asked.results), "--encoder", SURVIVAL, "--out", name)
        document = json.loads((folder / "sensitivity.json").read_text())
        changed = json.loads((folder / "changed" / "sensitivity.json").read_text())
        whole = {**document, "changed": changed["boards"], "provenance": machine_provenance()}
        write_text(OUT, json.dumps(whole, indent=1) + "\n")
        write_bytes(DOCS / "protocol_sensitivity.svg", (folder / "sensitivity.svg").read_bytes())
        (survival,) = folder.rglob(f"{SURVIVAL}.cox-v1.svg")
        write_bytes(DOCS / "survival_phantom.svg", survival.read_bytes())
    board = board_of(document)
    print(rank_table(board), tau_table(board), swap_sentence(board), sep="\n\n")
    print(rank_table(board_of(changed)))


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

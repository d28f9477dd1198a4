"""Supervised baselines and fine-tuning, as measured: on real UCSB bags and on the phantom.

    mbench data fetch ucsb-breast --into /tmp/data
    python benchmarks/supervised_baselines.py --ucsb /tmp/data/ucsb-breast/mbench.toml --work /tmp/w

1. UCSB (58 real bags, 10 x 5 folds): every supervised network under finetune/v1, beside the linear
   probe of mean-pool and max-pool.
2. Phantom: ABMIL on all 21 tasks, beside mean-pool, intra-ssl and madeleine by each task's first
   protocol: the board where every kind of encoder stands.
3. Phantom bcnb-er: the other supervised networks.
4. Phantom, IHC quantification in three and in six levels and a kidney task of several stains:
   mean-pool and madeleine fine-tuned, madeleine from scratch; ordered and discrete-time losses.

On a machine with a GPU: `--device cuda --jobs 4` (this has not been run yet). Each part is resumed
where it was cut off. `--only` names parts. The numbers of all records that are there go to
benchmarks/results/supervised_baselines.json; the differences from mean-pool's probe are paired on
cases, with intervals widened for training cases. Nothing is tuned here.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from madeleine_bench.cli.main import main as mbench
from madeleine_bench.files import write_text
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.stats.paired import ScoredUnits, paired_difference

OUT = Path(__file__).parent / "results" / "supervised_baselines.json"
NETWORKS = ("abmil", "clam-sb", "dsmil", "mean-mlp", "transmil")
OF_EACH_KIND = ("aidpath-her2", "bwh-kidney-amr", "mgh-breast-er-quant")
OTHER_LOSSES = ("mgh-breast-er-quant", "tcga-breast-os")
RESAMPLES = 1000


def parts(ucsb: Path | None) -> dict[str, list[list[str]]]:
    """Return the runs of each part: arguments of mbench run."""
    real = ["--task", "ucsb-breast-malignancy", "--config", str(ucsb)]
    phantom = ["--source", "phantom"]
    trained = ["mean-pool", "intra-ssl", "madeleine"]
    kinds = [part for task in OF_EACH_KIND for part in ("--task", task)]
    losses = [part for task in OTHER_LOSSES for part in ("--task", task)]
    found = {
        "board": [
            [*_encoders(trained), "--task", "all", "--protocol", "linear-probe", "--protocol",
             "cox", *phantom],
            [*_encoders(["abmil"]), "--task", "all", *phantom],
        ],
        "networks": [[*_encoders(NETWORKS[1:]), "--task", "bcnb-er", *phantom]],
        "finetuned": [
            [*_encoders(["mean-pool", "madeleine"]), *kinds, "--protocol", "finetune", *phantom],
            [*_encoders(["madeleine"]), *kinds, "--protocol", "finetune-scratch", *phantom],
            [*_encoders(["madeleine"]), *losses, "--protocol", "finetune-ordinal",
             "--protocol", "finetune-discrete-time", *phantom],
        ],
    }  # fmt: skip
    if ucsb is not None:
        found = {
            "ucsb": [
                [*_encoders(["mean-pool", "max-pool"]), "--protocol", "linear-probe", *real],
                [*_encoders(NETWORKS), *real],
            ],
            **found,
        }
    return found


def run_part(arguments: Sequence[str], results: Path, jobs: int, device: str) -> None:
    """Run mbench in this process; it exits where something fails."""
    how = ["--results", str(results), "--jobs", str(jobs), "--device", device]
    try:
        mbench(["run", *arguments, *how])
    except SystemExit as end:
        if end.code:
            raise


def summarise(results: Path, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the newest record of each cell, and what it is above mean-pool's first protocol."""
    store = ResultStore(results)
    newest: dict[tuple[str, ...], Record] = {}
    for record in sorted(store.records(), key=lambda record: record.age):
        newest[record.board, record.task.id, record.protocol, record.encoder.name] = record
    found = []
    for (board, task_id, _, _), record in sorted(newest.items()):
        first = catalogue.tasks[task_id].protocols[0]
        reference = newest.get((board, task_id, first, "mean-pool"))
        found.append(_row(store, record, reference, catalogue))
    return found


def _row(
    store: ResultStore, record: Record, reference: Record | None, catalogue: Catalogue
) -> dict[str, Any]:
    main = record.scores.main
    row: dict[str, Any] = {
        "board": record.board,
        "task": record.task.id,
        "encoder": record.encoder.name,
        "kind": record.encoder.kind,
        "protocol": record.protocol,
        "metric": main.metric,
        "value": main.value,
        "ci95": main.ci95,
        "folds": len(record.folds),
        "converged": sum(fold.converged for fold in record.folds),
        "epochs": _mean([fold.n_iter for fold in record.folds if fold.n_iter])
        if "training" in record.provenance
        else None,
        "training": record.provenance.get("training"),
        "cpu": record.provenance.get("cpu"),
        "commit": record.provenance.get("commit"),
    }
    if reference is None or reference.record_id == record.record_id:
        return row
    with threadpool_limits(1):
        ours, theirs = (_units(store, each, catalogue) for each in (record, reference))
        rng = rng_for("supervised baselines", record.task.id)
        gain = paired_difference(ours, theirs, RESAMPLES, rng)
    return row | {
        "above": f"mean-pool, {reference.protocol}",
        "difference": gain.difference,
        "difference_ci95": gain.ci95,
        "p_value": gain.p_value,
    }


def _units(store: ResultStore, record: Record, catalogue: Catalogue) -> ScoredUnits:
    # Splits and labels are compared, not the protocol, in which the two differ.
    same = f"{record.inputs.splits} {record.inputs.labels}"
    task, protocol = catalogue.tasks[record.task.id], catalogue.protocol(record.protocol)
    predictions, dim = store.read_predictions(record), record.inputs.dim
    return scored_units(task, protocol, predictions, same, record.record_id, dim)


def _encoders(names: Sequence[str]) -> list[str]:
    return [part for name in names for part in ("--encoder", name)]


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 2)


def ucsb_rows(content: dict[str, Any]) -> list[str]:
    """Return rows of Markdown: real UCSB bags, best first, beside the probe of mean-pool."""
    found = [r for r in content["records"] if r["task"] == "ucsb-breast-malignancy"]
    head = ["encoder", "protocol", "AUROC (95%)", "above mean-pool's probe (95%)", "epochs"]
    rows = [_line(head), _line(["---"] * len(head))]
    for r in sorted(found, key=lambda r: (-r["value"], r["encoder"])):
        epochs = "-" if r["epochs"] is None else f"{r['epochs']:.0f}"
        rows.append(_line([r["encoder"], r["protocol"], _with_interval(r), _gain(r), epochs]))
    return rows


def board_rows(content: dict[str, Any]) -> list[str]:
    """Return rows of Markdown: the phantom's 21 tasks, ABMIL beside probes of three encoders."""
    cells = {
        (r["task"], r["encoder"]): r
        for r in content["records"]
        if r["board"] == "phantom"
        and (r["protocol"] in ("linear-probe/v1", "cox/v1") or r["encoder"] == "abmil")
        and r["protocol"] not in ("finetune-ordinal/v1", "finetune-discrete-time/v1")
    }
    encoders = ("mean-pool", "intra-ssl", "madeleine", "abmil")
    head = ["PHANTOM", "metric", *encoders, "abmil above mean-pool (95%)"]
    rows = [_line(head), _line(["---"] * len(head))]
    for task in sorted({task for task, _ in cells}):
        own = [cells.get((task, name)) for name in encoders]
        if all(own):
            values = [f"{each['value']:.3f}" for each in own if each]
            last = own[-1]
            assert last is not None
            rows.append(_line([task, last["metric"], *values, _gain(last)]))
    return rows


def finetuned_rows(content: dict[str, Any]) -> list[str]:
    """Return rows of Markdown: encoders under every protocol that trains networks, on phantoms."""
    chosen = [
        r
        for r in content["records"]
        if r["board"] == "phantom" and r["task"] in (*OF_EACH_KIND, "tcga-breast-os", "bcnb-er")
    ]  # fmt: skip
    head = ["PHANTOM", "encoder", "protocol", "score (95%)", "above mean-pool's probe (95%)"]
    rows = [_line(head), _line(["---"] * len(head))]
    for r in sorted(chosen, key=lambda r: (r["task"], r["encoder"], r["protocol"])):
        rows.append(_line([r["task"], r["encoder"], r["protocol"], _with_interval(r), _gain(r)]))
    return rows


def _with_interval(row: dict[str, Any]) -> str:
    ends = row["ci95"]
    return f"{row['value']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _gain(row: dict[str, Any]) -> str:
    if "difference" not in row:
        return "-"
    ends = row["difference_ci95"]
    interval = f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else ""
    return f"{row['difference']:+.3f}{interval}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run what was asked for, then write down all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ucsb", type=Path, help="mbench.toml of the fetched UCSB bags")
    parser.add_argument("--work", type=Path, required=True, help="results folder")
    parser.add_argument("--only", action="append", help="ucsb, board, networks, finetuned")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    given = parser.parse_args()
    for name, runs in parts(given.ucsb).items():
        for arguments in runs if name in (given.only or [name]) else []:
            run_part(arguments, given.work, given.jobs, given.device)
    content = {
        "what": "supervised baselines and fine-tuning; boards named phantom are synthetic",
        "interval": f"differences: 95%, {RESAMPLES} paired resamples of cases, widened for "
        "training cases and few cases; none where there are too few cases",
        "records": summarise(given.work, load_catalogue()),
        "provenance": machine_provenance(),
    }
    write_text(OUT, json.dumps(content, indent=1) + "\n")
    for table in (ucsb_rows(content), board_rows(content), finetuned_rows(content)):
        print("\n".join([*table, ""]))


if __name__ == "__main__":
    main()

"""A plan on paper for a million slides: storage, hours, and where it breaks first.

Every number is measured (here, or in another benchmark that is named) or an assumption with its
source; the hours of 1 to 512 workers are simulated from them (`queue_simulation`). Nothing was run
at this size. Bags, tables and labels are made up, so no score is looked at.

    PYTHONPATH=. python benchmarks/million_slides.py
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from benchmarks.million_measures import (
    DIM,
    PROTOCOLS,
    bag_costs,
    evaluation_costs,
    index_costs,
    scheduler_costs,
    table_costs,
)
from benchmarks.queue_simulation import HOUR_S, Phase, Site, simulate
from madeleine_bench.figures import COLOURS, GREY, INK, styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.runner.embedding import SHARD_SLIDES

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
SLIDES = 1_000_000
WORKERS = (1, 8, 64, 512)
TASKS = 21
# name: value, unit, source
ASSUMED: dict[str, tuple[float, str, str]] = {
    "patches": (6000, "patches a slide", "256 px at 1 micrometre a pixel; tissue varies widely"),
    "slide_bytes": (1e9, "bytes", "usual of a 40x slide in JPEG"),
    "disk_bytes_per_s": (2e9, "bytes/s", "a parallel file system of middle size, all readers"),
    "cores_per_gpu": (16, "cores", "usual share of a node"),
    "gpu_flop_per_s": (3e14, "FLOP/s", "30% of the 989e12 that NVIDIA states for H100, dense bf16"),
    "patch_flop": (1.23e11, "FLOP", "ViT-L/16 at 224 px, twice 61.6e9 multiply-adds (timm)"),
    "madeleine_flop": (3e7, "FLOP a patch", "6 times 4,996,740 parameters, forward and backward"),
    "train_patches": (2048, "patches a slide and epoch", "recipe of the paper"),
    "epochs": (120, "epochs", "recipe of the paper"),
    "deaths_per_hour": (0.01, "a worker and hour", "machines that may be taken away"),
    "return_s": (120, "s", "a job of a queue that starts at once"),
    "spread": (0.5, "of log seconds", "tissue varies"),
}


def measured(quick: bool) -> dict[str, float]:
    """Return what is measured in this run; `quick` is a size for tests."""
    patches = 200 if quick else int(ASSUMED["patches"][0])
    found = bag_costs(patches, 2 if quick else 5)
    found |= index_costs(100 if quick else 5000)
    found |= table_costs(2000 if quick else 100_000)
    found |= evaluation_costs(400 if quick else 10_000)
    return found | scheduler_costs(50 if quick else 2000)


def extraction(results: Path) -> dict[str, float]:
    """Return patches a second of one core, from the committed results: all, and reading alone."""
    rows = json.loads((results / "extraction_speed.json").read_text(encoding="utf-8"))["rows"]
    (row,) = (r for r in rows if r["patch_encoder"] == "efficientnet-lite0" and r["workers"] == 2)
    return {
        "extract_per_s_core": row["extract_per_s"] / row["workers"],
        "read_per_s_core": row["read_per_s"] / row["workers"],
    }


def phases(cost: Mapping[str, float]) -> list[tuple[Phase, float]]:
    """Return the phases that workers share, each with seconds of the scheduler for one task."""
    assumed = {name: value for name, (value, _, _) in ASSUMED.items()}
    patches, slide, spread = assumed["patches"], assumed["slide_bytes"], assumed["spread"]
    gpu = min(
        assumed["gpu_flop_per_s"] / assumed["patch_flop"],
        assumed["cores_per_gpu"] * cost["read_per_s_core"],
    )
    each = cost["read_bag_s"] + cost["embed_s madeleine"]
    shards, shard = -(-SLIDES // SHARD_SLIDES), SHARD_SLIDES * cost["bag_file_bytes"]
    embed_s, task_s = SHARD_SLIDES * each, cost["scheduler_task_s"]
    score_s = sum(cost[f"{part}_s {name}"] for part in ("fit", "score") for name in PROTOCOLS)
    of_task = SLIDES * score_s / len(PROTOCOLS)
    rows = SLIDES * cost["embeddings_bytes"]
    return [
        (Phase("extract, a core", SLIDES, patches / cost["extract_per_s_core"], spread, slide),
         task_s),
        (Phase("extract, a GPU", SLIDES, patches / gpu, spread, slide), task_s),
        (Phase("embed", shards, embed_s, spread / 8, shard), task_s + cost["job_s"]),
        (Phase("evaluate", TASKS * len(PROTOCOLS), of_task, spread, rows), task_s),
    ]  # fmt: skip


def simulated(cost: Mapping[str, float], workers: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each phase and number of workers."""
    assumed = {name: value for name, (value, _, _) in ASSUMED.items()}
    rows = []
    for phase, task_s in phases(cost):
        site = Site(task_s, assumed["disk_bytes_per_s"], assumed["deaths_per_hour"],
                    assumed["return_s"])  # fmt: skip
        for number in workers:
            went = simulate(phase, number, site)
            rows.append(
                {
                    "phase": phase.name,
                    "tasks": phase.tasks,
                    "task_s": round(phase.compute_s, 4),
                    "workers": number,
                    "hours": float(f"{went.hours:.4g}"),
                    "ideal_hours": float(f"{went.ideal_hours:.4g}"),
                    "busy": {name: round(share, 3) for name, share in went.busy.items()},
                    "bottleneck": went.bottleneck,
                    "deaths": went.deaths,
                    "redone": went.redone,
                }
            )
    return rows


def storage(cost: Mapping[str, float]) -> dict[str, float]:
    """Return gigabytes by what they hold."""
    predictions = sum(cost[f"predictions_bytes {name}"] for name in PROTOCOLS)
    each = {
        "slides": ASSUMED["slide_bytes"][0],
        "bags, float32": cost["bag_file_bytes"],
        "packed store, float16": cost["packed_bytes"],
        "index of the packed store": cost["index_bytes"],
        "embeddings of one encoder": cost["embeddings_bytes"],
        f"predictions of one encoder, {TASKS} tasks": TASKS * predictions,
    }
    return {name: float(f"{SLIDES * size / 1e9:.3g}") for name, size in each.items()}


def limits(cost: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """Return what one process must do or hold, and its unit."""
    assumed = {name: value for name, (value, _, _) in ASSUMED.items()}
    train_bytes = 2 * DIM * assumed["train_patches"] * SLIDES
    train_flop = assumed["madeleine_flop"] * assumed["train_patches"] * SLIDES
    few_shot = cost["predictions_memory_bytes few-shot"]
    found = {
        "tasks a second of one scheduler": (1 / cost["scheduler_task_s"], ""),
        "label table, read": (SLIDES * cost["label_table_s"], "s"),
        "label table, in memory": (SLIDES * cost["label_table_bytes"] / 1e9, "GB"),
        "index of the packed store, read": (SLIDES * cost["index_s"], "s"),
        "key of the embeddings, from known hashes": (SLIDES * cost["key_s"], "s"),
        "hashes of all bags, in one process": (SLIDES * cost["hash_bag_s"] / HOUR_S, "h"),
        "packing, in one process": (SLIDES * cost["pack_s"] / HOUR_S, "h"),
        "one embedding job, as sent": (cost["job_bytes"] / 1e3, "KB"),
        "ids in the header of an embeddings file": (
            SLIDES * cost["embedding_header_bytes"] / 1e6, "MB"),
        "few-shot predictions of one task, in memory": (SLIDES * few_shot / 1e9, "GB"),
        "pretraining, rows read in an epoch": (train_bytes / 1e12, "TB"),
        "pretraining, disk alone": (
            assumed["epochs"] * train_bytes / assumed["disk_bytes_per_s"] / HOUR_S, "h"),
        "pretraining, one GPU's arithmetic alone": (
            assumed["epochs"] * train_flop / assumed["gpu_flop_per_s"] / HOUR_S, "h"),
    }  # fmt: skip
    return {name: (float(f"{value:.3g}"), unit) for name, (value, unit) in found.items()}


def markdown_rows(found: Mapping[str, Any]) -> list[str]:
    """Return the tables that docs/scale.md shows, a line each."""
    lines = ["| phase | workers | hours | workers busy | scheduler busy | disk busy | bottleneck |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in found["rows"]:
        busy = " | ".join(f"{row['busy'][name]:.0%}" for name in ("workers", "scheduler", "disk"))
        lines.append(
            f"| {row['phase']} | {row['workers']} | {_number(row['hours'])} | {busy} | "
            f"{row['bottleneck']} |"
        )
    lines += [f"| {name} | {_number(size)} GB |" for name, size in found["storage"].items()]
    lines += [
        f"| {name} | {_number(value)} {unit} |".replace("  |", " |")
        for name, (value, unit) in found["limits"].items()
    ]
    lines += [
        f"| {name} | {value:,g} | {unit} | {source} |"
        for name, (value, unit, source) in found["assumed"].items()
    ]
    return lines


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what docs/scale.md says in words, with its numbers."""
    slide, disk = ASSUMED["slide_bytes"][0], ASSUMED["disk_bytes_per_s"][0]
    hours, memory = SLIDES * slide / disk / HOUR_S, "few-shot predictions of one task, in memory"
    return [
        f"A petabyte, read once at {disk / 1e9:g} GB/s, is {hours:.0f} hours.",
        f"bags are {slide / found['measured']['bag_file_bytes']:.0f} times smaller",
        f"a million take {_number(found['limits'][memory][0])} GB",
    ]


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the hours of each phase by number of workers as SVG; dashed: workers alone."""
    table = pd.DataFrame(rows)
    names = list(dict.fromkeys(table["phase"]))
    colour = alt.Color(
        "phase:N",
        scale=alt.Scale(domain=names, range=COLOURS[: len(names)]),
        legend=alt.Legend(title=None, labelColor=INK, labelFontSize=11, symbolType="stroke",
                          symbolStrokeWidth=3),
    )  # fmt: skip
    workers = alt.X(
        "workers:Q",
        title="workers",
        scale=alt.Scale(type="log", domain=[1, 512], nice=False),
        axis=alt.Axis(values=list(WORKERS), grid=False),
    )
    hours = alt.Axis(title="hours", values=[10.0**power for power in range(-1, 6)], format=",~r")
    scale = alt.Scale(type="log", nice=False, domain=[0.02, 1e5])
    base = alt.Chart(table)
    went = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=36)).encode(
        workers, alt.Y("hours:Q", axis=hours, scale=scale), colour
    )
    ideal = base.mark_line(strokeWidth=1.2, strokeDash=[4, 4]).encode(
        workers, alt.Y("ideal_hours:Q", axis=hours, scale=scale), colour
    )
    title = alt.Title(
        "A million slides, simulated: hours by number of workers",
        subtitle=[
            "From measured costs and stated assumptions; nothing was run at this size.",
            "Dashed: the same work with no scheduler, no shared disk and no deaths.",
        ],
        anchor="start", color=INK, subtitleColor=GREY, offset=14,
    )  # fmt: skip
    chart = alt.layer(ideal, went).properties(width=460, height=330, title=title)
    return styled_svg(chart.properties(background="white", padding=14))


def _number(value: float) -> str:
    """Return a number in three digits, such as 0.123 or 12,300."""
    return f"{float(f'{value:.3g}'):,.10g}"


def main() -> None:
    """Measure, simulate, print the tables, and write results and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    wanted = parser.parse_args()
    load = os.getloadavg()[0]
    cost = measured(wanted.quick) | extraction(RESULTS)
    found = {
        **machine_provenance(),
        "load_before": round(load, 2),
        "slides": SLIDES,
        "measured": {name: float(f"{value:.4g}") for name, value in cost.items()},
        "assumed": ASSUMED,
        "rows": simulated(cost, (1, 8) if wanted.quick else WORKERS),
        "storage": storage(cost),
        "limits": limits(cost),
    }
    print("\n".join(markdown_rows(found)))
    write_text(wanted.out / "million_slides.json", json.dumps(found, indent=1) + "\n")
    write_text(wanted.docs / "million_slides.svg", figure(found["rows"]))


if __name__ == "__main__":
    main()

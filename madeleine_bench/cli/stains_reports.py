"""What the stains of a case are worth: on the screen, as JSON, and as a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.leaderboard.export import PHANTOM_NOTICE
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.multistain import (
    MultistainReport,
    MultistainRequest,
    TaskByStains,
    multistain,
)
from madeleine_bench.runner.plan import board_of
from madeleine_bench.runner.stain_curves import stain_curves
from madeleine_bench.runner.stain_subsets import RESAMPLES, Way, curve
from madeleine_bench.stats.paired import PairedDifference

_WAYS: tuple[Way, ...] = ("alike", "dropped")


def report_stains(request: MultistainRequest, form: Literal["table", "json"]) -> None:
    """Score, write numbers and figure, and print.

    Raises:
        InputError: the request cannot be carried out, or an encoder failed.
    """
    with LiveProgress() as progress:
        report = multistain(request, progress)
    if report.found:
        board = board_of(report.found[0].data)
        folder = request.results / "stains" / board
        for cohort in sorted({each.task.cohort for each in report.found}):
            own = [each for each in report.found if each.task.cohort == cohort]
            _write(report, own, folder / cohort, form)
    if report.failures:
        lines = "\n".join(f"  {name}: {why}" for name, why in report.failures)
        raise ending(f"not every encoder could be used:\n{lines}", report.failures)


def document(report: MultistainReport, found: Sequence[TaskByStains]) -> dict[str, Any]:
    """Return all numbers of some tasks of one cohort, ready for JSON."""
    return {
        "what": "stains of a case: fusions, and subsets",
        "phantom": found[0].data.source == "phantom",
        "board": board_of(found[0].data),
        "cohort": found[0].task.cohort,
        "protocol": report.protocol,
        "alone": report.alone,
        "interval": f"95%, paired bootstrap of cases, {RESAMPLES} resamples, widened for training "
        "cases and few cases; none where there are too few cases",
        "tasks": [_task(each) for each in found],
        "provenance": machine_provenance(),
    }


def _task(found: TaskByStains) -> dict[str, Any]:
    return {
        "task": found.task.id,
        "encoder": found.encoder,
        "metric": found.task.metric.name,
        "chance": found.task.metric.chance,
        "lacking": dict(found.lacking),
        "fusions": [
            {"fusion": f.fusion, "stains": f.stains, "value": f.value, **_paired(f.difference)}
            for f in found.fusions
        ],
        "subsets": [
            {"stains": s.stains, "way": s.way, "value": s.value, "cases": s.cases,
             "lacking": s.lacking, **_paired(s.difference)}
            for s in found.subsets
        ],
        "curves": {
            way: [
                {"stains": size, "mean": mean, "lowest": low, "highest": high}
                for size, mean, low, high in curve(found.subsets, way)
            ]
            for way in _WAYS
        },
    }  # fmt: skip


def _paired(difference: PairedDifference | None) -> dict[str, Any]:
    if difference is None:
        return {"difference": None, "ci95": None, "p_value": None}
    return {
        "difference": difference.difference,
        "ci95": difference.ci95,
        "p_value": difference.p_value,
    }


def _write(report: MultistainReport, found: Sequence[TaskByStains], stem: Path, form: str) -> None:
    content = document(report, found)
    text = json.dumps(content, indent=1) + "\n"
    write_text(stem.with_suffix(".json"), text)
    svg, png = stain_curves(content)
    write_text(stem.with_suffix(".svg"), svg)
    write_bytes(stem.with_suffix(".png"), png)
    if form == "json":
        typer.echo(text, nl=False)
    else:
        _print(content)
    typer.echo(f"numbers and figure: {stem}.json, .svg, .png", err=True)


def _print(content: dict[str, Any]) -> None:
    kind = "PHANTOM" if content["phantom"] else "real data"
    rows = []
    for each in content["tasks"]:
        for fusion in each["fusions"]:
            shown = "all" if len(fusion["stains"]) > 1 else fusion["stains"][0]
            name = [each["task"], each["encoder"], f"{shown}, {fusion['fusion']}"]
            rows.append([*name, f"{fusion['value']:.3f}", _gain(fusion)])
    print_table(
        f"Stains together against {content['alone']} alone, {content['protocol']} ({kind})",
        ("task", "encoder", "stains, fusion", "score", f"above {content['alone']} alone (95%)"),
        rows,
    )
    sizes = sorted({p["stains"] for t in content["tasks"] for p in t["curves"]["alike"]})[::-1]
    rows = [
        [each["task"], each["encoder"], way, *_points(each["curves"][way], sizes)]
        for each in content["tasks"]
        for way in _WAYS
    ]
    print_table(
        "Mean score over all choices of so many stains: trained alike, or on all and tested with "
        "the others dropped",
        (
            "task",
            "encoder",
            "trained",
            *(f"{size} stains" if size > 1 else "1 stain" for size in sizes),
        ),
        rows,
    )
    for each in content["tasks"]:
        if lacking := {stain: n for stain, n in each["lacking"].items() if n}:
            counted = ", ".join(f"{stain} {n}" for stain, n in lacking.items())
            typer.echo(
                f"{each['task']}: cases that lack a stain: {counted}; each is scored from "
                "the stains it has"
            )
    if content["phantom"]:
        typer.echo(PHANTOM_NOTICE)


def _gain(fusion: dict[str, Any]) -> str:
    if fusion["difference"] is None:
        return "-"
    interval = " ({:+.3f} to {:+.3f})".format(*fusion["ci95"]) if fusion["ci95"] else ""
    return f"{fusion['difference']:+.3f}{interval}"


def _points(points: Sequence[dict[str, Any]], sizes: Sequence[int]) -> list[str]:
    by_size = {point["stains"]: point["mean"] for point in points}
    return [f"{by_size[size]:.3f}" if size in by_size else "-" for size in sizes]

"""Cross-stain retrieval on the screen and as a file."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.export import PHANTOM_NOTICE
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.runner.cross_stain import (
    CrossStainReport,
    CrossStainRequest,
    EncoderSearch,
    cross_stain,
)
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.plan import board_of
from madeleine_bench.runner.stain_search import RESAMPLES, StainSearch
from madeleine_bench.specs.card import contamination

_SHORT = {
    "recall@1": "recall@1",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "mean-average-precision": "mAP",
    "mean-reciprocal-rank": "MRR",
}


Form = Literal["table", "json", "markdown"]


def report_cross_stain(request: CrossStainRequest, form: Form) -> None:
    """Search, write the numbers, and print them.

    Raises:
        InputError: the request cannot be carried out, or an encoder failed.
    """
    with LiveProgress() as progress:
        report = cross_stain(request, progress)
    board = board_of(report.data)
    path = request.results / "cross_stain" / board / f"{report.cohort.id}.json"
    if report.encoders:
        found = document(report)
        text = json.dumps(found, indent=1) + "\n"
        write_text(path, text)
        if form == "json":
            typer.echo(text, nl=False)
        elif form == "markdown":
            typer.echo("\n".join(markdown_rows(found)))
        else:
            _print(report)
        _warn(report)
        typer.echo(f"numbers in {path}", err=True)
    if report.failures:
        lines = "\n".join(f"  {name}: {why}" for name, why in report.failures)
        raise ending(f"not every encoder could be used:\n{lines}", report.failures)


def document(report: CrossStainReport) -> dict[str, Any]:
    """Return all numbers of a report, and what they were made from, ready for JSON."""
    return {
        "what": "cross-stain retrieval",
        "phantom": report.data.source == "phantom",
        "board": board_of(report.data),
        "cohort": report.cohort.id,
        "query": report.query,
        "main": "centred",
        "interval": f"95% percentile, Bayesian bootstrap of the cases that ask, {RESAMPLES}",
        "encoders": [
            {
                "encoder": found.entry.card.name,
                "revision": found.entry.card.revision,
                "training_cohorts": found.entry.card.training_cohorts,
                "contamination": _seen(found, report),
                "embeddings": found.embeddings,
                "stains": [_stain(search) for search in found.stains],
            }
            for found in report.encoders
        ],
        "provenance": machine_provenance(),
    }


def markdown_rows(found: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of a document, a line each: means over stains, and chance last."""
    data = "PHANTOM " if found["phantom"] else ""
    header = [f"{data}{found['cohort']}", *(f"{name} (95%)" for name in _SHORT.values())]
    lines = [header, ["---"] * (len(header) + 1)]
    header.append("recall@1, not centred")
    for encoder in found["encoders"]:
        mean = encoder["stains"][-1]
        measures = [mean["centred"][name] for name in _SHORT]
        cells = [f"{m['value']:.3f} ({m['ci95'][0]:.3f}-{m['ci95'][1]:.3f})" for m in measures]
        lines.append([encoder["encoder"], *cells, f"{mean['raw']['recall@1']['value']:.3f}"])
    chances = [f"{mean['centred'][name]['chance']:.3f}" for name in (*_SHORT, "recall@1")]
    return [f"| {' | '.join(cells)} |" for cells in (*lines, ["chance", *chances])]


def _stain(search: StainSearch) -> dict[str, Any]:
    return {
        "stain": search.stain,
        "queries": search.queries,
        "gallery": search.gallery,
        "cases_without_stain": search.left_out,
        **{
            centring: {
                name: {"value": m.value, "ci95": list(m.ci95), "chance": m.chance}
                for name, m in measures.items()
            }
            for centring, measures in search.measures.items()
        },
    }


def _print(report: CrossStainReport) -> None:
    phantom = report.data.source == "phantom"
    kind = "PHANTOM" if phantom else "real data"
    title = f"{report.query} finds its own case in another stain: {report.cohort.id} ({kind})"
    header = ["encoder", "trained on it", "stain", "queries", "gallery", *_SHORT.values()]
    rows = [
        [found.entry.card.name, _seen(found, report), *_counts(search), *_cells(search)]
        for found in report.encoders
        for search in found.stains
    ]
    rows += [["chance", "", *_counts(search), *_chances(search)]
             for search in report.encoders[0].stains]  # fmt: skip
    print_table(title, header, rows)
    for search in report.encoders[0].stains[:-1]:
        if search.left_out:
            typer.echo(f"{search.left_out} cases have no {search.stain} slide and are left out")
    if phantom:
        typer.echo(PHANTOM_NOTICE)


def _counts(search: StainSearch) -> list[str]:
    if search.stain == "mean":
        return ["mean", "", ""]
    return [search.stain, str(search.queries), str(search.gallery)]


def _cells(search: StainSearch) -> list[str]:
    found = [search.measures["centred"][name] for name in _SHORT]
    return [f"{m.value:.3f} ({m.ci95[0]:.2f}-{m.ci95[1]:.2f})" for m in found]


def _chances(search: StainSearch) -> list[str]:
    return [f"{search.measures['centred'][name].chance:.3f}" for name in _SHORT]


def _seen(found: EncoderSearch, report: CrossStainReport) -> str:
    return contamination(found.entry.card.training_cohorts, report.cohort.id)


def _warn(report: CrossStainReport) -> None:
    """Say which encoders were trained on the slides they are judged on, or may have been."""
    for word, means in (("contaminated", "was trained"), ("unknown", "may have been trained")):
        names = [f.entry.card.name for f in report.encoders if _seen(f, report) == word]
        if names:
            typer.echo(
                f"warning: {', '.join(names)} {means} on {report.cohort.id} itself; what it finds "
                "there says little of other slides",
                err=True,
            )

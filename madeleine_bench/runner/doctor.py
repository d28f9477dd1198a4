"""`mbench doctor`: an encoder examined on slides of cohorts, or this environment, as a report."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from madeleine_bench import __version__
from madeleine_bench.data.config import load_config
from madeleine_bench.embeddings.cloud import (
    LEAST_SLIDES,
    Rows,
    compare_halves,
    cosines,
    effective_rank,
    singular_values,
)
from madeleine_bench.embeddings.examination import Examination, examine_encoder
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.contract import Finding
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, load_encoder
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.figures import COLOURS
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import Report, Table
from madeleine_bench.runner.checks import check_bags
from madeleine_bench.runner.cohorts import open_cohort
from madeleine_bench.runner.environment import examine_environment
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import CohortData, Progress

_SHOWN = {"warn": "WARN", "fail": "FAIL"}
# It has sites, and its phantom needs no file.
DEFAULT_COHORT = "tcga-breast"
PHANTOM_NOTE = "PHANTOM: made-up slides; what is said of the site or the stain is of the phantom."


def environment_report(results: Path) -> Report:
    """Return what is found of this environment.

    Args:
        results: the results folder; it need not exist.

    Raises:
        InputError: there is a file where results are to go.
    """
    findings = examine_environment(results)
    document = {"findings": [asdict(finding) for finding in findings]}
    return _report("environment", document, [("Environment", findings)])


def encoder_report(
    workspace: Workspace, encoder: str, cohorts: Sequence[str], slides: int, progress: Progress
) -> Report:
    """Return what is found of an encoder on each cohort; see `examine`.

    Raises:
        InputError: as `examine`.
    """
    card = find_encoder(encoder).card
    parts, documents, charts = [], [], {}
    for examination in examine(workspace, encoder, cohorts, slides, progress):
        data, rows = examination.data, examination.rows
        cohort, phantom = data.cohort_id, data.source == "phantom"
        patches = list(rows.slides["patches"]) if rows else []
        title = f"{card.name} {card.revision} on {'PHANTOM ' * phantom}{cohort}"
        parts.append((title, examination.findings))
        documents.append(
            {
                "cohort": cohort,
                "phantom": phantom,
                "notice": PHANTOM_NOTE * phantom,
                "usable_slides": len(patches),
                "median_patches": float(np.median(patches)) if patches else None,
                "findings": [asdict(finding) for finding in examination.findings],
            }
        )
        if rows and len(patches) >= LEAST_SLIDES:
            charts[f"doctor-{cohort}"] = doctor_chart(rows, title)
    if len(parts) == 1 and charts:
        charts = {"doctor": charts.popitem()[1]}
    about = {"name": card.name, "revision": card.revision, "kind": card.kind}
    note = PHANTOM_NOTE * any(document["phantom"] for document in documents)
    return _report("encoder", {"encoder": about, "cohorts": documents}, parts, charts, note)


def _report(
    of: str,
    document: Mapping[str, Any],
    parts: Sequence[tuple[str, Sequence[Finding]]],
    charts: Mapping[str, Any] | None = None,
    note: str = "",
) -> Report:
    """Return a table of findings with its title for each part, and advice on what went wrong."""
    body: list[Table | str] = []
    lines = [f"# mbench doctor: {of}", *["", f"**{note}**"] * bool(note)]
    for title, findings in parts:
        verdicts = [finding.verdict for finding in findings]
        order = ("pass", "warn", "fail", "skipped")
        title += ": " + ", ".join(f"{verdicts.count(v)} {v}" for v in order if v in verdicts)
        rows = [[_SHOWN.get(f.verdict, f.verdict), f.check, f.found, f.threshold] for f in findings]
        wrong = [f for f in findings if f.verdict in _SHOWN]
        body.append(Table(title, ["verdict", "check", "found", "threshold"], rows))
        body += [f"{_SHOWN[f.verdict]} {f.check}: {f.advice}" for f in wrong]
        lines += ["", f"## {title}", "", *_markdown_table(findings)]
    body += [note] * bool(note)
    every = [finding for _, findings in parts for finding in findings]
    failed = dict.fromkeys(finding.check for finding in every if finding.verdict == "fail")
    seen = f"of {len(every)} checks these failed: {', '.join(failed)} (docs/doctor.md)"
    head = {
        "what": f"mbench doctor: {of}",
        "package": f"madeleine-bench {__version__}",
        "provenance": machine_provenance(),
    }
    texts = {"doctor.md": "\n".join(lines) + "\n"}
    problem = CheckFailed(seen) if failed else None
    return Report({**head, **document}, body, charts or {}, texts, problem)


def _markdown_table(findings: Sequence[Finding]) -> Iterator[str]:
    yield "| verdict | check | found | threshold | what to look at |"
    yield "|---|---|---|---|---|"
    for finding in findings:
        bad = finding.verdict in _SHOWN
        shown = f"**{finding.verdict}**" if bad else finding.verdict
        cells = [shown, finding.check, finding.found, finding.threshold, finding.advice * bad]
        # Errors of an encoder may hold anything; they stay in their cell.
        text = " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        yield f"| {text.replace('&', '&amp;').replace('<', '&lt;')} |"


def examine(
    workspace: Workspace, encoder: str, cohorts: Sequence[str], slides: int, progress: Progress
) -> list[Examination]:
    """Return what is found of an encoder on each cohort. Nothing is cached, no label is read.

    Args:
        workspace: where cohorts are.
        encoder: name, or path of a card.
        cohorts: ids; empty means those of mbench.toml, or the phantom of tcga-breast.
        slides: how many slides of each cohort are drawn.
        progress: told of each slide.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or bags that the encoder is not
            made for.
    """
    catalogue, config = workspace.tasks(), load_config(workspace.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    entry = find_encoder(encoder)
    if not cohorts and workspace.source != "phantom":
        cohorts = tuple(config.cohorts)
    opened = []
    for cohort_id in cohorts or (DEFAULT_COHORT,):
        if cohort_id not in catalogue.cohorts:
            hint = did_you_mean(cohort_id, list(catalogue.cohorts))
            raise InputError(f"no cohort is called '{cohort_id}'{hint} (mbench data status)")
        cohort = open_cohort(workspace, catalogue, cohort_id, config)
        if entry.card.phantom_only and cohort.data.source != "phantom":
            raise InputError(
                f"encoder {entry.card.name} reads what only phantom bags have, and {cohort_id} is "
                "read from files; take --source phantom"
            )
        check_bags([entry.card], cohort.data, cohort.where)
        opened.append(cohort.data)
    made = load_encoder(entry)
    on_device = _on_device(entry, made)
    with threadpool_limits(1):  # as embeddings are made for scores
        return [
            examine_encoder(made, data, draw_slides(data, slides), progress, on_device)
            for data in opened
        ]


def draw_slides(data: CohortData, count: int) -> list[str]:
    """Return slides of a cohort that have a bag, drawn at random, the same ones each time."""
    slide_ids = slides_with_bags(data)
    drawn = rng_for("doctor", data.cohort_id).permutation(len(slide_ids))[:count]
    return [slide_ids[row] for row in sorted(drawn.tolist())]


def _on_device(entry: EncoderEntry, encoder: SlideEncoder) -> Callable[[str], SlideEncoder] | None:
    """Return what makes the encoder again on a device, where its class can be told which."""
    if "device" not in inspect.signature(type(encoder)).parameters:
        return None

    def make(device: str) -> SlideEncoder:
        parameters = {**entry.card.parameters, "device": device}
        card = entry.card.model_copy(update={"parameters": parameters})
        return load_encoder(EncoderEntry(card, entry.path, entry.origin))

    return make


def doctor_chart(rows: Rows, title: str) -> Any:
    """Return the figure as an Altair chart: spectrum, cosines of slides and halves, and norms.

    Args:
        rows: usable embeddings, of several slides.
        title: names the encoder and the cohort, and says whether it is a phantom.
    """
    import altair as alt

    values = singular_values(rows.matrix)
    most = min(len(rows.matrix) - 1, rows.matrix.shape[1])
    shares = 100.0 * values[:most] / max(float(values.sum()), 1e-300)
    halves = compare_halves(rows)
    pairs = {
        "two slides": cosines(rows.matrix),
        "half and its slide": halves.same,
        "half and another slide": halves.others,
    }
    drawn = {kind: every[:: len(every) // 1000 + 1] for kind, every in pairs.items()}
    spectrum = alt.Chart(pd.DataFrame({"direction": np.arange(1, most + 1), "share": shares}))
    boxes = alt.Chart(
        pd.concat(pd.DataFrame({"pair": kind, "cosine": some}) for kind, some in drawn.items())
    )
    norm = np.linalg.norm(rows.matrix, axis=1)
    points = alt.Chart(rows.slides[["patches"]].assign(norm=norm))
    charts = {
        f"Singular values, effective rank {effective_rank(values):.1f} of {most}": (
            spectrum.mark_line(color=COLOURS[0], point=True).encode(
                alt.X("direction:Q", title="direction of the centred embeddings, largest first"),
                alt.Y("share:Q", title="share of the sum, %"),
            )
        ),
        f"Cosines; {halves.share:.0%} of halves are nearest to their own slide": (
            boxes.mark_boxplot(color=COLOURS[0], size=24).encode(
                alt.X("cosine:Q", title="cosine; of halves with the mean slide subtracted"),
                alt.Y("pair:N", title=None, sort=list(pairs)),
            )
        ),
        "Norm of the embedding by number of patches": (
            points.mark_point(filled=True, color=COLOURS[0]).encode(
                alt.X("patches:Q", title="patches (log)", scale=alt.Scale(type="log", nice=False)),
                alt.Y("norm:Q", title="norm"),
            )
        ),
    }
    panels = [
        chart.properties(title=heading, width=360, height=150) for heading, chart in charts.items()
    ]
    heading = alt.Title(f"{title}, {len(norm)} slides", anchor="start", offset=18)
    return alt.vconcat(*panels, title=heading, padding=18, background="white")

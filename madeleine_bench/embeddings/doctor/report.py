"""What the doctor found as numbers for a file, and as Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from madeleine_bench import __version__
from madeleine_bench.embeddings.doctor.checks import Finding
from madeleine_bench.embeddings.doctor.examine import Examination
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import CohortData

PHANTOM_NOTE = "PHANTOM: made-up slides; what is said of the site or the stain is of the phantom."


def environment_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what was found of the environment, ready for JSON."""
    return {**_head("environment"), "findings": [_plain(finding) for finding in findings]}


def encoder_document(
    card: EncoderCard, cohorts: Sequence[tuple[CohortData, Examination]]
) -> dict[str, Any]:
    """Return what was found of an encoder on each cohort, ready for JSON."""
    return {
        **_head("encoder"),
        "encoder": {"name": card.name, "revision": card.revision, "kind": card.kind},
        "cohorts": [_cohort(data, found) for data, found in cohorts],
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return a document as Markdown, ending in a newline."""
    return "\n".join(_lines(document)) + "\n"


def verdict_counts(findings: Sequence[Finding]) -> str:
    """Return how many checks ended how, such as "18 pass, 1 warn, 2 skipped".

    Examples:
        >>> found = [Finding("a", v, "", "", "") for v in ("pass", "fail", "pass")]
        >>> verdict_counts(found)
        '2 pass, 1 fail'
    """
    verdicts = [finding.verdict for finding in findings]
    order = ("pass", "warn", "fail", "skipped")
    return ", ".join(f"{verdicts.count(v)} {v}" for v in order if v in verdicts)


def _head(of: str) -> dict[str, Any]:
    return {
        "what": f"mbench doctor: {of}",
        "package": f"madeleine-bench {__version__}",
        "provenance": machine_provenance(),
    }


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON, which knows no infinity."""
    found = asdict(finding)
    number = finding.number
    found["number"] = None if number is None or not math.isfinite(number) else float(number)
    return found


def _cohort(data: CohortData, found: Examination) -> dict[str, Any]:
    phantom = data.source == "phantom"
    patches = [slide.patches for slide in found.rows.slides] if found.rows else []
    return {
        "cohort": data.cohort_id,
        "phantom": phantom,
        "notice": PHANTOM_NOTE if phantom else "",
        "usable_slides": len(patches),
        "median_patches": float(np.median(patches)) if patches else None,
        "findings": [_plain(finding) for finding in found.findings],
    }


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    if "findings" in document:
        yield "# Environment"
        yield ""
        yield from _table(document["findings"])
        return
    card = document["encoder"]
    yield f"# Encoder {card['name']} {card['revision']}"
    for cohort in document["cohorts"]:
        yield ""
        yield f"## {cohort['cohort']}, {cohort['usable_slides']} usable slides"
        yield ""
        if cohort["notice"]:
            yield f"**{cohort['notice']}**"
            yield ""
        yield from _table(cohort["findings"])


def _table(findings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| verdict | check | found | threshold | what to look at |"
    yield "|---|---|---|---|---|"
    for finding in findings:
        verdict = finding["verdict"]
        shown = f"**{verdict}**" if verdict in ("warn", "fail") else verdict
        advice = finding["look_at"] if verdict in ("warn", "fail") else ""
        cells = [shown, finding["check"], finding["found"], finding["threshold"], advice]
        yield "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Return text that stays in its cell: errors of an encoder may hold anything."""
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")

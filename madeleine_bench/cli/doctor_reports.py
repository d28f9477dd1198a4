"""What the doctor found: tables on screen, and files for a report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.embeddings.doctor.checks import Finding
from madeleine_bench.embeddings.doctor.environment import examine_environment
from madeleine_bench.embeddings.doctor.figure import doctor_chart
from madeleine_bench.embeddings.doctor.report import (
    PHANTOM_NOTE,
    as_markdown,
    encoder_document,
    environment_document,
    verdict_counts,
)
from madeleine_bench.embeddings.doctor.sample import LEAST_SLIDES
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.figures import styled_svg
from madeleine_bench.files import write_text
from madeleine_bench.runner.doctor import DoctorReport, DoctorRequest, examine


def report_environment(results: Path, out: Path | None) -> None:
    """Check the environment, print what was found, and write it to a folder.

    Raises:
        CheckFailed: a check failed.
        InputError: the folder cannot be written, or there is a file where results are to go.
    """
    if results.exists() and not results.is_dir():
        raise InputError(f"--results {results} is a file; name a folder, which need not be there")
    findings = examine_environment(results)
    _print(f"Environment: {verdict_counts(findings)}", findings)
    if out is not None:
        _write(environment_document(findings), out)
    _require_sound([f.check for f in findings if f.verdict == "fail"], len(findings))


def report_encoder(request: DoctorRequest, out: Path | None) -> None:
    """Examine an encoder, print what was found, and write it and a figure to a folder.

    Raises:
        CheckFailed: a check failed.
        InputError: the request cannot be carried out, or the folder cannot be written.
    """
    with LiveProgress() as progress:
        report = examine(request, progress)
    card = report.entry.card
    for cohort in report.cohorts:
        phantom = "PHANTOM " if cohort.data.source == "phantom" else ""
        findings = cohort.examination.findings
        title = f"{card.name} {card.revision} on {phantom}{cohort.data.cohort_id}"
        _print(f"{title}: {verdict_counts(findings)}", findings)
    if any(cohort.data.source == "phantom" for cohort in report.cohorts):
        typer.echo(PHANTOM_NOTE)
    if out is not None:
        pairs = [(cohort.data, cohort.examination) for cohort in report.cohorts]
        _write(encoder_document(card, pairs), out)
        _write_figures(report, out)
    total = sum(len(cohort.examination.findings) for cohort in report.cohorts)
    _require_sound(report.failed, total)


def _print(title: str, findings: Sequence[Finding]) -> None:
    rows = [[_shown(f.verdict), f.check, f.found, f.threshold] for f in findings]
    print_table(title, ["verdict", "check", "found", "threshold"], rows)
    for finding in findings:
        if finding.verdict in ("warn", "fail"):
            typer.echo(f"{_shown(finding.verdict)} {finding.check}: {finding.look_at}")


def _shown(verdict: str) -> str:
    return verdict.upper() if verdict in ("warn", "fail") else verdict


def _write(document: Mapping[str, Any], out: Path) -> None:
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_text(out / "doctor.json", text)
    write_text(out / "doctor.md", as_markdown(document))
    typer.echo(f"report in {out}", err=True)


def _write_figures(report: DoctorReport, out: Path) -> None:
    for cohort in report.cohorts:
        rows = cohort.examination.rows
        if rows is None or len(rows.slides) < LEAST_SLIDES:
            continue
        cohort_id, phantom = cohort.data.cohort_id, cohort.data.source == "phantom"
        stem = "doctor" if len(report.cohorts) == 1 else f"doctor-{cohort_id}"
        title = f"{report.entry.card.name} on {cohort_id}"
        write_text(out / f"{stem}.svg", styled_svg(doctor_chart(rows, title, phantom=phantom)))


def _require_sound(failed: Sequence[str], total: int) -> None:
    if failed:
        raise CheckFailed(f"of {total} checks these failed: {', '.join(failed)} (docs/doctor.md)")

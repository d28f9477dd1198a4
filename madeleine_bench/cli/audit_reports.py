"""What `mbench audit` prints: a row for each task, then what was found."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.errors import CheckFailed
from madeleine_bench.files import write_text
from madeleine_bench.runner.audit import AuditRequest, TaskAudit, audit_tasks

_SHOWN = 12


def report_audit(request: AuditRequest, out: Path | None) -> None:
    """Print the audit of tasks, and write it as JSON where asked.

    Raises:
        InputError: the request names nothing, or a file cannot be written.
        CheckFailed: there is an error among the findings.
    """
    with LiveProgress() as progress:
        audits = audit_tasks(request, progress)
    if out is not None:
        write_text(out, json.dumps(audit_document(audits), indent=1, sort_keys=True) + "\n")
    print_table("", _HEADER, [_row(audit) for audit in audits])
    rows = [row for audit in audits for row in _findings(audit)]
    if rows:
        typer.echo()
        print_table("", ["level", "task", "kind", "what was found", "what to do"], rows)
    wrong = [audit.task for audit in audits if audit.count("error")]
    if wrong:
        count = sum(audit.count("error") for audit in audits)
        raise CheckFailed(f"{count} error(s) in {len(wrong)} of {len(audits)} task(s)")


def audit_document(audits: Sequence[TaskAudit]) -> dict[str, Any]:
    """Return audits as JSON values: findings counted by level, and each task with its own."""
    return {
        "errors": sum(audit.count("error") for audit in audits),
        "warnings": sum(audit.count("warning") for audit in audits),
        "notes": sum(audit.count("note") for audit in audits),
        "tasks": [asdict(audit) for audit in audits],
    }


_HEADER = ["task", "board", "units", "cases", "splits", "errors", "warnings", "notes"]


def _row(audit: TaskAudit) -> list[str]:
    counts = [str(audit.count(level)) for level in ("error", "warning", "note")]
    size = [str(audit.units), str(audit.cases)] if audit.units else ["", ""]
    return [audit.task, audit.board, *size, ", ".join(audit.splits), *counts]


def _findings(audit: TaskAudit) -> list[list[str]]:
    """Return the rows of a task's first findings, and how many more there are."""
    rows = [[f.level, audit.task, f.kind, f.message, f.advice] for f in audit.findings[:_SHOWN]]
    more = len(audit.findings) - _SHOWN
    if more > 0:
        rows.append(["", audit.task, "", f"and {more} more (--json FILE has all)", ""])
    return rows

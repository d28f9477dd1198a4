"""One pass of the regression gate: score the suite, compare, report, and renew the baseline.

The committed baseline is a results folder and the golden values.

records/  predictions/   as in any results folder, one record a cell
cells.json               record id of each cell, so that a record that was deleted is missed
scorers.json             golden values of the protocols
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from madeleine_bench.errors import CheckFailed, InputError, MbenchError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.leaderboard.regression import (
    EXPLAINABLE,
    VERDICTS,
    Explanations,
    RegressionCheck,
    RegressionFinding,
    SuiteCell,
    SuiteRun,
    SuiteSpec,
    cells_of,
    compare,
    read_explanations,
    read_suite,
    records_by_cell,
)
from madeleine_bench.leaderboard.regression_golden import (
    SCORERS_FILE,
    Golden,
    golden_cases,
    golden_text,
    judge_scorers,
    read_golden,
)
from madeleine_bench.report import Report, Table
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.workspace import Workspace

CELLS_FILE = "cells.json"
# What helps to understand other bytes. Nothing that names a machine, a person or a folder.
_PROVENANCE = ("created", "python", "packages", "blas", "cpu", "threads", "commit", "dirty")
_KEPT = ("same", "noise")
# Scores one run of a suite again; returns what failed ("encoder on task or cohort") and why.
Score = Callable[[SuiteSpec, SuiteRun], Sequence[tuple[str, str]]]


def regress(
    workspace: Workspace,
    suite_path: Path | None = None,
    baseline: Path | None = None,
    score: Score | None = None,
    update: bool = False,
) -> Report:
    """Return what changed since a baseline.

    Nothing is taken from an earlier run: what a run reuses is found by its inputs, and a change of
    the code that scores is none of them.

    Args:
        workspace: where results are made, with the catalogue.
        suite_path: what is scored; None takes the suite that ships.
        baseline: what it is compared with; None takes "baseline" beside the suite.
        score: scores a run of the suite again; None judges the records that are there.
        update: renew the baseline with all that is explained.

    Raises:
        InputError: suite, baseline or results cannot be used.
    """
    path = suite_path or resource_folder("leaderboard") / "regression" / "suite.yaml"
    folder, reasons = baseline or path.parent / "baseline", path.parent / "explanations.yaml"
    suite, catalogue = read_suite(path), workspace.tasks()
    explanations, cells = read_explanations(reasons), cells_of(suite, catalogue)
    exists = (folder / "records").is_dir()
    if not exists and not update:
        raise InputError(f"there is no baseline in {folder}; make it: mbench regress --update")
    golden = (read_golden(folder / SCORERS_FILE) if exists else {}, golden_cases(catalogue))
    since = datetime.now(UTC).isoformat(timespec="microseconds") if score else ""
    failed = dict(line for run in suite.runs for line in score(suite, run)) if score else {}
    old, current = ResultStore(folder), ResultStore(workspace.results)
    failures = {
        cell: why
        for cell in cells
        for place in (catalogue.tasks[cell.task].cohort, catalogue.tasks[cell.task].name)
        if (why := failed.get(f"{cell.encoder} on {place}"))  # a cohort fails as a whole
    }
    listed = listed_cells(folder)
    check = RegressionCheck(old, current, catalogue, cells, suite.source, listed, failures, since)
    results = [*judge_scorers(*golden), *compare(check)]
    findings = in_order(explain(results, explanations, cells))
    body: list[Table | str] = [_table(suite, findings)]
    problem: MbenchError | None = None
    try:
        if update:
            check_renewable(findings, reasons)
            count = renew(folder, findings, old, current, golden, suite.source)
            body.append(f"baseline {folder}: {count} cells renewed, the rest kept")
        else:
            bad = [finding for finding in findings if not finding.passes]
            _refuse(f"regression gate failed: {count_words(findings)}", bad, reasons)
            body.append(f"regression gate passed: {count_words(findings)}")
    except MbenchError as error:
        problem = error
    return Report(document(suite.id, suite.source, findings), body, problem=problem)


def explain(
    findings: Sequence[RegressionFinding], explanations: Explanations, cells: frozenset[SuiteCell]
) -> list[RegressionFinding]:
    """Return the findings with the reasons that somebody gave.

    A cell that the suite asks for and that has no record cannot be explained.
    """
    explained = []
    for finding in findings:
        due = finding.verdict == "missing" and (finding.subject, *finding.case.split(" ")) in cells
        explainable = finding.verdict in EXPLAINABLE and not due
        reasons = [e.reason for e in explanations.explained if explainable and e.covers(finding)]
        explained.append(replace(finding, explained=reasons[0] if reasons else ""))
    return explained


def in_order(findings: Sequence[RegressionFinding]) -> list[RegressionFinding]:
    """Return the findings with the worst first; within a verdict by name."""
    return sorted(findings, key=lambda f: (VERDICTS.index(f.verdict), f.name))


def count_words(findings: Sequence[RegressionFinding]) -> str:
    """Return how many findings there are of each verdict, such as "2 regressed, 22 same"."""
    counts = [(word, sum(f.verdict == word for f in findings)) for word in VERDICTS]
    return ", ".join(f"{count} {word}" for word, count in counts if count)


def document(suite: str, board: str, findings: Sequence[RegressionFinding]) -> dict[str, Any]:
    """Return the findings with every number, and whether the gate passes, ready for JSON."""
    return {
        "schema_version": 1,
        "suite": suite,
        "board": board,
        "phantom": board.startswith("phantom"),
        "passed": all(finding.passes for finding in findings),
        "counts": {word: sum(f.verdict == word for f in findings) for word in VERDICTS},
        "findings": [{**asdict(finding), "passes": finding.passes} for finding in findings],
    }


def listed_cells(folder: Path) -> dict[SuiteCell, str]:
    """Return the record id of each cell that a baseline held when it was written.

    A results folder that was never renewed by the gate lists none.

    Raises:
        InputError: the list is broken.
    """
    path = folder / CELLS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {SuiteCell(*name.split(" ")): str(record) for name, record in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a readable list of cells ({error}); restore it from version control"
        ) from error


def check_renewable(findings: Sequence[RegressionFinding], explanations: Path) -> None:
    """Check that every change is wanted: passing, or explained.

    Raises:
        CheckFailed: some are not; each is named.
    """
    blocked = [
        f for f in findings if not f.passes and not (f.verdict in EXPLAINABLE and f.explained)
    ]
    count = f"{len(blocked)} cells changed without an explanation"
    _refuse(f"the baseline stays as it is: {count}", blocked, explanations)


def renew(
    folder: Path,
    findings: Sequence[RegressionFinding],
    old: ResultStore,
    current: ResultStore,
    golden: tuple[Golden, Golden],
    board: str,
) -> int:
    """Put changed cells in the place of the old ones in a baseline; return how many changed.

    Cells that are the same, or moved within noise, keep their old record: so a slow drift is
    always measured from where it began, and a renewal touches only the files that it must.

    Args:
        folder: the baseline.
        findings: of every cell.
        old: the baseline so far.
        current: the results to take changed cells from.
        golden: golden values so far, and now.
        board: the board of the cells.

    Raises:
        InputError: new predictions are gone or were altered, or the folder cannot be written.
    """
    changed = [finding for finding in findings if finding.verdict not in _KEPT]
    if not changed:
        return 0
    new_ids = {finding.current_id for finding in changed}
    new = [record for record in current.records() if record.record_id in new_ids]
    for record in new:
        current.read_predictions(record)  # checks that they are there and are the record's own
    old_ids = {finding.baseline_id for finding in changed}
    replaced = [(path, record) for path, record in old.located() if record.record_id in old_ids]
    for record in new:
        _copy_record(record, current, old)
    kept = {record.predictions.path for record in new}
    for path, record in replaced:
        path.unlink()
        if record.predictions.path not in kept:
            (folder / record.predictions.path).unlink(missing_ok=True)
    cells = {" ".join(cell): r.record_id for cell, r in records_by_cell(old, board).items()}
    write_text(folder / CELLS_FILE, json.dumps(cells, indent=1, sort_keys=True) + "\n")
    keys = {f"{finding.subject} {finding.case.removesuffix(' labels')}" for finding in changed}
    sides = [(golden[0], golden[0].keys() - keys), (golden[1], golden[1].keys() & keys)]
    cases = {key: values[key] for values, of in sides for key in of}
    write_text(folder / SCORERS_FILE, golden_text(cases))
    return len(changed)


def _table(suite: SuiteSpec, findings: Sequence[RegressionFinding]) -> Table:
    title = f"Regression gate '{suite.id}'{' (PHANTOM)' if suite.source == 'phantom' else ''}"
    rows = [
        [
            finding.verdict if finding.passes else finding.verdict.upper(),
            finding.subject,
            finding.case,
            "-" if finding.baseline is None else f"{finding.baseline:.4f}",
            "-" if finding.current is None else f"{finding.current:.4f}",
            "-" if finding.difference is None else f"{finding.difference:+.4f}",
            finding.why + (f"; explained: {finding.explained}" if finding.explained else ""),
        ]
        for finding in findings
    ]
    return Table(title, ["verdict", "", "case", "baseline", "now", "difference", "why"], rows)


def _refuse(headline: str, bad: Sequence[RegressionFinding], explanations: Path) -> None:
    """Raise what is bad, if anything is, each with its place, and what to do about it."""
    if not bad:
        return
    lines = [headline]
    for f in bad:
        place = f" (baseline {f.baseline_id[:12]})" if f.baseline_id else ""
        lines.append(f"  {f.verdict} {f.name}{place}: {f.why}")
    lines.append("repair the change, or give the task, protocol or scoring a new version")
    if any(f.verdict in EXPLAINABLE for f in bad):
        lines[-1] += (
            f"; what is intended, explain in {explanations}, then mbench regress --update "
            "(docs/regression.md); a cell that failed, or was not scored, cannot be explained"
        )
    raise CheckFailed("\n".join(lines))


def _copy_record(record: Record, source: ResultStore, target: ResultStore) -> None:
    path = record.predictions.path
    write_bytes(target.folder / path, (source.folder / path).read_bytes())
    provenance = {k: record.provenance[k] for k in _PROVENANCE if k in record.provenance}
    content = record.model_dump(mode="json", exclude={"record_id"})
    target.write_record({**content, "provenance": provenance})

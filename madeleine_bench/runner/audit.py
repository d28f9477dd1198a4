"""The audit of tasks: everything that can be known to be wrong before anything is computed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from madeleine_bench.data.audit import (
    AuditFinding,
    Level,
    Scheme,
    audit_splits,
    finding,
)
from madeleine_bench.data.audit_cohort import (
    audit_coverage,
    audit_slides,
    audit_times,
    audit_values,
)
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.splits import FoundSplits, find_splits, read_frozen, scheme_of
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.report import Report, Table
from madeleine_bench.runner.cohorts import OpenCohort, board_of, open_cohort
from madeleine_bench.runner.plan import assess, task_and_training
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Progress, Silence, Units

_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_SHOWN = 12
# What is known of a task before it is scored, ready for JSON: its versioned name, the board where
# its records would belong ("" where its cohort cannot be opened), how many units it scores and of
# how many cases, its kinds of splits with their states, and what is wrong, errors first.
Audit = dict[str, Any]


def audit_tasks(
    workspace: Workspace,
    tasks: Sequence[str] = (),
    progress: Progress | None = None,
    protocols: Sequence[str] = (),
) -> Report:
    """Return what is wrong with tasks; the problem of the report says how many errors there are.

    Args:
        workspace: where cohorts, catalogue, frozen splits and remembered hashes lie.
        tasks: ids, globs or "all"; empty means the tasks of the configured cohorts, or, where
            none is configured, all.
        progress: is told of each task.
        protocols: names or globs of those whose splits are audited; empty means those that each
            task declares.

    Raises:
        InputError: an unknown name, no task that the protocols score, a broken configuration, or a
            cohort that is nowhere.
    """
    audits = list(_audits(workspace, tasks, progress or Silence(), protocols))
    counts = {level: [_count(audit, level) for audit in audits] for level in _LEVELS}
    header = ["task", "board", "units", "cases", "splits", *(f"{level}s" for level in _LEVELS)]
    rows = [
        [*(str(audit[name] or "") for name in header[:4]), ", ".join(audit["splits"])]
        + [str(_count(audit, level)) for level in _LEVELS]
        for audit in audits
    ]
    body: list[Table | str] = [Table("", header, rows)]
    if any(audit["findings"] for audit in audits):
        lines: list[list[str]] = []
        for audit in audits:
            for each in audit["findings"][:_SHOWN]:
                lines.append([each.level, audit["task"], each.kind, each.message, each.advice])
            if (more := len(audit["findings"]) - _SHOWN) > 0:
                lines.append(["", audit["task"], "", f"and {more} more (--json FILE has all)", ""])
        body += ["", Table("", ["level", "task", "kind", "what was found", "what to do"], lines)]
    document: dict[str, Any] = {f"{level}s": sum(counts[level]) for level in _LEVELS}
    document["tasks"] = [
        {**audit, "findings": [asdict(each) for each in audit["findings"]]} for audit in audits
    ]
    wrong = np.count_nonzero(counts["error"])
    failed = CheckFailed(f"{document['errors']} error(s) in {wrong} of {len(audits)} task(s)")
    return Report(document, body, problem=failed if wrong else None)


def _count(audit: Audit, level: Level) -> int:
    return sum(each.level == level for each in audit["findings"])


def _audits(
    workspace: Workspace, tasks: Sequence[str], progress: Progress, protocols: Sequence[str]
) -> Iterator[Audit]:
    """Yield the audit of each task, by name; see `audit_tasks`."""
    catalogue, config = workspace.open()
    if not tasks and workspace.source != "phantom":
        tasks = [task.id for task in catalogue.tasks.values() if task.cohort in config.cohorts]
    chosen = catalogue.select(tasks or ["all"])
    asked = catalogue.select_protocols(protocols)
    faults = [misfit(task, protocol) for task in chosen for protocol in asked]
    if faults and all(faults):
        raise InputError(f"--protocol: {faults[0]}")
    cohorts: dict[str, OpenCohort] = {}
    progress.phase("audit", len(chosen))
    for declared in chosen:
        try:
            for cohort_id in catalogue.cohorts_of(declared):
                if cohort_id not in cohorts:
                    opened = open_cohort(workspace, catalogue, cohort_id, config)
                    _ = opened.data.no_bag  # reads the header of every file
                    cohorts[cohort_id] = opened
            cohort = cohorts[declared.cohort]
            if declared.train_on is None:
                audit = audit_task(cohort, declared, catalogue, config, workspace, asked)
            else:
                task, training = task_and_training(declared, catalogue, cohorts)
                # Raises where a run would.
                assess(cohort, task, [], config, workspace.results, training=training)
                units = build_units(task, cohort.data, cohort.where)
                audit = _audit(task, board_of(cohort.data), units, ["external"], [])
        except InputError as error:
            if declared.cohort not in config.cohorts:
                raise
            audit = _audit(declared, "", None, [], [finding("error", "unusable", str(error))])
        yield audit
        progress.advance(declared.id)


def _audit(
    task: TaskSpec,
    board: str,
    units: Units | None,
    splits: Sequence[str],
    findings: Iterable[AuditFinding],
) -> Audit:
    return {
        "task": task.name,
        "board": board,
        "units": 0 if units is None else len(units.table),
        "cases": 0 if units is None else units.table["case_id"].nunique(),
        "splits": splits,
        "findings": sorted(dict.fromkeys(findings), key=lambda each: _LEVELS.index(each.level)),
    }


def audit_task(
    cohort: OpenCohort,
    declared: TaskSpec,
    catalogue: Catalogue,
    config: Config,
    workspace: Workspace,
    protocols: Sequence[ProtocolSpec] = (),
) -> Audit:
    """Return the audit of a task of an open cohort; nothing is written but remembered hashes.

    Args:
        cohort: the cohort.
        declared: the task of the catalogue.
        catalogue: has the protocols.
        config: names the split file of the task, if any.
        workspace: where frozen splits lie.
        protocols: whose splits are audited, where they score the task; empty takes those that it
            declares.
    """
    data, task = cohort.data, cohort.task(declared)
    board = board_of(data)
    folder = workspace.results / "splits" / board
    try:
        units = build_units(task, data, cohort.where)
    except InputError as error:
        return _audit(task, board, None, [], [finding("error", "unusable", str(error))])
    findings = [*audit_times(task, units), *audit_values(task, units)]
    local = isinstance(data, LocalCohort)
    used: dict[Path, tuple[FoundSplits, Scheme]] = {}
    for protocol in protocols or [catalogue.protocols[name] for name in task.protocols]:
        if fault := misfit(task, protocol):
            findings.append(finding("note", "not-scored", fault, "its splits are not audited"))
            continue
        given = config.splits_of(task) if local else None
        try:
            located = find_splits(folder, task, protocol, units, given)
        except InputError as error:
            findings.append(finding("error", "unusable", str(error)))
            continue
        used[located.path] = located, scheme_of(task, protocol)
    for located, scheme in used.values():
        findings += audit_splits(located.splits, units, scheme)
        findings += _changed(located)
    divided = [(located.splits, scheme) for located, scheme in used.values()]
    findings += audit_slides(data, units, divided)
    if local:
        findings += audit_coverage(task, data, units)
    states = [
        f"{'draws' if scheme == 'few-shot' else 'folds'} ({located.state})"
        for located, scheme in used.values()
    ]
    return _audit(task, board, units, states, findings)


def _changed(located: FoundSplits) -> list[AuditFinding]:
    """Return that a frozen file is another than today's: changed since, or of another release."""
    if located.state != "changed":
        return []
    try:
        read_frozen(located.path)
    except InputError as error:
        return [finding("error", "changed", str(error), "a run refuses it as well")]
    message = f"{located.path} differs from what these units are divided into today"
    advice = "another release froze it; it is used as it is, and no other one may be compared"
    return [finding("warning", "changed", message, advice)]

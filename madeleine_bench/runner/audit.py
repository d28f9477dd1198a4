"""The audit of tasks: everything that can be known to be wrong before anything is computed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, fisher_exact

from madeleine_bench.data.audit import (
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    audit_splits,
    finding,
    fold_name,
    has_outcomes,
    outcome_counts,
    outcome_of,
)
from madeleine_bench.data.audit_cohort import (
    audit_coverage,
    audit_labels,
    audit_slides,
    audit_times,
    audit_values,
    unit_sites,
)
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.site_folds import NEAR, balanced_folds, fold_deviation, linked_groups
from madeleine_bench.data.splits import FoundSplits, find_splits, read_frozen, scheme_of
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.report import Report, Table
from madeleine_bench.resources import resource_folder
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.lock import Lock, lock_entry, moved_parts, read_lock
from madeleine_bench.runner.plan import board_of
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.paired import holm
from madeleine_bench.types import Progress, Silence, Splits, Units

FEW_UNITS = 5
FEW_EVENTS = 10
DRIFT = 0.05
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_SHOWN = 12


@dataclass(frozen=True)
class TaskAudit:
    """What is known of a task before it is scored.

    Attributes:
        task: its versioned name.
        board: where its records would belong; "" where its cohort cannot be opened.
        units: how many it scores.
        cases: how many cases these are of.
        splits: its kinds of splits, each with its state, such as "folds (frozen)".
        findings: what is wrong or doubtful, errors first.
    """

    task: str
    board: str
    units: int
    cases: int
    splits: tuple[str, ...]
    findings: tuple[AuditFinding, ...]


def audit_tasks(
    workspace: Workspace, tasks: Sequence[str] = (), progress: Progress | None = None
) -> Report:
    """Return what is wrong with tasks; the problem of the report says how many errors there are.

    Args:
        workspace: where cohorts, catalogue, frozen splits and remembered hashes lie.
        tasks: ids, globs or "all"; empty means the tasks of the configured cohorts, or, where
            none is configured, all.
        progress: is told of each task.

    Raises:
        InputError: an unknown name, a broken configuration, or a cohort that is nowhere.
    """
    audits = _audits(workspace, tasks, progress or Silence())
    counts = np.array(
        [[sum(f.level == level for f in audit.findings) for level in _LEVELS] for audit in audits]
    ).reshape(-1, len(_LEVELS))
    rows = [
        [
            audit.task,
            audit.board,
            *([str(audit.units), str(audit.cases)] if audit.units else ["", ""]),
            ", ".join(audit.splits),
            *map(str, numbers),
        ]
        for audit, numbers in zip(audits, counts, strict=True)
    ]
    header = ["task", "board", "units", "cases", "splits", *(f"{level}s" for level in _LEVELS)]
    body: list[Table | str] = [Table("", header, rows)]
    if any(audit.findings for audit in audits):
        lines: list[list[str]] = []
        for audit in audits:
            for each in audit.findings[:_SHOWN]:
                lines.append([each.level, audit.task, each.kind, each.message, each.advice])
            if (more := len(audit.findings) - _SHOWN) > 0:
                lines.append(["", audit.task, "", f"and {more} more (--json FILE has all)", ""])
        body += ["", Table("", ["level", "task", "kind", "what was found", "what to do"], lines)]
    document: dict[str, Any] = dict(zip(header[-3:], counts.sum(axis=0).tolist(), strict=True))
    document["tasks"] = [asdict(audit) for audit in audits]
    wrong = np.count_nonzero(counts[:, 0])
    failed = CheckFailed(f"{document['errors']} error(s) in {wrong} of {len(audits)} task(s)")
    return Report(document, body, problem=failed if wrong else None)


def _audits(workspace: Workspace, tasks: Sequence[str], progress: Progress) -> list[TaskAudit]:
    """Return the audit of each task, by name; see `audit_tasks`."""
    catalogue, config = workspace.open()
    if not tasks and workspace.source != "phantom":
        tasks = [task.id for task in catalogue.tasks.values() if task.cohort in config.cohorts]
    chosen = catalogue.select(tasks or ["all"])
    path = (workspace.catalogue or resource_folder("tasks")) / "tasks.lock"
    lock = read_lock(path) if path.is_file() else {}
    cohorts: dict[str, OpenCohort | str] = {}
    audits = []
    progress.phase("audit", len(chosen))
    for declared in chosen:
        if declared.cohort not in cohorts:
            try:
                opened = open_cohort(workspace, catalogue, declared.cohort, config)
                _ = opened.data.no_bag  # reads the header of every file
                cohorts[declared.cohort] = opened
            except InputError as error:
                if declared.cohort not in config.cohorts:
                    raise
                cohorts[declared.cohort] = str(error)
        cohort = cohorts[declared.cohort]
        if isinstance(cohort, str):
            unusable = finding("error", "unusable", cohort)
            audits.append(TaskAudit(declared.name, "", 0, 0, (), (unusable,)))
        else:
            task = cohort.task(declared)
            folder = workspace.results / "splits" / board_of(cohort.data)
            audits.append(audit_task(cohort, task, catalogue, config, folder, lock))
        progress.advance(declared.id)
    return audits


def audit_task(
    cohort: OpenCohort,
    task: TaskSpec,
    catalogue: Catalogue,
    config: Config,
    folder: Path,
    lock: Lock,
) -> TaskAudit:
    """Return the audit of a task of an open cohort; nothing is written but remembered hashes.

    Args:
        cohort: the cohort.
        task: the task, with the label words of the cohort.
        catalogue: has the protocols.
        config: names the split file of the task, if any.
        folder: where frozen splits lie.
        lock: what phantoms are held against.
    """
    data = cohort.data
    board = board_of(data)
    units, findings = _units(task, cohort)
    if units is None:
        return TaskAudit(task.name, board, 0, 0, (), tuple(findings))
    findings += [*audit_times(task, units), *audit_values(task, units)]
    local = isinstance(data, LocalCohort)
    used: dict[Path, tuple[FoundSplits, Scheme]] = {}
    for name in task.protocols:
        protocol = catalogue.protocols[name]
        given = config.splits_of(task) if local else None
        try:
            located = find_splits(folder, task, protocol, units, given)
        except InputError as error:
            findings.append(finding("error", "unusable", str(error)))
            continue
        used[located.path] = located, scheme_of(task, protocol)
        if board == "phantom" and not local:
            now = lock_entry(task, protocol, units, located.splits)
            if parts := moved_parts(now, lock.get(task.name, {}).get(name, now)):
                message = f"{name}: {', '.join(parts)} differ from tasks.lock"
                findings.append(finding("error", "lock", message))
    for located, scheme in used.values():
        findings += audit_splits(located.splits, units, scheme)
        findings += audit_balance(located.splits, units)
        findings += _changed(located)
        if scheme in SITES_WHOLE:
            findings += _against_optimum(located.splits, units, cohort)
    divided = [(located.splits, scheme) for located, scheme in used.values()]
    findings += audit_slides(data, units, divided)
    if local:
        findings += audit_coverage(task, data, units)
    findings = sorted(dict.fromkeys(findings), key=lambda each: _LEVELS.index(each.level))
    states = tuple(
        f"{'draws' if scheme == 'few-shot' else 'folds'} ({located.state})"
        for located, scheme in used.values()
    )
    cases = units.table["case_id"].nunique()
    return TaskAudit(task.name, board, len(units.table), cases, states, tuple(findings))


def audit_balance(splits: Splits, units: Units) -> list[AuditFinding]:
    """Return which classes folds test few units of, and which folds differ from the others.

    Both compare the test units of folds; few-shot draws are unequal by design and have no finding.

    A fold's class counts are held against those of all other units, by Fisher's exact test for two
    classes and a chi-square test for more, with Holm's correction over the folds. Units are taken
    as independent, which slides of one case are not: a warning, never an error.

    References:
        Fisher, The logic of inductive inference, J. Roy. Statist. Soc. 98 (1935).
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    if splits.key_names[0] == "shots" or not has_outcomes(units):
        return []
    names, others, tested = outcome_counts(splits, units)
    places = [fold_name(splits, split) for split in splits]
    of_class = "label" in units.table
    least, unit = (FEW_UNITS, "unit") if of_class else (FEW_EVENTS, "event")
    findings = []
    for name, counts in zip(names, tested.T, strict=True):
        # None at all is a finding of its own; those without an event are never few.
        few = (counts > 0) & (counts < least)
        if few.any() and (of_class or name == "True"):
            fold = int(np.flatnonzero(few)[counts[few].argmin()])
            message = (
                f"{f'class {name!r}' if of_class else 'events'}: fewer than {least} to test on in "
                f"{int(few.sum())} of {len(places)} folds, fewest in {places[fold]} "
                f"({counts[fold]} {unit}(s))"
            )
            findings.append(finding("note", "few-units", message, fold=places[fold]))
    p_values = holm([_p_value(np.stack(pair)) for pair in zip(tested, others, strict=True)])
    test = "Fisher's exact test" if len(names) == 2 else "chi-square test"
    for fold in (number for number, p_value in enumerate(p_values) if p_value < DRIFT):
        here, there = (counts[fold] / counts[fold].sum() for counts in (tested, others))
        most = 1 if len(names) == 2 else int(np.abs(here - there).argmax())
        message = (
            f"{places[fold]}: {tested[fold, most]} of {tested[fold].sum()} test units are "
            f"{f'of class {names[most]!r}' if of_class else 'events'} ({here[most]:.1%}), of all "
            f"others {there[most]:.1%} ({test}, p = {p_values[fold]:.2g} after Holm's correction "
            f"for {len(places)} folds)"
        )
        findings.append(finding("warning", "prevalence", message, fold=places[fold]))
    return findings


def _p_value(table: NDArray[np.intp]) -> float:
    """Return the p-value of equal class shares among the units of two rows."""
    if not table.any(axis=1).all() or table.shape[1] < 2:
        return 1.0
    test = fisher_exact if table.shape[1] == 2 else chi2_contingency
    return float(test(table)[1])


def _units(task: TaskSpec, cohort: OpenCohort) -> tuple[Units | None, list[AuditFinding]]:
    """Return the units of a task, or None, and what is wrong with their labels."""
    try:
        units = build_units(task, cohort.data, cohort.where)
    except InputError as error:
        by_slide = task.model_copy(update={"unit": "slide"})
        try:
            conflicts = audit_labels(build_units(by_slide, cohort.data, cohort.where), by_case=True)
        except InputError:  # the same fault as of the cases
            conflicts = []
        return None, conflicts or [finding("error", "unusable", str(error))]
    return units, audit_labels(units, by_case=False) if task.unit == "slide" else []


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


def _against_optimum(splits: Splits, units: Units, cohort: OpenCohort) -> list[AuditFinding]:
    """Return how far folds are from the nearest to proportional that keep sites whole.

    Said only where a class is more than `NEAR` units from its share.
    """
    outcome = outcome_of(units)
    folds = [split.test for split in splits if split.key[0] == splits.splits[0].key[0]]
    fold = np.zeros(len(outcome), dtype=np.intp)
    fold[np.concatenate(folds)] = np.repeat(np.arange(len(folds)), [len(rows) for rows in folds])
    reached, _ = fold_deviation(outcome, fold, len(folds))
    if reached <= NEAR:
        return []
    rows, sites = unit_sites(units, cohort.data)
    cases, ids = (units.table[name].to_numpy(dtype=str) for name in ("case_id", "unit_id"))
    groups = linked_groups(cases[rows], sites, ids[rows])
    try:
        best = balanced_folds(outcome, groups, ids, len(folds))[1]
    except InputError:
        return []  # too few sites or units of a class, which the folds themselves show
    findings = []
    if best.deviation < reached:
        message = (
            f"a class is {reached:.1f} units from its share of a fold; with other folds that keep "
            f"sites whole, {best.verdict}"
        )
        advice = "mbench data split makes such folds; scores on them are not those on these"
        findings.append(finding("note", "balance", message, advice))
    advice = "fewer folds have larger shares"
    return findings + [finding("note", "balance", line, advice) for line in best.large]

"""The audit of tasks: everything that can be known to be wrong before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, fisher_exact

from madeleine_bench.data.audit import (
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    audit_splits,
    fold_name,
    outcome_counts,
    outcome_of,
)
from madeleine_bench.data.audit_cohort import (
    audit_contents,
    audit_coverage,
    audit_ids,
    audit_labels,
    audit_slide_sites,
    audit_times,
    unit_sites,
)
from madeleine_bench.data.config import Config, load_config
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.site_folds import NEAR, balanced_folds, fold_deviation, linked_groups
from madeleine_bench.data.splits import FoundSplits, find_splits, read_frozen, scheme_of
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.report import Report, Table
from madeleine_bench.resources import resource_folder
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.lock import Lock, read_lock
from madeleine_bench.runner.plan import board_of
from madeleine_bench.specs.catalogue import Catalogue, task_hash
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
    counts = {
        level: [sum(finding.level == level for finding in audit.findings) for audit in audits]
        for level in _LEVELS
    }
    rows = [
        [
            audit.task,
            audit.board,
            *([str(audit.units), str(audit.cases)] if audit.units else ["", ""]),
            ", ".join(audit.splits),
            *(str(counts[level][number]) for level in _LEVELS),
        ]
        for number, audit in enumerate(audits)
    ]
    header = ["task", "board", "units", "cases", "splits", *(f"{level}s" for level in _LEVELS)]
    body: list[Table | str] = [Table("", header, rows)]
    if any(audit.findings for audit in audits):
        lines = [line for audit in audits for line in _lines(audit)]
        body += ["", Table("", ["level", "task", "kind", "what was found", "what to do"], lines)]
    errors, wrong = sum(counts["error"]), np.count_nonzero(counts["error"])
    failed = CheckFailed(f"{errors} error(s) in {wrong} of {len(audits)} task(s)")
    document = {f"{level}s": sum(counts[level]) for level in _LEVELS}
    return Report(
        {**document, "tasks": [asdict(audit) for audit in audits]},
        body,
        problem=failed if errors else None,
    )


def _lines(audit: TaskAudit) -> list[list[str]]:
    """Return the rows of a task's first findings, and how many more there are."""
    rows = [[f.level, audit.task, f.kind, f.message, f.advice] for f in audit.findings[:_SHOWN]]
    more = len(audit.findings) - _SHOWN
    if more > 0:
        rows.append(["", audit.task, "", f"and {more} more (--json FILE has all)", ""])
    return rows


def _audits(workspace: Workspace, tasks: Sequence[str], progress: Progress) -> list[TaskAudit]:
    """Return the audit of each task, by name; see `audit_tasks`."""
    catalogue = workspace.tasks()
    config = load_config(workspace.config)
    config.check(catalogue.cohorts, catalogue.tasks)
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
            cohorts[declared.cohort] = _opened(workspace, catalogue, declared.cohort, config)
        cohort = cohorts[declared.cohort]
        if isinstance(cohort, str):
            audits.append(TaskAudit(declared.name, "", 0, 0, (), (_unusable(cohort),)))
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
    findings += audit_times(task, units)
    local = isinstance(data, LocalCohort)
    used: dict[Path, tuple[FoundSplits, Scheme]] = {}
    for name in task.protocols:
        protocol = catalogue.protocols[name]
        given = config.splits_of(task) if local else None
        try:
            located = find_splits(folder, task, protocol, units, given)
        except InputError as error:
            findings.append(_unusable(str(error)))
            continue
        used[located.path] = located, scheme_of(task, protocol)
        if board == "phantom" and not local:
            now = {
                "labels": units.hash,
                "splits": located.splits.hash,
                "task_hash": task_hash(task, protocol, units.hash, located.splits.hash),
            }
            findings += _against_lock(task, name, now, lock)
    for located, scheme in used.values():
        findings += audit_splits(located.splits, units, scheme)
        findings += audit_balance(located.splits, units)
        findings += _changed(located)
        if scheme in SITES_WHOLE:
            findings += _against_optimum(located.splits, units, cohort)
    divided = [(located.splits, scheme) for located, scheme in used.values()]
    findings += audit_slide_sites(data, units, divided)
    if isinstance(data, LocalCohort):
        findings += audit_ids(data, units, divided)
        findings += audit_coverage(task, data, units)
        findings += audit_contents(data, units, divided)
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
    if splits.key_names[0] == "shots":
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
            advice = "read a single fold's score with care; fewer folds test on more"
            findings.append(AuditFinding("note", "few-units", message, advice, places[fold]))
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
        advice = "use folds stratified by class; where sites are kept whole, mbench data split"
        findings.append(AuditFinding("warning", "prevalence", message, advice, places[fold]))
    return findings


def _p_value(table: NDArray[np.intp]) -> float:
    """Return the p-value of equal class shares among the units of two rows."""
    if not table.any(axis=1).all() or table.shape[1] < 2:
        return 1.0
    test = fisher_exact if table.shape[1] == 2 else chi2_contingency
    return float(test(table)[1])


def _opened(
    workspace: Workspace, catalogue: Catalogue, cohort_id: str, config: Config
) -> OpenCohort | str:
    """Return a cohort, or why the user's files cannot be read as one."""
    try:
        cohort = open_cohort(workspace, catalogue, cohort_id, config)
        _ = cohort.data.no_bag  # reads the header of every file
    except InputError as error:
        if cohort_id not in config.cohorts:
            raise
        return str(error)
    return cohort


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
        return None, conflicts or [_unusable(str(error))]
    return units, audit_labels(units, by_case=False) if task.unit == "slide" else []


def _unusable(message: str) -> AuditFinding:
    advice = "repair this first; the rest was not audited"
    return AuditFinding("error", "unusable", message, advice)


def _changed(located: FoundSplits) -> list[AuditFinding]:
    """Return that a frozen file is another than today's: changed since, or of another release."""
    if located.state != "changed":
        return []
    try:
        read_frozen(located.path)
    except InputError as error:
        return [AuditFinding("error", "changed", str(error), "a run refuses it as well")]
    message = f"{located.path} differs from what these units are divided into today"
    advice = "another release froze it; it is used as it is, and no other one may be compared"
    return [AuditFinding("warning", "changed", message, advice)]


def _against_lock(
    task: TaskSpec, protocol: str, now: Mapping[str, str], lock: Lock
) -> list[AuditFinding]:
    """Return in what a task differs from tasks.lock; a task that it does not have cannot."""
    locked = lock.get(task.name, {}).get(protocol, now)
    moved = [part for part in sorted(now) if locked.get(part) != now[part]]
    if not moved:
        return []
    message = f"{protocol}: {', '.join(moved)} differ from tasks.lock"
    advice = "scores cannot be compared with published ones; a changed task needs a new version"
    return [AuditFinding("error", "lock", message, advice)]


def _against_optimum(splits: Splits, units: Units, cohort: OpenCohort) -> list[AuditFinding]:
    """Return how far folds are from the nearest to proportional that keep sites whole.

    Said only where a class is more than `NEAR` units from its share.
    """
    outcome = outcome_of(units)
    folds = [split for split in splits if split.key[0] == splits.splits[0].key[0]]
    fold = np.zeros(len(outcome), dtype=np.intp)
    for number, split in enumerate(folds):
        fold[split.test] = number
    reached, _ = fold_deviation(outcome, fold, len(folds))
    if reached <= NEAR:
        return []
    slides = cohort.data.slides
    rows, sites = unit_sites(units, dict(zip(slides["slide_id"], slides["site"], strict=True)))
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
        findings.append(AuditFinding("note", "balance", message, advice))
    advice = "fewer folds have larger shares"
    return findings + [AuditFinding("note", "balance", line, advice) for line in best.large]

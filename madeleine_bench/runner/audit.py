"""The audit of tasks: everything that can be known to be wrong before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madeleine_bench.data.audit import (
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    audit_splits,
    outcome_of,
)
from madeleine_bench.data.audit_balance import audit_balance
from madeleine_bench.data.audit_cohort import (
    audit_contents,
    audit_ids,
    audit_labels,
    audit_slide_sites,
    audit_times,
)
from madeleine_bench.data.config import Config, load_config
from madeleine_bench.data.coverage import audit_coverage
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.site_folds import NEAR, balanced_folds, fold_deviation, linked_groups
from madeleine_bench.data.split_files import read_frozen
from madeleine_bench.data.splits import FoundSplits, find_splits, scheme_of
from madeleine_bench.errors import InputError
from madeleine_bench.resources import resource_folder
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.lock import Lock, read_lock
from madeleine_bench.runner.plan import board_of
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue, task_hash
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.types import Progress, Silence, Splits, Units

_ORDER: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class AuditRequest:
    """What is to be audited.

    Attributes:
        tasks: ids, globs or "all"; empty means the tasks of the configured cohorts, or, where
            none is configured, all.
        source: "auto" takes local files where configured.
        results: the results folder, where frozen splits and remembered hashes lie.
        config: path of mbench.toml; None takes the one of the working folder.
        catalogue: folder of tasks; None takes the shipped one.
    """

    tasks: tuple[str, ...] = ()
    source: SourceChoice = "auto"
    results: Path = Path("results")
    config: Path | None = None
    catalogue: Path | None = None


@dataclass(frozen=True)
class TaskAudit:
    """What is known of a task before it is scored.

    Attributes:
        task: its versioned name.
        board: where its records would belong; "" where its cohort cannot be opened.
        units: how many it scores.
        cases: how many cases these are of.
        splits: its kinds of splits, each with its state, such as "folds (frozen)".
        findings: what was found, errors first.
    """

    task: str
    board: str
    units: int
    cases: int
    splits: tuple[str, ...]
    findings: tuple[AuditFinding, ...]

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def audit_tasks(request: AuditRequest, progress: Progress | None = None) -> list[TaskAudit]:
    """Return the audit of each task, by name. Nothing stops it but a request that names nothing.

    Raises:
        InputError: an unknown name, a broken configuration, or a cohort that is nowhere.
    """
    progress = progress or Silence()
    catalogue = load_catalogue(request.catalogue)
    config = load_config(request.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    chosen = catalogue.select(request.tasks or _default_tasks(request, catalogue, config))
    lock = _lock(request.catalogue)
    cohorts: dict[str, OpenCohort | str] = {}
    audits = []
    progress.phase("audit", len(chosen))
    for declared in chosen:
        if declared.cohort not in cohorts:
            cohorts[declared.cohort] = _opened(catalogue, declared.cohort, request, config)
        cohort = cohorts[declared.cohort]
        if isinstance(cohort, str):
            audits.append(TaskAudit(declared.name, "", 0, 0, (), (_unusable(cohort),)))
        else:
            task = cohort.task(declared)
            audits.append(audit_task(cohort, task, catalogue, config, request.results, lock))
        progress.advance(declared.id)
    return audits


def audit_task(
    cohort: OpenCohort,
    task: TaskSpec,
    catalogue: Catalogue,
    config: Config,
    results: Path,
    lock: Lock,
) -> TaskAudit:
    """Return the audit of a task of an open cohort; nothing is written but remembered hashes."""
    data = cohort.data
    board = board_of(data)
    units, findings = _units(task, cohort)
    if units is None:
        return TaskAudit(task.name, board, 0, 0, (), tuple(findings))
    findings += audit_times(task, units)
    local = isinstance(data, LocalCohort)
    given = config.splits_of(task) if local else None
    folder = results / "splits" / board
    found: dict[Path, tuple[FoundSplits, Scheme]] = {}
    for name in task.protocols:
        protocol = catalogue.protocols[name]
        try:
            own = find_splits(folder, task, protocol, units, given)
        except InputError as error:
            findings.append(_unusable(str(error)))
            continue
        found[own.path] = own, scheme_of(task, protocol)
        if board == "phantom" and not local:
            now = {
                "labels": units.hash,
                "splits": own.splits.hash,
                "task_hash": task_hash(task, protocol, units.hash, own.splits.hash),
            }
            findings += _against_lock(task, name, now, lock)
    for own, scheme in found.values():
        findings += audit_splits(own.splits, units, scheme)
        findings += audit_balance(own.splits, units)
        findings += _changed(own)
        if scheme in SITES_WHOLE:
            findings += _against_optimum(own.splits, units, cohort)
    divided = [(own.splits, scheme) for own, scheme in found.values()]
    findings += audit_slide_sites(data, units, divided)
    if isinstance(data, LocalCohort):
        findings += audit_ids(data, units, divided)
        findings += audit_coverage(task, data, units)
        findings += audit_contents(data, units, divided)
    findings = list(dict.fromkeys(findings))
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    states = tuple(
        f"{'draws' if scheme == 'few-shot' else 'folds'} ({own.state})"
        for own, scheme in found.values()
    )
    cases = units.table["case_id"].nunique()
    return TaskAudit(task.name, board, len(units.table), cases, states, tuple(findings))


def _default_tasks(request: AuditRequest, catalogue: Catalogue, config: Config) -> list[str]:
    own = [task.id for task in catalogue.tasks.values() if task.cohort in config.cohorts]
    return own if own and request.source != "phantom" else ["all"]


def _lock(folder: Path | None) -> Lock:
    path = (folder or resource_folder("tasks")) / "tasks.lock"
    return read_lock(path) if path.is_file() else {}


def _opened(
    catalogue: Catalogue, cohort_id: str, request: AuditRequest, config: Config
) -> OpenCohort | str:
    """Return a cohort, or why the user's files cannot be read as one."""
    workspace = Workspace(request.results, request.source)
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
        unusable = [_unusable(str(error))]
        if task.unit == "slide":
            return None, unusable
        by_slide = task.model_copy(update={"unit": "slide"})
        try:
            slides = build_units(by_slide, cohort.data, cohort.where)
        except InputError:
            return None, unusable  # the same fault as of the cases
        return None, audit_labels(slides, by_case=True) or unusable
    return units, audit_labels(units, by_case=False) if task.unit == "slide" else []


def _unusable(message: str) -> AuditFinding:
    return AuditFinding("error", "unusable", message, "mend this first; the rest was not audited")


def _changed(own: FoundSplits) -> list[AuditFinding]:
    """Return that a frozen file is another than today's: changed since, or of another release."""
    if own.state != "changed":
        return []
    try:
        read_frozen(own.path)
    except InputError as error:
        return [AuditFinding("error", "changed", str(error), "a run refuses it as well")]
    message = f"{own.path} differs from what these units are divided into today"
    advice = "another release froze it; it is used as it is, and no other one may be compared"
    return [AuditFinding("warning", "changed", message, advice)]


def _against_lock(
    task: TaskSpec, protocol: str, now: Mapping[str, str], lock: Lock
) -> list[AuditFinding]:
    """Return in what a task differs from tasks.lock; a task that it does not have cannot."""
    known = lock.get(task.name, {}).get(protocol)
    moved = [part for part in sorted(now) if known is not None and known.get(part) != now[part]]
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
    site_of = dict(zip(slides["slide_id"], slides["site"], strict=True))
    ids = units.table["unit_id"].to_numpy(dtype=str)
    rows = [(unit, site_of[slide]) for unit in ids for slide in units.slides[unit]]
    of_rows, sites = (np.array(column, dtype=str) for column in zip(*rows, strict=True))
    case_of = dict(zip(ids, units.table["case_id"], strict=True))
    cases = np.array([case_of[unit] for unit in of_rows], dtype=str)
    try:
        best = balanced_folds(outcome, linked_groups(cases, sites, of_rows), ids, len(folds))[1]
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

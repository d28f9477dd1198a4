"""What there is of each cohort, and whether its files are sound."""

import fnmatch
from collections.abc import Iterable

from madeleine_bench.data.audit_cohort import some_left_out
from madeleine_bench.data.labels import POSITIVE, build_units
from madeleine_bench.data.local import LocalCohort, match_notes, verify_cohort
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.report import Report, Table
from madeleine_bench.runner.cohorts import OpenCohort, board_of, open_folders
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import ClassLabels, ContinuousLabels, MultiLabels, TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Progress


def cohort_status(workspace: Workspace, pattern: str) -> Report:
    """Return a row for each cohort and one for each of its tasks.

    What is broken is said in its row and is the problem of the report.

    Raises:
        InputError: no cohort matches, or the configuration is broken.
    """
    catalogue, config = workspace.open()
    rows: list[list[str]] = []
    notes: list[str] = []
    broken: list[str] = []
    for cohort_id in _matching(pattern, catalogue.cohorts):
        spec = catalogue.cohorts[cohort_id]
        if spec.phantom is None and cohort_id not in config.cohorts:
            rows.append([cohort_id, "absent", f"0/{spec.slides}", f"to get it: {spec.access.how}"])
            continue
        entry = config.cohorts.get(cohort_id)
        if entry and entry.features is None and workspace.source != "phantom":
            rows.append([cohort_id, "local", "", f"labels alone, in {entry.labels}"])
            continue
        try:
            for cohort in open_folders(workspace, catalogue, cohort_id, config):
                slides = len(cohort.data.slides)
                bags = f"{slides - len(cohort.data.no_bag)}/{slides}"
                declared = f", {spec.slides} declared" if spec.slides else ""
                note = f"{slides} slides in {cohort.where}{declared}"
                rows.append([cohort.key, board_of(cohort.data), bags, note])
                for task in cohort.tasks:
                    try:
                        text = _content(task, cohort)
                    except InputError as error:
                        broken.append(f"{task.id}: {error}")
                        text = "broken: see below"
                    rows.append([f"  {task.id}", "", "", text])
                notes += [*cohort.notes, *match_notes(cohort.data)]
        except InputError as error:
            broken.append(f"{cohort_id}: {error}")
            rows.append([cohort_id, "broken", "", "see below"])
    header = ["cohort / task", "board", "bags", "what there is"]
    problem = InputError("\n".join(broken)) if broken else None
    return Report(
        {"rows": rows, "notes": notes}, [Table("", header, rows), *notes], problem=problem
    )


def verify_cohorts(workspace: Workspace, pattern: str, progress: Progress) -> Report:
    """Open every file of the configured cohorts and return what is wrong.

    Raises:
        InputError: nothing that matches is configured.
    """
    catalogue, config = workspace.open()
    local = [
        name for name, entry in config.cohorts.items() if entry.features not in ("phantom", None)
    ]
    if not local:
        where = config.path or "mbench.toml (there is none here)"
        raise InputError(f"no cohort of files is configured in {where}; see docs/data.md")
    rows: list[list[str]] = []
    body: list[Table | str] = []
    errors = 0
    for cohort_id in _matching(pattern, local):
        for name, entry in config.cohorts[cohort_id].folders().items():
            data = LocalCohort(catalogue.cohorts[cohort_id], entry, workspace.results / "cache")
            progress.phase("verify", len(data.files))
            findings = verify_cohort(data, progress.advance)
            errors += sum(finding.level == "error" for finding in findings)
            key = f"{cohort_id} {name}".rstrip()
            rows += [[f.level, key, f.slide_id, str(f.path or ""), f.message] for f in findings]
            body.append(f"{key}: {len(data.files)} files opened, {len(findings)} findings")
            body += match_notes(data)
    if rows:
        body.append(Table("", ["level", "cohort", "slide", "file", "finding"], rows))
    problem = CheckFailed(f"{errors} files are in error") if errors else None
    return Report({"findings": rows}, body, problem=problem)


def _matching(pattern: str, cohorts: Iterable[str]) -> list[str]:
    names = sorted(cohorts)
    matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matching:
        raise InputError(f"no cohort here is called '{pattern}'{did_you_mean(pattern, names)}")
    return matching


def _content(task: TaskSpec, cohort: OpenCohort) -> str:
    """Return how many units of each class, or events, a task has, and what is left out.

    Raises:
        InputError: its labels cannot be used.
    """
    units = build_units(task, cohort.data, cohort.where)
    table, labels = units.table, task.labels
    if isinstance(labels, ClassLabels):
        counts = table["label"].value_counts()
        content = ", ".join(f"{name} {counts.get(name, 0)}" for name in labels.classes)
    elif isinstance(labels, ContinuousLabels):
        low, middle, high = table["value"].quantile([0.0, 0.5, 1.0])
        content = f"{low:g} to {high:g}, median {middle:g}"
    elif isinstance(labels, MultiLabels):
        words = [table[f"label_{name}"] for name in labels.columns]
        content = ", ".join(
            f"{name} {(word == POSITIVE).sum()} of {(word != '').sum()}"
            for name, word in zip(labels.columns, words, strict=True)
        )
    else:
        content = f"events {int(table['event'].sum())}"
    return f"{len(table)} {task.unit}s: {content}{some_left_out(units.missing)}"

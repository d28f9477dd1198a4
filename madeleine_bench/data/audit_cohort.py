"""What units alone do not show: ids that look alike, equal slides, cases of two sites."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from madeleine_bench.data.audit import (
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    finding,
    leaks,
    refuse_errors,
    some,
)
from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.labels import NO_FILE, absence, far_values, outcome_counts
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.specs.task import SurvivalLabels, TaskSpec
from madeleine_bench.types import CohortData, Splits, Units

LEAST_SHARE = 0.9  # of the labelled units: with features for fewer, `mbench run` stops

Divided = tuple[Splits, Scheme]


def require_sound(
    task: TaskSpec, data: CohortData, units: Units, divided: Sequence[Divided]
) -> None:
    """Check a task of local files before anything is computed; phantoms pass.

    Leaks of cases and sites by unit are checked where splits are read; here are those that only
    slides and files show.

    Raises:
        InputError: there is an error; the message names task, case and slides.
    """
    if not isinstance(data, LocalCohort):
        return
    findings = audit_slides(data, units, divided)
    cures = dict.fromkeys(each.advice for each in findings if each.level == "error")
    hint = f" ({'; '.join(cures)}). mbench audit --task {task.declared_id} lists all"
    refuse_errors(findings, task.name, hint)


def audit_slides(data: CohortData, units: Units, divided: Sequence[Divided]) -> list[AuditFinding]:
    """Return what ids, files and sites of slides show; of phantoms only sites can be wrong."""
    findings = []
    if isinstance(data, LocalCohort):
        findings += [*audit_ids(data, units, divided), *audit_contents(data, units)]
    return findings + audit_slide_sites(data, units, divided)


def audit_ids(data: LocalCohort, units: Units, divided: Sequence[Divided]) -> list[AuditFinding]:
    """Return the ids that may be two spellings of one, unless mbench.toml says that they are not.

    Of cases: an error, as one patient would be trained on and tested. Of sites: the same where
    folds keep sites whole. Of slides: an error where they are of two cases, as the bag of one may
    be that of the other; a warning where they are of one case, which then counts the slide twice.
    """
    if data.entry.ids == "exact":
        return []
    used = {slide for ids in units.slides.values() for slide in ids}
    rows = data.slides[data.slides["slide_id"].isin(used)]
    cases = look_alikes(rows["case_id"].unique(), cases=True)
    alike = [("case_id", ids) for ids in cases]
    if any(scheme in SITES_WHOLE for _, scheme in divided):
        alike += [("site", ids) for ids in look_alikes(rows["site"].unique(), cases=False)]
    spelling = {case: ids[0] for ids in cases for case in ids}
    case_of = dict(zip(rows["slide_id"], rows["case_id"], strict=True))
    for ids in look_alikes(case_of, cases=False):
        of_cases = {case_of[slide] for slide in ids}
        if len(of_cases) == 1 or len({spelling.get(case, case) for case in of_cases}) > 1:
            alike.append(("slide_id", ids))  # else they are named by their cases
    return [_look_alike(column, ids, rows, data.cohort_id) for column, ids in alike]


def _look_alike(
    column: str, ids: tuple[str, ...], rows: pd.DataFrame, cohort_id: str
) -> AuditFinding:
    what = column.removesuffix("_id")
    beside = "case" if what == "slide" else "slide"
    members = rows[rows[column].isin(ids)]
    shown = " and ".join(
        f"'{one}' ({beside} {some(each[f'{beside}_id'].unique())})"
        for one, each in members.groupby(column)
    )
    return finding(
        "warning" if what == "slide" and members["case_id"].nunique() == 1 else "error",
        "look-alike",
        f"{what} ids {shown} may be spellings of one",
        f"write one spelling in the label table; or, where these are different {what}s, "
        f'ids = "exact" under [cohorts.{cohort_id}] in mbench.toml',
        case_id=members["case_id"].min(),
        ids=members["slide_id"],
    )


def audit_contents(data: LocalCohort, units: Units) -> list[AuditFinding]:
    """Return the slides whose files are equal, byte for byte.

    Of two cases: an error, as one of them is mislabelled, and may be trained on while the other is
    tested. Of one case: a warning, as the slide counts twice. Only files of equal size are hashed,
    and hashes are remembered between runs.
    """
    case_of = {
        slide: case
        for unit, case in zip(units.table["unit_id"], units.table["case_id"], strict=True)
        for slide in units.slides[unit]
    }
    findings = []
    for slides in equal_slides((data, case_of)):
        cases = [case_of[slide] for slide in slides]
        level: Level = "error" if len(set(cases)) > 1 else "warning"
        shown = " and ".join(f"slide '{slide}' of case '{case_of[slide]}'" for slide in slides)
        message = f"{shown} have the same content"
        findings.append(finding(level, "duplicate", message, case_id=cases[0], ids=slides))
    return findings


def audit_slide_sites(
    data: CohortData, units: Units, divided: Sequence[Divided]
) -> list[AuditFinding]:
    """Return the sites on both sides of folds that keep sites whole, by slide and not by unit.

    A case with slides of two sites counts as of the first in the table of units; the other site
    may then be trained on.
    """
    site_of = dict(zip(data.slides["slide_id"], data.slides["site"], strict=True))
    ids = units.table["unit_id"]
    pairs = [(row, site_of[slide]) for row, unit in enumerate(ids) for slide in units.slides[unit]]
    rows, sites = (np.array(column) for column in zip(*pairs, strict=True))
    if (units.table["site"].to_numpy(dtype=str)[rows] == sites).all():
        return []
    whole = [splits for splits, scheme in divided if scheme in SITES_WHOLE]
    return [leak for splits in whole for leak in leaks(splits, units, "site", sites, rows)]


def audit_times(task: TaskSpec, units: Units) -> list[AuditFinding]:
    """Return that follow-up has decimals and nobody said what it is counted in.

    Where it cannot be days at all, the task is refused (`build_units`).
    """
    if not isinstance(task.labels, SurvivalLabels) or task.labels.time_unit is not None:
        return []
    times = units.table["time_days"]
    broken = times[times % 1 != 0]
    if broken.empty:
        return []
    message = (
        f"{len(broken)} of {len(times)} follow-up times in column '{task.labels.time}' have "
        f"decimals, as months have; the longest is {times.max():g}, read as days"
    )
    advice = f'time_unit = "months", "years" or "days" under {task.place}'
    return [finding("warning", "time-unit", message, advice)]


def audit_values(task: TaskSpec, units: Units) -> list[AuditFinding]:
    """Return that continuous labels lie far from all others, as damaged numbers do."""
    message = far_values(task, units)
    advice = "repair the label table, or list them under 'missing'; right if they are measured so"
    return [finding("warning", "far-values", message, advice)] if message else []


def equal_slides(*cohorts: tuple[LocalCohort, Iterable[str]]) -> list[list[str]]:
    """Return the slides of cohorts with the same content, in groups of two or more, sorted."""
    sized: dict[int, list[tuple[LocalCohort, str]]] = defaultdict(list)
    for data, slides in cohorts:
        for slide in sorted(slides):
            path = data.files[slide]
            # Of a file that is gone its hash says what is wrong.
            sized[path.stat().st_size if path.is_file() else 0].append((data, slide))
    same: dict[str, list[str]] = defaultdict(list)
    for members in sized.values():
        for data, slide in members if len(members) > 1 else ():
            same[data.content_key(slide)].append(slide)
    return sorted(members for members in same.values() if len(members) > 1)


def some_left_out(missing: Mapping[str, Sequence[str]]) -> str:
    """Return reasons with the number and the first of what they leave out; "" where nothing is."""
    reasons = "; ".join(
        f"{reason}{' or an empty one' * (reason == NO_FILE)}: {len(ids)} ({some(ids)})"
        for reason, ids in sorted(missing.items())
    )
    return f"; left out: {reasons}" if reasons else ""


def coverage_line(task: TaskSpec, data: CohortData, units: Units) -> str:
    """Return how many units of a task are scored, by class, and why the others are not."""
    there = data.slides[data.slides["stain"].isin(task.stains)]
    total = there["case_id"].nunique() if task.unit == "case" else len(there)
    scored = f"{len(units.table)} of {total} {task.unit}s scored"
    return f"{task.id}: {scored} ({outcome_counts(units)}){some_left_out(units.missing)}"


def audit_coverage(task: TaskSpec, data: CohortData, units: Units) -> list[AuditFinding]:
    """Return that labelled units have no features: an error below `LEAST_SHARE`, else a warning.

    Units without a label do not count. A phantom is never in error.
    """
    reason = absence(data)
    absent = units.missing.get(reason, ())
    if not absent:
        return []
    labelled = len(units.table) + len(absent)
    share = len(units.table) / labelled
    message = (
        f"{len(units.table)} of {labelled} {task.unit}s with a label have "
        f"{'features' if reason == NO_FILE else 'an embedding'} "
        f"({100 * share:.0f}%; {100 * LEAST_SHARE:.0f}% or more are expected)"
        f"{some_left_out({reason: absent})}"
    )
    wrong = share < LEAST_SHARE and data.source == "local"
    level: Level = "error" if wrong else "warning"
    if reason != NO_FILE:
        return [finding(level, "partial", message, "Score the rest: --allow-partial")]
    return [finding(level, "partial", message)]


def require_coverage(task: TaskSpec, data: CohortData, units: Units) -> None:
    """Check that enough of the labelled units of a task have features.

    Raises:
        InputError: fewer than `LEAST_SHARE` have; the message says why and names the first ones.
    """
    findings = audit_coverage(task, data, units)
    refuse_errors(findings, task.name, "".join(f". {each.advice}" for each in findings))

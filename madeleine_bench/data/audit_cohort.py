"""What units alone do not show: ids that look alike, equal slides, cases of two labels or sites."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import (
    SHOWN,
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    finding,
    fold_name,
    refuse_errors,
    some,
)
from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.labels import NO_FILE, disagreeing, far_values, label_text
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.specs.task import SurvivalLabels, TaskSpec
from madeleine_bench.types import CohortData, Splits, Units

LEAST_SHARE = 0.9  # of the labelled units: with features for fewer, `mbench run` stops
EMPTY_BAG = "empty bag"

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
        findings += [*audit_ids(data, units, divided), *audit_contents(data, units, divided)]
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
    beside = "case_id" if column == "slide_id" else "slide_id"
    members = [rows[rows[column] == one] for one in ids]
    cases = sorted({str(case) for member in members for case in member["case_id"]})
    shown = " and ".join(
        f"'{one}' ({beside.removesuffix('_id')} {some(member[beside].unique())})"
        for one, member in zip(ids[:SHOWN], members, strict=False)
    )
    return finding(
        "warning" if column == "slide_id" and len(cases) == 1 else "error",
        "look-alike",
        f"{what} ids {shown} may be spellings of one",
        f"write one spelling in the label table; or, where these are different {what}s, "
        f'ids = "exact" under [cohorts.{cohort_id}] in mbench.toml',
        case_id=cases[0],
        ids=[slide for member in members for slide in member["slide_id"]],
    )


def audit_contents(
    data: LocalCohort, units: Units, divided: Sequence[Divided]
) -> list[AuditFinding]:
    """Return the slides whose files are equal, byte for byte.

    Of two cases: an error, as one of them is mislabelled, and a leak where one is trained on and
    the other tested. Of one case: a warning, as the slide counts twice. Only files of equal size
    are hashed, and hashes are remembered between runs.
    """
    row_of = {s: row for row, unit in enumerate(units.table["unit_id"]) for s in units.slides[unit]}
    case_of = units.table["case_id"].to_numpy()
    findings = []
    for slides in _equal(data, row_of):
        rows = [row_of[slide] for slide in slides]
        case, first = case_of[rows[0]], dict[str, str]()
        for row, slide in zip(rows, slides, strict=True):
            first.setdefault(case_of[row], slide)
        level: Level = "error" if len(first) > 1 else "warning"
        fold, advice = "", "keep one of them in the label table"
        message = f"slides {some(slides)} of case '{case}' have the same content"
        if len(first) > 1:
            fold = _leaks_in(rows, divided)
            shown = " and ".join(f"slide '{first[c]}' of case '{c}'" for c in list(first)[:2])
            message = (
                f"{shown} have the same content"
                + (f" ({len(slides)} such slides)" if len(slides) > 2 else "")
                + (f", in train and in test of {fold}" if fold else "")
            )
            advice = "find out whose slide it is, and take the other row out of the label table"
        findings.append(
            finding(level, "duplicate", message, advice, fold=fold, case_id=case, ids=slides)
        )
    return findings


def audit_slide_sites(
    data: CohortData, units: Units, divided: Sequence[Divided]
) -> list[AuditFinding]:
    """Return the sites on both sides of folds that keep sites whole, by slide and not by unit.

    A case with slides of two sites counts as of the first in the table of units; the other site
    may then be trained on.
    """
    rows, sites = unit_sites(units, data)
    if (units.table["site"].to_numpy(dtype=str)[rows] == sites).all():
        return []
    names, codes = np.unique(sites, return_inverse=True)
    findings = []
    whole = [splits for splits, scheme in divided if scheme in SITES_WHOLE]
    for at, split in ((fold_name(splits, split), split) for splits in whole for split in splits):
        trained, tested = (codes[np.isin(rows, side)] for side in (split.train, split.test))
        for code in np.intersect1d(trained, tested):
            members = units.table.iloc[np.unique(rows[codes == code])]
            # A unit that counts as of another site comes first.
            case_id = members["case_id"].iloc[(members["site"] == names[code]).argmin()]
            message = (
                f"{at}: site '{names[code]}' is in train and in test, by the slides of case "
                f"'{case_id}', which is of several sites"
            )
            place = {"fold": at, "case_id": case_id, "ids": members["unit_id"]}
            findings.append(finding("error", "site-leak", message, **place))
    return findings


def unit_sites(units: Units, data: CohortData) -> tuple[NDArray[np.intp], NDArray[np.str_]]:
    """Return of each slide of each unit the row of the unit and the site of the slide."""
    site_of = dict(zip(data.slides["slide_id"], data.slides["site"], strict=True))
    ids = units.table["unit_id"]
    pairs = [(row, site_of[slide]) for row, unit in enumerate(ids) for slide in units.slides[unit]]
    rows, sites = zip(*pairs, strict=True)
    return np.array(rows, dtype=np.intp), np.array(sites, dtype=str)


def audit_labels(slides: Units, *, by_case: bool) -> list[AuditFinding]:
    """Return the cases whose slides have different labels.

    For a task by case that is an error, as its label is then unknown; for one by slide a warning.

    Args:
        slides: the slides of the task, with their labels.
        by_case: whether the task is by case.
    """
    table = slides.table
    if "label" not in table:
        columns = table.drop(columns=["unit_id", "case_id", "site"])
        parts: list[Any] = list(columns.itertuples(index=False, name=None))
        table = table.assign(label=table.get("value", parts))
    level: Level = "error" if by_case else "warning"
    findings = []
    for case_id, members in disagreeing(table, "label").groupby("case_id"):
        first = members.head(SHOWN)
        shown = " and ".join(
            f"'{label_text(label)}' (slide '{unit}')"
            for label, unit in zip(first["label"], first["unit_id"], strict=True)
        )
        message = f"case '{case_id}' has two labels: {shown}"
        ids = members["unit_id"]
        findings.append(finding(level, "label-conflict", message, case_id=case_id, ids=ids))
    return findings


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


def _equal(data: LocalCohort, slides: Iterable[str]) -> list[list[str]]:
    """Return the slides that have the same content, in groups of two or more, sorted."""
    sized: dict[int, list[str]] = defaultdict(list)
    for slide in sorted(slides):
        path = data.files[slide]
        # Of a file that is gone its hash says what is wrong.
        sized[path.stat().st_size if path.is_file() else 0].append(slide)
    same: dict[str, list[str]] = defaultdict(list)
    for members in sized.values():
        for slide in members if len(members) > 1 else ():
            same[data.content_key(slide)].append(slide)
    return sorted(members for members in same.values() if len(members) > 1)


def _leaks_in(rows: list[int], divided: Sequence[Divided]) -> str:
    """Return the first split that trains on one of some units and tests another; or ""."""
    for splits, _ in divided:
        for split in splits:
            if np.isin(rows, split.train).any() and np.isin(rows, split.test).any():
                return fold_name(splits, split)
    return ""


def left_out(task: TaskSpec, data: CohortData, units: Units) -> dict[str, tuple[str, ...]]:
    """Return by reason what a task does not score, an empty bag told from a file that is missing.

    Records count both as one reason (`Units.missing`).
    """
    reasons = dict(units.missing)
    without = reasons.pop(NO_FILE, ())
    if isinstance(data, LocalCohort):
        key = "case_id" if task.unit == "case" else "slide_id"
        slides = data.slides[data.slides["stain"].isin(task.stains)]
        filed = set(slides.loc[slides["slide_id"].isin(list(data.files)), key])
        reasons[EMPTY_BAG] = tuple(unit for unit in without if unit in filed)
        without = tuple(unit for unit in without if unit not in filed)
    reasons[NO_FILE] = without
    return {reason: ids for reason, ids in sorted(reasons.items()) if ids}


def some_left_out(reasons: Mapping[str, tuple[str, ...]]) -> str:
    """Return reasons with the number and the first of what they leave out; "" where nothing is."""
    return "; ".join(f"{reason}: {len(ids)} ({some(ids)})" for reason, ids in reasons.items())


def coverage_line(task: TaskSpec, data: CohortData, units: Units) -> str:
    """Return how many units of a task are scored, of how many, and why the others are not."""
    there = data.slides[data.slides["stain"].isin(task.stains)]
    total = there["case_id"].nunique() if task.unit == "case" else len(there)
    reasons = some_left_out(left_out(task, data, units))
    return f"{task.id}: {len(units.table)} of {total} {task.unit}s scored" + (
        f"; left out: {reasons}" if reasons else ""
    )


def audit_coverage(task: TaskSpec, data: CohortData, units: Units) -> list[AuditFinding]:
    """Return that labelled units have no features: an error below `LEAST_SHARE`, else a warning.

    Units without a label do not count. A phantom is never in error.
    """
    labelled = len(units.table) + len(units.missing.get(NO_FILE, ()))
    share = len(units.table) / labelled
    if share == 1.0:
        return []
    reasons = left_out(task, data, units)
    absent = {reason: reasons[reason] for reason in (NO_FILE, EMPTY_BAG) if reason in reasons}
    message = (
        f"{len(units.table)} of {labelled} {task.unit}s with a label have features "
        f"({100 * share:.0f}%; {100 * LEAST_SHARE:.0f}% or more are expected): "
        f"{some_left_out(absent)}"
    )
    wrong = share < LEAST_SHARE and data.source == "local"
    return [finding("error" if wrong else "warning", "partial", message)]


def require_coverage(task: TaskSpec, data: CohortData, units: Units) -> None:
    """Check that enough of the labelled units of a task have features.

    Raises:
        InputError: fewer than `LEAST_SHARE` have; the message says why and names the first ones.
    """
    findings = audit_coverage(task, data, units)
    refuse_errors(findings, task.name, "".join(f". {each.advice}" for each in findings))

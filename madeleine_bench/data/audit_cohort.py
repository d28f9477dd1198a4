"""What units alone do not show: ids that look alike, equal slides, cases of two labels or sites."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import (
    SHOWN,
    SITES_WHOLE,
    AuditFinding,
    Level,
    Scheme,
    fold_name,
    on_both_sides,
    refuse_errors,
    some,
)
from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.specs.task import SurvivalLabels, TaskSpec
from madeleine_bench.types import CohortData, Splits, Units

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
    findings = [
        *audit_ids(data, units, divided),
        *audit_contents(data, units, divided),
        *audit_slide_sites(data, units, divided),
    ]
    cures = dict.fromkeys(finding.advice for finding in findings if finding.level == "error")
    hint = f" ({'; '.join(cures)}). mbench audit --task {task.declared_id} lists all"
    refuse_errors(findings, task.name, hint)


def audit_ids(data: LocalCohort, units: Units, divided: Sequence[Divided]) -> list[AuditFinding]:
    """Return the ids that may be two spellings of one, unless mbench.toml says that they are not.

    Of cases: an error, as one patient would be trained on and tested. Of sites: the same where
    folds keep sites whole. Of slides: an error where they are of two cases, as the bag of one may
    be that of the other; a warning where they are of one case, which then counts the slide twice.
    """
    if data.entry.ids == "exact":
        return []
    rows = data.slides[
        data.slides["slide_id"].isin([s for ids in units.slides.values() for s in ids])
    ]
    cases = look_alikes(rows["case_id"].unique(), cases=True)
    findings = _look_alike("case_id", cases, rows, data.cohort_id)
    if any(scheme in SITES_WHOLE for _, scheme in divided):
        sites = look_alikes(rows["site"].unique(), cases=False)
        findings += _look_alike("site", sites, rows, data.cohort_id)
    group_of = {case: ids for ids in cases for case in ids}
    case_of = dict(zip(rows["slide_id"], rows["case_id"], strict=True))
    slides = []
    for ids in look_alikes(case_of, cases=False):
        own = {case_of[slide] for slide in ids}
        if len(own) == 1 or len({group_of.get(case, case) for case in own}) > 1:
            slides.append(ids)  # else they are named by their cases
    return findings + _look_alike("slide_id", slides, rows, data.cohort_id)


def _look_alike(
    column: Literal["case_id", "site", "slide_id"],
    groups: Sequence[tuple[str, ...]],
    rows: pd.DataFrame,
    cohort_id: str,
) -> list[AuditFinding]:
    what = column.removesuffix("_id")
    beside = "case_id" if column == "slide_id" else "slide_id"
    named = rows[rows[column].isin([one for ids in groups for one in ids])]
    members = {str(one): own for one, own in named.groupby(column)}
    advice = (
        f"write one spelling in the label table; or, where these are different {what}s, "
        f'ids = "exact" under [cohorts.{cohort_id}] in mbench.toml'
    )
    findings = []
    for ids in groups:
        cases = sorted({str(case) for one in ids for case in members[one]["case_id"]})
        level: Level = "warning" if column == "slide_id" and len(cases) == 1 else "error"
        shown = " and ".join(
            f"'{one}' ({beside.removesuffix('_id')} {some(members[one][beside].unique())})"
            for one in ids[:SHOWN]
        )
        message = f"{what} ids {shown} may be spellings of one"
        slides = tuple(str(slide) for one in ids for slide in members[one]["slide_id"])
        findings.append(
            AuditFinding(level, "look-alike", message, advice, case_id=cases[0], slide_ids=slides)
        )
    return findings


def audit_contents(
    data: LocalCohort, units: Units, divided: Sequence[Divided]
) -> list[AuditFinding]:
    """Return the slides whose files are equal, byte for byte.

    Of two cases: an error, as one of them is mislabelled, and a leak where one is trained on and
    the other tested. Of one case: a warning, as the slide counts twice. Only files of equal size
    are hashed, and hashes are remembered between runs.
    """
    of_slide = {slide: row for row, ids in enumerate(units.slides.values()) for slide in ids}
    cases = dict(zip(units.table["unit_id"], units.table["case_id"], strict=True))
    case_of = {slide: cases[unit] for unit, ids in units.slides.items() for slide in ids}
    findings = []
    for slides in _equal(data, of_slide):
        own = list(dict.fromkeys(case_of[slide] for slide in slides))
        if len(own) == 1:
            message = f"slides {some(slides)} of case '{own[0]}' have the same content"
            advice = "keep one of them in the label table"
            findings.append(
                AuditFinding("warning", "duplicate", message, advice, "", own[0], tuple(slides))
            )
            continue
        other = next(slide for slide in slides if case_of[slide] != own[0])
        fold = _leaks_in([of_slide[slide] for slide in slides], divided)
        message = (
            f"slide '{slides[0]}' of case '{own[0]}' and slide '{other}' of case '{own[1]}' have "
            "the same content"
            + (f" ({len(slides)} such slides)" if len(slides) > 2 else "")
            + (f", in train and in test of {fold}" if fold else "")
        )
        advice = "find out whose slide it is, and take the other row out of the label table"
        findings.append(
            AuditFinding("error", "duplicate", message, advice, fold, own[0], tuple(slides))
        )
    return findings


def audit_slide_sites(
    data: CohortData, units: Units, divided: Sequence[Divided]
) -> list[AuditFinding]:
    """Return the sites on both sides of folds that keep sites whole, by slide and not by unit.

    A case with slides of two sites counts as of the first in the table of units; the other site
    may then be trained on.
    """
    site_of = dict(zip(data.slides["slide_id"], data.slides["site"], strict=True))
    pairs = [
        (row, site_of[slide]) for row, ids in enumerate(units.slides.values()) for slide in ids
    ]
    own = units.table["site"].tolist()
    if all(own[row] == site for row, site in pairs):
        return []
    names, codes = np.unique([site for _, site in pairs], return_inverse=True)
    rows = np.array([row for row, _ in pairs])
    findings = []
    for splits, scheme in divided:
        if scheme not in SITES_WHOLE:
            continue
        for split in splits:
            sides = [np.flatnonzero(np.isin(rows, side)) for side in (split.train, split.test)]
            by_slide = type(split)(split.key, sides[0], sides[1])
            for code in on_both_sides(by_slide, codes, len(names)):
                at = fold_name(splits, split)
                findings.append(_site_leak(str(names[code]), codes == code, rows, units, at))
    return findings


def audit_labels(slides: Units, *, by_case: bool) -> list[AuditFinding]:
    """Return the cases whose slides have different labels.

    For a task by case that is an error, as its label is then unknown; for one by slide a warning.

    Args:
        slides: the slides of the task, with their labels.
        by_case: whether the task is by case.
    """
    table = slides.table
    columns = [name for name in table.columns if name not in ("unit_id", "site")]
    different = table.drop_duplicates(columns)
    counts = different["case_id"].value_counts()
    rows = different[different["case_id"].isin(counts.index[counts > 1])]
    findings = []
    for case_id, members in sorted(rows.groupby("case_id"), key=lambda item: str(item[0])):
        shown = " and ".join(
            f"{_label(row)} (slide '{row['unit_id']}')"
            for row in members.head(SHOWN).to_dict("records")
        )
        findings.append(
            AuditFinding(
                "error" if by_case else "warning",
                "label-conflict",
                f"case '{case_id}' has two labels: {shown}",
                "check the label table; a task by case needs one label a case",
                case_id=str(case_id),
                slide_ids=tuple(map(str, members["unit_id"])),
            )
        )
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
    return [AuditFinding("warning", "time-unit", message, advice)]


def _label(row: dict[object, object]) -> str:
    if "label" in row:
        return f"'{row['label']}'"
    return f"'{row['time_days']:g} days, {'event' if row['event'] else 'censored'}'"


def _equal(data: LocalCohort, slides: Iterable[str]) -> list[list[str]]:
    """Return the slides that have the same content, in groups of two or more, sorted."""
    sized: dict[int, list[str]] = defaultdict(list)
    for slide in sorted(slides):
        sized[_size(data.files[slide])].append(slide)
    same: dict[str, list[str]] = defaultdict(list)
    for members in sized.values():
        for slide in members if len(members) > 1 else ():
            same[data.content_key(slide)].append(slide)
    return sorted(members for members in same.values() if len(members) > 1)


def _size(path: Path) -> int:
    """Return the size of a file; of one that is gone 0, for its hash to say what is wrong."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _leaks_in(rows: list[int], divided: Sequence[Divided]) -> str:
    """Return the first split that trains on one of some units and tests another; or ""."""
    for splits, _ in divided:
        for split in splits:
            if np.isin(rows, split.train).any() and np.isin(rows, split.test).any():
                return fold_name(splits, split)
    return ""


def _site_leak(
    site: str, at_site: NDArray[np.bool_], rows: NDArray[np.intp], units: Units, at: str
) -> AuditFinding:
    members = units.table.iloc[np.unique(rows[at_site])]
    moved = members[members["site"] != site]
    case_id = str(moved["case_id"].iloc[0]) if len(moved) else str(members["case_id"].iloc[0])
    return AuditFinding(
        "error",
        "site-leak",
        f"{at}: site '{site}' is in train and in test, by the slides of case '{case_id}', which "
        "is of several sites",
        "keep such sites together: mbench data split does",
        at,
        case_id,
        tuple(map(str, members["unit_id"])),
    )

"""From the raw words of a table to the units a task scores; nothing is guessed or lost unsaid."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from madeleine_bench.data.tables import ROLE_COLUMNS, missing_column
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import (
    DAYS_IN,
    ClassLabels,
    ContinuousLabels,
    Labels,
    MultiLabels,
    SurvivalLabels,
    TaskSpec,
    canonical_word,
)
from madeleine_bench.types import CohortData, Units

NO_FILE = "no feature file"
_EMPTY = "no label: empty"
LEAST_DAYS = 60  # a follow-up that ends earlier and has decimals is of months or years
_OTHER_SLIDES = ", case scored from its other slides"
SOME_FILES = NO_FILE + _OTHER_SLIDES
NO_STAIN = "no slide of stain {}, case scored from its other stains"

# A class, follow-up and event, a number, or of several labels the word of each, "" for none.
Label = str | float | tuple[float, bool] | tuple[str, ...]
POSITIVE, NEGATIVE = "positive", "negative"
FAR_DEVIATIONS = 8.0  # robust standard deviations from the median at which a number is named


class _Slide(NamedTuple):
    """One slide of the task: its label, or None and the reason."""

    slide_id: str
    case_id: str
    stain: str
    site: str
    label: Label | None
    reason: str


def build_units(task: TaskSpec, data: CohortData, where: str) -> Units:
    """Return what a task scores of a cohort: the slides or cases with a label and a bag.

    A case takes the label its labelled slides agree on and is scored from all its slides of the
    task's stains; those that lack one of these stains are named. Slides of other stains are no
    part of the task and are not counted.

    Args:
        task: the task, with the user's label words.
        data: the cohort.
        where: where the labels stand, for messages: a file, or the name of a phantom.

    Raises:
        InputError: a label column is absent, a word is neither mapped nor declared missing, slides
            of a case disagree, a time is negative, no number or not in days, a class has no unit,
            no event is left, a cell of continuous labels is no number or all are equal, or no slide
            is of the task's stains.
    """
    chosen = data.slides[data.slides["stain"].isin(task.stains)]
    if chosen.empty:
        there = ", ".join(sorted(set(data.slides["stain"])))
        raise InputError(
            f"{where}: {task.id} wants slides of stain {', '.join(task.stains)}; there are {there}"
        )
    slides = _labelled(task, chosen, where)
    if task.splits.scheme == "site-preserved":
        advice = "with site-preserved folds a case has one site"
        check_agreed(pd.DataFrame(slides), "site", where, advice)
    if task.unit == "case":
        labelled = [slide for slide in slides if slide.label is not None]
        advice = "the task is by case; give all its slides one label"
        check_agreed(pd.DataFrame(labelled, columns=_Slide._fields), "label", where, advice)
    groups: dict[str, list[_Slide]] = defaultdict(list)
    for slide in slides:
        groups[slide.case_id if task.unit == "case" else slide.slide_id].append(slide)
    rows: list[tuple[str, str, str, Label]] = []
    bags: dict[str, tuple[str, ...]] = {}
    missing: dict[str, list[str]] = defaultdict(list)
    for unit_id, members in sorted(groups.items()):
        label = next((slide.label for slide in members if slide.label is not None), None)
        present = [slide for slide in members if slide.slide_id not in data.no_bag]
        if label is None:
            # The first word, or else that the cells are empty.
            reasons = [slide.reason for slide in members if slide.reason != _EMPTY]
            missing[reasons[0] if reasons else _EMPTY].append(unit_id)
        elif not present:
            missing[absence(data)].append(unit_id)
        else:
            some = absence(data) + _OTHER_SLIDES
            missing[some] += [s.slide_id for s in members if s.slide_id in data.no_bag]
            if task.unit == "case":
                for stain in set(task.stains) - {slide.stain for slide in present}:
                    missing[NO_STAIN.format(stain)].append(unit_id)
            rows.append((unit_id, members[0].case_id, members[0].site, label))
            bags[unit_id] = tuple(slide.slide_id for slide in present)
    named = {reason: tuple(ids) for reason, ids in sorted(missing.items()) if ids}
    table = _table(task, rows)
    _check_scorable(task, table, named, where)
    content = [[*row[:3], list(row[3]) if isinstance(row[3], tuple) else row[3]] for row in rows]
    return Units(table, bags, named, hash_json({"units": content, "slides": bags}))


def absence(data: CohortData) -> str:
    """Return why a slide of a cohort without a bag is left out."""
    return getattr(data, "absence", NO_FILE)


def _labelled(task: TaskSpec, chosen: pd.DataFrame, where: str) -> list[_Slide]:
    """Return the slides with their labels, sorted by id."""
    labels = task.labels
    names = columns_of(labels)
    columns = [name for name in chosen.columns if name not in ROLE_COLUMNS]
    for name in names:
        if name not in columns:
            raise InputError(
                f"{missing_column(name, columns, where)}. {task.id} reads its labels there; name "
                f"another column under {task.place}"
            )
    roles = chosen[list(ROLE_COLUMNS)].itertuples(index=False, name=None)
    given: list[tuple[Label | None, str]]
    if isinstance(labels, ClassLabels):
        words = chosen.set_index("slide_id")[labels.column].map(canonical_word)
        _check_words(task, labels, words, where)
        given = [(labels.map.get(w), f"no label: '{w}'" if w else _EMPTY) for w in words]
    else:
        given = [
            _label_of(task, cells, f"{where}: slide '{slide_id}'")
            for slide_id, *cells in chosen[["slide_id", *names]].itertuples(index=False, name=None)
        ]
    slides = [_Slide._make((*role, *label)) for role, label in zip(roles, given, strict=True)]
    if isinstance(labels, SurvivalLabels) and labels.time_unit is None:
        _check_days(task, labels, slides, where)
    return sorted(slides, key=lambda slide: slide.slide_id)


def columns_of(labels: Labels) -> list[str]:
    """Return the columns that labels are read from."""
    if isinstance(labels, SurvivalLabels):
        return [labels.time, labels.event]
    return [*labels.columns] if isinstance(labels, MultiLabels) else [labels.column]


def _label_of(task: TaskSpec, cells: Sequence[str], at: str) -> tuple[Label | None, str]:
    """Return the label that the cells of a slide hold, or None and the reason."""
    labels = task.labels
    if isinstance(labels, SurvivalLabels):
        return _survival_of(labels, cells[0], cells[1], at, task)
    if isinstance(labels, ContinuousLabels):
        return _number_of(labels, cells[0], at, task)
    assert isinstance(labels, MultiLabels)
    words = dict.fromkeys(["", *labels.missing], "")
    words |= dict.fromkeys(labels.positive, POSITIVE) | dict.fromkeys(labels.negative, NEGATIVE)
    found = []
    for name, cell in zip(labels.columns, cells, strict=True):
        if (word := canonical_word(cell)) not in words:
            raise InputError(
                f"{at}: '{word}' in column '{name}' is neither positive "
                f"({', '.join(labels.positive)}) nor negative ({', '.join(labels.negative)}); list "
                f"it under 'positive', 'negative' or 'missing' of the labels of {task.id}"
            )
        found.append(words[word])
    return (tuple(found), "") if any(found) else (None, "no label in any column")


def _number_of(
    labels: ContinuousLabels, cell: str, at: str, task: TaskSpec
) -> tuple[Label | None, str]:
    text = cell.strip()
    if not text or canonical_word(text) in labels.missing:
        return None, f"no label: '{text}'" if text else _EMPTY
    try:
        number = math.nan if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{at}: '{text}' in column '{labels.column}' is not a number; write it with a decimal "
            f'point and without separators, or, where it means "no label", add it to missing = '
            f'["{text}"] under {task.place}'
        )
    return number, ""


def _survival_of(
    labels: SurvivalLabels, time: str, event: str, at: str, task: TaskSpec
) -> tuple[Label | None, str]:
    word, text = canonical_word(event), time.strip()
    word = "" if word in labels.missing else word
    text = "" if canonical_word(text) in labels.missing else text
    if word and word not in (labels.event_value, labels.censored_value):
        raise InputError(
            f"{at}: '{word}' in column '{labels.event}' is neither the event "
            f"('{labels.event_value}') nor censored ('{labels.censored_value}'); set event_value "
            f"and censored_value, or missing, under {task.place}"
        )
    if not text:
        return None, "no follow-up time"
    try:
        days = float(text)
        if labels.time_unit not in (None, "days"):  # whole days stay whole
            days = round(days * DAYS_IN[labels.time_unit], 6)
    except ValueError:
        days = math.nan
    if not math.isfinite(days) or days < 0:
        raise InputError(
            f"{at}: '{text}' in column '{labels.time}' is not a follow-up time; expected "
            f"{labels.time_unit or 'days'} as a number of 0 or more, or an empty cell where it is "
            "unknown"
        )
    if not word:
        return None, "no event indicator"
    return (days, word == labels.event_value), ""


def far_values(task: TaskSpec, units: Units) -> str | None:
    """Return which continuous labels lie far from all others, or None; they are used as they are.

    Far is more than 8 robust standard deviations from the median: 1.4826 times the median absolute
    deviation, or, where more than half are equal, 1.2533 times the mean absolute deviation, which
    are the standard deviation of normal data. Of a million normal values none is so far; of skewed
    scores some may be, which is why they are named and not refused.

    References:
        Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), the modified z-score.
    """
    if not isinstance(task.labels, ContinuousLabels):
        return None
    values = units.table["value"]
    away = (values - values.median()).abs()
    spread = 1.4826 * away.median() or 1.2533 * away.mean()
    far = units.table.assign(away=away)[away > FAR_DEVIATIONS * spread]
    if far.empty:
        return None
    far = far.sort_values("away", ascending=False)
    rows = far.head(3)
    shown = ", ".join(f"{v:g} ({u})" for u, v in zip(rows["unit_id"], rows["value"], strict=True))
    return (
        f"{task.id}: {len(far)} of {len(values)} values in column '{task.labels.column}' lie more "
        f"than {FAR_DEVIATIONS:g} robust standard deviations from the median {values.median():g}: "
        f"{shown}{', ...' * (len(far) > 3)}; they are used as they are"
    )


def _check_days(
    task: TaskSpec, labels: SurvivalLabels, slides: Sequence[_Slide], where: str
) -> None:
    times: dict[float, str] = {}
    for slide in slides:
        if isinstance(slide.label, tuple):
            times[float(slide.label[0])] = slide.slide_id
    longest = max(times, default=0.0)
    broken = [time for time in times if not time.is_integer()]
    if broken and longest < LEAST_DAYS:
        raise InputError(
            f"{where}: column '{labels.time}' cannot be days: no follow-up is longer than "
            f"{longest:g}, and there are decimals, such as {broken[0]:g} (slide "
            f"'{times[broken[0]]}'). Say what it is counted in: time_unit = \"months\" (or "
            f'"years", or "days" if they are days) under {task.place}'
        )


def _check_words(task: TaskSpec, labels: ClassLabels, words: "pd.Series[str]", where: str) -> None:
    unknown = words[~words.isin({"", *labels.map, *labels.missing})]
    if unknown.empty:
        return
    word = unknown.iloc[0]
    count = int((unknown == word).sum())
    others = sorted(set(unknown) - {word})
    also = f" (also unknown: {', '.join(others[:8])})" if others else ""
    hint = did_you_mean(word, [*labels.map, *labels.missing])
    mapped = ", ".join(f'"{w}" = "{n}"' for w, n in {**labels.map, word: "..."}.items())
    missing = ", ".join(f'"{w}"' for w in (*labels.missing, word))
    raise InputError(
        f"{where}: column '{labels.column}': unknown label '{word}' in {count} row(s), first at "
        f"slide '{unknown.index[0]}'{also}{hint}{' ' if hint.endswith('?') else '. '}"
        f"Say what it means under {task.place}: a class, "
        f"map = {{ {mapped} }}, or no label, missing = [{missing}]"
    )


def disagreeing(slides: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the first slide of each label, or site, of the cases that have several."""
    different = slides.drop_duplicates(["case_id", column])
    return different[different["case_id"].duplicated(keep=False)]


def check_agreed(slides: pd.DataFrame, column: str, where: str, advice: str) -> None:
    """Check that all slides of a case have one label, or one site.

    Raises:
        InputError: two differ; the message has the case and the slides.
    """
    twice = disagreeing(slides, column).sort_values(["case_id", "slide_id"]).head(2)
    if len(twice):
        shown = " and ".join(
            f"'{label_text(value)}' (slide '{slide_id}')"
            for value, slide_id in zip(twice[column], twice["slide_id"], strict=True)
        )
        case_id = twice["case_id"].iloc[0]
        raise InputError(f"{where}: slides of case '{case_id}' disagree: {shown}; {advice}")


def label_text(label: Label) -> str:
    """Return a label as messages have it: a class, or follow-up in days and whether it ended."""
    if not isinstance(label, tuple):
        return str(label)
    if isinstance(label[0], str):
        return ", ".join(str(word) or "none" for word in label)
    return f"{label[0]:g} days, {'event' if label[1] else 'censored'}"


def outcome_counts(units: Units) -> str:
    """Return how many units are of each class, or have an event or none, the classes sorted.

    Of several labels, how many units are positive in each; of a number, its mean and range.
    """
    if "event" in units.table:
        events = int(units.table["event"].sum())
        return f"event: {events}, censored: {len(units.table) - events}"
    if "value" in units.table:
        values = units.table["value"]
        return f"mean {values.mean():.4g}, from {values.min():.4g} to {values.max():.4g}"
    if "label" not in units.table:
        columns = [name for name in map(str, units.table) if name.startswith("label_")]
        positive = {name[6:]: int((units.table[name] == POSITIVE).sum()) for name in columns}
        return ", ".join(f"{name}: {count} positive" for name, count in positive.items())
    counts = units.table["label"].value_counts().sort_index()
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _table(task: TaskSpec, rows: Sequence[tuple[str, str, str, Label]]) -> pd.DataFrame:
    columns = ("unit_id", "case_id", "site")
    table = pd.DataFrame([row[:3] for row in rows], columns=columns, dtype=str)
    labels: list[Any] = [row[3] for row in rows]
    if isinstance(task.labels, ClassLabels):
        table["label"] = pd.Series(labels, dtype=str)
    elif isinstance(task.labels, ContinuousLabels):
        table["value"] = pd.Series(labels, dtype="float64")
    elif isinstance(task.labels, MultiLabels):
        for place, name in enumerate(task.labels.columns):
            table[f"label_{name}"] = pd.Series([label[place] for label in labels], dtype=str)
    else:
        table["time_days"] = pd.Series([label[0] for label in labels], dtype="float64")
        table["event"] = pd.Series([label[1] for label in labels], dtype=bool)
    return table


def _check_scorable(
    task: TaskSpec, table: pd.DataFrame, missing: Mapping[str, tuple[str, ...]], where: str
) -> None:
    left_out = "; ".join(f"{len(ids)} {reason}" for reason, ids in missing.items())
    left_out = f" (left out: {left_out})" if left_out else ""
    if isinstance(task.labels, ClassLabels):
        counts = {name: int((table["label"] == name).sum()) for name in task.labels.classes}
        there = sorted(name for name, count in counts.items() if count)
        if len(there) < 2:
            raise InputError(
                f"{where}: {task.id} needs at least two of the classes "
                f"{', '.join(task.labels.classes)} among slides with features; found "
                f"{', '.join(there) or 'none'} in {len(table)} units{left_out}"
            )
        if absent := [name for name in counts if name not in there]:
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            names = ", ".join(f'"{name}"' for name in absent)
            raise InputError(
                f"{where}: {task.id}: no unit with features is of class {names} (units: {shown})"
                f"{left_out}. Check which words 'map' gives to it; or leave the class out, which "
                f"is another task with a name of its own: without = [{names}] under "
                f"{task.place}"
            )
    elif isinstance(task.labels, ContinuousLabels):
        if table["value"].nunique() < 2:
            raise InputError(
                f"{where}: {task.id} needs at least two different numbers in column "
                f"'{task.labels.column}' among slides with features; found "
                f"{table['value'].nunique()} in {len(table)} units{left_out}"
            )
    elif isinstance(task.labels, MultiLabels):
        for name in task.labels.columns:
            words = set(table[f"label_{name}"])
            if absent := [word for word in (POSITIVE, NEGATIVE) if word not in words]:
                raise InputError(
                    f"{where}: {task.id}: no unit with features is {absent[0]} in column '{name}'"
                    f"{left_out}; check the words of 'positive' and 'negative', or leave the column"
                    " out of 'columns'"
                )
    elif not table["event"].any():
        raise InputError(
            f"{where}: {task.id} has no event among {len(table)} units with follow-up and "
            f"features{left_out}; check event_value ('{task.labels.event_value}')"
        )

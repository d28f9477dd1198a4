"""A task of the user's own, declared in mbench.toml from options and a label table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from madeleine_bench.data.audit_cohort import coverage_line
from madeleine_bench.data.interchange import cohort_block, toml_block, toml_keys, with_blocks
from madeleine_bench.data.labels import build_units
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.splits import find_splits
from madeleine_bench.data.tables import missing_column, read_cells, read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import CohortSpec, Columns
from madeleine_bench.specs.config import DEFAULT_NAME, Config, load_config
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import DAYS_IN, Identifier, canonical_word
from madeleine_bench.types import CohortData

LabelType = Literal["binary", "multiclass", "ordered", "continuous", "survival"]
Ask = Callable[[str, str], str]  # a question and the suggested answer, to the answer
_MOST_CLASSES = 20
_NO_LABEL = {
    "na", "n/a", "#n/a", "nan", "null", "unknown", "not available", "not reported", "not performed",
    "performed but not available", "[not available]", "[not evaluated]", "[unknown]",
}  # fmt: skip
_EVENT = {"1", "event", "dead", "deceased", "yes", "y", "true"}
_CENSORED = {"0", "alive", "living", "censored", "no", "n", "false"}


@dataclass(frozen=True)
class NewTask:
    """What a user says of a new task; None is asked for, or inferred from the label table.

    Attributes:
        id: id of the task.
        cohort: id of its cohort.
        labels: the label table; None takes that of a cohort which has one.
        label: column of the classes.
        time: column of the follow-up; `event`, of its indicator, is of survival as well.
        type: kind of labels.
        positive: the positive class, or the word that means the event.
        classes: class names in order.
        missing: words that mean "no label".
        features: folder of the feature files.
        unit: what is trained on and tested.
        columns: by role (slide, case, stain, site), the column that says what a row is.
    """

    id: str | None = None
    cohort: str | None = None
    labels: Path | None = None
    label: str | None = None
    time: str | None = None
    event: str | None = None
    type: LabelType | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    features: Path | None = None
    unit: Literal["slide", "case"] = "case"
    columns: Mapping[str, str | None] = field(default_factory=dict)


def declare_task(new: NewTask, path: Path, ask: Ask | None = None) -> list[str]:
    """Write a task, and its cohort where that is new, into mbench.toml.

    Args:
        new: what the user says.
        path: the mbench.toml, which is added to where it exists.
        ask: asks for what is missing; None refuses instead.

    Returns:
        Lines that say what is in the task, what was assumed, and what to do next.

    Raises:
        InputError: something is missing, the id is taken, the table lacks a column, or its labels
            cannot be scored. Nothing is written then.
    """
    shipped = load_catalogue()
    there = load_config(path) if path.exists() else Config(path=path)
    if isinstance(there.tasks, Path):
        raise InputError(f"{path}: tasks are in the folder {there.tasks}; add the task there")
    catalogue = there.extended(shipped)
    new = _asked(new, there, ask)
    if new.id in catalogue.tasks:
        raise InputError(f"--id: there is a task '{new.id}' already; choose another id")
    assert new.id is not None
    assert new.cohort is not None
    assert new.labels is not None
    entry = there.cohorts.get(new.cohort)
    for option, ours in (("labels", new.labels), ("features", new.features)):
        if (theirs := getattr(entry, option, None)) and ours and Path(theirs) != ours.absolute():
            raise InputError(
                f"--{option}: {path} says that the {option} of cohort {new.cohort} are in "
                f"{theirs}; leave out --{option}, or choose another --cohort"
            )
    spec = catalogue.cohorts.get(new.cohort) or CohortSpec.model_validate({"id": new.cohort})
    usual = entry.columns_for(spec) if entry else spec.columns
    header, _ = read_cells(new.labels)
    columns, notes = _columns(new, usual, header)
    differing = {k: v or "" for k, v in columns if v != getattr(usual, k)}
    if entry and differing:
        raise InputError(
            f"{path}: write {toml_keys({'columns': differing})[0]} under [cohorts.{new.cohort}], "
            "which says other columns, or leave out --slide, --case, --stain and --site"
        )
    exclude = entry.exclude if entry else {}
    table = read_label_table(new.labels, columns, exclude=exclude)
    labels, said = _labels(new, table, ask)
    blocks = []
    if entry is None:
        keys: dict[str, Any] = {"labels": _relative(new.labels, path)}
        keys |= {"columns": differing} if differing else {}
        where = _relative(new.features, path) if new.features else None
        stains = sorted(set(table["stain"]))
        keys |= {"stains": stains} if columns.stain and new.cohort not in shipped.cohorts else {}
        blocks.append(cohort_block(new.cohort, where, keys))
    unit = {"unit": "slide"} if new.unit == "slide" else {}
    task_keys = {"cohort": new.cohort, **unit, "labels": labels}
    blocks.append(toml_block(f"tasks.{new.id}", task_keys))
    text, catalogue, config = with_blocks(path, blocks, shipped)
    task = catalogue.tasks[new.id]
    data = cast(CohortData, SimpleNamespace(slides=table, no_bag=frozenset()))
    units = build_units(task, data, str(new.labels))
    find_splits(path.parent / "splits", task, catalogue.protocols[task.protocols[0]], units)
    lines = [coverage_line(task, data, units), *said, *notes]
    if new.features:
        now = config.cohorts[new.cohort]
        cache = path.parent / "results" / "cache"
        files = LocalCohort(catalogue.cohorts[new.cohort], now, cache).files
        lines.append(f"{len(files)} of {len(table)} slides have a feature file")
    lines.append(
        f"scored by {task.protocols[0]}, {task.metric.name}, in {task.splits.folds} folds that are "
        "stratified and keep the slides of a case together"
    )
    write_text(path, text)
    lines = [lines[0], *(f"  {line}" for line in lines[1:]), f"wrote {path}"]
    if 'features = "features"  # fill in' in text:
        lines.append(f"fill in: features in {path}, the folder of the feature files")
    option = "" if path == Path(DEFAULT_NAME) else f" --config {path}"
    return [*lines, f"next: mbench run{option} --encoder mean-pool --task {new.id}"]


def _asked(new: NewTask, there: Config, ask: Ask | None) -> NewTask:
    """Return the task with its id, cohort, table and label column, which are asked for.

    Raises:
        InputError: one is missing and nobody can be asked, or an id is none.
    """
    if (new.time is None) != (new.event is None) or (new.time and new.label):
        raise InputError("give --label COLUMN, or --time COLUMN and --event COLUMN for survival")
    entry = there.cohorts.get(new.cohort or "")
    if entry and new.labels is None:
        new = replace(new, labels=entry.labels)
    needed = {"cohort": new.cohort, "labels": new.labels, "label": new.label or new.time}
    missing = [name for name, value in {"id": new.id, **needed}.items() if not value]
    if missing and ask is None:
        raise InputError(
            f"missing {', '.join(f'--{name}' for name in missing)}; for example: mbench tasks new "
            "--id my-er --cohort my-cohort --labels labels.csv --label er_status"
        )
    if ask is not None and missing:
        if "labels" in missing:
            new = replace(new, labels=Path(ask("Label table (.csv, .tsv or .parquet)", "")))
        path = new.labels or Path()
        if "label" in missing:
            header, _ = read_cells(path)
            new = replace(new, label=ask(f"Label column ({', '.join(header)})", ""))
        cohort = new.cohort or ask("Id of the cohort", path.stem.lower())
        usual = f"{cohort}-{new.label or 'survival'}".lower().replace(" ", "-")
        new = replace(new, cohort=cohort, id=new.id or ask("Id of the task", usual))
    for option, name in (("--id", new.id), ("--cohort", new.cohort)):
        try:
            TypeAdapter(Identifier).validate_python(name)
        except ValidationError as error:
            raise InputError(
                f"{option}: '{name}' is not a valid id; expected up to 64 of a-z, 0-9, '-' and "
                f"'_', such as "
                "my-er"
            ) from error
    return new


def _columns(new: NewTask, usual: Columns, header: Sequence[str]) -> tuple[Columns, list[str]]:
    """Return which columns say what a row is, and what was assumed."""
    names: dict[str, str | None] = {}
    notes = []
    for role, declared in usual:
        given = new.columns.get(role)
        named_so = next((name for name in (f"{role}_id", role) if name in header), None)
        names[role] = given or (declared if declared in header else named_so)
        if given and given not in header:
            raise missing_column(given, header, f"--{role}: {new.labels}")
        if names[role] and names[role] != declared and not given:
            notes.append(f"column '{names[role]}' is the {role}")
    if names["slide"] is None:
        found = missing_column(usual.slide, header, str(new.labels))
        raise InputError(f"{found}. Name the column with the names of the feature files: --slide")
    if names["case"] is None:
        notes.append("no case column: every slide is a case of its own (--case COLUMN)")
    return Columns.model_validate(names), notes


def _labels(new: NewTask, table: pd.DataFrame, ask: Ask | None) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of `labels` of a task, and what was assumed."""
    survival = new.time is not None or new.type == "survival"
    if survival and (new.time is None or new.event is None):
        raise InputError("--type survival needs --time COLUMN and --event COLUMN")
    if new.time and new.type not in (None, "survival"):
        raise InputError(f"--type {new.type} has classes: name their column with --label")
    for option, name in (("label", new.label), ("time", new.time), ("event", new.event)):
        if name and name not in table:
            raise missing_column(name, list(table.columns[4:]), f"--{option}: {new.labels}")
    column = new.event or new.label
    words = table[column].map(canonical_word).value_counts()
    given = {canonical_word(word) for word in new.missing}
    if absent := sorted(given - set(words.index)):
        raise InputError(f"--missing: no row of column '{column}' is '{absent[0]}'")
    missing = sorted(word for word in words.index if word in given or word.lower() in _NO_LABEL)
    words = words.drop([*missing, *({""} & set(words.index))]).sort_index(key=_in_order)
    if len(words) < 2:
        found = f"only '{words.index[0]}'" if len(words) else "nothing"
        raise InputError(
            f"{new.labels}: column '{column}' has {found} beside empty cells and missing words; a "
            f"task needs two {'words: the event and censored' if survival else 'classes or more'}"
        )
    labels = _survival(new, words, ask) if survival else _classes(new, words, ask)
    assumed = [word for word in missing if word not in given]
    return labels | ({"missing": missing} if missing else {}), [
        *_said(new, labels, words),
        *([f"read as no label: {', '.join(assumed)}"] if assumed else []),
    ]


def _classes(new: NewTask, words: "pd.Series[int]", ask: Ask | None) -> dict[str, Any]:
    """Return the keys of class labels: the words in order, the positive one last."""
    names = list(words.index)
    shown = ", ".join(f"{word} ({count})" for word, count in words.items())
    where = f"{new.labels}: column '{new.label}'"
    if new.type == "continuous" or (
        len(names) > _MOST_CLASSES
        and new.type is None
        and pd.to_numeric(pd.Series(names), errors="coerce").notna().all()
    ):
        return {"type": "continuous", "column": new.label}
    if len(names) > _MOST_CLASSES:
        raise InputError(
            f"{where} has {len(names)} different words, such as {', '.join(names[:3])}; class "
            f"labels have 2 to {_MOST_CLASSES}. Choose another column, or cut it into classes"
        )
    numbered = all(word[0].isdigit() for word in names)
    kind: str | None = new.type or ("binary" if len(names) == 2 else None)
    if kind is None and not numbered and not new.classes:
        kind = "multiclass"
    if kind is None and ask is not None:
        kind = ask(f"Classes {shown}: ordered or multiclass", "ordered" if numbered else "")
    if kind not in ("binary", "multiclass", "ordered"):
        raise InputError(
            f"{where} may be levels in order or classes without one: {shown}. Say which: --type "
            "ordered or --type multiclass"
        )
    if kind == "binary" and len(names) != 2:
        raise InputError(
            f"{where}: a binary task has two classes, found {len(names)}: {shown}. Say which words "
            "are no label (--missing WORD), or choose another --type"
        )
    if new.classes:
        names = [canonical_word(word) for word in new.classes]
        if sorted(names) != sorted(words.index):
            raise InputError(
                f"--classes must name each class once, in order; there are {shown}. --missing WORD "
                "says that a word is no class"
            )
    elif kind == "ordered" and not numbered:
        raise InputError(
            f"{where}: an ordered task needs the order of its classes, from low to high: --classes "
            f"{' --classes '.join(names)}"
        )
    if new.positive is not None:
        positive = canonical_word(new.positive)
        if kind != "binary":
            raise InputError(
                f"--positive is of a binary task; this one is {kind}: {shown}. --missing WORD says "
                "that a word is no class"
            )
        if positive not in names:
            hint = did_you_mean(positive, names)
            raise InputError(f"--positive: no class is called '{positive}'{hint}")
        names.sort(key=lambda word: word == positive)
    return {"type": kind, "column": new.label, "classes": names}


def _survival(new: NewTask, words: "pd.Series[int]", ask: Ask | None) -> dict[str, Any]:
    """Return the keys of survival labels: which word means the event, and the unit of time."""
    where, names = f"{new.labels}: column '{new.event}'", list(words.index)
    if len(names) != 2:
        raise InputError(
            f"{where} has the words {', '.join(names)}; expected two, for the event and for "
            "censored. Say which mean that it is unknown: --missing WORD"
        )
    guess = [word for word in names if word.lower() in _EVENT]
    clear = len(guess) == 1 and {word.lower() for word in names} & _CENSORED
    event = new.positive or (guess[0] if clear else None)
    if event is None and ask is not None:
        event = ask(f"Which word means the event: {' or '.join(names)}", "")
    event = canonical_word(event or "")
    if event not in names:
        raise InputError(
            f"{where} has the words {' and '.join(names)}; say which means the event: --positive "
            "WORD"
        )
    unit = next((unit for unit in DAYS_IN if str(new.time).lower().endswith(unit)), None)
    labels: dict[str, Any] = {
        "type": "survival",
        "time": new.time,
        "event": new.event,
        "event_value": event,
    }
    labels["censored_value"] = next(word for word in names if word != event)
    return labels | ({"time_unit": unit} if unit else {})


def _said(new: NewTask, labels: Mapping[str, Any], words: "pd.Series[int]") -> list[str]:
    """Return what was assumed of the labels."""
    if labels["type"] == "survival":
        unit = labels.get("time_unit")
        said = (
            f"in {unit}, as its name says"
            if unit
            else "read as days; if that is wrong, add time_unit"
        )
        return [f"survival: '{labels['event_value']}' is the event; {new.time} is {said}"]
    advice = "; --missing WORD says that one is none" if len(words) > 2 else ""
    if labels["type"] == "continuous":
        return [f"continuous, as there are {len(words)} different numbers"]
    why = "" if new.type else f", as there are {len(words)} classes{advice}"
    last = f"; the positive class is {labels['classes'][-1]}" * (labels["type"] == "binary")
    order = f": {' < '.join(labels['classes'])}" * (labels["type"] == "ordered")
    return [f"{labels['type']}{why}{last}{order}"]


def _in_order(words: "pd.Index[str]") -> pd.Index:
    """Return sort keys: by the number that a word starts with, then by the word."""
    numbers = words.str.extract(r"^(\d+\.?\d*)", expand=False).astype(float)
    return pd.MultiIndex.from_arrays([numbers.fillna(float("inf")), words])


def _relative(path: Path, config: Path) -> str:
    """Return a path as mbench.toml names it: from the folder of the file where it lies below."""
    folder, path = config.absolute().parent, path.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

"""A task of another benchmark, checked, and written as label table, split file and mbench.toml."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.splits import FOLD_KEYS, ROLES, split_csv
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.specs.catalogue import Catalogue, load_catalogue
from madeleine_bench.specs.config import DEFAULT_NAME, Config
from madeleine_bench.specs.loader import parse_spec, read_toml

ID_COLUMNS = ["slide_id", "case_id"]


@dataclass(frozen=True)
class ImportedTask:
    """A task of another benchmark.

    Attributes:
        cohort: id of the cohort.
        task: id of the task.
        unit: what is trained on and tested.
        table: a row per slide with a label, as text: slide_id, case_id and the label columns.
        labels: the keys of `labels` of a task file.
        splits: by (repeat, fold), the role of each unit that has one; empty: folds are drawn.
        notes: what is in it and what was assumed.
    """

    cohort: str
    task: str
    unit: Literal["slide", "case"]
    table: pd.DataFrame
    labels: Mapping[str, Any]
    splits: Mapping[tuple[int, int], Mapping[str, str]]
    notes: tuple[str, ...]


def imported_task(
    cohort: str,
    task: str,
    unit: Literal["slide", "case"],
    table: pd.DataFrame,
    labels: Mapping[str, Any],
    folds: Mapping[str, Mapping[str, str]],
    path: Path,
    notes: Iterable[str],
) -> ImportedTask:
    """Return a task with its ids, the columns it needs and its folds, all checked.

    Args:
        cohort: name of the cohort.
        task: name of the task.
        unit: what is trained on and tested.
        table: a row per slide; "" is no label. Slides without one are left out, as the tools do.
        labels: the keys of `labels` of a task file.
        folds: by their place in the files, the role of each unit. Where none is tested twice they
            are the folds of one repeat, else repeats of one fold each.
        path: the table, for messages.
        notes: what was assumed.

    Raises:
        InputError: an id is empty, a slide occurs twice, a unit of a fold is not in the table, a
            case is tested and trained on, or nothing is.
    """
    columns = [labels["time"], labels["event"]] if "time" in labels else [labels["column"]]
    table = table[[*ID_COLUMNS, *columns]].sort_values("slide_id", ignore_index=True)
    for name in ID_COLUMNS:
        if (table[name] == "").any():
            raise InputError(f"{path}: a {name} is empty")
    slides, cases = (table[name].map(canonical_id) for name in ID_COLUMNS)
    if twice := slides[slides.duplicated()].tolist():
        raise InputError(f"{path}: slide '{twice[0]}' has two rows; each slide has one")
    case_of = dict(zip(slides if unit == "slide" else cases, cases, strict=True))
    for place, roles in folds.items():
        _check_fold(roles, case_of, unit, f"{path}: {place}")
    table = table[labelled := (table[columns] != "").all(axis=1)].reset_index(drop=True)
    scored = set((slides if unit == "slide" else cases)[labelled])
    folds = {
        place: {unit_id: role for unit_id, role in roles.items() if unit_id in scored}
        for place, roles in folds.items()
    }
    no_label = int((~labelled).sum())
    found = [
        f"{len(table)} slides of {cases[labelled].nunique()} cases, scored by {unit}; the label is "
        f"in {' and '.join(columns)}",
        *notes,
        *([f"{no_label} slides have no label and are left out"] if no_label else []),
    ]
    tested = Counter(u for roles in folds.values() for u, role in roles.items() if role == "test")
    once = max(tested.values(), default=0) == 1
    keys = [(0, number) if once else (number, 0) for number in range(len(folds))]
    if not folds:
        found.append("no split in the files: five folds are drawn, stratified by case")
    elif len(folds) == 1:
        found.append("one split, as in the files")
    else:
        how = "folds, each unit tested at most once" if once else "Monte Carlo splits"
        found.append(f"{len(folds)} {how}, as in the files")
    splits = dict(zip(keys, folds.values(), strict=True))
    cohort = _id_of(cohort)
    return ImportedTask(
        cohort, _id_of(f"{cohort}-{task}"), unit, table, labels, splits, tuple(found)
    )


def _check_fold(
    roles: Mapping[str, str], case_of: Mapping[str, str], unit: str, where: str
) -> None:
    if unknown := sorted(set(roles) - set(case_of)):
        raise InputError(f"{where}: {unit} '{unknown[0]}' is not in the table")
    sides = {role: {case_of[u] for u, r in roles.items() if r == role} for role in ROLES}
    if both := sorted(sides["test"] & (sides["train"] | sides["val"])):
        raise InputError(
            f"{where}: case '{both[0]}' is in test and in train or val ({len(both)} cases are); "
            "put all slides of a case on one side"
        )
    for role in ("train", "test"):
        if not sides[role]:
            raise InputError(f"{where}: nothing is in {role}")


def write_tasks(tasks: Sequence[ImportedTask], out: Path, features: Path | None) -> list[str]:
    """Write the tasks into a folder, and return lines that say what was assumed and what to do.

    An mbench.toml that is there is added to; no other file is replaced.

    Args:
        tasks: the tasks; those of one cohort share its label table.
        out: the folder.
        features: folder of the feature files; None leaves it to be filled in.

    Raises:
        InputError: a file, cohort or task is there already, two tasks of a cohort contradict each
            other, or the folder cannot be written. Nothing is written then.
    """
    catalogue, lines = load_catalogue(), []
    for number, task in enumerate(tasks := list(tasks)):
        lines += [task.task, *(f"  {note}" for note in task.notes)]
        if task.cohort in catalogue.cohorts:
            other = f"{task.cohort}-imported"
            name = task.task.replace(task.cohort, other, 1)
            lines.append(f"  {task.cohort} is a built-in cohort: the task is called {name}")
            tasks[number] = replace(task, cohort=other, task=name)
    cohorts: dict[str, list[ImportedTask]] = {}
    for task in tasks:
        cohorts.setdefault(task.cohort, []).append(task)
    tables = {out / f"{name}.csv": _joint_table(name, own) for name, own in cohorts.items()}
    splits = {out / f"{task.task}-splits.csv": task for task in tasks if task.splits}
    for path in (*tables, *splits):
        if path.exists():
            raise InputError(f"{path} is there already; choose another --out, or remove it")
    text = _toml(cohorts, out, features, catalogue)
    for path, table in tables.items():
        write_text(path, table.to_csv(index=False, lineterminator="\n"))
    for path, task in splits.items():
        rows = (
            (*key, unit, role) for key, roles in task.splits.items() for unit, role in roles.items()
        )
        write_bytes(path, split_csv(FOLD_KEYS, rows))
    write_text(out / DEFAULT_NAME, text)
    lines.append(f"wrote {', '.join(map(str, (*tables, *splits, out / DEFAULT_NAME)))}")
    if features is None:
        lines.append(f"fill in: features in {out / DEFAULT_NAME}, the folder of the feature files")
    names = [own[0].task if len(own) == 1 else f"'{name}-*'" for name, own in cohorts.items()]
    chosen = " ".join(f"--task {name}" for name in names)
    config = "" if out == Path() else f" --config {out / DEFAULT_NAME}"
    return [*lines, f"next: mbench run{config} --encoder mean-pool {chosen}"]


def _joint_table(cohort: str, tasks: Sequence[ImportedTask]) -> pd.DataFrame:
    """Return the slides of all tasks of a cohort with the labels of each."""
    columns = Counter(name for task in tasks for name in task.table if name not in ID_COLUMNS)
    if twice := [name for name, count in columns.items() if count > 1]:
        raise InputError(
            f"two tasks of cohort {cohort} have a column '{twice[0]}'; import them one by one, "
            "each with an --out of its own"
        )
    tables = (task.table for task in tasks)
    joint = reduce(lambda left, right: left.merge(right, on=ID_COLUMNS, how="outer"), tables)
    if twice := joint["slide_id"][joint["slide_id"].duplicated()].tolist():
        raise InputError(f"the tasks of cohort {cohort} say two case ids of slide '{twice[0]}'")
    for task in tasks:
        other = ~joint["slide_id"].isin(task.table["slide_id"])
        for row in joint[other & joint["case_id"].isin(task.table["case_id"])].itertuples():
            if task.unit == "case":
                raise InputError(
                    f"{task.task} lacks slide '{row.slide_id}' of case '{row.case_id}', which "
                    f"another task of cohort {cohort} has. A case is scored from all its slides: "
                    "import the tasks one by one, each with an --out of its own"
                )
    return joint.fillna("").sort_values("slide_id", ignore_index=True)


def _toml(
    cohorts: Mapping[str, Sequence[ImportedTask]],
    out: Path,
    features: Path | None,
    catalogue: Catalogue,
) -> str:
    """Return the text of mbench.toml: what is there, and the new cohorts and tasks after it."""
    path = out / DEFAULT_NAME
    there = read_toml(path) if path.exists() else {}
    blocks = []
    for name, tasks in cohorts.items():
        if name in there.get("cohorts", {}):
            raise InputError(
                f"{path} has a cohort '{name}' already; import all tasks of a cohort at once, or "
                "choose another --out or --cohort"
            )
        where = features.absolute().as_posix() if features else None
        blocks.append(cohort_block(name, where, {"labels": f"{name}.csv"}))
        for task in tasks:
            keys: dict[str, Any] = {"cohort": name, "labels": task.labels}
            keys |= {"unit": "slide"} if task.unit == "slide" else {}
            keys |= {"splits": f"{task.task}-splits.csv"} if task.splits else {}
            blocks.append(toml_block(f"tasks.{task.task}", keys))
    return with_blocks(path, blocks, catalogue)[0]


def with_blocks(
    path: Path, blocks: Sequence[str], catalogue: Catalogue
) -> tuple[str, Catalogue, Config]:
    """Return the text of an mbench.toml with blocks after what is there, and what it then says.

    Args:
        path: the file, which may be absent.
        blocks: TOML tables (`toml_block`).
        catalogue: the built-in one; returned with the cohorts and tasks of the file added to it.

    Raises:
        InputError: the file cannot be added to, or what it then says is wrong.
    """
    there = [path.read_text(encoding="utf-8-sig").rstrip()] if path.exists() else []
    text = "\n\n".join((*filter(None, there), *blocks)) + "\n"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"cannot add to {path} ({error}); choose another --out") from error
    config = parse_spec(Config, {**data, "path": path}, path, context=path.absolute().parent)
    extended = config.extended(catalogue)
    return text, extended, config.checked(extended)


def cohort_block(name: str, features: str | None, keys: Mapping[str, Any]) -> str:
    """Return the TOML table of a cohort; without features their folder is to be filled in."""
    first, *rest = toml_keys({"features": features or "features", **keys})
    todo = "" if features else "  # fill in: the folder of the feature files"
    return "\n".join((f"[cohorts.{name}]", first + todo, *rest))


def toml_block(name: str, keys: Mapping[str, Any]) -> str:
    """Return a TOML table with its keys, a line each."""
    return "\n".join((f"[{name}]", *toml_keys(keys)))


def toml_keys(keys: Mapping[str, Any]) -> list[str]:
    """Return keys and values as TOML, a line each."""
    return [f"{key} = {_value(value)}" for key, value in keys.items()]


def _value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, Mapping):
        pairs = (
            f"{key if re.fullmatch(r'[A-Za-z_-]+', key) else _value(key)} = {_value(inner)}"
            for key, inner in value.items()
        )
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value, ensure_ascii=False)


def _id_of(name: str) -> str:
    """Return a name as an id.

    Examples:
        >>> [_id_of(name) for name in ("cptac_brca-TP53_mutation", "dss__SURVIVAL", "A & B")]
        ['cptac_brca-tp53_mutation', 'dss_survival', 'a-b']
    """
    text = re.sub(r"[^a-z0-9_]+", "-", name.lower())
    return re.sub(r"([-_])[-_]+", r"\1", text).strip("-_")

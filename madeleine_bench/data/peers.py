"""Tasks of Patho-Bench, CLAM, STAMP and MOOZY, read from files as their own code reads them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pandas as pd

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.interchange import ID_COLUMNS, ImportedTask, imported_task
from madeleine_bench.data.splits import ROLES
from madeleine_bench.data.tables import missing_column
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, files_under
from madeleine_bench.specs.loader import read_yaml
from madeleine_bench.specs.task import canonical_word

Tool = Literal["patho-bench", "clam", "stamp", "moozy"]
_Labels = tuple[dict[str, Any], list[str]]  # the keys of `labels`, and what was assumed

_CLAM_SPLITS = re.compile(r"splits_(\d+)(_bool)?\.csv")
_SIGNS: dict[Tool, re.Pattern[str]] = {
    "patho-bench": re.compile(r"k=all\.tsv"),
    "clam": _CLAM_SPLITS,
    "stamp": re.compile(r"splits\.json"),
    "moozy": re.compile(r"task\.csv"),
}
_MOST_CLASSES = 20
# The words that STAMP knows; the others have 1 and 0.
_EVENT = {"1", "event", "dead", "deceased", "yes", "y", "true"}
_CENSORED = {"0", "alive", "censored", "no", "false"}


def read_tasks(
    sources: Sequence[Path],
    tool: Tool | None = None,
    *,
    label: str | None = None,
    survival: tuple[str, str] | None = None,
    cohort: str | None = None,
) -> list[ImportedTask]:
    """Return the tasks in some folders or files.

    Args:
        sources: folders and files; of Patho-Bench also FOLDER/A==B--TASK, as it writes its task
            codes: train on all of FOLDER/A/TASK, test on all of FOLDER/B/TASK.
        tool: whose files they are; None recognises them by name.
        label: column of the classes (CLAM, STAMP).
        survival: columns of the follow-up time and of the event (STAMP).
        cohort: name of the cohort; None takes that of a folder or table.

    Raises:
        InputError: the files are of no tool or of several, or one of them is wrong.
    """
    pairs = [pair for source in sources if (pair := _external(source))]
    files = [file for source in sources if not _external(source) for file in _files(source)]
    tool = tool or ("patho-bench" if pairs else _recognised(files))
    if (label and tool not in ("clam", "stamp")) or (survival and tool != "stamp"):
        raise InputError(
            f"the files of {tool} say which columns are labels; leave out --label and --survival"
        )
    if tool == "clam":
        return [_clam(files, label or "label", cohort)]
    if tool == "stamp":
        return [_stamp(files, label, survival, cohort)]
    read = _patho_bench if tool == "patho-bench" else _moozy
    folders = {file.parent for file in files if _SIGNS[tool].fullmatch(file.name)}
    tasks = [read(folder, cohort) for folder in sorted(folders)]
    return tasks + [_patho_bench(train, cohort, test) for train, test in pairs]


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"there is no file or folder {source}")
    return files_under(source)


def _recognised(files: Sequence[Path]) -> Tool:
    """Return whose files these are, by their names."""
    signs = {
        tool: str(file)
        for file in reversed(files)
        for tool, sign in _SIGNS.items()
        if sign.fullmatch(file.name)
    }
    if len(signs) > 1:
        each = ", ".join(f"{tool} ({file})" for tool, file in sorted(signs.items()))
        raise InputError(f"files of several tools: {each}; say which with --from")
    for tool in signs:
        return tool
    raise InputError(
        "found no k=all.tsv (Patho-Bench), splits_0.csv (CLAM), splits.json (STAMP) or task.csv "
        "(MOOZY); name another folder, or say whose files these are with --from"
    )


def _external(source: Path) -> tuple[Path, Path] | None:
    """Return the two folders of a task code A==B--TASK; None where a path is no such code."""
    code = re.fullmatch(r"(.+)==(.+)--(.+)", source.name)
    if code is None or source.exists():
        return None
    train, test, task = code.groups()
    return source.parent / train / task, source.parent / test / task


def _patho_bench(folder: Path, cohort: str | None, test: Path | None = None) -> ImportedTask:
    """Return the task of a folder with k=all.tsv and config.yaml.

    In a column fold_N a unit is train, val or test, or in no part of the fold.

    Args:
        folder: the folder.
        cohort: name of the cohort; None takes that of the folder above.
        test: a folder with the same task on the cohort to be tested on; `folder` is trained on.
    """
    config, path = folder / "config.yaml", folder / "k=all.tsv"
    table, labels, notes = _patho_bench_table(path, config)
    unit: Literal["case", "slide"] = "case" if _key(config, "sample_col") == "case_id" else "slide"
    name = folder.absolute().parent.name
    if test is None:
        columns = [name for name in _names(table) if re.fullmatch(r"fold_\d+", name)]
        if not columns:
            raise InputError(f"{path}: row 1: there is no column fold_0, fold_1, ...")
        columns.sort(key=lambda column: int(column[5:]))
        folds = {c: _roles(table[f"{unit}_id"], table[c], f"{path}: {c}") for c in columns}
    else:
        other, _, _ = _patho_bench_table(test / "k=all.tsv", config)
        names = name, test.absolute().parent.name
        name, place = "-".join(names), "==".join(names)
        sides = pd.concat({"train": table, "test": other}, names=["side"]).reset_index("side")
        folds = {place: _roles(sides[f"{unit}_id"], sides["side"], place)}
        table = sides.reset_index(drop=True)
        notes.append(f"trained on all of {names[0]}, tested on all of {names[1]}")
    return imported_task(cohort or name, folder.name, unit, table, labels, folds, path, notes)


def _patho_bench_table(path: Path, config: Path) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Return a k=all.tsv, and the labels that a config.yaml says are in it.

    Patho-Bench leaves out rows without a value of `task_col`, and reads survival from the columns
    `<task_col>_event` and `<task_col>_days`.
    """
    table, content, column = read_table(path), read_yaml(config), _key(config, "task_col")
    if _key(config, "sample_col") not in ID_COLUMNS:
        raise InputError(f"{config}: 'sample_col' must be case_id or slide_id")
    if "case_id" not in table and _key(config, "sample_col") == "slide_id":
        table["case_id"] = table.get("slide_id", "")
    event, time = f"{column}_event", f"{column}_days"
    if content.get("task_type") == "survival" or event in (content.get("extra_cols") or ()):
        _need(table, [*ID_COLUMNS, time, event], path)
        table.loc[table.get(column, table[time]) == "", [time, event]] = ""
        return table, *_survival(table, time, event, path)
    _need(table, [*ID_COLUMNS, column], path)
    names = content.get("label_dict")
    if not isinstance(names, dict) or len(names) < 2:
        raise InputError(f"{config}: 'label_dict' must name two classes or more by their numbers")
    words = {canonical_word(number): str(name) for number, name in names.items()}
    cells = table[column].map(canonical_word)
    for row in table.index[~cells.isin([*words, ""])]:
        raise InputError(
            f"{path}: row {row + 2}: {column} is '{cells[row]}', which 'label_dict' of {config} "
            "does not name"
        )
    ordered = any("kappa" in str(metric) for metric in content.get("metrics") or ())
    kind = "binary" if len(words) == 2 else "ordered" if ordered else "multiclass"
    labels = {"type": kind, "column": column, "classes": list(words.values()), "map": words}
    return table, labels, [_class_note(labels, "in the order of label_dict")]


def _clam(files: Sequence[Path], label: str, cohort: str | None) -> ImportedTask:
    """Return the task of a dataset csv (case_id, slide_id, label) and its splits_N.csv.

    CLAM trains and tests slides.
    """
    tables = {
        file: table
        for file in files
        if file.suffix == ".csv" and not file.name.startswith("splits_")
        if set(ID_COLUMNS) <= set(table := read_table(file))
    }
    path = _single(tables, "dataset csv with columns case_id and slide_id")
    _need(tables[path], [label], path)
    labels, notes = _classes(tables[path], label, path)
    names = {file: name for file in files if (name := _CLAM_SPLITS.fullmatch(file.name))}
    _single({file.parent for file in names}, "folder with splits_0.csv, splits_1.csv, ...")
    # CLAM writes each split in both forms: the one of lists is taken.
    chosen = {int(name[1]): file for file, name in names.items() if name[2]}
    chosen |= {int(name[1]): file for file, name in names.items() if not name[2]}
    folds = {file.name: _clam_roles(file) for _, file in sorted(chosen.items())}
    return imported_task(
        cohort or path.stem, label, "slide", tables[path], labels, folds, path, notes
    )


def _clam_roles(path: Path) -> dict[str, str]:
    """Return the role of each slide of a split file of CLAM.

    Columns train, val and test list slides. In the boolean form each row is a slide, with True in
    the column of its part.
    """
    table, roles = read_table(path), ["train", "val", "test"]
    _need(table, roles, path)
    cells = table[roles].apply(lambda column: column.str.lower())
    if not cells.isin(["true", "false"]).all(axis=None):
        listed = table[roles].melt(var_name="role", value_name="slide").query("slide != ''")
        return _roles(listed["slide"], listed["role"], str(path))
    for row in table.index[(cells == "true").sum(axis=1) != 1]:
        raise InputError(f"{path}: row {row + 2}: expected one True, in train, val or test")
    return _roles(table.iloc[:, 0], (cells == "true").idxmax(axis=1), str(path))


def _stamp(
    files: Sequence[Path],
    label: str | None,
    survival: tuple[str, str] | None,
    cohort: str | None,
) -> ImportedTask:
    """Return the task of a clini table (PATIENT, labels), a slide table and splits.json.

    The slide table has PATIENT and FILENAME, the path of a feature file. STAMP trains and tests
    patients.
    """
    tables = {file: read_table(file) for file in files if file.suffix in (".csv", ".xlsx")}
    slides = {file for file, table in tables.items() if {"PATIENT", "FILENAME"} <= set(table)}
    slide_path = _single(slides, "slide table with columns PATIENT and FILENAME")
    clini = {file for file, table in tables.items() if "PATIENT" in table} - slides
    path = _single(clini, "clini table with a column PATIENT and none FILENAME")
    patients = tables[path]
    columns = [name for name in _names(patients) if name != "PATIENT"]
    if twice := patients["PATIENT"][patients["PATIENT"].duplicated()].tolist():
        raise InputError(f"{path}: patient '{twice[0]}' has two rows; each patient has one")
    if survival:
        _need(patients, survival, path)
        labels, notes = _survival(patients, *survival, path)
    elif label is None and len(columns) != 1:
        raise InputError(f"{path}: name the label with --label; columns: {', '.join(columns)}")
    else:
        label = label or columns[0]
        _need(patients, [label], path)
        labels, notes = _classes(patients, label, path)
    table = tables[slide_path].merge(patients, on="PATIENT").rename(columns={"PATIENT": "case_id"})
    table["slide_id"] = table["FILENAME"].map(_slide_of)
    if lost := len(tables[slide_path]) - len(table):
        notes.append(f"{lost} slides of patients who are not in {path.name} are left out")
    folds: dict[str, dict[str, str]] = {}
    for file in files:
        if file.name == "splits.json":
            folds = _stamp_folds(file)
            notes.append("STAMP draws validation patients of those in train: here all are in train")
    name, task = cohort or path.absolute().parent.name, label or "-".join(survival or ())
    return imported_task(name, task, "case", table, labels, folds, path, notes)


def _stamp_folds(path: Path) -> dict[str, dict[str, str]]:
    """Return the role of each patient in each split of a splits.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        check_readable(path, error)
        raise InputError(f"{path} is empty, or is not JSON: {error}") from error
    try:
        splits = [(split["train_patients"], split["test_patients"]) for split in content["splits"]]
    except (TypeError, KeyError) as error:
        raise InputError(
            f'{path}: expected {{"splits": [{{"train_patients": [...], "test_patients": [...]}}, '
            f"...]}}, as STAMP writes it; this is a {type(content).__name__}, or lacks one of these"
        ) from error
    return {
        f"split {number}": _roles(
            [*train, *test],
            ["train"] * len(train) + ["test"] * len(test),
            f"{path}: split {number}",
        )
        for number, (train, test) in enumerate(splits)
    }


def _moozy(folder: Path, cohort: str | None) -> ImportedTask:
    """Return the task of a folder with task.csv and config.yaml.

    task.csv has filename, case_id and label; or for survival the columns `event_col` and `time_col`
    of config.yaml, by default `<task_col>_event` and `<task_col>_days`. MOOZY leaves out negative
    times, takes a slide without a case for a case, and has no splits: it trains on all.
    """
    path, config = folder / "task.csv", folder / "config.yaml"
    table, content = read_table(path), read_yaml(config)
    _need(table, ["filename", "case_id"], path)
    table["slide_id"] = table["filename"].map(_slide_of)
    table["case_id"] = table["case_id"].mask(table["case_id"] == "", table["slide_id"])
    if _key(config, "task_type").lower() == "survival":
        column = content.get("task_col")
        event, time = (str(content.get(key) or "") for key in ("event_col", "time_col"))
        if not event or not time:
            event, time = f"{column}_event", f"{column}_days"
        _need(table, [event, time], path)
        table.loc[table[time].str.startswith("-"), [time, event]] = ""
        labels, notes = _survival(table, time, event, path)
    else:
        _need(table, ["label"], path)
        # All tasks of a cohort stand in one table of ours.
        table = table.rename(columns={"label": folder.name})
        labels, notes = _classes(table, folder.name, path)
    name = cohort or folder.absolute().parent.name
    return imported_task(name, folder.name, "case", table, labels, {}, path, notes)


def _roles(units: Iterable[Any], words: Iterable[str], where: str) -> dict[str, str]:
    """Return the role of each unit that has one; a unit may stand in several rows."""
    roles: dict[str, str] = {}
    for number, (unit, role) in enumerate(zip(units, words, strict=True), 2):
        if role and role not in ROLES:
            raise InputError(
                f"{where}: row {number} is '{role}'; expected train, val, test or an empty cell"
            )
        unit_id = canonical_id(str(unit))
        if roles.setdefault(unit_id, role) != role:
            raise InputError(
                f"{where}: '{unit}' is '{roles[unit_id]}' and '{role}'; it must have one role"
            )
    return {unit_id: role for unit_id, role in roles.items() if role}


def _classes(table: pd.DataFrame, column: str, path: Path) -> _Labels:
    """Return the labels whose classes are the words of a column, in alphabetical order."""
    words = sorted(set(table[column].map(canonical_word)) - {""})
    if not 2 <= len(words) <= _MOST_CLASSES:
        raise InputError(
            f"{path}: column '{column}' has {len(words)} different words; class labels have 2 to "
            f"{_MOST_CLASSES}"
        )
    kind = "binary" if len(words) == 2 else "multiclass"
    labels = {"type": kind, "column": column, "classes": words}
    return labels, [_class_note(labels, "in alphabetical order")]


def _class_note(labels: Mapping[str, Any], order: str) -> str:
    positive = "; the last is the positive one" if labels["type"] == "binary" else ""
    return f"{labels['type']} classes {', '.join(labels['classes'])}, {order}{positive}"


def _survival(table: pd.DataFrame, time: str, event: str, path: Path) -> _Labels:
    """Return the labels of survival; in the table the words of the event become 1 and 0."""
    words = table[event].map(canonical_word).str.lower()
    for row in table.index[~words.isin(_EVENT | _CENSORED | {""})]:
        raise InputError(
            f"{path}: row {row + 2}: {event} is '{words[row]}'; expected one of "
            f"{', '.join(sorted(_EVENT))} (the event) or {', '.join(sorted(_CENSORED))} (censored)"
        )
    table[event] = words.map(lambda word: word and str(int(word in _EVENT)))
    unit = next((unit for unit in ("days", "months", "years") if time.lower().endswith(unit)), None)
    labels = {"type": "survival", "time": time, "event": event}
    labels |= {"event_value": "1", "censored_value": "0"} | ({"time_unit": unit} if unit else {})
    said = (
        f"in {unit}, as its name says"
        if unit
        else "read as days; if that is wrong, add time_unit to labels"
    )
    happened = " or ".join(sorted(set(words) & _EVENT))
    return labels, [f"survival: the event is {event} = {happened}; {time} is {said}"]


def read_table(path: Path) -> pd.DataFrame:
    """Return a table as text; what pandas takes for a missing value, as the peers do, is "".

    Raises:
        InputError: it is no table, has no rows, or is .xlsx and nothing here can read that.
    """
    try:
        if path.suffix == ".xlsx":
            table = pd.read_excel(path, dtype=str)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig")
    except ImportError as error:
        raise InputError(
            f"{path}: openpyxl reads .xlsx, and is not installed: pip install "
            "'madeleine-bench[xlsx]', or save the table as .csv"
        ) from error
    except (OSError, ValueError) as error:
        check_readable(path, error)
        raise InputError(f"{path} is empty or not a table: {error}") from error
    if table.empty:
        raise InputError(f"{path}: the table has no rows")
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    for name in table:
        table[name] = table[name].fillna("").str.strip()
    return table


def _names(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table]


def _need(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    for name in columns:
        if name not in table:
            raise missing_column(name, _names(table), f"{path}: row 1")


def _key(path: Path, name: str) -> str:
    """Return a text of a YAML file."""
    value = read_yaml(path).get(name)
    if not isinstance(value, str):
        raise InputError(f"{path}: the key '{name}' is missing, or is not text")
    return value


def _single(paths: Iterable[Path], what: str) -> Path:
    """Return the only path."""
    found = sorted(paths)
    if len(found) != 1:
        listed = f"there are {len(found)}: {', '.join(map(str, found[:3]))}" if found else "none"
        raise InputError(f"expected one {what}, but {listed}; name the files of one task")
    return found[0]


def _slide_of(file: str) -> str:
    """Return the slide that a feature file is of: its name without the suffix of a file."""
    return re.sub(r"\.(h5|hdf5|pt|svs|ndpi|tiff?|mrxs)$", "", PurePosixPath(file).name)

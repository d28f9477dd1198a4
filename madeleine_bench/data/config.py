"""`mbench.toml`: which cohorts the user has, where, and what their label words mean."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator

from madeleine_bench.errors import InputError
from madeleine_bench.specs.cohort import CohortSpec, Columns
from madeleine_bench.specs.loader import Spec, did_you_mean, valid_keys
from madeleine_bench.specs.task import (
    ClassLabels,
    Labels,
    TaskSpec,
    TimeUnit,
    canonical_word,
    without_classes,
)

PathT = TypeVar("PathT")
DEFAULT_NAME = "mbench.toml"
_HEADER = re.compile(r"^\s*\[{1,2}\s*(.+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*[^\s=]+)*)\s*=")
_BACKSLASH = re.compile(r"\"[^\"]*\\")
_WINDOWS = (
    "a backslash in double quotes starts an escape sequence in TOML; write a Windows path in "
    "single quotes, as 'C:\\data', or with forward slashes, as \"C:/data\""
)
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")
_NO_EXECUTOR = (
    "the section [executor] is no longer read: name an address or a queueing system with "
    "--executor dask --scheduler, and describe the jobs of a queue in the settings of "
    "dask-jobqueue (docs/scale.md)"
)


def _check_path(path: PathT) -> PathT:
    r"""Return a path, checked for escape sequences: the \t of "C:\temp" was read as a tab."""
    if any(ord(character) < 32 for character in str(path)):
        raise ValueError(f"the path holds a control character: {_WINDOWS}")
    return path


_CheckedPath = Annotated[PathT, AfterValidator(_check_path)]


class ColumnsEntry(Columns):
    """Names of columns where they differ from the cohort's; "" says there is no such column."""

    @field_validator("case", "site", "stain", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


class TaskEntry(Spec):
    """What replaces keys of a task's labels, and a split file to use instead of ours.

    `without` names classes to leave out: the task is then another one, with a name of its own.
    """

    column: str | None = None
    map: dict[str, str] | None = None
    missing: tuple[str | int | float, ...] | None = None
    time: str | None = None
    time_unit: TimeUnit | None = None
    event: str | None = None
    event_value: str | int | float | bool | None = None
    censored_value: str | int | float | bool | None = None
    splits: _CheckedPath[Path | None] = None
    without: tuple[str, ...] = ()


class CohortEntry(Spec):
    """One cohort of the user.

    Attributes:
        features: folder of bag files or of a packed store, or "phantom": made-up features for the
            slides of `labels`.
        labels: the label table.
        patch_encoder: which patch encoder made the features.
        patch_encoder_in_files: the name it goes by in the files, when that is another one.
        columns: names of columns where they differ from the cohort's.
        ids: "exact" says that ids which look alike, such as 007 and 7, are of different patients.
        tasks: by task id, what the label words mean.
    """

    features: _CheckedPath[Literal["phantom"] | Path]
    labels: _CheckedPath[Path]
    patch_encoder: str | None = None
    patch_encoder_in_files: str | None = None
    columns: ColumnsEntry | None = None
    ids: Literal["exact"] | None = None
    tasks: dict[str, TaskEntry] = Field(default_factory=dict)

    def columns_for(self, cohort: CohortSpec) -> Columns:
        """Return the cohort's column names, with those that the user gave in their place."""
        if self.columns is None:
            return cohort.columns
        given = {name: getattr(self.columns, name) for name in self.columns.model_fields_set}
        return cohort.columns.model_copy(update=given)


class Config(Spec):
    """The content of `mbench.toml`, paths made absolute. `path` is None when there is no file."""

    cohorts: dict[str, CohortEntry] = Field(default_factory=dict)
    path: Path | None = Field(default=None, exclude=True)

    def check(self, known_cohorts: Iterable[str], known_tasks: Mapping[str, TaskSpec]) -> None:
        """Check that every cohort and task named is declared, each task under its cohort.

        Raises:
            InputError: a name is unknown; the message has the line and the closest name.
        """
        cohorts = list(known_cohorts)
        for cohort_id, entry in self.cohorts.items():
            if cohort_id not in cohorts:
                hint = did_you_mean(cohort_id, cohorts)
                raise InputError(
                    f"{self._at('cohorts', cohort_id)}: no cohort is called '{cohort_id}'{hint}"
                )
            own = [task.id for task in known_tasks.values() if task.cohort == cohort_id]
            for task_id in entry.tasks:
                if task_id not in own:
                    where = self._at("cohorts", cohort_id, "tasks", task_id)
                    raise InputError(
                        f"{where}: cohort {cohort_id} has no task '{task_id}'"
                        f"{did_you_mean(task_id, own)}"
                    )

    def task(self, task: TaskSpec) -> TaskSpec:
        """Return the task with the user's column names and label words in place of the declared.

        Where the user leaves out classes, it is a variant of the task (`without_classes`).

        Raises:
            InputError: a key does not belong to this kind of labels, or the labels contradict
                themselves, such as a map that leads to no class.
        """
        entry = self._entry(task)
        given = entry.model_dump(exclude_unset=True, exclude={"splits"}) if entry else {}
        if not given:
            return task
        place = ("cohorts", task.cohort, "tasks", task.id)
        kind = type(task.labels)
        fields = [*kind.model_fields, *(["without"] if kind is ClassLabels else [])]
        for key in given:
            if key not in fields:
                valid = [name for name in fields if name in TaskEntry.model_fields]
                raise InputError(
                    f"{self._at(*place, key)}: '{key}' is not a key of the {task.labels.type} "
                    f"labels of {task.id}; valid: {', '.join(valid)}"
                )
        without = given.pop("without", ())
        try:
            labels = kind.model_validate({**_yielding(task.labels, given), **given})
            task = task.model_copy(update={"labels": labels})
            return without_classes(task, without) if without else task
        except ValidationError as error:
            reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
            raise InputError(f"{self._at(*place)}: labels of {task.id}: {reasons}") from error
        except ValueError as error:
            raise InputError(f"{self._at(*place, 'without')}: {task.id}: {error}") from error

    def splits_of(self, task: TaskSpec) -> Path | None:
        """Return the split file that the user gave for a task, or None."""
        entry = self._entry(task)
        return entry.splits if entry else None

    def _entry(self, task: TaskSpec) -> TaskEntry | None:
        cohort = self.cohorts.get(task.cohort)
        return cohort.tasks.get(task.declared_id) if cohort else None

    def _at(self, *place: str) -> str:
        if self.path is None:
            return DEFAULT_NAME
        return f"{self.path}:{_line_of(self.path.read_text(encoding='utf-8-sig'), place)}"


def load_config(path: Path | None = None) -> Config:
    """Return the configuration of a file; None takes ./mbench.toml, or nothing if there is none.

    Raises:
        InputError: the file is absent, is not TOML, has an unknown key or a value of the wrong
            kind. The message has file and line, and for an unknown key the closest valid one.
    """
    if path is None:
        path = Path(DEFAULT_NAME)
        if not path.is_file():
            return Config()
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = line.group(1) if line else str(text.count("\n") + 1)
        if _BACKSLASH.search(text.split("\n")[int(where) - 1].replace("\\\\", "")):
            raise InputError(f"{path}:{where}: {_WINDOWS}") from error
        raise InputError(f"{path}:{where}: not valid TOML: {error}") from error
    if "path" in data:
        raise InputError(f"{path}:{_line_of(text, ('path',))}: unknown key 'path'; valid: cohorts")
    if "executor" in data:
        raise InputError(f"{path}:{_line_of(text, ('executor',))}: {_NO_EXECUTOR}")
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, path, text)) from error
    return _anchored(config, path)


def _anchored(config: Config, path: Path) -> Config:
    """Return the configuration with paths taken from the folder of the file."""
    folder = path.absolute().parent
    cohorts = {}
    for cohort_id, entry in config.cohorts.items():
        tasks = {
            task_id: task.model_copy(update={"splits": folder / task.splits.expanduser()})
            if task.splits is not None
            else task
            for task_id, task in entry.tasks.items()
        }
        update: dict[str, Any] = {"labels": folder / entry.labels.expanduser(), "tasks": tasks}
        if isinstance(entry.features, Path):
            update["features"] = folder / entry.features.expanduser()
        cohorts[cohort_id] = entry.model_copy(update=update)
    return config.model_copy(update={"cohorts": cohorts, "path": path})


def _yielding(declared: Labels, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared labels less the words to which the user gives another meaning."""
    kept = declared.model_dump()
    if isinstance(declared, ClassLabels):
        mapped = {canonical_word(word) for word in given.get("map") or ()}
        missing = {canonical_word(word) for word in given.get("missing") or ()}
        kept["missing"] = [word for word in declared.missing if word not in mapped]
        kept["map"] = {word: name for word, name in declared.map.items() if word not in missing}
    return kept


def _explain(error: ValidationError, path: Path, text: str) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        # A union adds its branch to the place; the key ends where the file has no such name.
        place = tuple(
            str(part) for part in fault["loc"] if part not in ("literal['phantom']", "path")
        )
        model = _model_at(place)
        where = f"{path}:{_line_of(text, place)}"
        key = ".".join(place)
        if fault["type"] == "extra_forbidden":
            valid = [name for name in valid_keys(model, ()) if name != "path"]
            lines.append(f"{where}: unknown key '{key}'{did_you_mean(place[-1], valid)}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: missing key '{key}'")
        else:
            lines.append(f"{where}: '{key}': {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(dict.fromkeys(lines))


def _model_at(place: Sequence[str]) -> type[Spec]:
    """Return the model that the parent of a place is read into."""
    if len(place) <= 1:
        return Config
    if len(place) <= 3:
        return CohortEntry
    return ColumnsEntry if place[2] == "columns" else TaskEntry


def _line_of(text: str, place: Sequence[str]) -> int:
    """Return the line (from 1) of a key path in TOML text, or of its deepest part that is there."""
    best, best_depth = 1, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = found = _parts(header.group(1))
        elif key := _KEY.match(line):
            found = table + _parts(key.group(1))
        else:
            continue
        depth = min(len(found), len(place))
        if found[:depth] == list(place[:depth]) and depth > best_depth:
            best, best_depth = number, depth
    return best


def _parts(dotted: str) -> list[str]:
    return ["".join(groups) for groups in _PART.findall(dotted)]

"""`mbench.toml`: which cohorts the user has, where, and what their label words mean."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from madeleine_bench.errors import InputError
from madeleine_bench.specs.catalogue import (
    Catalogue,
    check_task,
    load_catalogue,
    with_defaults,
)
from madeleine_bench.specs.cohort import CohortSpec, Columns
from madeleine_bench.specs.loader import (
    WINDOWS_PATH,
    Spec,
    did_you_mean,
    line_of,
    parse_spec,
    read_toml,
)
from madeleine_bench.specs.task import (
    ClassLabels,
    Labels,
    TaskSpec,
    TimeUnit,
    Word,
    canonical_word,
    without_classes,
)

PathT = TypeVar("PathT")
DEFAULT_NAME = "mbench.toml"


def _place(path: PathT, info: ValidationInfo) -> PathT:
    r"""Return a path, taken from the folder of the file; the \t of "C:\temp" was read as a tab."""
    if any(ord(character) < 32 for character in str(path)):
        raise ValueError(f"the path holds a control character: {WINDOWS_PATH}")
    if isinstance(path, Path) and info.context is not None:
        return info.context / path.expanduser()  # type: ignore[no-any-return]
    return path


_Placed = Annotated[PathT, AfterValidator(_place)]
_FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$")]
_Features = Annotated[
    Annotated[dict[_FolderName, _Placed[Path]], Tag("several")]
    | Annotated[_Placed[Literal["phantom"] | Path | None], Tag("one")],
    Discriminator(lambda value: "several" if isinstance(value, dict) else "one"),
]


class ColumnsEntry(Columns):
    """Names of columns where they differ from the cohort's; "" says there is no such column."""

    @field_validator("case", "site", "stain", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


class TaskEntry(Spec):
    """What replaces keys of a task's labels, and a split file or shots to use instead of ours.

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
    splits: _Placed[Path | None] = None
    shots: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    without: tuple[str, ...] = ()


class CohortEntry(Spec):
    """One cohort of the user.

    Attributes:
        features: folder of bag files or of a packed store, or "phantom": made-up features for the
            slides of `labels`; or several folders, each by the name of the patch encoder that made
            it. Left out where there are embeddings alone, for `mbench evaluate`.
        labels: the label table; left out where the cohort has a built-in one, whose tasks then
            have built-in splits too.
        patch_encoder: which patch encoder made the features of the one folder.
        patch_encoder_in_files: the name it goes by in the files, when that is another one.
        columns: names of columns where they differ from the cohort's.
        exclude: rows of the label table to leave out: by its column one or several patterns (globs)
            that cells of such rows match, such as { slide_id = "*-11Z-*" }.
        ids: "exact" says that ids which look alike, such as 007 and 7, are of different patients.
        organ, stains, role: of a cohort that is not in the catalogue: the organ, the stains of its
            slides (default: H&E), and "pretraining" if `mbench pretrain` may train on it.
        tasks: by task id, what the label words mean.
    """

    features: _Features = None
    labels: _Placed[Path | None] = None
    patch_encoder: str | None = None
    patch_encoder_in_files: str | None = None
    columns: ColumnsEntry | None = None
    exclude: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ids: Literal["exact"] | None = None
    organ: Word | None = None
    stains: tuple[Word, ...] | None = None
    role: Literal["pretraining"] | None = None
    tasks: dict[str, TaskEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _folders_agree(self) -> Self:
        several = isinstance(self.features, dict)
        if several and (not self.features or self.patch_encoder or self.patch_encoder_in_files):
            raise ValueError(
                "each of several 'features' is named by its patch encoder, as the files name it; "
                "there is one or more, and no 'patch_encoder' beside them"
            )
        return self

    def folders(self) -> "dict[str, CohortEntry]":
        """Return the cohort with each of its feature folders by its name, "" where it has one."""
        if not isinstance(self.features, dict):
            return {"": self}
        one = {name: {"features": p, "patch_encoder": name} for name, p in self.features.items()}
        return {name: self.model_copy(update=values) for name, values in one.items()}

    @field_validator("exclude", mode="before")
    @classmethod
    def _one_pattern_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: (each,) if isinstance(each, str) else each for name, each in value.items()}

    def columns_for(self, cohort: CohortSpec) -> Columns:
        """Return the cohort's column names, with those that the user gave in their place."""
        given = self.columns.model_dump(exclude_unset=True) if self.columns else {}
        return cohort.columns.model_copy(update=given)


class Config(Spec):
    """The content of `mbench.toml`, paths made absolute. `path` is None when there is no file.

    `tasks` are the user's own: each a table [tasks.ID] with the keys of a task file, of which
    `splits` may also be the path of a split file; or the path of a folder laid out as tasks/ is.
    """

    cohorts: dict[str, CohortEntry] = Field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] | _Placed[Path] = Field(default_factory=dict)
    path: Path | None = Field(default=None, exclude=True)

    def opened(self, catalogue: Catalogue) -> tuple[Catalogue, "Config"]:
        """Return the catalogue with what the user adds to it, and the configuration checked by it.

        Raises:
            InputError: as `extended` and `checked`.
        """
        extended = self.extended(catalogue)
        return extended, self.checked(extended)

    def extended(self, catalogue: Catalogue) -> Catalogue:
        """Return a catalogue with the cohorts and tasks of the user added to it.

        Raises:
            InputError: a task or a cohort is wrong, or has the id of one in the catalogue.
        """
        if isinstance(self.tasks, Path):
            return load_catalogue(self.tasks, catalogue)
        path, cohorts = self.path or Path(DEFAULT_NAME), dict(catalogue.cohorts)
        used = {str(table.get("cohort")) for table in self.tasks.values()}
        used |= {cohort_id for cohort_id, entry in self.cohorts.items() if entry.role}
        for cohort_id in sorted(used & set(self.cohorts) - set(cohorts)):
            entry, place = self.cohorts[cohort_id], ("cohorts", cohort_id)
            content = entry.model_dump(include={"organ", "stains", "role"}, exclude_unset=True)
            cohorts[cohort_id] = parse_spec(CohortSpec, {"id": cohort_id, **content}, path, place)
        tasks = dict(catalogue.tasks)
        for task_id, table in self.tasks.items():
            place = ("tasks", task_id)
            if task_id in tasks or table.get("status") == "core":
                raise InputError(
                    f"{self._at(*place)}: '{task_id}' is or calls itself a built-in task; give "
                    "your task an id of its own and no 'status'"
                )
            if "train_on" in table and "splits" in table:
                raise InputError(
                    f"{self._at(*place, 'splits')}: {task_id} is trained on all units of another "
                    "task ('train_on') and tested on all of its own: leave out 'splits'"
                )
            if isinstance(table.get("splits"), str):  # a file, which `splits_of` returns
                table = {key: value for key, value in table.items() if key != "splits"}
            content = with_defaults({"id": task_id, **table}, cohorts, path, place)
            tasks[task_id] = parse_spec(TaskSpec, content, path, place)
            check_task(tasks[task_id], cohorts, catalogue.protocols, path, place)
        extended = Catalogue(dict(sorted(tasks.items())), cohorts, catalogue.protocols)
        for task_id in self.tasks:
            if tasks[task_id].train_on is not None:
                extended.training_task(tasks[task_id], f"{self._at('tasks', task_id)}: ")
        return extended

    def checked(self, catalogue: Catalogue) -> "Config":
        """Return the configuration with built-in labels and splits where the user gives none.

        Every cohort and task named must be declared, each task under its cohort.

        Raises:
            InputError: a name is unknown; the message has the line and the closest name. Or there
                is no label table.
        """
        cohorts = {}
        for cohort_id, entry in self.cohorts.items():
            if cohort_id not in catalogue.cohorts:
                hint = did_you_mean(cohort_id, list(catalogue.cohorts))
                raise InputError(
                    f"{self._at('cohorts', cohort_id)}: no cohort is called '{cohort_id}'{hint}. "
                    'Your own cohort needs a task, or role = "pretraining"'
                )
            tasks = [task.id for task in catalogue.tasks_of(cohort_id)]
            for task_id in entry.tasks:
                if task_id not in tasks:
                    raise InputError(
                        f"{self._at('cohorts', cohort_id, 'tasks', task_id)}: cohort {cohort_id} "
                        f"has no task '{task_id}'{did_you_mean(task_id, tasks)}"
                    )
            cohorts[cohort_id] = self._with_labels(entry, catalogue.cohorts[cohort_id], tasks)
        return self.model_copy(update={"cohorts": cohorts})

    def labelled(self, catalogue: Catalogue, cohort_ids: Iterable[str]) -> "Config":
        """Return the configuration with built-in labels for cohorts that it does not name.

        Raises:
            InputError: one has no built-in label table.
        """
        entries = {cohort_id: CohortEntry() for cohort_id in cohort_ids} | self.cohorts
        return self.model_copy(update={"cohorts": entries}).checked(catalogue)

    def _with_labels(self, entry: CohortEntry, cohort: CohortSpec, tasks: list[str]) -> CohortEntry:
        if entry.labels is not None:
            return entry
        if cohort.labels is None:
            raise InputError(
                f"{self._at('cohorts', cohort.id)}: missing key 'labels': cohort {cohort.id} has "
                "no built-in label table, name yours"
            )
        splits = cohort.labels.parents[1] / "splits"
        entries = dict(entry.tasks)
        for task_id in tasks:
            given = entries.get(task_id, TaskEntry())
            if given.splits is None and (file := splits / f"{task_id}.csv").is_file():
                entries[task_id] = given.model_copy(update={"splits": file})
        return entry.model_copy(update={"labels": cohort.labels, "tasks": entries})

    def task(self, task: TaskSpec) -> TaskSpec:
        """Return the task with the user's column names and label words in place of the declared.

        Where the user leaves out classes, it is a variant of the task (`without_classes`).

        Raises:
            InputError: a key does not belong to this kind of labels, or the labels contradict
                themselves, such as a map that leads to no class.
        """
        entry = self._entry(task)
        if entry and entry.shots:
            task = task.model_copy(update={"shots": entry.shots})
        given = entry.model_dump(exclude_unset=True, exclude={"splits", "shots"}) if entry else {}
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
        entry, own = self._entry(task), self.tasks if isinstance(self.tasks, dict) else {}
        if isinstance(path := own.get(task.declared_id, {}).get("splits"), str):
            return (self.path or Path(DEFAULT_NAME)).absolute().parent / path
        return entry.splits if entry else None

    def _entry(self, task: TaskSpec) -> TaskEntry | None:
        cohort = self.cohorts.get(task.cohort)
        return cohort.tasks.get(task.declared_id) if cohort else None

    def _at(self, *place: str) -> str:
        if self.path is None:
            return DEFAULT_NAME
        return f"{self.path}:{line_of(self.path, place)}"


def load_config(path: Path | None = None) -> Config:
    """Return the configuration of a file; None takes ./mbench.toml, or nothing if there is none.

    No name in it is held against a catalogue; `Config.opened` does that.

    Raises:
        InputError: the file is absent, is not TOML, or has an unknown key or a value of the wrong
            kind. The message has file and line, and for an unknown key the closest valid one.
    """
    if path is None:
        path = Path(DEFAULT_NAME)
        if not path.is_file():
            return Config()
    data = read_toml(path)
    if "path" in data:
        raise InputError(
            f"{path}:{line_of(path, ('path',))}: unknown key 'path'; valid: cohorts, tasks"
        )
    return parse_spec(Config, {**data, "path": path}, path, context=path.absolute().parent)


def _yielding(declared: Labels, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared labels less the words to which the user gives another meaning."""
    kept = declared.model_dump()
    if isinstance(declared, ClassLabels):
        mapped = {canonical_word(word) for word in given.get("map") or ()}
        missing = {canonical_word(word) for word in given.get("missing") or ()}
        kept["missing"] = [word for word in declared.missing if word not in mapped]
        kept["map"] = {word: name for word, name in declared.map.items() if word not in missing}
    return kept

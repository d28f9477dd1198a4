"""Opening a cohort: the user's files where mbench.toml names them, a phantom elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.tables import excluded_rows, read_label_table
from madeleine_bench.embeddings.given import Given
from madeleine_bench.errors import InputError
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.cohort import CohortSpec, PhantomSpec
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import CohortData


@dataclass(frozen=True)
class OpenCohort:
    """A cohort ready to read, its tasks with the user's label words, and where labels stand.

    `notes` say which rows of the label table are left out, and what is made up beside real labels.
    `folder` is the name of the feature folder, where the cohort has several.
    """

    data: CohortData
    tasks: tuple[TaskSpec, ...]
    where: str
    notes: tuple[str, ...] = ()
    folder: str = ""

    @property
    def key(self) -> str:
        """The id of the cohort, with the name of its feature folder where there are several."""
        return f"{self.data.cohort_id} {self.folder}".rstrip()

    def task(self, declared: TaskSpec) -> TaskSpec:
        """Return a task of the catalogue with the user's label words, or the variant in its place.

        Such is what mbench.toml makes of it by leaving out classes.
        """
        return next(task for task in self.tasks if task.declared_id == declared.declared_id)


def open_cohort(
    workspace: Workspace, catalogue: Catalogue, cohort_id: str, config: Config
) -> OpenCohort:
    """Return a cohort from the source that was asked for; "auto" prefers the user's files.

    Raises:
        InputError: there is no such cohort; a local one was asked for and is not configured; its
            files are broken; it has several feature folders; or there is no phantom of it.
    """
    names = _chosen_folders(workspace, config, cohort_id)
    if len(names) > 1:
        raise InputError(
            f"cohort {cohort_id} has several feature folders; choose one of {', '.join(names)} "
            "with --features"
        )
    return _open_folder(workspace, catalogue, cohort_id, config, names[0])


def open_folders(
    workspace: Workspace, catalogue: Catalogue, cohort_id: str, config: Config
) -> list[OpenCohort]:
    """Return a cohort as often as it has feature folders that were asked for: most often once.

    Raises:
        InputError: as `open_cohort`, or there is no such folder.
    """
    names = _chosen_folders(workspace, config, cohort_id)
    return [_open_folder(workspace, catalogue, cohort_id, config, name) for name in names]


def _chosen_folders(workspace: Workspace, config: Config, cohort_id: str) -> list[str]:
    """Return the names of the feature folders to read; a cohort with one has one of no name."""
    entry = config.cohorts.get(cohort_id)
    names = list(entry.folders()) if entry and workspace.source != "phantom" else [""]
    if names == [""] or not workspace.features:
        return names
    for name in workspace.features:
        if name not in names:
            raise InputError(
                f"--features: cohort {cohort_id} has no feature folder '{name}'"
                f"{did_you_mean(name, names)} (it has {', '.join(names)})"
            )
    return [name for name in names if name in workspace.features]


def _open_folder(
    workspace: Workspace, catalogue: Catalogue, cohort_id: str, config: Config, folder: str
) -> OpenCohort:
    spec, tasks = catalogue.cohort(cohort_id), tuple(catalogue.tasks_of(cohort_id))
    entry = config.cohorts.get(cohort_id)
    if workspace.source == "local" and entry is None:
        raise InputError(
            f"cohort {cohort_id} is not configured: add [cohorts.{cohort_id}] with 'features' and "
            f"'labels' to {config.path or 'mbench.toml'} (docs/data.md)"
        )
    where, table, notes = f"phantom {cohort_id}", None, tuple[str, ...]()
    if entry is not None and workspace.source != "phantom":
        where, tasks = str(entry.labels), tuple(config.task(task) for task in tasks)
        if entry.features is None:
            raise InputError(
                f"cohort {cohort_id} has no 'features' in {config.path or 'mbench.toml'}; name the "
                "folder of its feature files, or score embeddings: mbench evaluate --embeddings"
            )
        assert entry.labels is not None  # `Config.checked` has seen to it
        left_out = excluded_rows(entry.labels, entry.exclude)
        notes = tuple(f"{cohort_id}: {line}" for line in left_out)
        if entry.features != "phantom":
            data = LocalCohort(spec, entry.folders()[folder], workspace.results / "cache")
            return OpenCohort(data, tasks, where, notes, folder)
        table = read_label_table(entry.labels, entry.columns_for(spec), exclude=entry.exclude)
        if spec.phantom is None:
            spec = spec.model_copy(update={"phantom": _default_phantom(spec)})
        notes += (
            f"{cohort_id}: the features are synthetic and independent of the labels of {where}, so "
            "that every score is near chance; they show that the files and the tasks work",
        )
    elif spec.phantom is None:
        raise InputError(
            f"cohort {cohort_id} has no phantom and is not configured. To get it: {spec.access.how}"
        )
    signal, seed = workspace.phantom_signal, workspace.phantom_seed
    phantom = PhantomCohort(spec, tasks, signal=signal, seed=seed, table=table)
    if table is not None:
        phantom.variant = "-".join(filter(None, ["own-labels", phantom.variant]))
    return OpenCohort(phantom, tasks, where, notes)


def with_folders(
    tasks: Sequence[TaskSpec], catalogue: Catalogue, opened: Mapping[str, list[OpenCohort]]
) -> Iterator[tuple[TaskSpec, dict[str, OpenCohort]]]:
    """Yield each task with a feature folder of each of its cohorts, by the id of the cohort.

    Where both cohorts of an external task have several, those of one name go together.

    Raises:
        InputError: no two have one name.
    """
    for task in tasks:
        sides = [opened[cohort_id] for cohort_id in catalogue.cohorts_of(task)]
        several = all(len(folders) > 1 for folders in sides)
        pairs = [p for p in product(*sides) if not several or len({c.folder for c in p}) == 1]
        if not pairs:
            raise InputError(f"{task.id}: its two cohorts have no feature folders of one name")
        for pair in pairs:
            yield task, {cohort.data.cohort_id: cohort for cohort in pair}


def open_embedded(given: Given, catalogue: Catalogue, cohort_id: str, config: Config) -> OpenCohort:
    """Return a cohort with labels and given embeddings; its feature files are not looked at.

    Raises:
        InputError: its labels cannot be used, or none of its slides or cases has an embedding.
    """
    spec, entry = catalogue.cohort(cohort_id), config.cohorts[cohort_id]
    tasks = tuple(config.task(task) for task in catalogue.tasks_of(cohort_id))
    data = EmbeddedCohort(spec, entry, given.table, given.by)
    notes = tuple(f"{cohort_id}: {line}" for line in excluded_rows(data.table, entry.exclude))
    return OpenCohort(data, tasks, str(data.table), notes)


def _default_phantom(spec: CohortSpec) -> PhantomSpec:
    """Return the phantom of a cohort that declares none: the world of its organ, else of breast."""
    organ = "kidney" if spec.organ == "kidney" else "breast"
    return PhantomSpec.model_validate({"organ": organ, "slides": {}, "cases": 1, "labels": {}})

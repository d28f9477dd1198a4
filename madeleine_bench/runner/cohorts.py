"""Opening a cohort: the user's files where mbench.toml names them, a phantom elsewhere."""

from dataclasses import dataclass

from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.tables import excluded_rows, read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.cohort import CohortSpec, PhantomSpec
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import CohortData


@dataclass(frozen=True)
class OpenCohort:
    """A cohort ready to read, its tasks with the user's label words, and where labels stand.

    `notes` say which rows of the label table are left out, and what is made up beside real labels.
    """

    data: CohortData
    tasks: tuple[TaskSpec, ...]
    where: str
    notes: tuple[str, ...] = ()

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
            files are broken; or there is no phantom of it.
    """
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
        assert entry.labels is not None  # `Config.checked` has seen to it
        left_out = excluded_rows(entry.labels, entry.exclude)
        notes = tuple(f"{cohort_id}: {line}" for line in left_out)
        if entry.features != "phantom":
            data = LocalCohort(spec, entry, workspace.results / "cache")
            return OpenCohort(data, tasks, where, notes)
        table = read_label_table(entry.labels, entry.columns_for(spec), exclude=entry.exclude)
        if spec.phantom is None:
            spec = spec.model_copy(update={"phantom": _default_phantom(spec)})
        notes += (
            f"{cohort_id}: the features are made up and know nothing of the labels of {where}, so "
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


def _default_phantom(spec: CohortSpec) -> PhantomSpec:
    """Return the phantom of a cohort that declares none: the world of its organ, else of breast."""
    organ = "kidney" if spec.organ == "kidney" else "breast"
    return PhantomSpec.model_validate({"organ": organ, "slides": {}, "cases": 1, "labels": {}})

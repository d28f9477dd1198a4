"""A task with its labels and no features: scored from embeddings in memory."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.embedding_files import By, EmbeddingTable
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.runner.cohorts import OpenCohort
from madeleine_bench.runner.plan import Assessment, assess
from madeleine_bench.specs.catalogue import misfit
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace


@dataclass(frozen=True)
class LabelledTask:
    """A task, what it is scored by, and where its labels are."""

    spec: TaskSpec
    protocol: ProtocolSpec
    cohort: CohortSpec
    config: Config

    def assess(
        self, table: EmbeddingTable | None = None, *, allow_partial: bool = False
    ) -> tuple[Assessment, NDArray[np.floating]]:
        """Return units and splits, and unit x dim embeddings.

        Args:
            table: ids of slides or, for a task by case, of cases; None gives each slide its number.
            allow_partial: score though many labelled units have no embedding.

        Raises:
            InputError: labels, splits or ids cannot be used.
        """
        entry = self.config.cohorts[self.cohort.id]
        if table is None:
            assert entry.labels is not None  # `Config.labelled` has seen to it
            rows = read_label_table(entry.labels, entry.columns_for(self.cohort))
            numbers = np.arange(len(rows), dtype=np.float32)[:, None]
            table = EmbeddingTable(tuple(rows["slide_id"]), numbers, str(entry.labels))
        by: By | None = "slide" if self.spec.unit == "slide" else None
        data = EmbeddedCohort(self.cohort, entry, table, by)
        cohort = OpenCohort(data, (self.spec,), str(data.table))
        with tempfile.TemporaryDirectory() as folder:
            assessment, *_ = assess(
                cohort, self.spec, [self.protocol], self.config, Path(folder), allow_partial
            )
        embeddings = Embeddings(tuple(data.ids), data.matrix, table.hash)
        return assessment, unit_embeddings(embeddings, assessment.units, assessment.groups)


def labelled_task(workspace: Workspace, task_id: str, protocol: str | None) -> LabelledTask:
    """Return a task with the labels of the user's cohort, or the built-in ones.

    Args:
        workspace: configuration and catalogue.
        task_id: of one task.
        protocol: name; None takes the first that the task declares.

    Raises:
        InputError: there is no such task or protocol, they do not fit, or there are no labels.
    """
    catalogue, config = workspace.open()
    chosen = catalogue.select([task_id])
    if len(chosen) != 1:
        raise InputError(f"'{task_id}' names {len(chosen)} tasks; give the id of one")
    config = config.labelled(catalogue, [chosen[0].cohort])
    task = config.task(chosen[0])
    spec = catalogue.protocol(protocol or task.protocols[0])
    fault = misfit(task, spec)
    if fault or not spec.from_slides:
        raise InputError(fault or f"protocol {spec.name} starts from patch features: mbench run")
    return LabelledTask(task, spec, catalogue.cohort(task.cohort), config)

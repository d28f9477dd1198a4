"""A task and embeddings in memory: the units, splits and rows that `mbench evaluate` scores."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.embedding_files import EmbeddingTable
from madeleine_bench.data.tables import read_label_table
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.given import given_embeddings
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.runner.plan import Assessment, Request, make_plan
from madeleine_bench.specs.workspace import Workspace


def assess_embeddings(
    workspace: Workspace,
    task_id: str,
    protocol: str | None,
    table: EmbeddingTable | None = None,
    *,
    allow_partial: bool = False,
) -> tuple[Assessment, NDArray[np.floating]]:
    """Return units and splits of a task, and the embeddings of its units, unit x dim.

    Args:
        workspace: configuration and catalogue.
        task_id: of one task.
        protocol: name; None takes the first that the task declares.
        table: ids of slides or, for a task by case, of cases; None gives each slide a number.
        allow_partial: score though many labelled units have no embedding.

    Raises:
        InputError: there is no such task or protocol, or labels, splits or ids cannot be used.
    """
    catalogue, config = workspace.open()
    task, *others = catalogue.select([task_id])
    if others:
        raise InputError(f"'{task_id}' names {1 + len(others)} tasks; give the id of one")
    if table is None:
        entry = config.labelled(catalogue, [task.cohort]).cohorts[task.cohort]
        assert entry.labels is not None  # `labelled` has seen to it
        columns = entry.columns_for(catalogue.cohort(task.cohort))
        slides = read_label_table(entry.labels, columns, exclude=entry.exclude)
        numbers = np.arange(len(slides), dtype=np.float32)[:, None]
        table = EmbeddingTable(tuple(slides["slide_id"]), numbers, str(entry.labels))
        allow_partial = True
    given = given_embeddings(table, "embeddings", "slide" if task.unit == "slide" else None)
    names = (protocol or task.protocols[0],)
    with tempfile.TemporaryDirectory() as folder:
        place = replace(workspace, results=Path(folder))
        request = Request((), (task_id,), names, place, allow_partial=allow_partial, given=given)
        plan = make_plan(request)
    assessment = plan.cells[0].assessment
    data = plan.cohorts[assessment.key(assessment.task)].data
    assert isinstance(data, EmbeddedCohort)
    embeddings = Embeddings(tuple(data.ids), data.matrix, table.hash)
    return assessment, unit_embeddings(embeddings, assessment.units, assessment.groups)

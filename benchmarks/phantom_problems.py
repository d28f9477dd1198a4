"""The tasks of the phantom board with the embeddings of some encoders, made once and kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.results import Evaluation
from madeleine_bench.protocols.scorers import mean_of_groups
from madeleine_bench.protocols.scoring import folds_of, task_scorer
from madeleine_bench.runner.embedding import embed
from madeleine_bench.runner.plan import Assessment, Request, bags_to_embed, make_plan
from madeleine_bench.runner.run import to_embed
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence

Rows = NDArray[np.floating]


@dataclass(frozen=True)
class Problem:
    """One task under one protocol, with the rows of each encoder, unit x dim."""

    assessment: Assessment
    rows: Mapping[str, Rows]

    @property
    def task(self) -> str:
        """The id of the task."""
        return self.assessment.task.id

    @property
    def protocol(self) -> str:
        """The versioned name of the protocol."""
        return self.assessment.protocol.name

    def evaluate(self, rows: Rows) -> Evaluation:
        """Return the predictions from some embeddings of the units."""
        own = self.assessment
        return evaluate(own.task, own.protocol, rows, own.units, own.splits)

    def score(self, rows: Rows) -> float:
        """Return the main score of some embeddings of the units, without its interval."""
        own = self.assessment
        predictions = self.evaluate(rows).predictions
        judge = task_scorer(own.task, predictions, own.task.name)
        folds, groups = folds_of(own.protocol, predictions, own.task.name)
        chance = own.task.metric.chance
        found = [judge.value(fold) for fold in folds]
        values = np.array([chance if value is None else value for value in found])
        return float(mean_of_groups(values[:, None], groups, chance)[0])


def phantom_problems(
    results: Path,
    encoders: Sequence[str],
    protocols: Sequence[str],
    tasks: Sequence[str] = ("all",),
    *,
    signal: float | None = None,
) -> Iterator[Problem]:
    """Yield every task under every protocol that scores it; embeddings are kept in `results`."""
    request = Request(
        tuple(encoders),
        tuple(tasks),
        tuple(protocols),
        Workspace(results.absolute(), "phantom", jobs=2, phantom_signal=signal),
    )
    plan = make_plan(request)
    ready, failed = embed(to_embed(plan), request.workspace, Silence())
    if failed:
        raise SystemExit(f"not embedded: {failed}")
    seen: dict[tuple[str, str], Assessment] = {}
    for cell in plan.cells:
        own = cell.assessment
        seen.setdefault((own.task.id, own.protocol.name), own)
    for own in seen.values():
        bags = bags_to_embed(own, plan.cohorts[own.task.cohort].data)[0]
        yield Problem(
            own,
            {
                name: unit_embeddings(read_embeddings(ready[name, bags][0]), own.units, own.groups)
                for name in encoders
            },
        )

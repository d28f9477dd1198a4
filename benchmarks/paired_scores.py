"""Two encoders on one task, from their records and stored predictions alone."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.class_scoring import ClassJudge
from madeleine_bench.protocols.folds import Fold, Judge, mean_of_groups, require_columns
from madeleine_bench.protocols.scoring import RESAMPLES
from madeleine_bench.protocols.survival_scoring import SurvivalJudge
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.protocol import FewShot, ProtocolSpec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.stats.bootstrap import Weights
from madeleine_bench.stats.paired import PairedDifference, ScoredUnits, paired_difference

Cell = tuple[str, str, str]


@dataclass(frozen=True)
class BoardScores:
    """The newest record of each encoder, task and protocol of one board.

    Attributes:
        name: the board.
        store: the results folder the records are of.
        catalogue: the catalogue the tasks are of.
        cells: records by (encoder, task id, protocol).
    """

    name: str
    store: ResultStore
    catalogue: Catalogue
    cells: dict[Cell, Record] = field(repr=False)

    def paired(
        self, first: str, second: str, task: str, protocol: str, resamples: int = RESAMPLES
    ) -> PairedDifference:
        """Return how far the first encoder is above the second; the seed is that of the records.

        Raises:
            InputError: a record is absent, the two are not of the same data, or predictions were
                altered.
        """
        spec, how = self.catalogue.tasks[task], self.catalogue.protocol(protocol)
        ours, theirs = (
            self._scored(name, spec, how, self.record(name, task, protocol))
            for name in (first, second)
        )
        with threadpool_limits(1):
            rng = rng_for(spec.name, how.name, "bootstrap")
            return paired_difference(ours, theirs, resamples, rng)

    def record(self, encoder: str, task: str, protocol: str) -> Record:
        """Return the newest record of a cell.

        Raises:
            InputError: there is none.
        """
        try:
            return self.cells[encoder, task, protocol]
        except KeyError:
            raise InputError(
                f"{self.store.folder}: no record of {encoder} on {task} under {protocol} on the "
                f"board {self.name}; run it: mbench run --encoder {encoder} --task {task}"
            ) from None

    def _scored(
        self, encoder: str, task: TaskSpec, protocol: ProtocolSpec, record: Record
    ) -> ScoredUnits:
        predictions = self.store.read_predictions(record)
        where = f"predictions of {encoder} on {task.name} under {protocol.name}"
        return scored_units(task, protocol, predictions, record.task.task_hash, where)


def read_board(store: ResultStore, catalogue: Catalogue, name: str) -> BoardScores:
    """Return a board of a results folder; records of other versions of a task are left out.

    Raises:
        InputError: a record is broken or was altered.
    """
    versions = {task.id: task.version for task in catalogue.tasks.values()}
    own = [r for r in store.records() if r.board == name]
    own = [r for r in own if versions.get(r.task.id) == r.task.version]
    own.sort(key=lambda r: (str(r.provenance.get("created", "")), r.record_id))
    cells = {(r.encoder.name, r.task.id, r.protocol): r for r in own}
    return BoardScores(name, store, catalogue, cells)


def scored_units(
    task: TaskSpec, protocol: ProtocolSpec, predictions: pd.DataFrame, splits: str, where: str
) -> ScoredUnits:
    """Return the units of stored predictions, scored under weights as a record's main score is.

    Under weights of one this is the main score; under the record's resamples it gives the record's
    interval. `splits` names what the encoder had no part in: splits, labels, task and protocol.

    Raises:
        InputError: a column is missing or empty; the message begins with `where`.
    """
    judge: Judge
    if isinstance(task.labels, ClassLabels):
        judge = ClassJudge(task, task.labels, predictions, where)
    else:
        judge = SurvivalJudge(task, predictions, where)
    few_shot = isinstance(protocol.method, FewShot)
    names = ["shots", "draw"] if few_shot else ["repeat", "fold"]
    require_columns(predictions, names, where)
    keys, fold_of_row = np.unique(predictions[names].to_numpy(), axis=0, return_inverse=True)
    folds = [
        Fold((int(a), int(b)), np.flatnonzero(fold_of_row == i)) for i, (a, b) in enumerate(keys)
    ]
    groups = [fold.key[0] if few_shot else 0 for fold in folds]
    judged = [judge.value(fold) is not None for fold in folds]
    unit = pd.Index(predictions["unit_id"].to_numpy(dtype=object))
    first = ~unit.duplicated()
    row = unit[first].get_indexer(unit)
    chance = task.metric.chance

    def scores(weights: Weights) -> NDArray[np.float64]:
        values = np.full((len(folds), weights.shape[1]), chance)
        for i, fold in enumerate(folds):
            if judged[i]:
                values[i] = judge.resampled(fold, weights[row[fold.rows]])
        return mean_of_groups(values, groups, chance)

    return ScoredUnits(
        unit=tuple(unit[first]),
        case=tuple(predictions["case_id"].to_numpy(dtype=object)[first]),
        stratum=tuple(judge.strata_of_rows[first]),
        splits=splits,
        scores=scores,
    )

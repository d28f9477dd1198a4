"""Two encoders on one task, from their records and stored predictions alone."""

from dataclasses import dataclass, field

from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.scoring import RESAMPLES, scored_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
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
        return scored_units(
            task, protocol, predictions, record.task.task_hash, where, record.inputs.dim
        )


def read_board(store: ResultStore, catalogue: Catalogue, name: str) -> BoardScores:
    """Return a board of a results folder; records of other versions of a task are left out.

    Raises:
        InputError: a record is broken or was altered.
    """
    versions = {task.id: task.version for task in catalogue.tasks.values()}
    own = [r for r in store.records() if r.board == name]
    own = [r for r in own if versions.get(r.task.id) == r.task.version]
    own.sort(key=lambda r: r.age)
    cells = {(r.encoder.name, r.task.id, r.protocol): r for r in own}
    return BoardScores(name, store, catalogue, cells)

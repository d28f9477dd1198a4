"""The cells of a regression suite, and the newest record of each cell in a results folder."""

from collections.abc import Iterable
from typing import NamedTuple

from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.regression import SuiteRun, SuiteSpec
from madeleine_bench.specs.task import TaskSpec


class Cell(NamedTuple):
    """Name of an encoder, id of a task, versioned name of a protocol."""

    encoder: str
    task: str
    protocol: str

    @property
    def case(self) -> str:
        """Task and protocol in words."""
        return f"{self.task} {self.protocol}"


def cells_of(suite: SuiteSpec, catalogue: Catalogue) -> frozenset[Cell]:
    """Return every cell a suite asks for.

    Raises:
        InputError: an encoder, task or protocol is unknown, or two encoders have one name.
    """
    names = [find_encoder(encoder).card.name for encoder in suite.encoders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"suite {suite.id}: the encoder '{repeated[0]}' stands in it twice")
    return frozenset(
        Cell(name, task.id, protocol.name)
        for run in suite.runs
        for task in catalogue.select(run.tasks)
        for protocol in _protocols(run, task, catalogue)
        for name in names
    )


def newest_records(
    store: ResultStore, board: str, since: str = "", catalogue: Catalogue | None = None
) -> dict[Cell, Record]:
    """Return the newest record of each cell of a board; none that was made before `since`.

    With a catalogue, records of another version of a task than it declares do not count.

    Raises:
        InputError: a record is broken or was altered.
    """
    own = [r for r in store.records() if r.board == board and r.made >= since]
    if catalogue is not None:
        versions = {task.id: task.version for task in catalogue.tasks.values()}
        own = [r for r in own if versions.get(r.task.id) == r.task.version]
    own.sort(key=lambda record: record.age)
    return {cell_of(record): record for record in own}


def cell_of(record: Record) -> Cell:
    """Return the cell a record belongs to, whatever the versions of encoder and task."""
    return Cell(record.encoder.name, record.task.id, record.protocol)


def successor(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """Return the cell that scores the same under a newer version of the protocol, or None."""
    name, _, version = cell.protocol.rpartition("/v")
    newer = [
        (int(other.protocol.rpartition("/v")[2]), other)
        for other in cells
        if other[:2] == cell[:2] and other.protocol.rpartition("/v")[0] == name
    ]
    found = max(newer, default=None)
    return found[1] if found is not None and found[0] > int(version) else None


def _protocols(run: SuiteRun, task: TaskSpec, catalogue: Catalogue) -> list[ProtocolSpec]:
    """Return what `mbench run` scores a task under: of several protocols those that fit."""
    asked = [catalogue.protocol(name) for name in run.protocols or task.protocols]
    fitting = [protocol for protocol in asked if task.labels.type in protocol.labels]
    for protocol in fitting or asked:
        if fault := misfit(task, protocol):
            raise InputError(f"the suite's run of {', '.join(run.tasks)}: {fault}")
    return fitting

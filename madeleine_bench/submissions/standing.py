"""Where a submission stands: its scores beside those of known encoders on the same tasks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.record import Record, RecordFeatures
from madeleine_bench.specs.task import chance_corrected
from madeleine_bench.submissions.recompute import Cell


@dataclass(frozen=True)
class KnownEncoder:
    """An encoder of the results folder, with its newest records by (task, protocol)."""

    label: str
    kind: str
    records: Mapping[Cell, Record]


@dataclass(frozen=True)
class Standing:
    """A row: the mean over families of chance-corrected scores, and that of each family."""

    label: str
    kind: str
    mean: float
    families: Mapping[str, float]


def corrected(record: Record) -> float:
    """Return the main score with chance at 0 and perfect at 1."""
    return chance_corrected(record.scores.main.metric, record.scores.main.value)


def primary_cells(records: Mapping[Cell, Record], catalogue: Catalogue) -> dict[Cell, Record]:
    """Return the records under each task's first protocol, which boards show; else all."""
    primary = {
        (task, protocol): record
        for (task, protocol), record in records.items()
        if task in catalogue.tasks and catalogue.tasks[task].protocols[0] == protocol
    }
    return primary or dict(records)


def known_encoders(
    records: Iterable[Record],
    board: str,
    name: str,
    revision: str,
    features: Mapping[str, RecordFeatures | None] | None = None,
) -> list[KnownEncoder]:
    """Return the other encoders of a board, by label. What is only reported (V0) is left out.

    Of an encoder with records of several features of a cohort, those of the given `features` count,
    or else the newest; the label then says that the features are others.
    """

    def same(record: Record) -> bool:
        return record.features == (features or {}).get(record.task.cohort, record.features)

    newest: dict[tuple[str, str], dict[Cell, Record]] = {}
    for record in sorted(records, key=lambda r: (same(r), r.age)):
        who = (record.encoder.name, record.encoder.revision)
        if record.board == board and who != (name, revision) and record.verification != "V0":
            newest.setdefault(who, {})[record.task.id, record.protocol] = record
    return [
        KnownEncoder(
            f"{who} {rev}" + ("" if all(map(same, found.values())) else " (other features)"),
            next(iter(found.values())).encoder.kind,
            found,
        )
        for (who, rev), found in sorted(newest.items())
    ]


def comparable(own: Record, other: Record | None) -> bool:
    """Return whether two records are scores on the same labels, splits and protocol."""
    return other is not None and other.task.task_hash == own.task.task_hash


def standings(
    label: str, kind: str, own: Mapping[Cell, Record], known: Iterable[KnownEncoder]
) -> list[Standing]:
    """Return the submission and the encoders that have all its tasks, best first."""
    rows = [_standing(label, kind, own)]
    for other in known:
        if all(comparable(record, other.records.get(cell)) for cell, record in own.items()):
            shared = {cell: other.records[cell] for cell in own}
            rows.append(_standing(other.label, other.kind, shared))
    return sorted(rows, key=lambda row: (-row.mean, row.label))


def best_known(cell: Cell, own: Record, known: Iterable[KnownEncoder]) -> tuple[str, Record] | None:
    """Return the best comparable record of any known encoder that is no control; None if none."""
    found = [
        (other.label, other.records[cell])
        for other in known
        if other.kind != "control" and comparable(own, other.records.get(cell))
    ]
    return max(found, key=lambda pair: pair[1].scores.main.value, default=None)


def _standing(label: str, kind: str, records: Mapping[Cell, Record]) -> Standing:
    by_family: dict[str, list[float]] = {}
    for record in records.values():
        by_family.setdefault(record.task.family, []).append(corrected(record))
    families = {family: fmean(values) for family, values in sorted(by_family.items())}
    return Standing(label, kind, fmean(families.values()), families)

"""From records to a board: one row per task, one column per encoder, honest about what is missing.

Complete encoders are ranked by the mean over families of their chance-corrected scores. Incomplete
ones, and ones scored on other data than the rest, stand apart and are never imputed. Controls are
shown beside the ranks and take none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec


@dataclass(frozen=True)
class Cell:
    """One score on the board, with its 95% interval and where it comes from."""

    value: float
    ci95: tuple[float, float]
    corrected: float
    status: str
    missing: int
    task_hash: str
    record_id: str
    seconds: float


@dataclass(frozen=True)
class Column:
    """One encoder on the board.

    Attributes:
        label: its name, with its revision where the board holds several.
        kind: encoder, baseline or control.
        cells: its scores by task id.
        families: mean chance-corrected score by family, for families whose core tasks it has all.
        mean: mean over families of those; None when incomplete.
        rank: place among the ranked by `mean`, equal means sharing a place; None when unranked.
        mean_rank: mean over core tasks of its place among the ranked.
        coverage: number of core tasks with a score.
        unranked: why it has no rank; "" when it has one.
    """

    label: str
    kind: str
    title: str
    cells: Mapping[str, Cell]
    families: Mapping[str, float]
    mean: float | None
    rank: int | None
    mean_rank: float | None
    coverage: int
    unranked: str


@dataclass(frozen=True)
class Board:
    """Every column of one board, the ranked ones first, and the tasks that have a score."""

    name: str
    protocol: str
    tasks: tuple[TaskSpec, ...]
    core: int
    columns: tuple[Column, ...]

    @property
    def is_phantom(self) -> bool:
        """Whether the scores are of synthetic data."""
        return self.name.startswith("phantom")


def build_boards(
    records: Iterable[Record], catalogue: Catalogue, protocol: str | None = None
) -> list[Board]:
    """Return a board for each source, real data first; phantom and real never share one.

    `protocol` is a versioned name; None takes each task's first. Records of another version of a
    task, or of a task the catalogue does not have, are left out.
    """
    by_board: dict[str, list[Record]] = {}
    for record in records:
        task = catalogue.tasks.get(record.task.id)
        if task is None or task.version != record.task.version:
            continue
        if record.protocol == (protocol or task.protocols[0]):
            by_board.setdefault(record.board, []).append(record)
    return [_build_board(name, by_board[name], catalogue, protocol) for name in sorted(by_board)]


def _build_board(
    name: str, records: Sequence[Record], catalogue: Catalogue, protocol: str | None
) -> Board:
    newest: dict[tuple[str, str, str], Record] = {}
    for record in sorted(records, key=_age):
        newest[record.encoder.name, record.encoder.revision, record.task.id] = record
    core = [
        task
        for task in catalogue.tasks.values()
        if task.status == "core" and (protocol is None or protocol in task.protocols)
    ]
    reference = _reference_hashes(newest.values())
    names = Counter(name for name, _ in {(n, revision) for n, revision, _ in newest})
    columns = []
    for encoder, revision in sorted({(n, revision) for n, revision, _ in newest}):
        own = {t: r for (n, v, t), r in newest.items() if (n, v) == (encoder, revision)}
        label = encoder if names[encoder] == 1 else f"{encoder}@{revision}"
        columns.append(_column(label, own, core, reference))
    scored = {task_id for _, _, task_id in newest}
    order = sorted(
        (catalogue.tasks[task_id] for task_id in scored),
        key=lambda task: (task.status != "core", task.family, task.id),
    )
    return Board(name, protocol or "primary", tuple(order), len(core), _ranked(columns, core))


def _age(record: Record) -> tuple[str, str]:
    return str(record.provenance.get("created", "")), record.record_id


def _reference_hashes(records: Iterable[Record]) -> dict[str, str]:
    """Return for each task the hash most encoders were scored with (ties: the smallest)."""
    votes: dict[str, Counter[str]] = {}
    for record in records:
        votes.setdefault(record.task.id, Counter())[record.task.task_hash] += 1
    return {
        task_id: min(count, key=lambda value: (-count[value], value))
        for task_id, count in votes.items()
    }


def _column(
    label: str,
    records: Mapping[str, Record],
    core: Sequence[TaskSpec],
    reference: Mapping[str, str],
) -> Column:
    first = next(iter(records.values()))
    cells = {task_id: _cell(record) for task_id, record in sorted(records.items())}
    have = [task for task in core if task.id in cells]
    families: dict[str, float] = {}
    for family in sorted({task.family for task in core}):
        ids = [task.id for task in core if task.family == family]
        if all(task_id in cells for task_id in ids):
            families[family] = fmean(cells[task_id].corrected for task_id in ids)
    other = [t for t, cell in cells.items() if cell.task_hash != reference[t]]
    unranked = ""
    if len(have) < len(core):
        unranked = f"incomplete: {len(have)} of {len(core)} tasks"
    elif other:
        unranked = f"scored on other data than the rest: {', '.join(other)}"
    elif first.encoder.kind == "control":
        unranked = "control"
    complete = len(have) == len(core) and bool(core)
    return Column(
        label, first.encoder.kind, first.encoder.title, cells, families,
        fmean(families.values()) if complete else None, None, None, len(have), unranked,
    )  # fmt: skip


def _cell(record: Record) -> Cell:
    main = record.scores.main
    return Cell(
        value=main.value,
        ci95=main.ci95,
        corrected=(main.value - main.chance) / (1.0 - main.chance),
        status=record.status,
        missing=sum(len(ids) for r, ids in record.inputs.missing.items() if "label" not in r),
        task_hash=record.task.task_hash,
        record_id=record.record_id,
        seconds=float(record.provenance.get("seconds", 0.0)),
    )


def _ranked(columns: Sequence[Column], core: Sequence[TaskSpec]) -> tuple[Column, ...]:
    ranked = [column for column in columns if not column.unranked]
    placed = []
    for column in columns:
        if column.unranked or column.mean is None:
            placed.append(column)
            continue
        ranks = [
            _place(column.cells[t.id].value, [other.cells[t.id].value for other in ranked])
            for t in core
        ]
        rank = 1 + sum(other.mean > column.mean for other in ranked if other.mean is not None)
        placed.append(Column(**{**vars(column), "rank": rank, "mean_rank": fmean(ranks)}))
    return tuple(
        sorted(
            placed,
            key=lambda c: (
                c.rank is None,
                c.rank or 0,
                c.kind == "control",
                -(c.mean if c.mean is not None else -2.0),
                c.label,
            ),
        )
    )


def _place(value: float, values: Sequence[float]) -> float:
    """Return the place of a value among the values, 1 the best, ties sharing their mean place."""
    above = sum(other > value for other in values)
    equal = sum(other == value for other in values)
    return above + (equal + 1) / 2

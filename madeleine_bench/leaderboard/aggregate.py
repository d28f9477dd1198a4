"""From records to a board: one row per task, one column per encoder, honest about what is missing.

A column is an encoder, its revision and the features it was given: scores of other features are of
another column. Complete encoders are ranked by the mean over families of their chance-corrected
scores, over the tasks that have enough cases for a rank. Incomplete ones, ones scored on other data
than the rest, and ones that nobody recomputed stand apart and are never imputed. Controls are shown
beside the ranks and take none.

What an encoder must have to be complete depends on the track: the core tasks; those of them whose
cohorts can be had (`core-open`); or the user's own tasks that have a score (`own`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeVar

from madeleine_bench.leaderboard.columns import (
    Source,
    column_labels,
    content_of,
    made_by,
    source_of,
    split_columns,
    usual_features,
)
from madeleine_bench.specs.card import Contamination, contamination
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.metric import chance_corrected
from madeleine_bench.specs.protocol import SUPERVISED_PROTOCOL
from madeleine_bench.specs.record import Record, RecordFeatures, Verification
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.intervals import LEAST_RARE_CASES

Key = TypeVar("Key")
Reference = Mapping[tuple[str, str], str]
# Lowest first. Records made here are as good as recomputed ones, so "none" stands above V0 alone.
_LADDER: tuple[Verification, ...] = ("V0", "none", "V1", "V2", "V3")
Track = Literal["core", "core-open", "own"]


@dataclass(frozen=True)
class Cell:
    """One score on the board.

    Attributes:
        record: all that is known of it.
        corrected: (score - chance) / (1 - chance): 0 is chance, 1 is perfect.
        other: "features" where most encoders with this patch encoder were given others, else "data"
            where most encoders were scored on other data; "" where it is comparable.
        contamination: whether the encoder was trained on the cohort.
    """

    record: Record
    corrected: float
    other: Literal["", "features", "data"]
    contamination: Contamination

    @property
    def comparable(self) -> bool:
        """Whether it may be compared with most scores of the task."""
        return not self.other

    @property
    def value(self) -> float:
        """The main score."""
        return self.record.scores.main.value


@dataclass(frozen=True)
class Column:
    """One encoder with one set of features on the board.

    Attributes:
        label: its name, with its revision and its features where the board holds several.
        name: its name; `revision` as its card states it.
        features: by cohort, the features it was given; None where they are not recorded.
        kind: encoder, baseline or control.
        cells: its scores by task id.
        families: mean chance-corrected score by family, for families whose ranked tasks it has all.
        mean: mean over families of those; None when incomplete.
        coverage: number of core tasks with a score.
        complete: whether it has every core task, on the data of the rest.
        verification: the lowest of its cells.
        unranked: why it has no rank; "" when it has one.
        rank: its place by `mean` among the ranked, equal means sharing a place; None when unranked.
        mean_rank: mean over tasks of its place among them, equal scores sharing their mean place.
        win_rate: mean over tasks of the share of the others that it beats, ties counting half; None
            when it is alone.
    """

    label: str
    name: str
    revision: str
    features: Mapping[str, RecordFeatures | None]
    kind: str
    title: str
    cells: Mapping[str, Cell]
    families: Mapping[str, float]
    mean: float | None
    coverage: int
    complete: bool
    verification: Verification
    unranked: str
    rank: int | None = None
    mean_rank: float | None = None
    win_rate: float | None = None

    @property
    def made_by(self) -> str:
        """What made its features: a patch encoder, "features" of an unknown one, or unrecorded."""
        return made_by(next(iter(self.features.values())))

    @property
    def newest(self) -> Record:
        """Its record that was made last: what that says of the encoder holds."""
        return max((cell.record for cell in self.cells.values()), key=lambda record: record.made)

    def has(self, task_ids: Iterable[str]) -> bool:
        """Return whether it has each of the tasks, scored on the data of the rest."""
        return all(t in self.cells and self.cells[t].comparable for t in task_ids)


@dataclass(frozen=True)
class Board:
    """Every column of one board, the ranked ones first, and the tasks that have a score.

    Attributes:
        name: "local", "phantom", or a phantom variant.
        protocol: "primary" for each task's first, else the one it is of.
        track: which tasks encoders are ranked on.
        tasks: tasks with a score, those of the track first.
        core_ids: ids of the tasks that a complete encoder has: those of the track, scored or not.
        ranked_ids: those of them that encoders are ranked on: they have enough cases for a rank.
        columns: the encoders.
    """

    name: str
    protocol: str
    track: Track
    tasks: tuple[TaskSpec, ...]
    core_ids: tuple[str, ...]
    ranked_ids: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def title(self) -> str:
        """Its name, with the track where that is not the core tasks."""
        return self.name if self.track == "core" else f"{self.name}-{self.track}"

    @property
    def is_phantom(self) -> bool:
        """Whether the scores are of synthetic data."""
        return self.name.startswith("phantom")

    @property
    def core(self) -> int:
        """How many tasks a complete encoder has."""
        return len(self.core_ids)

    @property
    def ranked(self) -> tuple[Column, ...]:
        """The columns that have a rank, best first."""
        return tuple(column for column in self.columns if column.rank)

    def protocol_of(self, task: TaskSpec) -> str:
        """Return the versioned name of the protocol that a task is scored by on this board."""
        return task.protocols[0] if self.protocol == "primary" else self.protocol


def in_track(task: TaskSpec, catalogue: Catalogue, track: Track) -> bool:
    """Return whether the encoders of a track are ranked on a task.

    Of `core-open` are the core tasks whose cohorts are open or given on request.
    """
    if track == "own":
        return task.status == "own" and task.train_on is None
    reachable = catalogue.cohorts[task.cohort].access.status != "private"
    return task.status == "core" and (track == "core" or reachable)


def home_track(task: TaskSpec, catalogue: Catalogue) -> Track:
    """Return the track whose board a task stands on, ranked or not.

    External validation of a task, and the task without some classes, stand where the task does.
    """
    declared = catalogue.tasks.get(task.declared_id, task)
    return "own" if "own" in (task.status, declared.status) else "core"


def build_boards(
    records: Iterable[Record],
    catalogue: Catalogue,
    protocol: str | None = None,
    track: Track | None = None,
) -> list[Board]:
    """Return a board for each source, real data first; phantom and real never share one.

    `protocol` is a versioned name; None takes each task's first, and for supervised encoders, which
    have no embedding to probe, fine-tuning on the same folds. Records of another version of a task,
    or of a task the catalogue does not have, are left out.

    `track` leaves out the tasks of other tracks; extra tasks stand beside those that are ranked.
    None shows every task, and ranks on the core ones.
    """
    every = list(records)
    by_board: dict[str, list[Record]] = {}
    catalogue = catalogue.with_external(record.task.id for record in every)
    catalogue = _with_chance(catalogue, every)
    for record in every:
        task = catalogue.tasks.get(record.task.id)
        if task is None or task.version != record.task.version:
            continue
        if track == "core-open" and not in_track(task, catalogue, track):
            continue
        if track in ("core", "own") and home_track(task, catalogue) != track:
            continue
        supervised = record.encoder.kind == "supervised"
        if record.protocol == (
            protocol or (SUPERVISED_PROTOCOL if supervised else task.protocols[0])
        ):
            by_board.setdefault(record.board, []).append(record)
    return [
        _build_board(name, by_board[name], catalogue, protocol, track or "core")
        for name in sorted(by_board)
    ]


def _with_chance(catalogue: Catalogue, records: Iterable[Record]) -> Catalogue:
    """Return the catalogue with what records state of chance where a task does not know it."""
    tasks = dict(catalogue.tasks)
    for record in records:
        task = tasks.get(record.task.id)
        if task is not None and task.chance is None:
            metric = task.metric.model_copy(update={"chance": record.scores.main.chance})
            tasks[task.id] = task.model_copy(update={"metric": metric})
    return replace(catalogue, tasks=tasks)


def summarise(columns: Iterable[Column], tasks: Sequence[TaskSpec]) -> dict[str, Column]:
    """Return by label the encoders that have all of the tasks, with mean and places over these.

    Controls, and encoders whose scores nobody recomputed (V0), are not among them. On the page the
    browser computes the same for the tasks that a reader picks.
    """
    ids = [task.id for task in tasks]
    among = [c for c in columns if c.kind != "control" and c.verification != "V0" and c.has(ids)]
    if not ids:
        return {}
    means = [fmean(_families(c.cells, tasks).values()) for c in among]
    values = [[c.cells[task_id].value for c in among] for task_id in ids]
    others = len(among) - 1
    placed = {}
    for column, mean, *scores in zip(among, means, *values, strict=True):
        places = [
            sum(other > score for other in row) + (row.count(score) + 1) / 2
            for row, score in zip(values, scores, strict=True)
        ]
        placed[column.label] = replace(
            column,
            mean=mean,
            rank=1 + sum(other > mean for other in means),
            mean_rank=fmean(places),
            win_rate=fmean((others + 1 - p) / others for p in places) if others else None,
        )
    return placed


def family_means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each family, from the family and the score of each task.

    Examples:
        >>> family_means([("subtyping", 0.5), ("prognosis", 0.25), ("subtyping", 1.0)])
        {'prognosis': 0.25, 'subtyping': 0.75}
    """
    by_family: dict[str, list[float]] = {}
    for family, score in scores:
        by_family.setdefault(family, []).append(score)
    return {family: fmean(values) for family, values in sorted(by_family.items())}


def newest_records(records: Iterable[Record], key: Callable[[Record], Key]) -> dict[Key, Record]:
    """Return the newest record of each key; one that nobody recomputed never hides another."""
    return {key(record): record for record in sorted(records, key=_age)}


def _age(record: Record) -> tuple[bool, str, str]:
    return record.verification != "V0", *record.age


def on_same_features(
    column: Column, columns: Iterable[Column], name: str, cohorts: Collection[str]
) -> Column | None:
    """Return the encoder of a name that was given the same features as `column` in some cohorts.

    None without one, and where several revisions were.
    """
    shared = [
        other
        for other in columns
        if other.name == name
        and all(other.features.get(c) == column.features.get(c) for c in cohorts)
    ]
    return shared[0] if len(shared) == 1 else None


def _build_board(
    name: str, every: Sequence[Record], catalogue: Catalogue, protocol: str | None, track: Track
) -> Board:
    newest = newest_records(
        every, lambda r: (r.encoder.name, r.encoder.revision, r.features, r.task.id)
    )
    records = sorted(newest.values(), key=_age)
    scored = {record.task.id for record in records}
    core = [
        task
        for task in catalogue.tasks.values()
        if in_track(task, catalogue, track)
        and (task.id in scored or track != "own")
        and (protocol is None or misfit(task, catalogue.protocols[protocol]) is None)
    ]
    counted = [task for task in core if enough_cases(task, records)]
    usual = usual_features(records)
    reference = _reference_data(r for r in records if usual.get(source_of(r)) == content_of(r))
    rows = split_columns(records, usual)
    columns = [
        _column(
            label,
            [_cell(r, reference, usual, catalogue.tasks[r.task.id]) for r in row],
            core,
            counted,
        )
        for label, row in zip(column_labels(rows), rows.values(), strict=True)
    ]
    tasks = sorted(
        (catalogue.tasks[task_id] for task_id in scored),
        key=lambda task: (not in_track(task, catalogue, track), task.family, task.id),
    )
    core_ids, ranked_ids = (tuple(task.id for task in ids) for ids in (core, counted))
    placed = _ranked(columns, counted)
    return Board(name, protocol or "primary", track, tuple(tasks), core_ids, ranked_ids, placed)


def _reference_data(records: Iterable[Record]) -> Reference:
    """Return what most encoders were scored with, ties going to the smallest.

    By (task id, protocol) the task hash, which covers all that moves a score; by (task id, "") the
    labels and splits, which encoders scored by different protocols must share.
    """
    votes = Counter(vote for r in records if r.verification != "V0" for vote in _data_of(r).items())
    return dict(sorted(sorted(votes, reverse=True), key=lambda vote: votes[vote]))


def _data_of(record: Record) -> Reference:
    task_id = record.task.id
    data = {
        (task_id, record.protocol): record.task.task_hash,
        (task_id, ""): f"{record.inputs.labels} {record.inputs.splits}",
    }
    if training := record.training:
        data[task_id, f"features of {made_by(training.features)}"] = training.features.content
    return data


def _column(
    label: str, row: Sequence[Cell], core: Sequence[TaskSpec], counted: Sequence[TaskSpec]
) -> Column:
    records = [cell.record for cell in row]
    cells = dict(sorted({cell.record.task.id: cell for cell in row}.items()))
    families, coverage = _families(cells, counted), sum(task.id in cells for task in core)
    encoder, features = records[0].encoder, {r.task.cohort: r.features for r in records}
    column = Column(
        label=label,
        name=encoder.name,
        revision=encoder.revision,
        features=dict(sorted(features.items())),
        kind=encoder.kind,
        title=encoder.title,
        cells=cells,
        families=families,
        mean=fmean(families.values()) if counted and coverage == len(core) else None,
        coverage=coverage,
        complete=coverage == len(core) > 0 and all(cell.comparable for cell in cells.values()),
        verification=min((record.verification for record in records), key=_LADDER.index),
        unranked="" if counted else "no task has enough cases for a rank",
    )
    return replace(column, unranked=_why_unranked(column, len(core)) or column.unranked)


def _families(cells: Mapping[str, Cell], tasks: Iterable[TaskSpec]) -> dict[str, float]:
    """Return the mean chance-corrected score of each family that has a cell for all its tasks."""
    every = list(tasks)
    lacking = {task.family for task in every if task.id not in cells}
    return family_means(
        (task.family, cells[task.id].corrected) for task in every if task.family not in lacking
    )


def _why_unranked(column: Column, core: int) -> str:
    if column.coverage < core:
        return f"incomplete: {column.coverage} of {core} tasks"
    if other := {task_id: cell.other for task_id, cell in column.cells.items() if cell.other}:
        what = "data" if "data" in other.values() else "features"
        return f"scored on other {what} than the rest: {', '.join(other)}"
    if column.verification == "V0":
        return "reported, not recomputed (V0)"
    return "control" if column.kind == "control" else ""


def enough_cases(task: TaskSpec, records: Iterable[Record]) -> bool:
    """Return whether a task has enough cases of its rarest class, or with an event, for a rank.

    With fewer, the error of its score outweighs those of all other tasks in the mean.
    """
    counts = [r.scores.main.rare_cases for r in records if r.task.id == task.id]
    most = max(
        (count for count in counts if count is not None),
        default=task.expected.rarest if task.expected else 0,
    )
    return most >= LEAST_RARE_CASES


def _cell(
    record: Record, reference: Reference, usual: Mapping[Source, str], task: TaskSpec
) -> Cell:
    main, content = record.scores.main, content_of(record)
    other: Literal["", "features", "data"] = ""
    if usual.get(source_of(record), content) != content:
        other = "features"
    elif any(reference.get(place, value) != value for place, value in _data_of(record).items()):
        other = "data"
    return Cell(
        record,
        corrected=chance_corrected(main.value, task.chance or 0.0),
        other=other,
        contamination=contamination(record.encoder.training_cohorts, *record.sides),
    )


def _ranked(columns: Sequence[Column], core: Sequence[TaskSpec]) -> tuple[Column, ...]:
    """Return the columns with their ranks: the ranked by rank, then the others, controls last."""
    placed = summarise([column for column in columns if not column.unranked], core)

    def order(column: Column) -> tuple[bool, int, bool, float, str]:
        mean = -2.0 if column.mean is None else column.mean
        return column.rank is None, column.rank or 0, column.kind == "control", -mean, column.label

    return tuple(sorted((placed.get(column.label, column) for column in columns), key=order))

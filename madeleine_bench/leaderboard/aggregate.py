"""From records to a board: one row per task, one column per encoder, honest about what is missing.

A column is an encoder, its revision and the features it was given: scores of other features are of
another column. Complete encoders are ranked by the mean over families of their chance-corrected
scores, over the tasks that have enough cases for a rank. Incomplete ones, ones scored on other data
than the rest, and ones that nobody recomputed stand apart and are never imputed. Controls are shown
beside the ranks and take none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from madeleine_bench.leaderboard.same_features import (
    Scored,
    column_labels,
    features_by_record,
    made_by,
    split_rows,
    usual_features,
)
from madeleine_bench.specs.card import Contamination, contamination
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.protocol import SUPERVISED_PROTOCOL
from madeleine_bench.specs.record import Record, RecordFeatures, Verification
from madeleine_bench.specs.task import TaskSpec, chance_corrected
from madeleine_bench.stats.intervals import LEAST_RARE_CASES

Reference = Mapping[tuple[str, str], str]
# Lowest first. Records made here are as good as recomputed ones, so "none" stands above V0 alone.
_LADDER: tuple[Verification, ...] = ("V0", "none", "V1", "V2", "V3")


@dataclass(frozen=True)
class Cell:
    """One score on the board.

    Attributes:
        record: all that is known of it.
        corrected: (score - chance) / (1 - chance): 0 is chance, 1 is perfect.
        comparable: whether it was scored on the data that most encoders were scored on, from the
            features that most encoders with this patch encoder were given.
        contamination: whether the encoder was trained on the cohort.
    """

    record: Record
    corrected: float
    comparable: bool
    contamination: Contamination

    @property
    def value(self) -> float:
        """The main score."""
        return self.record.scores.main.value

    @property
    def status(self) -> str:
        """Whether all, some or none of the fits converged."""
        return self.record.status


@dataclass(frozen=True)
class Summary:
    """How an encoder does over some tasks, among those that have all of them.

    Attributes:
        mean: mean over families of the mean chance-corrected score of the family's tasks.
        rank: place by `mean`, equal means sharing a place.
        mean_rank: mean over tasks of its place, 1 the best, equal scores sharing their mean place.
        win_rate: mean over tasks of the share of the others that it beats, ties counting half;
            None when it is alone.
    """

    mean: float
    rank: int
    mean_rank: float
    win_rate: float | None


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
        summary: rank and what goes with it, over the ranked tasks; None when unranked.
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
    summary: Summary | None = None

    @property
    def rank(self) -> int | None:
        """Its place among the ranked; None when it has none."""
        return self.summary.rank if self.summary else None

    @property
    def mean_rank(self) -> float | None:
        """Mean over the ranked tasks of its place among the ranked; None when unranked."""
        return self.summary.mean_rank if self.summary else None

    @property
    def made_by(self) -> str:
        """What made its features: a patch encoder, "features" of an unknown one, or unrecorded."""
        return made_by(next(iter(self.features.values())))

    def has(self, task_ids: Iterable[str]) -> bool:
        """Return whether it has each of the tasks, scored on the data of the rest."""
        return all(t in self.cells and self.cells[t].comparable for t in task_ids)


@dataclass(frozen=True)
class Board:
    """Every column of one board, the ranked ones first, and the tasks that have a score.

    Attributes:
        name: "local", "phantom", or a phantom variant.
        protocol: "primary" for each task's first, else the one it is of.
        tasks: tasks with a score, the core ones first.
        core_ids: ids of the tasks that a complete encoder has, scored or not.
        ranked_ids: those of them that encoders are ranked on: they have enough cases for a rank.
        columns: the encoders.
    """

    name: str
    protocol: str
    tasks: tuple[TaskSpec, ...]
    core_ids: tuple[str, ...]
    ranked_ids: tuple[str, ...]
    columns: tuple[Column, ...]

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
        return tuple(column for column in self.columns if column.summary)

    def protocol_of(self, task: TaskSpec) -> str:
        """Return the versioned name of the protocol that a task is scored by on this board."""
        return task.protocols[0] if self.protocol == "primary" else self.protocol


def build_boards(
    records: Iterable[Record], catalogue: Catalogue, protocol: str | None = None
) -> list[Board]:
    """Return a board for each source, real data first; phantom and real never share one.

    `protocol` is a versioned name; None takes each task's first, and for supervised encoders, which
    have no embedding to probe, fine-tuning on the same folds. Records of another version of a task,
    or of a task the catalogue does not have, are left out.
    """
    by_board: dict[str, list[Record]] = {}
    for record in records:
        task = catalogue.tasks.get(record.task.id)
        if task is None or task.version != record.task.version:
            continue
        supervised = record.encoder.kind == "supervised"
        if record.protocol == (
            protocol or (SUPERVISED_PROTOCOL if supervised else task.protocols[0])
        ):
            by_board.setdefault(record.board, []).append(record)
    return [_build_board(name, by_board[name], catalogue, protocol) for name in sorted(by_board)]


def summarise(columns: Iterable[Column], tasks: Sequence[TaskSpec]) -> dict[str, Summary]:
    """Return by label how encoders do over the tasks, among those that have all of them.

    Controls, and encoders whose scores nobody recomputed (V0), are not among them. On the page the
    browser computes the same for the tasks that a reader picks.
    """
    ids = [task.id for task in tasks]
    among = [c for c in columns if c.kind != "control" and c.verification != "V0" and c.has(ids)]
    if not ids:
        return {}
    means = {c.label: fmean(family_means(c, tasks).values()) for c in among}
    found = {}
    for column in among:
        places, wins = [], []
        for task_id in ids:
            own = column.cells[task_id].value
            others = [c.cells[task_id].value for c in among if c is not column]
            above, equal = sum(v > own for v in others), sum(v == own for v in others)
            places.append(1 + above + equal / 2)
            wins.append((len(others) - above - equal / 2) / max(1, len(others)))
        found[column.label] = Summary(
            mean=means[column.label],
            rank=1 + sum(mean > means[column.label] for mean in means.values()),
            mean_rank=fmean(places),
            win_rate=fmean(wins) if len(among) > 1 else None,
        )
    return found


def family_means(column: Column, tasks: Iterable[TaskSpec]) -> dict[str, float]:
    """Return the mean chance-corrected score of each family of which it has all of the tasks."""
    ids: dict[str, list[str]] = {}
    for task in tasks:
        ids.setdefault(task.family, []).append(task.id)
    return {
        family: fmean(column.cells[task_id].corrected for task_id in own)
        for family, own in sorted(ids.items())
        if all(task_id in column.cells for task_id in own)
    }


def on_same_features(
    column: Column, columns: Iterable[Column], name: str, cohorts: Iterable[str]
) -> Column | None:
    """Return the encoder of a name that was given the same features as `column` in some cohorts.

    None without one, and where several revisions were.
    """
    wanted = set(cohorts)
    found = [
        other
        for other in columns
        if other.name == name
        and all(other.features.get(c) == column.features.get(c) for c in wanted)
    ]
    return found[0] if len(found) == 1 else None


def _build_board(
    name: str, records: Sequence[Record], catalogue: Catalogue, protocol: str | None
) -> Board:
    features = features_by_record(records)
    newest: dict[tuple[str, str, RecordFeatures | None, str], Scored] = {}
    every = (Scored(record, features[record.record_id]) for record in records)
    for one in sorted(every, key=lambda one: one.age):
        encoder = one.record.encoder
        newest[encoder.name, encoder.revision, one.features, one.record.task.id] = one
    core = [
        task
        for task in catalogue.tasks.values()
        if task.status == "core"
        and (protocol is None or misfit(task, catalogue.protocols[protocol]) is None)
    ]
    scored = list(newest.values())
    counted = [task for task in core if enough_cases(task, (one.record for one in scored))]
    usual = usual_features(scored)
    reference = _reference_data(s.record for s in scored if usual.get(s.source) == s.content)
    rows = split_rows(scored, usual)
    columns = [
        _column(label, own, core, counted, reference, usual)
        for label, own in zip(column_labels(rows), rows.values(), strict=True)
    ]
    order = sorted(
        (catalogue.tasks[task_id] for task_id in {s.record.task.id for s in scored}),
        key=lambda task: (task.status != "core", task.family, task.id),
    )
    core_ids = tuple(task.id for task in core)
    ranked_ids = tuple(task.id for task in counted)
    return Board(
        name, protocol or "primary", tuple(order), core_ids, ranked_ids, _ranked(columns, counted)
    )


def _reference_data(records: Iterable[Record]) -> Reference:
    """Return what most encoders were scored with, ties going to the smallest.

    By (task id, protocol) the task hash, which covers all that moves a score; by (task id, "") the
    labels and splits, which encoders scored by different protocols must share.
    """
    votes: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        if record.verification != "V0":
            for place, value in _data_of(record).items():
                votes.setdefault(place, Counter())[value] += 1
    return {
        place: min(count, key=lambda value: (-count[value], value))
        for place, count in votes.items()
    }


def _data_of(record: Record) -> Reference:
    task_id = record.task.id
    return {
        (task_id, record.protocol): record.task.task_hash,
        (task_id, ""): f"{record.inputs.labels} {record.inputs.splits}",
    }


def _column(
    label: str,
    scored: Sequence[Scored],
    core: Sequence[TaskSpec],
    counted: Sequence[TaskSpec],
    reference: Reference,
    usual: Mapping[tuple[str, str], str],
) -> Column:
    records = {one.record.task.id: one.record for one in scored}
    first = next(iter(records.values())).encoder
    unusual = {s.record.task.id for s in scored if usual.get(s.source, s.content) != s.content}
    cells = {
        task_id: _cell(record, reference, task_id not in unusual)
        for task_id, record in sorted(records.items())
    }
    coverage = sum(task.id in cells for task in core)
    verification = min((r.verification for r in records.values()), key=_LADDER.index)
    features = {one.record.task.cohort: one.features for one in scored}
    column = Column(
        label, first.name, first.revision, dict(sorted(features.items())), first.kind, first.title,
        cells, {}, None, coverage, False, verification, "",
    )  # fmt: skip
    other = [task_id for task_id, cell in cells.items() if not cell.comparable]
    families = family_means(column, counted)
    return replace(
        column,
        families=families,
        mean=fmean(families.values()) if counted and coverage == len(core) else None,
        complete=bool(core) and coverage == len(core) and not other,
        unranked=_why_unranked(column, len(core), other, unusual)
        or ("" if counted else "no task has enough cases for a rank"),
    )


def _why_unranked(column: Column, core: int, other: Sequence[str], unusual: set[str]) -> str:
    if column.coverage < core:
        return f"incomplete: {column.coverage} of {core} tasks"
    if other:
        what = "features" if unusual.issuperset(other) else "data"
        return f"scored on other {what} than the rest: {', '.join(other)}"
    if column.verification == "V0":
        return "reported, not recomputed (V0)"
    return "control" if column.kind == "control" else ""


def enough_cases(task: TaskSpec, records: Iterable[Record]) -> bool:
    """Return whether a task has enough cases of its rarest class, or with an event, for a rank.

    With fewer, the error of its score outweighs those of all other tasks in the mean.
    """
    own = [r.scores.main.rare_cases for r in records if r.task.id == task.id]
    counts = [count for count in own if count is not None]
    return max(counts, default=task.expected.rarest) >= LEAST_RARE_CASES


def _cell(record: Record, reference: Reference, usual: bool) -> Cell:
    main = record.scores.main
    same = all(reference.get(place, value) == value for place, value in _data_of(record).items())
    return Cell(
        record,
        corrected=chance_corrected(main.metric, main.value),
        comparable=usual and same,
        contamination=contamination(record.encoder.training_cohorts, record.task.cohort),
    )


def _ranked(columns: Sequence[Column], core: Sequence[TaskSpec]) -> tuple[Column, ...]:
    """Return the columns with their ranks: the ranked by rank, then the others, controls last."""
    found = summarise([column for column in columns if not column.unranked], core)
    placed = [replace(column, summary=found.get(column.label)) for column in columns]
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

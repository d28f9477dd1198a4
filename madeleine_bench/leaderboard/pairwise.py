"""Two encoders beside each other: paired on each task, and over tasks, in words and a figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.aggregate import Board, Column
from madeleine_bench.leaderboard.page.text import interval, number, p_value, signed
from madeleine_bench.leaderboard.sources import RESAMPLES, Sources
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import Weights, case_weights
from madeleine_bench.stats.paired import (
    ALPHA,
    NOT_SIGNIFICANT,
    AcrossTasks,
    PairedDifference,
    ResampledScore,
    ScoredUnits,
    across_tasks,
    check_same_units,
    difference_of,
    holm,
    resample,
)
from madeleine_bench.stats.ranks import LEAST_TASKS


@dataclass(frozen=True)
class TaskDifference:
    """How far the first encoder scores above the second on one task.

    Attributes:
        task: its id.
        metric: of the scores.
        protocol: versioned name.
        first: score of the first encoder; `second` accordingly.
        difference: first less second.
        ci95: 95% confidence interval of the difference; None with too few cases.
        p_value: two-sided, of no difference, by the paired bootstrap of cases.
        p_holm: the same, adjusted by Holm's correction for the number of tasks, or of external
            validations where it is one.
        corrected: the difference on the scale where chance is 0 and the best score 1.
        is_external: whether the training cases are of another cohort.
    """

    task: str
    metric: str
    protocol: str
    first: float
    second: float
    difference: float
    ci95: tuple[float, float] | None
    p_value: float
    p_holm: float
    corrected: float
    is_external: bool = False


@dataclass(frozen=True, repr=False)
class EncoderComparison:
    """Two encoders on one board.

    Attributes:
        board: name of the board.
        first: label of the first encoder; `second` accordingly.
        tasks: the tasks that both are scored on, on the same cases and splits.
        across: the comparison over tasks, of chance-corrected scores; external validation repeats
            tasks and has no part in it.
        left_out: why tasks are left out, a line each.
    """

    board: str
    first: str
    second: str
    tasks: tuple[TaskDifference, ...]
    across: AcrossTasks
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        """Return the difference on each task, and what the differences show."""
        rows = [
            f"{t.task}: {t.metric} {number(t.first)} and {number(t.second)}, difference "
            f"{signed(t.difference)} (95% CI {interval(t.ci95)}), p = {p_value(t.p_holm)}"
            for t in self.tasks
        ]
        title = f"{self.first} against {self.second}, board {self.board}"
        return "\n".join([title, *rows, *self.conclusions, *self.left_out])

    def higher(self, task: TaskDifference) -> str:
        """Return the label of the encoder that scores significantly higher on a task, or ""."""
        if task.p_holm >= ALPHA:
            return ""
        return self.first if task.difference > 0 else self.second

    @property
    def conclusions(self) -> list[str]:
        """What the differences show and what they do not, a sentence each."""
        labels = (self.first, self.second)
        better = {name: [t.task for t in self.tasks if self.higher(t) == name] for name in labels}
        lines = [
            f"{name} scores significantly higher on {len(ids)} of {len(self.tasks)} tasks: "
            f"{', '.join(ids)}."
            for name, ids in better.items()
            if ids
        ]
        undecided = len(self.tasks) - sum(map(len, better.values()))
        if undecided:
            lines.append(
                f"On {undecided} of {len(self.tasks)} tasks the difference is not significant: "
                f"{NOT_SIGNIFICANT}."
            )
        return [*lines, self._over_tasks()]

    def _over_tasks(self) -> str:
        across, count = self.across, sum(not task.is_external for task in self.tasks)
        if count < LEAST_TASKS:
            return (
                f"{count} task(s) are too few for a test over tasks, which needs {LEAST_TASKS}: "
                "nothing can be concluded beyond the single tasks."
            )
        p = across.p_in_direction(across.mean)
        told = (
            f"(signed-rank test, p = {p_value(p)}; {self.first} scores higher on {across.wins} "
            f"tasks, {self.second} on {across.losses})"
        )
        if p >= ALPHA or not across.mean:
            return f"Over the {count} tasks the difference is not significant {told}."
        winner = self.first if across.mean > 0 else self.second
        return (
            f"Over the {count} tasks {winner} scores higher {told}. Tasks of one cohort share "
            "their slides, so that the p-value is too small where most tasks are of one cohort."
        )


def compare_encoders(
    folders: Sequence[Path],
    catalogue: Catalogue,
    first: str,
    second: str,
    tasks: Sequence[str] = (),
    protocol: str | None = None,
    board: str | None = None,
) -> list[EncoderComparison]:
    """Return the comparison of two encoders on each board that has both.

    On a task the difference is tested by a bootstrap of the same cases for both
    (`stats.paired.paired_difference`), over tasks by Wilcoxon's signed-rank test.

    Args:
        folders: results folders.
        catalogue: the catalogue of the tasks.
        first: name of an encoder, or its label on the board.
        second: name of the other.
        tasks: ids or globs; empty takes all that both have.
        protocol: its name; None takes the first of each task.
        board: name of the one board to compare on; None takes all that have both.

    Raises:
        InputError: a name is unknown, no board has both encoders, or they share no task.
    """
    sources = Sources(folders, catalogue)
    wanted = {task.id for task in catalogue.select(tasks)} if tasks else None
    boards = sources.boards([protocol], board)
    pairs = [(each, _column(each, first), _column(each, second)) for each in boards]
    comparisons = [
        comparison
        for each, one, other in pairs
        if one and other
        for comparison in _compared(sources, each, [(one, other)], wanted)
    ]
    for comparison in comparisons:
        if not comparison.tasks:
            reasons = "; ".join(comparison.left_out) or "no task is scored for both"
            labels = f"{comparison.first} and {comparison.second}"
            raise InputError(f"{labels} on board {comparison.board}: {reasons}")
    if not comparisons:
        known = sorted({column.label for each in boards for column in each.columns})
        for name in (first, second):
            if not any(_column(each, name) for each in boards):
                raise InputError(f"no encoder is called '{name}'{did_you_mean(name, known)}")
        raise InputError(f"no board has both {first} and {second}; run both: mbench run --encoder")
    return comparisons


def comparison_report(comparisons: Sequence[EncoderComparison]) -> Report:
    """Return comparisons as tables, sentences, numbers and a figure each."""
    body: list[Table | str] = []
    charts: dict[str, Any] = {}
    for each in comparisons:
        header = ["task", each.first, each.second, "difference (95% CI)", "p (Holm)", "higher"]
        title = f"{each.first} against {each.second}, board {each.board}"
        for is_external, heading in ((False, title), (True, f"{title}: external validation")):
            rows = [
                [t.task, number(t.first), number(t.second), _with_interval(t),
                 p_value(t.p_holm), each.higher(t)]
                for t in each.tasks if t.is_external == is_external
            ]  # fmt: skip
            if rows:
                body.append(Table(heading, header, rows))
        body += [*each.conclusions, *each.left_out]
        if each.board.startswith("phantom"):
            body.append(PHANTOM_NOTICE)
        charts[f"compare-{each.board}"] = _forest(each, title)
    document = {"comparisons": [{**asdict(c), "conclusions": c.conclusions} for c in comparisons]}
    return Report(document, body, charts)


def _with_interval(task: TaskDifference) -> str:
    ends = f" ({interval(task.ci95)})" if task.ci95 else ""
    return signed(task.difference) + ends


def _column(board: Board, name: str) -> Column | None:
    """Return the column of a label, or of a name that only one column has.

    Raises:
        InputError: several columns have the name.
    """
    by_label = [column for column in board.columns if column.label == name]
    columns = by_label or [column for column in board.columns if column.name == name]
    if len(columns) > 1:
        labels = ", ".join(f"'{column.label}'" for column in columns)
        raise InputError(f"board {board.name} has several encoders '{name}': name one of {labels}")
    return columns[0] if columns else None


def board_comparisons(board: Board, sources: Sources) -> list[EncoderComparison]:
    """Return the comparison of every two encoders of a board that share a recomputed task."""
    columns = [column for column in board.columns if column.verification != "V0"]
    compared = _compared(sources, board, list(combinations(columns, 2)), None)
    return [comparison for comparison in compared if comparison.tasks]


def _compared(
    sources: Sources,
    board: Board,
    pairs: Sequence[tuple[Column, Column]],
    wanted: set[str] | None,
) -> list[EncoderComparison]:
    """Return the comparison of each pair of columns, in the order given."""
    rows: list[list[tuple[TaskSpec, str, float, float, PairedDifference]]] = [[] for _ in pairs]
    left_out: list[list[str]] = [[] for _ in pairs]
    for task in board.tasks:
        if wanted is not None and task.id not in wanted:
            continue
        both = {
            place: (one.cells[task.id].record, other.cells[task.id].record)
            for place, (one, other) in enumerate(pairs)
            if task.id in one.cells and task.id in other.cells
        }
        found = _task_differences(sources, task, list(both.values()))
        for (place, (first, second)), paired in zip(both.items(), found, strict=True):
            if isinstance(paired, InputError):
                left_out[place].append(f"{task.id} is left out: {paired}")
                continue
            scores = first.scores.main.value, second.scores.main.value
            rows[place].append((task, first.protocol, *scores, paired))
    return [
        _comparison(board.name, one.label, other.label, differences, reasons)
        for (one, other), differences, reasons in zip(pairs, rows, left_out, strict=True)
    ]


def _task_differences(
    sources: Sources, task: TaskSpec, pairs: Sequence[tuple[Record, Record]]
) -> list[PairedDifference | InputError]:
    """Return the paired difference of each pair of records of a task, or why there is none.

    Predictions are read and resampled once for each record.
    """
    records = {record.record_id: record for pair in pairs for record in pair}

    @cache
    def units(record_id: str) -> ScoredUnits:
        return sources.units(records[record_id])

    @cache
    def weights(protocol: str, case: tuple[str, ...], stratum: tuple[str, ...]) -> Weights:
        return case_weights(case, stratum, RESAMPLES, rng_for("compare", task.name, protocol))

    @cache
    def resampled(
        record_id: str, protocol: str, case: tuple[str, ...], stratum: tuple[str, ...]
    ) -> ResampledScore:
        return resample(units(record_id), weights(protocol, case, stratum))

    found: list[PairedDifference | InputError] = []
    with threadpool_limits(1):
        for first, second in pairs:
            try:
                one, other = units(first.record_id), units(second.record_id)
                check_same_units(one, other)
            except InputError as error:
                found.append(error)
                continue
            how = min(first.protocol, second.protocol), one.case, one.stratum
            ours, theirs = (resampled(each.record_id, *how) for each in (first, second))
            found.append(difference_of(ours, theirs))
    return found


def _comparison(
    board: str,
    first: str,
    second: str,
    rows: Sequence[tuple[TaskSpec, str, float, float, PairedDifference]],
    left_out: Sequence[str],
) -> EncoderComparison:
    differences: list[TaskDifference] = []
    for is_external in (False, True):
        chosen = [row for row in rows if (row[0].train_on is not None) == is_external]
        adjusted = holm([row[-1].p_value for row in chosen])
        differences += [
            TaskDifference(
                task.id, task.metric.name, protocol, score, against, paired.difference,
                paired.ci95, paired.p_value, p_holm,
                paired.difference / (1.0 - (task.chance or 0.0)), is_external,
            )
            for (task, protocol, score, against, paired), p_holm in zip(
                chosen, adjusted, strict=True
            )
        ]  # fmt: skip
    across = across_tasks([d.corrected for d in differences if not d.is_external] or [0.0])
    return EncoderComparison(board, first, second, tuple(differences), across, tuple(left_out))


def _forest(each: EncoderComparison, title: str) -> Any:
    """Return the forest plot of the differences: a row for each task, with its interval."""
    import altair as alt

    rows = [
        {
            "task": t.task,
            "difference": t.difference,
            "low": (t.ci95 or (t.difference,) * 2)[0],
            "high": (t.ci95 or (t.difference,) * 2)[1],
            "higher": each.higher(t) or "not significant",
        }
        for t in each.tasks
    ]
    colour = alt.Color("higher:N", title="significantly higher").scale(
        domain=[each.first, each.second, "not significant"], range=[COLOURS[0], COLOURS[1], GREY]
    )
    base = alt.Chart(alt.Data(values=rows)).encode(  # type: ignore[no-untyped-call]
        y=alt.Y("task:N", title=None, sort=[t.task for t in each.tasks]), color=colour
    )
    x = alt.X("low:Q", title=f"score of {each.first} less score of {each.second} (95% CI)")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=INK, strokeDash=[3, 3])  # type: ignore[no-untyped-call]
    layers = [
        zero.encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x="difference:Q"),
    ]
    heading = alt.Title(title, anchor="start", fontSize=14, color=INK, offset=12)
    chart = alt.layer(*layers).properties(width=420, height=alt.Step(20), title=heading)
    return chart.properties(padding=16, background="white")

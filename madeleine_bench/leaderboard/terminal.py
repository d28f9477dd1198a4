"""A board as text tables: one row per encoder, or one row per task, within a number of columns."""

from collections.abc import Iterator, Sequence

from madeleine_bench.leaderboard.aggregate import Board, Column
from madeleine_bench.leaderboard.comparison import BASELINE, Comparison, Estimate, Interval
from madeleine_bench.leaderboard.external import drops
from madeleine_bench.report import PHANTOM_NOTICE, Table

_GAP = 2


def board_tables(
    board: Board, comparison: Comparison, width: int, *, tasks: bool = False
) -> list[Table | str]:
    """Return what a terminal shows of a board.

    Args:
        board: the board.
        comparison: of its encoders.
        width: columns of the terminal; tables that do not fit are cut into several.
        tasks: show the score of each task. Without an encoder that has every task, tasks are shown
            in any case.
    """
    kind = "phantom, synthetic data" if board.is_phantom else "real data"
    protocol = "" if board.protocol == "primary" else f", {board.protocol}"
    title = f"Board '{board.title}' ({kind}{protocol})"
    body: list[Table | str] = []
    if comparison.standings:
        body += _ranking(title, board, comparison, width)
        title = ""
    if tasks or not comparison.standings:
        body += _scores(title, board, width)
    body += [
        f"{column.label} is not ranked: {column.unranked}"
        for column in board.columns
        if column.unranked and column.kind != "control" and column.coverage
    ]
    if rows := drops(board):
        header = ["external task", "encoder", "trained on", "internal", "external", "drop"]
        lines = [
            [row["task"], row["encoder"], row["trained_on"],
             _with_interval(row["internal"], row["internal_ci95"]),
             _with_interval(row["external"], row["external_ci95"]), f"{row['drop']:+.3f}"]
            for row in rows
        ]  # fmt: skip
        body.append(Table("From internal to external validation (95% CI)", header, lines))
    return [*body, PHANTOM_NOTICE] if board.is_phantom else body


def _ranking(title: str, board: Board, comparison: Comparison, width: int) -> list[Table | str]:
    columns = board.columns
    standings = [comparison.standings.get(column.label) for column in columns]
    names = ["encoder", *(column.label for column in columns)]
    lead = [["rank", *(str(c.rank or "-") for c in columns)], names]
    estimates = [
        ["letter", *(standing.letters if standing else "" for standing in standings)],
        ["mean (95% CI)", *(_estimate(s.mean if s else None) for s in standings)],
        [f"gain over {BASELINE}", *(_estimate(s.gain if s else None, "+.3f") for s in standings)],
    ]
    families = [
        [family.split("-")[0], *(_number(column.families.get(family)) for column in columns)]
        for family in sorted({task.family for task in board.tasks if task.id in board.ranked_ids})
    ]
    few = board.core - len(board.ranked_ids)
    note = (
        "mean: chance-corrected score (0 = chance, 1 = perfect), averaged within and then over "
        f"families (families: {len(families)}, tasks: {len(board.ranked_ids)}"
        f"{f', tasks with too few patients for a rank: {few}' if few else ''}). "
        "95% CI: new patients from the same cohorts. Controls have no rank."
    )
    if any(standing.letters for standing in comparison.standings.values()):
        note += " Encoders that share a letter do not differ significantly."
    return [*_blocks(title, lead, [*estimates, *families], width), note]


def _scores(title: str, board: Board, width: int) -> Iterator[Table]:
    lead = [
        ["task", *(task.id for task in board.tasks)],
        ["metric", *(task.metric.name for task in board.tasks)],
    ]
    columns = [
        [column.label, *(_score(column, task.id) for task in board.tasks)]
        for column in board.columns
    ]
    return _blocks(
        f"{title}: scores (95% CI)" if title else "Scores (95% CI)", lead, columns, width
    )


def _score(column: Column, task_id: str) -> str:
    cell = column.cells.get(task_id)
    if cell is None:
        return "-"
    failed = "" if cell.record.status == "ok" else " !"
    return _with_interval(cell.value, cell.record.scores.main.ci95) + failed


def _blocks(
    title: str, lead: list[list[str]], columns: list[list[str]], width: int
) -> Iterator[Table]:
    """Yield tables that begin with the leading columns and hold as many others as fit."""
    while columns:
        count = 1
        while count < len(columns) and _width([*lead, *columns[: count + 1]]) <= width:
            count += 1
        yield _table(title, [*lead, *columns[:count]])
        title, columns = "", columns[count:]


def _table(title: str, columns: Sequence[Sequence[str]]) -> Table:
    header, *rows = zip(*columns, strict=True)
    return Table(title, header, rows)


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + _GAP for column in columns) - _GAP


def _estimate(estimate: Estimate | None, form: str = ".3f") -> str:
    return _with_interval(estimate.value, estimate.ci95_cases, form) if estimate else "-"


def _with_interval(value: float, ci95: Interval | None, form: str = ".3f") -> str:
    ends = f" ({', '.join(_number(end, form) for end in ci95)})" if ci95 else ""
    return _number(value, form) + ends


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(round(value, 3) + 0.0, form)  # -0.0 + 0.0 is 0.0

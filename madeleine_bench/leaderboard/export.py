"""A board as CSV or Markdown; as JSON see `document`."""

import csv
import io
from collections.abc import Sequence

from madeleine_bench.leaderboard.aggregate import Board, Cell, Column
from madeleine_bench.report import PHANTOM_NOTICE

_CSV_HEADER = (
    *("data", "board", "encoder", "kind", "rank", "task", "family", "cohort", "protocol", "metric"),
    *("value", "ci95_low", "ci95_high", "chance_corrected", "n"),
    *("status", "contamination", "verification", "record"),
)


def to_csv(boards: Sequence[Board]) -> str:
    """Return one line per board, encoder and task: score, interval, and where it comes from."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for board in boards:
        data = "PHANTOM" if board.is_phantom else "real"
        for column in board.columns:
            name, rank = _plain(column.label), "" if column.rank is None else column.rank
            for task in board.tasks:
                about = [task.id, task.family, task.cohort, board.protocol_of(task)]
                score = _scores(column.cells.get(task.id))
                head = [data, board.name, name, column.kind, rank, *about, task.metric.name]
                writer.writerow([*head, *score])
    return out.getvalue()


def _scores(cell: Cell | None) -> list[object]:
    if cell is None:
        return ["", "", "", "", "", "absent", "", "", ""]
    main = cell.record.scores.main
    low, high = main.ci95 or (None, None)
    numbers = ["" if n is None else repr(n) for n in (main.value, low, high, cell.corrected)]
    said = [cell.status, cell.contamination, cell.record.verification, cell.record.record_id]
    return [*numbers, cell.record.inputs.n, *said]


def to_markdown(board: Board) -> str:
    """Return one board as a Markdown table: tasks down, encoders across."""
    lines = [f"## Board: {board.name}", ""]
    if board.is_phantom:
        lines += [f"**{PHANTOM_NOTICE}**", ""]
    lines.append("| task | metric | " + " | ".join(_plain(c.label) for c in board.columns) + " |")
    lines.append("|---|---|" + "---:|" * len(board.columns))
    for task in board.tasks:
        cells = [score_text(column, task.id) for column in board.columns]
        lines.append(f"| {task.id} | {task.metric.name} | " + " | ".join(cells) + " |")
    for name, values in summary_rows(board):
        lines.append(f"| **{name}** | | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def score_text(column: Column, task_id: str) -> str:
    """Return a score to three digits; "-" where there is none, "!" after one whose fits failed."""
    cell = column.cells.get(task_id)
    if cell is None:
        return "-"
    return f"{cell.value:.3f}" + ("" if cell.status == "ok" else "!")


def summary_rows(board: Board) -> list[tuple[str, list[str]]]:
    """Return the rows under the tasks: mean, rank, mean rank, and coverage of each column."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    columns = board.columns
    return [
        ("mean over families", [number(c.mean, ".3f") for c in columns]),
        (
            "rank",
            [
                number(c.rank, "d") if c.rank else c.kind[:7] if c.kind == "control" else "-"
                for c in columns
            ],
        ),
        ("mean rank", [number(c.mean_rank, ".1f") for c in columns]),
        ("win rate", [number(c.summary.win_rate if c.summary else None, ".2f") for c in columns]),
        ("coverage", [f"{c.coverage}/{board.core}" for c in columns]),
    ]


def _plain(text: str) -> str:
    """Return text that neither a spreadsheet nor Markdown takes for a formula or a border."""
    cleaned = text.replace("|", "/").replace("\n", " ").replace("<", "(").replace(">", ")")
    return f"'{cleaned}" if cleaned[:1] in "=+-@" else cleaned

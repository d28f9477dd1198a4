"""A board as CSV, JSON or Markdown."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from madeleine_bench.leaderboard.aggregate import Board, Column

Format = Literal["csv", "json", "markdown"]
_CSV_HEADER = (
    *("board", "encoder", "kind", "rank", "task", "family", "metric"),
    *("value", "ci95_low", "ci95_high", "status", "record"),
)
PHANTOM_NOTICE = (
    "PHANTOM: synthetic data. It shows that code works, not that a method helps patients."
)


def export_boards(boards: Sequence[Board], form: Format) -> str:
    """Return the boards as text in one of the formats, ending in a newline."""
    if form == "csv":
        return to_csv(boards)
    if form == "json":
        return to_json(boards)
    return "\n".join(to_markdown(board) for board in boards)


def to_csv(boards: Sequence[Board]) -> str:
    """Return one line per board, encoder and task: score, interval, status, record."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for board in boards:
        for column in board.columns:
            for task in board.tasks:
                cell = column.cells.get(task.id)
                if cell is None:
                    score: list[object] = ["", "", "", "absent", ""]
                else:
                    numbers = [repr(cell.value), repr(cell.ci95[0]), repr(cell.ci95[1])]
                    score = [*numbers, cell.status, cell.record_id]
                name = _plain(column.label)
                rank = "" if column.rank is None else column.rank
                about = [task.id, task.family, task.metric.name]
                writer.writerow([board.name, name, column.kind, rank, *about, *score])
    return out.getvalue()


def to_json(boards: Sequence[Board]) -> str:
    """Return the boards with every number, as JSON."""
    content = [
        {
            "board": board.name,
            "phantom": board.is_phantom,
            "protocol": board.protocol,
            "core_tasks": board.core,
            "tasks": [
                {"id": t.id, "version": t.version, "family": t.family, "metric": t.metric.name}
                for t in board.tasks
            ],
            "columns": [asdict(column) for column in board.columns],
        }
        for board in boards
    ]
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


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
        ("coverage", [f"{c.coverage}/{board.core}" for c in columns]),
    ]


def _plain(text: str) -> str:
    """Return text that neither a spreadsheet nor Markdown takes for a formula or a border."""
    cleaned = text.replace("|", "/").replace("\n", " ").replace("<", "(").replace(">", ")")
    return f"'{cleaned}" if cleaned[:1] in "=+-@" else cleaned

"""A board as CSV, and what file names and tables call it; as JSON see `document`."""

import csv
import io
import re
from collections.abc import Sequence

from madeleine_bench.files import reserved_on_windows
from madeleine_bench.leaderboard.aggregate import Board, Cell

_CSV_HEADER = (
    *("data", "board", "encoder", "kind", "rank", "task", "family", "cohort", "protocol", "metric"),
    *("value", "ci95_low", "ci95_high", "chance_corrected", "n"),
    *("status", "contamination", "verification", "record"),
)


def to_csv(boards: Sequence[Board]) -> str:
    """Return one line per board, encoder and task: score, interval, and where it comes from."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")  # it writes None as nothing
    writer.writerow(_CSV_HEADER)
    for board in boards:
        data = "PHANTOM" if board.is_phantom else "real"
        for column in board.columns:
            head = [data, board.title, _plain(column.label), column.kind, column.rank]
            for task in board.tasks:
                about = [task.id, task.family, task.cohort, board.protocol_of(task)]
                score = _score(column.cells.get(task.id))
                writer.writerow([*head, *about, task.metric.name, *score])
    return out.getvalue()


def _score(cell: Cell | None) -> list[object]:
    if cell is None:
        return [*[None] * 5, "absent", *[None] * 3]
    record, main = cell.record, cell.record.scores.main
    numbers = [main.value, *(main.ci95 or (None, None)), cell.corrected, record.inputs.n]
    return [*numbers, record.status, cell.contamination, record.verification, record.record_id]


def slug_of(label: str) -> str:
    """Return a file name for an encoder's label.

    Examples:
        >>> slug_of("madeleine@2+cu 12"), slug_of("NUL.1")
        ('madeleine_2_cu_12', '_nul.1')
    """
    slug = re.sub(r"[^a-z0-9.-]", "_", label.lower())[:99].strip(".") or "encoder"
    return f"_{slug}" if reserved_on_windows(slug) else slug


def _plain(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula, nor Markdown for a border."""
    cleaned = text.replace("|", "/").replace("\n", " ").replace("<", "(").replace(">", ")")
    return f"'{cleaned}" if cleaned[:1] in "=+-@" else cleaned

"""The only door to rich: tables, boards and live progress in the terminal."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from madeleine_bench.errors import Interrupted
from madeleine_bench.figures import styled_svg, svg_png
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.report import Report, Table

if TYPE_CHECKING:
    from madeleine_bench.leaderboard.aggregate import Board
    from madeleine_bench.leaderboard.sources import Sources

_WIDTH_WITHOUT_TERMINAL = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console; without a terminal it has $COLUMNS or 160 columns and no colour."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
    return Console(stderr=stderr, width=width, highlight=False)


def ask_on_terminal() -> Callable[[str, str], str] | None:
    """Return what asks a question with a suggested answer; None where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return lambda question, answer: str(typer.prompt(question, default=answer or None))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells are plain text, never markup.

    A line breaks within a word only where the words do not fit beside each other.
    """
    out = console()
    if title:
        out.print(Text(title))
    table = RichTable(box=None, pad_edge=False)
    cells = list(zip(header, *rows, strict=True))
    longest = [
        max((len(word) for text in column for word in text.split()), default=0) for column in cells
    ]
    whole = sum(longest) + 2 * len(longest) <= out.width
    ids_fit = bool(cells) and 2 * max(map(len, cells[0])) <= out.width
    for place, (name, least) in enumerate(zip(header, longest, strict=True)):
        whole_ids = ids_fit and place == 0  # a longer cell that must not wrap would be cut off
        table.add_column(
            Text(name), overflow="fold", no_wrap=whole_ids, min_width=least if whole else None
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, a line each; empty values are left out."""
    rows = [(f"{name.replace('_', ' ')}:", _plain(value, "")) for name, value in facts.items()]
    print_table("", ("", ""), [row for row in rows if row[1]])


def _plain(value: Any, around: str = "()") -> str:
    """Return a value as a person writes it, without the quotes and braces of a program."""
    if isinstance(value, Mapping):
        parts = [f"{key}: {text}" for key, part in value.items() if (text := _plain(part))]
        return f"({', '.join(parts)})" if around and parts else "; ".join(parts)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def deliver(
    report: Report,
    form: str = "table",
    out: Path | None = None,
    name: str = "",
    files: Mapping[Path | None, str] | None = None,
) -> None:
    """Print a report, write it where that is asked for, and raise its problem.

    Args:
        report: what a command found.
        form: "table", or "json" for the numbers alone.
        out: folder for NAME.json, further texts, and each chart as SVG and PNG; None writes none.
        name: file name of the numbers, without its ending.
        files: what else is written; the key None is a file that nobody asked for.

    Raises:
        MbenchError: the problem of the report, or a file cannot be written (InputError).
    """
    text = json.dumps(report.document, indent=1, allow_nan=False) + "\n"
    if form == "json":
        typer.echo(text, nl=False)
    else:
        print_body(report.body)
    for path, content in (files or {}).items():
        if path is not None:
            write_text(path, content)
    if out is not None:
        write_text(out / f"{name}.json", text)
        for file, content in report.texts.items():
            write_text(out / file, content)
        for stem, chart in report.charts.items():
            svg = styled_svg(chart)
            write_text(out / f"{stem}.svg", svg)
            write_bytes(out / f"{stem}.png", svg_png(svg))
        typer.echo(f"numbers and figures in {out}", err=True)
    if report.problem is not None:
        raise report.problem


def print_body(body: Sequence[Table | str]) -> None:
    """Print tables and paragraphs in order."""
    for part in body:
        if isinstance(part, Table):
            print_table(part.title, part.header, part.rows)
        else:
            console().print(Text(part))


def print_boards(boards: "Sequence[Board]", sources: "Sources", *, tasks: bool = False) -> None:
    """Print boards: one row per encoder, or the score of each task.

    Raises:
        InputError: predictions are gone or were altered.
    """
    from madeleine_bench.leaderboard.document import compared_boards
    from madeleine_bench.leaderboard.terminal import board_tables

    with LiveProgress() as progress:
        compared = compared_boards(boards, sources, progress)
    for board, comparison in compared:
        print_body(board_tables(board, comparison, console().width, tasks=tasks))


class LiveProgress:
    """Phases and jobs as a live bar on standard error; plain lines where it is no terminal."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        # A notebook asks for colours, which rich takes for a terminal; its output draws no bars.
        self._live = self._console.file.isatty()
        self._bars = Progress(
            TextColumn("{task.fields[phase]:<9}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=not self._live,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leave the bars as they stand; an interrupt becomes a message.

        Raises:
            Interrupted: the user pressed Ctrl-C.
        """
        self._bars.stop()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                "interrupted; what was finished is kept, and the same command continues from there"
            ) from error

    def phase(self, name: str, total: int) -> None:
        """Begin a phase of `total` jobs; a phase without jobs is not drawn."""
        self._bar = None
        if total:
            self._bar = self._bars.add_task(name, total=total, phase=name, note="")
            if not self._live:
                self._console.print(Text(f"{name}: {total} jobs"))

    def advance(self, note: str) -> None:
        """Say that one job of the phase has ended."""
        if self._bar is not None:
            self._bars.update(self._bar, advance=1, note=note[:80])

    def note(self, text: str) -> None:
        """Say how far the job at hand has come."""
        if self._bar is not None:
            self._bars.update(self._bar, note=text[:80])

    def say(self, line: str) -> None:
        """Leave a line that stays when the bar moves on."""
        self._console.print(Text(line))

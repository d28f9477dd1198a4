"""What a command says at its end: the board after a run, findings after a check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import typer

from madeleine_bench.cli.console import LiveProgress, board_svg, print_board
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.aggregate import Board, build_boards
from madeleine_bench.leaderboard.export import Format, export_boards
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.catalogue import load_catalogue

SHOWN_FAILURES = 20


def finish_run(request: Request) -> None:
    """Run, print the boards the run belongs to, and say what failed.

    Raises:
        InputError: the request cannot be carried out, or part of it failed.
    """
    with LiveProgress() as progress:
        report = run(request, progress)
    for board in build_boards(ResultStore(request.results).records(), report.catalogue):
        if board.name in report.boards:
            print_board(board)
    typer.echo(
        f"{report.computed} computed, {report.reused} already there, "
        f"{len(report.failures)} failed; records in {request.results / 'records'}",
        err=True,
    )
    if report.failures:
        lines = [f"  {what}: {why}" for what, why in report.failures[:SHOWN_FAILURES]]
        if (more := len(report.failures) - SHOWN_FAILURES) > 0:
            lines.append(f"  and {more} more")
        raise InputError("not everything could be scored:\n" + "\n".join(lines))


def boards_of(results: Path, catalogue: Path | None, protocol: str | None) -> list[Board]:
    """Return the boards of a results folder.

    Raises:
        InputError: a record or the catalogue is broken, or the protocol is unknown.
    """
    declared = load_catalogue(catalogue)
    name = declared.protocol(protocol).name if protocol else None
    return build_boards(ResultStore(results).records(), declared, name)


def show_boards(
    boards: Sequence[Board], form: Format | Literal["table", "svg"], out: Path | None
) -> None:
    """Print boards, or write them to a file."""
    if form == "table":
        if out is not None:
            raise InputError("--out wants --format csv, json, markdown or svg")
        for board in boards:
            print_board(board)
        return
    if form == "svg":
        if len(boards) != 1:
            raise InputError(f"one board a picture: --board {' | '.join(b.name for b in boards)}")
        text = board_svg(boards[0])
    else:
        text = export_boards(boards, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}", err=True)

"""What a run says at its end: the boards it belongs to, and what failed."""

import typer

from madeleine_bench.cli.console import LiveProgress, print_board
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run

SHOWN_FAILURES = 20


def finish_run(request: Request) -> None:
    """Run, print the boards the run belongs to, and say what failed.

    Raises:
        InputError: the request cannot be carried out, or part of it failed.
    """
    with LiveProgress() as progress:
        report = run(request, progress)
    records = list(ResultStore(request.results).records())
    asked: list[str | None] = [report.catalogue.protocol(name).name for name in request.protocols]
    for protocol in asked or [None]:
        for board in build_boards(records, report.catalogue, protocol):
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

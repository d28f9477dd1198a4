"""What a run says at its end: the boards it belongs to, and what failed."""

from collections.abc import Sequence

import typer

from madeleine_bench.cli.console import LiveProgress, print_board
from madeleine_bench.errors import CheckFailed
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.determinism import check_determinism
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run

SHOWN_FAILURES = 20  # and as many differences


def finish_run(request: Request) -> None:
    """Run, print the boards the run belongs to, and say what failed.

    Of the cohorts of the run, the boards show the scores of the features it was given alone.

    Raises:
        InputError: the request cannot be carried out, or part of it, all for wrong input.
        CheckFailed: part of it failed for another reason, such as an encoder that raises.
    """
    with LiveProgress() as progress:
        report = run(request, progress)
    every = [
        r for r in ResultStore(request.workspace.results).records() if r.board in report.boards
    ]
    records = [record for record in every if report.on_its_features(record)]
    asked = report.catalogue.select_protocols(request.protocols)
    names: list[str | None] = [protocol.name for protocol in asked]
    for protocol in names or [None]:
        for board in build_boards(records, report.catalogue, protocol):
            print_board(board)
    typer.echo(
        f"{report.computed} computed, {report.reused} already there, "
        f"{len(report.failures)} failed; records in {request.workspace.results / 'records'}",
        err=True,
    )
    if left_out := len(every) - len(records):
        typer.echo(
            f"the board leaves out {left_out} records of other features, or of features they do "
            f"not state; see mbench leaderboard show --results {request.workspace.results}",
            err=True,
        )
    if report.failures:
        lines = [f"{what}: {why}" for what, why in report.failures]
        raise ending(f"not everything could be scored:\n{_listed(lines)}", report.failures)


def finish_determinism(request: Request) -> None:
    """Make the cells of a finished run again, and say whether they are the same to the byte.

    Raises:
        CheckFailed: something differs.
    """
    with LiveProgress() as progress:
        found = check_determinism(request, progress)
    if found.differences:
        raise CheckFailed(f"not the same when made again:\n{_listed(found.differences)}")
    typer.echo(f"made again, the same to the byte: {found.compared} files", err=True)


def _listed(lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:SHOWN_FAILURES]]
    if (more := len(lines) - SHOWN_FAILURES) > 0:
        shown.append(f"  and {more} more")
    return "\n".join(shown)

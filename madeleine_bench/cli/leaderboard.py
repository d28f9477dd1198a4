"""`mbench leaderboard`: the board on the screen, in a file, as a site; and what is added to it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import protocol_names
from madeleine_bench.cli.options import Catalogue, with_workspace
from madeleine_bench.cli.submit import AllowCode, Draw, Level, Sample, TimeLimit
from madeleine_bench.specs.workspace import Workspace

Folders = Annotated[
    list[Path],
    typer.Option(
        "--results", envvar="MBENCH_RESULTS", help="Folder with records; may be repeated."
    ),
]

app = typer.Typer(help="Show, export and publish the board.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Show, export and publish the board."""


@app.command()
def show(
    results: Folders = [Path("results")],  # noqa: B006
    board: Annotated[
        str | None, typer.Option(help="local, phantom, or a variant; all by default.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Id or glob, instead of each task's first protocol.",
            autocompletion=protocol_names,
        ),
    ] = None,
    format: Annotated[
        Literal["table", "csv", "json", "markdown", "svg"], typer.Option(help="How to write it.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="A file instead of the screen.")] = None,
    catalogue: Catalogue = None,
) -> None:
    """Show the board of the records in a results folder.

    Example: mbench leaderboard show --format csv --out board.csv
    """
    from madeleine_bench.cli.board_reports import show_boards

    show_boards(results, board, protocol, format, out, catalogue)


@app.command()
def build(
    results: Folders = [Path("results")],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("leaderboard-site"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="A board more, of this protocol (id or glob); repeatable. few-shot takes minutes.",
            autocompletion=protocol_names,
        ),
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Write the leaderboard as a site: index.html opens from disk, without a network.

    Example: mbench leaderboard build --results results --protocol few-shot
    """
    from madeleine_bench.cli.board_reports import build_site

    build_site(results, out, protocol or [], catalogue)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="The site.")] = Path("leaderboard-site"),
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8765,
) -> None:
    """Show a built site on http://127.0.0.1, to this machine alone.

    Example: mbench leaderboard serve leaderboard-site
    """
    from madeleine_bench.cli.board_reports import serve_site

    serve_site(folder, port)


@app.command()
@with_workspace("phantom_signal", "phantom_seed")
def add(
    bundle: Annotated[Path, typer.Argument(help="The zip of a submission.")],
    level: Level = "V1",
    reported: Annotated[
        bool, typer.Option("--reported", help="Keep the claimed scores, unranked, as V0.")
    ] = False,
    allow_code: AllowCode = False,
    sample: Sample = 16,
    draw: Draw = None,
    time_limit: TimeLimit = 3600.0,
    *,
    workspace: Workspace,
) -> None:
    """Verify a submission and add its recomputed records to a results folder.

    Example: mbench leaderboard add my-encoder.zip --results results
    """
    from madeleine_bench.cli.console import LiveProgress, deliver
    from madeleine_bench.submissions.add import add_submission
    from madeleine_bench.submissions.verify import VerifyRequest

    request = VerifyRequest(workspace, level, allow_code, sample, draw, time_limit)
    with LiveProgress() as progress:
        report = add_submission(bundle, request, reported, progress)
    deliver(report)

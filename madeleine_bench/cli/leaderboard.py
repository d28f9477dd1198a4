"""`mbench leaderboard`: the board on the screen, in a file, as a site; and what is added to it."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver, print_boards
from madeleine_bench.cli.options import Catalogue, Config, Folders, with_workspace
from madeleine_bench.cli.submit import AllowCode, Level, TimeLimit
from madeleine_bench.files import write_text
from madeleine_bench.specs.workspace import Workspace

app = typer.Typer(help="Show, export and publish the leaderboard.", no_args_is_help=True)


@app.command()
def show(
    results: Folders = [Path("results")],  # noqa: B006
    board: Annotated[
        str | None, typer.Option(help="Leaderboard to show, such as local (default: all).")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Protocol or pattern (default: first protocol of each task).")
    ] = None,
    track: Annotated[
        Literal["core", "core-open", "own"] | None,
        typer.Option(
            help="core: all 21 tasks; core-open: tasks with available data; own: your tasks "
            "(default: core and own)."
        ),
    ] = None,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Also show the score of each task.")
    ] = False,
    format: Annotated[
        Literal["table", "csv", "json"], typer.Option(help="Output format.")
    ] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Write csv or json to this file (default: print it).")
    ] = None,
    config: Config = None,
    catalogue: Catalogue = None,
) -> None:
    """Show the leaderboard.

    Example: mbench leaderboard show --format csv --out board.csv
    """
    from madeleine_bench.errors import InputError
    from madeleine_bench.leaderboard.document import boards_text
    from madeleine_bench.leaderboard.sources import Sources
    from madeleine_bench.specs.workspace import Workspace

    sources = Sources(results, Workspace(config=config, catalogue=catalogue).tasks())
    boards = sources.boards([protocol], board, [track] if track else ["core", "own"])
    if format == "table":
        if out is not None:
            raise InputError("--out wants --format csv or json")
        print_boards(boards, sources, tasks=tasks)
        return
    with LiveProgress() as progress:
        text = boards_text(boards, format, sources, progress)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}", err=True)


@app.command()
def build(
    results: Folders = [Path("results")],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("leaderboard-site"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Add a leaderboard of this protocol (name or pattern); repeatable."),
    ] = None,
    config: Config = None,
    catalogue: Catalogue = None,
) -> None:
    """Write the leaderboard as web pages.

    The pages open from disk and need no network.

    Example: mbench leaderboard build --results results --protocol few-shot
    """
    from madeleine_bench.leaderboard.document import boards_text
    from madeleine_bench.leaderboard.export import to_csv
    from madeleine_bench.leaderboard.page import check_site_folder, write_site
    from madeleine_bench.leaderboard.sources import Sources
    from madeleine_bench.specs.workspace import Workspace

    check_site_folder(out)
    sources = Sources(results, Workspace(config=config, catalogue=catalogue).tasks())
    boards = sources.boards([None, *(protocol or [])], tracks=["core", "own"])
    with LiveProgress() as progress:
        text = boards_text(boards, "json", sources, progress)
    pages = write_site(json.loads(text), out)
    write_text(out / "leaderboard.json", text)
    write_text(out / "leaderboard.csv", to_csv(boards))
    typer.echo(f"{len(pages)} pages in {out}; open {out / 'index.html'}", err=True)


@app.command()
@with_workspace("phantom_signal", "phantom_seed")
def add(
    workspace: Workspace,
    bundle: Annotated[Path, typer.Argument(help="Submission (.zip).")],
    level: Level = "V1",
    allow_code: AllowCode = False,
    time_limit: TimeLimit = 3600.0,
) -> None:
    """Verify a submission and add it to the leaderboard.

    With --level V0, the leaderboard shows the claimed scores without a rank.

    Example: mbench leaderboard add my-encoder.zip --results results
    """
    from madeleine_bench.submissions.report import add_submission
    from madeleine_bench.submissions.verify import VerifyRequest

    request = VerifyRequest(workspace, level, allow_code, time_limit_s=time_limit)
    with LiveProgress() as progress:
        report = add_submission(bundle, request, progress)
    deliver(report)

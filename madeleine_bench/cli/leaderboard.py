"""`mbench leaderboard`: the board in the terminal, and as CSV, JSON, Markdown or a picture."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.run import Catalogue, Results

app = typer.Typer(help="Show and export the board.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Show and export the board."""


@app.command()
def show(
    results: Results = Path("results"),
    board: Annotated[
        str | None, typer.Option(help="local, phantom, or a variant; all by default.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Instead of each task's first protocol.")
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
    from madeleine_bench.cli.reports import boards_of, show_boards
    from madeleine_bench.errors import InputError
    from madeleine_bench.specs.loader import did_you_mean

    found = boards_of(results, catalogue, protocol)
    if not found:
        raise InputError(f"no records for this in {results}; make some with mbench run")
    chosen = [b for b in found if board in (None, b.name)]
    if not chosen:
        hint = did_you_mean(str(board), [b.name for b in found])
        raise InputError(f"no board is called '{board}'{hint}")
    show_boards(chosen, format, out)

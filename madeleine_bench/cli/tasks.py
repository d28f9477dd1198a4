"""`mbench tasks`: the catalogue of tasks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import ask_on_terminal, print_facts, print_table
from madeleine_bench.cli.options import Catalogue, Config

app = typer.Typer(help="List, show, import and create tasks.", no_args_is_help=True)


@app.command("list")
def list_tasks(
    pattern: Annotated[str, typer.Argument(help="Task id or pattern (default: all).")] = "*",
    catalogue: Catalogue = None,
) -> None:
    """List tasks with cohort, labels and size.

    Example: mbench tasks list 'bcnb-*'
    """
    from madeleine_bench.specs.workspace import Workspace

    rows = [
        [t.id, t.family, t.cohort, t.labels.type, str(t.expected.n) if t.expected else "", t.status]
        for t in Workspace(catalogue=catalogue).tasks().select([pattern])
    ]
    print_table(f"{len(rows)} tasks", ["task", "family", "cohort", "labels", "n", "status"], rows)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Task id.")],
    catalogue: Catalogue = None,
) -> None:
    """Show one task and the source of each fact.

    A fact is attested (stated by its source) or reconstructed.

    Example: mbench tasks show bcnb-er
    """
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(catalogue=catalogue).tasks()
    for each in tasks.select([task]):
        facts = each.model_dump(mode="json", exclude={"provenance"}, exclude_none=True)
        cohort = tasks.cohorts[each.cohort]
        facts |= {"cohort": f"{cohort.id}: {cohort.title}", "access": dict(cohort.access)}
        print_facts(facts)
        sources = [[fact, p.status, p.source] for fact, p in each.provenance.items()]
        print_table("", ["fact", "status", "source"], sources)


@app.command("import")
def import_tasks(
    source: Annotated[
        list[Path],
        typer.Argument(help="Task folders or files; Patho-Bench also FOLDER/A==B--TASK."),
    ],
    out: Annotated[
        Path, typer.Option(help="Output folder for label tables, splits and mbench.toml.")
    ],
    features: Annotated[
        Path | None, typer.Option(help="Feature folder (default: fill it in later).")
    ] = None,
    tool: Annotated[
        Literal["patho-bench", "clam", "stamp", "moozy"] | None,
        typer.Option(
            "--from", help="Tool that wrote the files (default: recognised by file names)."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column, for CLAM and STAMP.")] = None,
    survival: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="TIME EVENT", help="Survival columns, for STAMP."),
    ] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Cohort name (default: name of the folder or table).")
    ] = None,
) -> None:
    """Import tasks of Patho-Bench, CLAM, STAMP or MOOZY.

    Example: mbench tasks import splits/cptac_brca/TP53_mutation --out mine --features conch_v1
    """
    from madeleine_bench.data.interchange import write_tasks
    from madeleine_bench.data.peers import read_tasks

    tasks = read_tasks(source, tool, label=label, survival=survival, cohort=cohort)
    for line in write_tasks(tasks, out, features):
        typer.echo(line)


@app.command()
def new(
    id: Annotated[str | None, typer.Option(help="Task id, such as my-er.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Cohort id (existing or new).")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label table with one row per slide (.csv, .tsv or .parquet)."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Survival: column of the follow-up time.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="Survival: column of the event.")] = None,
    type: Annotated[
        Literal["binary", "multiclass", "ordered", "continuous", "survival"] | None,
        typer.Option(help="Label type (default: inferred from the table)."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Positive class, or value that means event (default: last).")
    ] = None,
    classes: Annotated[
        list[str], typer.Option(help="Class, in order (default: sorted); repeatable.")
    ] = [],  # noqa: B006
    missing: Annotated[
        list[str], typer.Option(help='Value that means "no label"; repeatable.')
    ] = [],  # noqa: B006
    features: Annotated[
        Path | None, typer.Option(help="Feature folder (default: fill it in later).")
    ] = None,
    unit: Annotated[Literal["slide", "case"], typer.Option(help="Unit of the task.")] = "case",
    slide: Annotated[str | None, typer.Option(help="Column of slides (slide_id).")] = None,
    case: Annotated[str | None, typer.Option(help="Column of cases (case_id, if any).")] = None,
    stain: Annotated[str | None, typer.Option(help="Column of stains (default: all H&E).")] = None,
    site: Annotated[str | None, typer.Option(help="Column of sites (default: none).")] = None,
    config: Config = None,
) -> None:
    """Create a task in mbench.toml.

    In a terminal, the command asks for missing options.

    Example: mbench tasks new --id my-er --cohort mine --labels labels.csv --label er
    """
    from madeleine_bench.data.new_task import NewTask, declare_task

    columns = {"slide": slide, "case": case, "stain": stain, "site": site}
    task = NewTask(
        id, cohort, labels, label, time, event, type, positive, tuple(classes), tuple(missing),
        features, unit, columns,
    )  # fmt: skip
    for line in declare_task(task, config or Path("mbench.toml"), ask_on_terminal()):
        typer.echo(line)


@app.command()
def validate(
    path: Annotated[
        Path | None,
        typer.Argument(help="Task folder (default: built-in)."),
    ] = None,
) -> None:
    """Check all task, cohort and protocol files.

    Example: mbench tasks validate my-catalogue
    """
    from madeleine_bench.specs.catalogue import load_catalogue

    adds = path is not None and not (path / "protocols").is_dir()
    catalogue = load_catalogue(path, load_catalogue() if adds else None)
    counted = [c for c in catalogue.cohorts.values() if c.counted]
    typer.echo(
        f"valid: {len(catalogue.tasks)} tasks, {len(catalogue.cohorts)} cohorts, "
        f"{len(catalogue.protocols)} protocols; "
        f"{sum(c.slides or 0 for c in counted):,} slides in the {len(counted)} counted cohorts"
    )


@app.command()
def lock(
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; exit 1 if a hash changed.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Write or check tasks.lock.

    A task whose hash changed needs a new version.

    Example: mbench tasks lock --check
    """
    from madeleine_bench.errors import CheckFailed
    from madeleine_bench.files import write_text
    from madeleine_bench.resources import resource_folder
    from madeleine_bench.runner.lock import changes, lock_text, make_lock, read_lock
    from madeleine_bench.specs.catalogue import load_catalogue

    path = (catalogue or resource_folder("tasks")) / "tasks.lock"
    new = make_lock(load_catalogue(catalogue))
    old = read_lock(path) if check or path.is_file() else {}
    if moved := "\n  ".join(changes(old, new)):
        raise CheckFailed(
            f"{path}: what moves a score changed, and the version did not:\n  {moved}\nGive each "
            "of these tasks a higher 'version' and say so in CHANGELOG.md under Scores."
        )
    if check and lock_text(old) != lock_text(new):
        raise CheckFailed(f"{path} is behind the catalogue; write it again: mbench tasks lock")
    if not check:
        write_text(path, lock_text(new))
    typer.echo(
        f"{path}: {len(new)} tasks unchanged" if check else f"wrote {path}: {len(new)} tasks"
    )

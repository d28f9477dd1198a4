"""`mbench tasks`: the catalogue of tasks."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import ask_on_terminal, print_table
from madeleine_bench.cli.options import Catalogue, Config

app = typer.Typer(help="The declared tasks.", no_args_is_help=True)


@app.command("list")
def list_tasks(
    pattern: Annotated[str, typer.Argument(help="Id or glob; every task by default.")] = "*",
    catalogue: Catalogue = None,
) -> None:
    """List tasks with their cohort, labels, size, metric and protocols.

    Example: mbench tasks list 'bcnb-*'
    """
    from madeleine_bench.specs.workspace import Workspace

    rows = [
        [t.id, str(t.version), t.family, t.cohort, t.unit, t.labels.type,
         str(t.expected.n) if t.expected else "", t.metric.name, " ".join(t.protocols), t.status]
        for t in Workspace(catalogue=catalogue).tasks().select([pattern])
    ]  # fmt: skip
    header = ["task", "version", "family", "cohort", "unit", "labels", "n", "metric", "protocols"]
    print_table(f"{len(rows)} tasks", [*header, "status"], rows)


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Id of a task.")],
    catalogue: Catalogue = None,
) -> None:
    """Show one task, each fact with whether it is attested or reconstructed.

    Example: mbench tasks show bcnb-er
    """
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(catalogue=catalogue).tasks()
    for each in tasks.select([task]):
        facts = each.model_dump(mode="json", exclude={"provenance"}, exclude_none=True)
        cohort = tasks.cohorts[each.cohort]
        facts |= {"cohort": f"{cohort.id}: {cohort.title}", "access": dict(cohort.access)}
        pairs = ((key, json.dumps(value, ensure_ascii=False)) for key, value in facts.items())
        print_table("", ("", ""), [(f"{key}:", text.strip('"')) for key, text in pairs])
        sources = [[fact, p.status, p.source] for fact, p in each.provenance.items()]
        print_table("", ["fact", "status", "source"], sources)


@app.command("import")
def import_tasks(
    source: Annotated[
        list[Path],
        typer.Argument(help="Folders or files; for Patho-Bench also FOLDER/A==B--TASK."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for label tables, splits and mbench.toml.")],
    features: Annotated[
        Path | None, typer.Option(help="Folder of the feature files (default: to be filled in).")
    ] = None,
    tool: Annotated[
        Literal["patho-bench", "clam", "stamp", "moozy"] | None,
        typer.Option("--from", help="Whose files they are (default: recognised by their names)."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the classes, for CLAM and STAMP.")
    ] = None,
    survival: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="TIME EVENT", help="Columns of survival instead, for STAMP."),
    ] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Name of the cohort (default: that of the folder or table).")
    ] = None,
) -> None:
    """Import tasks of Patho-Bench, CLAM, STAMP or MOOZY with their splits.

    Example: mbench tasks import splits/cptac_brca/TP53_mutation --out mine --features conch_v1
    """
    from madeleine_bench.data.interchange import write_tasks
    from madeleine_bench.data.peers import read_tasks

    tasks = read_tasks(source, tool, label=label, survival=survival, cohort=cohort)
    for line in write_tasks(tasks, out, features):
        typer.echo(line)


@app.command()
def new(
    id: Annotated[str | None, typer.Option(help="Id of the task, such as my-er.")] = None,
    cohort: Annotated[str | None, typer.Option(help="Id of the cohort, new or not.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label table, a row per slide: .csv, .tsv or .parquet.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the classes.")] = None,
    time: Annotated[str | None, typer.Option(help="Survival: column of the follow-up.")] = None,
    event: Annotated[str | None, typer.Option(help="Survival: column of the event.")] = None,
    type: Annotated[
        Literal["binary", "multiclass", "ordered", "continuous", "survival"] | None,
        typer.Option(help="Kind of labels (default: inferred where it is clear)."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Positive class, or word of the event (default: last).")
    ] = None,
    classes: Annotated[
        list[str], typer.Option(help="Classes in order (default: sorted); repeatable.")
    ] = [],  # noqa: B006
    missing: Annotated[
        list[str], typer.Option(help='Word that means "no label"; repeatable.')
    ] = [],  # noqa: B006
    features: Annotated[
        Path | None, typer.Option(help="Folder of the feature files (default: to be filled in).")
    ] = None,
    unit: Annotated[
        Literal["slide", "case"], typer.Option(help="What is trained on and tested.")
    ] = "case",
    slide: Annotated[str | None, typer.Option(help="Column of slides (slide_id).")] = None,
    case: Annotated[str | None, typer.Option(help="Column of cases (case_id, if any).")] = None,
    stain: Annotated[str | None, typer.Option(help="Column of stains (default: all H&E).")] = None,
    site: Annotated[str | None, typer.Option(help="Column of sites (default: none).")] = None,
    config: Config = None,
) -> None:
    """Declare a task of your own in mbench.toml; on a terminal, what is missing is asked.

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
        typer.Argument(help="Folder laid out as tasks/ is; the built-in one by default."),
    ] = None,
) -> None:
    """Check every task, cohort and protocol of a catalogue, and each against the others.

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
        bool, typer.Option("--check", help="Only compare; exit 1 where a hash moved.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Write tasks.lock, or check it: a task whose hash changed needs a new version.

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

"""`mbench audit`: what is wrong with tasks, labels and splits, before anything is computed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from madeleine_bench.cli.completion import task_names
from madeleine_bench.cli.options import with_workspace

if TYPE_CHECKING:
    from madeleine_bench.specs.workspace import Workspace


@with_workspace("jobs", "phantom_signal", "phantom_seed")
def audit(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Id, glob or all; repeatable. By default those of your cohorts, else all.",
            autocompletion=task_names,
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="A file for all findings, as JSON.")
    ] = None,
    *,
    workspace: "Workspace",
) -> None:
    """Look for leaks, unusable labels, equal slides and changed folds.

    Exits with 1 where there is an error; warnings and notes pass.

    Example: mbench audit --task 'tcga-breast-*' --config mbench.toml
    """
    from json import dumps

    from madeleine_bench.cli.console import LiveProgress, deliver
    from madeleine_bench.files import write_text
    from madeleine_bench.runner.audit import audit_tasks

    with LiveProgress() as progress:
        report = audit_tasks(workspace, task or (), progress)
    if json is not None:
        write_text(json, dumps(report.document, indent=1, sort_keys=True) + "\n")
    deliver(report)

"""`mbench audit`: what is wrong with tasks, labels and splits, before anything is computed."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import Protocols, Tasks, with_workspace
from madeleine_bench.report import sorted_json
from madeleine_bench.specs.workspace import Workspace


@with_workspace("jobs", "phantom_signal", "phantom_seed")
def audit(
    task: Tasks = [],  # noqa: B006
    protocol: Protocols = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="A file for all findings, as JSON.")
    ] = None,
    *,
    workspace: Workspace,
) -> None:
    """Look for leaks, unusable labels, equal slides and changed folds.

    Where no task is named, those of your cohorts are looked at, or else all. Exits with 1 where
    there is an error; warnings and notes pass.

    Example: mbench audit --task 'tcga-breast-*' --config mbench.toml
    """
    from madeleine_bench.runner.audit import audit_tasks

    with LiveProgress() as progress:
        report = audit_tasks(workspace, task, progress, protocol or ())
    deliver(report, files={json: sorted_json(report.document)})

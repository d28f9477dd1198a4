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
        Path | None, typer.Option("--json", help="Write the findings to this JSON file.")
    ] = None,
    *,
    workspace: Workspace,
) -> None:
    """Check tasks, labels and splits for errors and leaks.

    By default, the command checks the tasks of your cohorts; without any, it checks all tasks.
    Exit code 1: at least one error. Warnings and notes do not change the exit code.

    Example: mbench audit --task 'tcga-breast-*' --config mbench.toml
    """
    from madeleine_bench.runner.audit import audit_tasks

    with LiveProgress() as progress:
        report = audit_tasks(workspace, task, progress, protocol or ())
    deliver(report, files={json: sorted_json(report.document)})

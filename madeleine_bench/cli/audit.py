"""`mbench audit`: what is wrong with tasks, labels and splits, before anything is computed."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.completion import task_names
from madeleine_bench.cli.options import Catalogue, Config, Results, Source


def audit(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Id, glob or all; repeatable. By default those of your cohorts, else all.",
            autocompletion=task_names,
        ),
    ] = None,
    source: Source = "auto",
    config: Config = None,
    results: Results = Path("results"),
    catalogue: Catalogue = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="A file for all findings, as JSON.")
    ] = None,
) -> None:
    """Look for leaks, label conflicts, equal slides, odd folds and moved hashes.

    Exits with 1 where there is an error; warnings and notes pass.

    Example: mbench audit --task 'tcga-breast-*' --config mbench.toml
    """
    from madeleine_bench.cli.audit_reports import report_audit
    from madeleine_bench.runner.audit import AuditRequest

    report_audit(AuditRequest(tuple(task or ()), source, results, config, catalogue), json)

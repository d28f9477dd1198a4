"""`mbench stratify`: patients by predicted risk, and whether predicted survival comes true."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.console import deliver
from madeleine_bench.cli.options import Catalogue, Encoders, Figures, Folders, Form, Tasks


def stratify(
    results: Folders = [Path("results")],  # noqa: B006
    task: Tasks = [],  # noqa: B006
    encoder: Encoders = [],  # noqa: B006
    protocol: Annotated[
        str | None,
        typer.Option(help="Instead of the task's first (fine-tuning for supervised encoders)."),
    ] = None,
    format: Form = "table",
    out: Figures = None,
    catalogue: Catalogue = None,
) -> None:
    """Show Kaplan-Meier curves by predicted risk, hazard ratios, and calibration.

    All survival tasks and all encoders are shown where none is named.

    Example: mbench stratify --results results --task tcga-breast-os --out figures
    """
    from madeleine_bench.leaderboard.stratification import stratification_report
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(catalogue=catalogue).tasks()
    report = stratification_report(results, tasks, task, encoder, protocol)
    deliver(report, format, out, "stratify")

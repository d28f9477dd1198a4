"""`mbench stratify`: patients by predicted risk, and whether predicted survival comes true."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.console import deliver
from madeleine_bench.cli.options import Catalogue, Config, Encoders, Figures, Folders, Form, Tasks


def stratify(
    results: Folders = [Path("results")],  # noqa: B006
    task: Tasks = [],  # noqa: B006
    encoder: Encoders = [],  # noqa: B006
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Protocol (default: first protocol of the task; fine-tuning for supervised "
            "encoders)."
        ),
    ] = None,
    format: Form = "table",
    out: Figures = None,
    config: Config = None,
    catalogue: Catalogue = None,
) -> None:
    """Show survival by predicted risk (Kaplan-Meier).

    Also shows hazard ratios and calibration. Default: all survival tasks and all encoders.

    Example: mbench stratify --results results --task tcga-breast-os --out figures
    """
    from madeleine_bench.leaderboard.stratification import stratification_report
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(config=config, catalogue=catalogue).tasks()
    report = stratification_report(results, tasks, task, encoder, protocol)
    deliver(report, format, out, "stratify")

"""`mbench stratify`: patients by predicted risk, and whether predicted survival comes true."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names, task_names
from madeleine_bench.cli.leaderboard import Folders
from madeleine_bench.cli.options import Catalogue


def stratify(
    results: Folders = [Path("results")],  # noqa: B006
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="Id or glob; all survival tasks by default; repeatable.",
            autocompletion=task_names,
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder", help="Name; all by default; repeatable.", autocompletion=encoder_names
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Instead of the task's first (fine-tuning for supervised encoders).",
            autocompletion=protocol_names,
        ),
    ] = None,
    day: Annotated[
        int | None,
        typer.Option(help="Day at which calibration is judged; one that survival is predicted at."),
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to write it.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Folder for stratify.json and figures as SVG and PNG.")
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Show Kaplan-Meier curves by predicted risk, hazard ratios, and calibration.

    Example: mbench stratify --results results --task tcga-breast-os --out figures
    """
    from madeleine_bench.cli.stratify_reports import StratifyRequest, report_strata

    request = StratifyRequest(
        tuple(results), tuple(task or ()), tuple(encoder or ()), protocol, day, catalogue
    )
    report_strata(request, format, out)

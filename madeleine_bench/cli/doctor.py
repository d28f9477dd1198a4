"""`mbench doctor`: is this environment sound, and is this encoder."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import with_workspace
from madeleine_bench.specs.workspace import Workspace


@with_workspace("jobs", "phantom_signal", "phantom_seed")
def doctor(
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="Encoder name or path of its card (default: check the environment)."
        ),
    ] = None,
    cohort: Annotated[
        list[str] | None,
        typer.Option(
            "--cohort",
            help="Cohort of the slides (default: yours, else phantom tcga-breast); repeatable.",
        ),
    ] = None,
    slides: Annotated[int, typer.Option(min=8, help="Number of slides per cohort.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Output folder for doctor.json.")] = None,
    *,
    workspace: Workspace,
) -> None:
    """Check the installation, or an encoder on some slides.

    Labels are not used. Exit code 1: at least one check failed.

    Example: mbench doctor --encoder madeleine --cohort tcga-breast --out doctor
    """
    from madeleine_bench.errors import InputError
    from madeleine_bench.runner.doctor import encoder_report, environment_report

    if encoder is None:
        if cohort:
            raise InputError("--cohort goes with --encoder: whose embeddings are to be checked?")
        report = environment_report(workspace.results)
    else:
        with LiveProgress() as progress:
            report = encoder_report(workspace, encoder, cohort or (), slides, progress)
    deliver(report, out=out, name="doctor")

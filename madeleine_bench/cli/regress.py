"""`mbench regress`: has an encoder, a task or a scorer changed since the committed baseline."""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.options import Catalogue, Config, Jobs


def regress(
    suite: Annotated[
        Path | None, typer.Option(help="What is scored; the shipped suite by default.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="What it is compared with; 'baseline' beside the suite.")
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder for all that is made.")] = Path(
        "results/regress"
    ),
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Score the suite anew, or judge what is there.")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write the findings as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the findings as JUnit XML.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Renew the baseline with all that is explained.")
    ] = False,
    jobs: Jobs = None,
    config: Config = None,
    catalogue: Catalogue = None,
) -> None:
    """Compare encoders and scorers with a committed baseline; exit 1 where something got worse.

    Example: mbench regress --junit regress.xml
    """
    from madeleine_bench.cli.regression_reports import Gate, run_gate

    run_gate(Gate(suite, baseline, results, run, json, junit, update, jobs, config, catalogue))

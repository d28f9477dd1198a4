"""`mbench stains`: what the stains of a case are worth, and how they are best put together."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names, task_names
from madeleine_bench.cli.run import Catalogue, Config, Jobs, Results, Seed, Signal, Source


def stains(
    encoder: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            help="Name, or path of a card; may be repeated.",
            autocompletion=encoder_names,
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="Task by case, or glob such as 'bwh-kidney-*'.",
            autocompletion=task_names,
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="That starts from embeddings; its other fusions are compared.",
            autocompletion=protocol_names,
        ),
    ] = "linear-probe",
    alone: Annotated[str, typer.Option(help="The stain that all are held against.")] = "H&E",
    source: Source = "auto",
    jobs: Jobs = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="What to print.")] = "table",
    results: Results = Path("results"),
    config: Config = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Hold all stains of a case against H&E alone, fuse them in three ways, drop them one by one.

    Numbers and a figure are kept in RESULTS/stains.

    Example: mbench stains --encoder madeleine --encoder mean-pool --task bwh-kidney-amr
    """
    import os

    from madeleine_bench.cli.stains_reports import report_stains
    from madeleine_bench.runner.cohorts import PhantomChoice
    from madeleine_bench.runner.multistain import MultistainRequest

    report_stains(
        MultistainRequest(
            tuple(encoder), tuple(task), protocol, alone, source, results,
            jobs or os.cpu_count() or 1, config, catalogue,
            PhantomChoice(phantom_signal, phantom_seed),
        ),
        format,
    )  # fmt: skip

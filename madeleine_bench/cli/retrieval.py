"""`mbench cross-stain`: does a slide find its own case in another stain."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import cohort_names, encoder_names
from madeleine_bench.cli.run import Catalogue, Config, Jobs, Results, Seed, Signal, Source


def cross_stain(
    encoder: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            help="Name, or path of a card; may be repeated.",
            autocompletion=encoder_names,
        ),
    ],
    cohort: Annotated[
        str,
        typer.Option(
            help="Cohort of several stains, such as bwh-kidney.", autocompletion=cohort_names
        ),
    ],
    query: Annotated[str, typer.Option(help="The stain that asks; all others are searched.")] = (
        "H&E"
    ),
    source: Source = "auto",
    jobs: Jobs = None,
    format: Annotated[
        Literal["table", "json", "markdown"], typer.Option(help="What to print.")
    ] = "table",
    results: Results = Path("results"),
    config: Config = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Search each other stain of a cohort from H&E: how early does a slide of the same case come.

    No label is read. The numbers are kept in RESULTS/cross_stain.

    Example: mbench cross-stain --encoder madeleine --encoder mean-pool --cohort bwh-kidney
    """
    import os

    from madeleine_bench.cli.retrieval_reports import report_cross_stain
    from madeleine_bench.runner.cohorts import PhantomChoice
    from madeleine_bench.runner.cross_stain import CrossStainRequest

    workers = jobs or os.cpu_count() or 1
    phantom = PhantomChoice(phantom_signal, phantom_seed)
    request = CrossStainRequest(
        tuple(encoder), cohort, query, source, results, workers, config, catalogue, phantom
    )
    report_cross_stain(request, format)

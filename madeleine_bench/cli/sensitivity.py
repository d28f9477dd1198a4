"""`mbench sensitivity`: the same embeddings under every protocol, and what that does to ranks."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names, task_names
from madeleine_bench.cli.options import Catalogue, Config, Jobs, Results, Seed, Signal, Source


def sensitivity(
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="Name, or path of a card; repeatable, three at least.",
            autocompletion=encoder_names,
        ),
    ] = None,
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="Id, glob such as 'bcnb-*', or all; repeatable.",
            autocompletion=task_names,
        ),
    ] = ["all"],  # noqa: B006
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            help="Id or glob, instead of all that start from embeddings; repeatable.",
            autocompletion=protocol_names,
        ),
    ] = None,
    source: Source = "auto",
    jobs: Jobs = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Score what is missing, or only read records.")
    ] = True,
    rank_controls: Annotated[
        bool, typer.Option("--rank-controls", help="Rank controls too, not only show them.")
    ] = False,
    format: Annotated[Literal["table", "json"], typer.Option(help="How to write it.")] = "table",
    out: Annotated[
        Path | None, typer.Option(help="Folder for sensitivity.json, and a figure as SVG and PNG.")
    ] = None,
    results: Results = Path("results"),
    config: Config = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
) -> None:
    """Rank encoders under every compatible protocol and say how far the rankings agree.

    Example: mbench sensitivity --encoder mean-pool --encoder max-pool --encoder intra-ssl
    """
    import os

    from madeleine_bench.cli.sensitivity_reports import SensitivityRequest, report_sensitivity
    from madeleine_bench.runner.cohorts import PhantomChoice

    request = SensitivityRequest(
        tuple(encoder or ()), tuple(task), tuple(protocol or ()), source, results,
        jobs or os.cpu_count() or 1, config, catalogue,
        PhantomChoice(phantom_signal, phantom_seed), run, rank_controls,
    )  # fmt: skip
    report_sensitivity(request, format, out)

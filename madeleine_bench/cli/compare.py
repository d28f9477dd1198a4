"""`mbench compare`: is one encoder better than another, on which task, and are we sure?"""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names
from madeleine_bench.cli.options import Catalogue, Config, Folders, Form, Tasks


def compare(
    first: Annotated[str, typer.Argument(help="First encoder.", autocompletion=encoder_names)],
    second: Annotated[str, typer.Argument(help="Second encoder.", autocompletion=encoder_names)],
    task: Tasks = [],  # noqa: B006
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Protocol (default: first protocol of each task).", autocompletion=protocol_names
        ),
    ] = None,
    board: Annotated[str | None, typer.Option(help="Leaderboard to use, such as local.")] = None,
    results: Folders = [Path("results")],  # noqa: B006
    format: Form = "table",
    out: Annotated[
        Path | None, typer.Option(help="Output folder for compare.json and figures (SVG, PNG).")
    ] = None,
    config: Config = None,
    catalogue: Catalogue = None,
) -> None:
    """Compare two encoders on the same patients.

    Shows the paired difference on each task, with 95% confidence interval and p-value, and a test
    over all tasks.

    Example: mbench compare intra-ssl mean-pool --results results --task 'bcnb-*'
    """
    from madeleine_bench.cli.console import deliver
    from madeleine_bench.leaderboard.pairwise import compare_encoders, comparison_report
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(config=config, catalogue=catalogue).tasks()
    comparisons = compare_encoders(results, tasks, first, second, task, protocol, board)
    deliver(comparison_report(comparisons), format, out, "compare")

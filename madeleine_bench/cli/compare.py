"""`mbench compare`: is one encoder better than another, on which task, and are we sure?"""

from pathlib import Path
from typing import Annotated

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names
from madeleine_bench.cli.options import Catalogue, Folders, Form, Tasks


def compare(
    first: Annotated[str, typer.Argument(help="Encoder.", autocompletion=encoder_names)],
    second: Annotated[str, typer.Argument(help="Encoder.", autocompletion=encoder_names)],
    task: Tasks = [],  # noqa: B006
    protocol: Annotated[
        str | None,
        typer.Option(help="Instead of each task's first.", autocompletion=protocol_names),
    ] = None,
    board: Annotated[str | None, typer.Option(help="One board, such as local.")] = None,
    results: Folders = [Path("results")],  # noqa: B006
    format: Form = "table",
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.json and figures as SVG and PNG.")
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Compare two encoders on each task and over tasks, paired on the same cases.

    Example: mbench compare intra-ssl mean-pool --results results --task 'bcnb-*'
    """
    from madeleine_bench.cli.console import deliver
    from madeleine_bench.leaderboard.pairwise import compare_encoders, comparison_report
    from madeleine_bench.specs.workspace import Workspace

    tasks = Workspace(catalogue=catalogue).tasks()
    comparisons = compare_encoders(results, tasks, first, second, task, protocol, board)
    deliver(comparison_report(comparisons), format, out, "compare")

"""`mbench regress`: has an encoder, a task or a scorer changed since the committed baseline."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import with_workspace
from madeleine_bench.report import sorted_json
from madeleine_bench.specs.workspace import Workspace

if TYPE_CHECKING:
    from madeleine_bench.leaderboard.regression import SuiteRun, SuiteSpec


@with_workspace("source", "results", "phantom_signal", "phantom_seed", "features")
def regress(
    suite: Annotated[
        Path | None, typer.Option(help="Suite of encoders and tasks (default: built-in).")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Baseline folder (default: 'baseline' beside the suite).")
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Results folder.")] = Path(
        "results/regress"
    ),
    run: Annotated[
        bool,
        typer.Option("--run/--no-run", help="Score the suite again, or compare existing results."),
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write the findings to this JSON file.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Update the baseline with all explained changes.")
    ] = False,
    *,
    workspace: Workspace,
) -> None:
    """Compare scores with a committed baseline.

    Exit code 1: a score got worse, or a change is not explained.

    Example: mbench regress --json regress.json
    """
    from madeleine_bench.leaderboard import regression_gate as gate

    workspace = replace(workspace, results=results)
    with LiveProgress() as progress:
        score = partial(_score, workspace, progress) if run else None
        report = gate.regress(workspace, suite, baseline, score, update)
    deliver(report, files={json: sorted_json(report.document)})


def _score(
    workspace: Workspace, progress: "LiveProgress", suite: "SuiteSpec", part: "SuiteRun"
) -> list[tuple[str, str]]:
    """Score one run of a suite again, whatever is there; return what failed, and why."""
    from madeleine_bench.runner.plan import Request
    from madeleine_bench.runner.run import run

    here = replace(workspace, source=suite.source)
    request = Request(suite.encoders, part.tasks, part.protocols, here, "never")
    return [(what, str(why)) for what, why in run(request, progress).failures]

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
        Path | None, typer.Option(help="What is scored; the shipped suite by default.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="What it is compared with; 'baseline' beside the suite.")
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder for all that is made.")] = Path(
        "results/regress"
    ),
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Score the suite again, or judge what is there.")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write the findings as JSON.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Renew the baseline with all that is explained.")
    ] = False,
    *,
    workspace: Workspace,
) -> None:
    """Compare encoders and scorers with a committed baseline; exit 1 where something got worse.

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

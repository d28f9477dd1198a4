"""`mbench sensitivity`: the same embeddings under every protocol, and what that does to ranks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import Encoders, Figures, Form, Protocols, Tasks, with_workspace
from madeleine_bench.specs.workspace import Workspace

if TYPE_CHECKING:
    from madeleine_bench.runner.failures import Failure
    from madeleine_bench.specs.record import Record


@with_workspace()
def sensitivity(
    encoder: Encoders = [],  # noqa: B006
    task: Tasks = ["all"],  # noqa: B006
    protocol: Protocols = None,
    run: Annotated[
        bool,
        typer.Option("--run/--no-run", help="Compute missing results, or only read existing ones."),
    ] = True,
    format: Form = "table",
    out: Figures = None,
    *,
    workspace: Workspace,
) -> None:
    """Compare the rankings of encoders across protocols.

    By default, all protocols that use embeddings are compared. Needs at least three encoders.

    Example: mbench sensitivity --encoder mean-pool --encoder max-pool --encoder intra-ssl
    """
    from madeleine_bench.leaderboard.sensitivity_report import sensitivity_report
    from madeleine_bench.runner.failures import ending
    from madeleine_bench.runner.plan import Request
    from madeleine_bench.runner.run import run as run_request

    failures: list[tuple[str, Failure]] = []
    with LiveProgress() as progress:

        def score(
            tasks: Sequence[str], protocols: Sequence[str]
        ) -> tuple[list[str], Callable[["Record"], bool]]:
            request = Request(tuple(encoder), tuple(tasks), tuple(protocols), workspace)
            report = run_request(request, progress)
            failures.extend(report.failures)
            return report.boards, report.on_its_features

        report = sensitivity_report(
            workspace, encoder, task, protocol or (), score if run else None, progress
        )
    deliver(report, format, out, "sensitivity")
    if problem := ending("not everything could be scored", failures):
        raise problem

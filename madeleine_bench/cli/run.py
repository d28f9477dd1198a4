"""`mbench run`: encoders times tasks, then the board."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, print_boards
from madeleine_bench.cli.options import (
    Device,
    Encoders,
    ExecutorName,
    Protocols,
    Scheduler,
    Tasks,
    with_workspace,
)
from madeleine_bench.errors import CheckFailed
from madeleine_bench.specs.workspace import Workspace

if TYPE_CHECKING:
    from madeleine_bench.runner.plan import Request

_SHOWN = 20
Partial = Annotated[
    bool,
    typer.Option(
        "--allow-partial",
        help="Score a task even if fewer than 90% of its labelled slides or cases have features.",
    ),
]


@with_workspace()
def run(
    encoder: Encoders,
    task: Tasks,
    protocol: Protocols = None,
    train_on: Annotated[
        str | None,
        typer.Option(
            metavar="COHORT",
            help="External validation: cohort to train on; --task is then a label such as er.",
        ),
    ] = None,
    test_on: Annotated[
        str | None, typer.Option(metavar="COHORT", help="External validation: cohort to test on.")
    ] = None,
    resume: Annotated[
        Literal["only-missing", "never"],
        typer.Option(
            help="only-missing: compute only missing results; never: recompute everything."
        ),
    ] = "only-missing",
    device: Device = "auto",
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Maximum time per slide (default: no limit)."),
    ] = None,
    allow_partial: Partial = False,
    determinism: Annotated[
        bool,
        typer.Option(
            "--check-determinism",
            help="Compute everything twice with different workers and threads; exit 1 if the "
            "results differ.",
        ),
    ] = False,
    *,
    workspace: Workspace,
) -> None:
    """Score encoders on tasks and show the leaderboard.

    Example: mbench run --encoder mean-pool --encoder max-pool --task 'bcnb-*'
    """
    from madeleine_bench.runner.plan import Request

    if train_on or test_on:
        task = workspace.tasks().external_ids(task, train_on, test_on)
    request = Request(
        tuple(encoder), tuple(task), tuple(protocol or ()), workspace, resume, device, executor,
        scheduler, time_limit, allow_partial,
    )  # fmt: skip
    _run_and_show(request)
    if determinism:
        _run_again(request)


@with_workspace("source", "phantom_signal", "phantom_seed", "features")
def evaluate(
    embeddings: Annotated[
        Path,
        typer.Option(
            help="Embedding file (.npz, .parquet, .csv, .h5, .pt) or folder of .h5 files."
        ),
    ],
    task: Tasks,
    protocol: Protocols = None,
    name: Annotated[str | None, typer.Option(help="Encoder name (default: file name).")] = None,
    by: Annotated[
        Literal["slide", "case"], typer.Option(help="Whether ids are slides or cases (patients).")
    ] = "slide",
    revision: Annotated[
        str, typer.Option(help="Revision of the embeddings; change it when they change.")
    ] = "1",
    patch_encoder: Annotated[
        str | None, typer.Option(help="Patch encoder behind the embeddings (default: unknown).")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="Cohort that the encoder was trained on, or none; repeatable."),
    ] = None,
    allow_partial: Partial = False,
    *,
    workspace: Workspace,
) -> None:
    """Score precomputed embeddings on tasks.

    Labels are those of your cohort in mbench.toml, or built-in ones; no feature file is read.

    Example: mbench evaluate --embeddings titan.npz --task 'tcga-breast-*'
    """
    from madeleine_bench.data.embedding_files import read_embedding_file
    from madeleine_bench.embeddings.given import given_embeddings
    from madeleine_bench.runner.plan import Request

    cohorts = tuple(one for one in trained_on if one != "none") if trained_on else None
    given = given_embeddings(
        read_embedding_file(embeddings, by), name or embeddings.stem, by,
        revision=revision, patch_encoder=patch_encoder, trained_on=cohorts,
    )  # fmt: skip
    request = Request(
        (), tuple(task), tuple(protocol or ()), workspace, allow_partial=allow_partial, given=given
    )
    _run_and_show(request)


def _run_and_show(request: "Request") -> None:
    """Run, print the boards the run belongs to, and say what failed.

    Of the cohorts of the run, the boards show the scores of the features it was given alone.

    Raises:
        InputError: the request cannot be carried out, or part of it, all for wrong input.
        CheckFailed: part of it failed for another reason, such as an encoder that raises.
    """
    from madeleine_bench.leaderboard.aggregate import build_boards, home_track
    from madeleine_bench.leaderboard.sources import Sources
    from madeleine_bench.runner.failures import ending
    from madeleine_bench.runner.run import run

    results = request.workspace.results
    with LiveProgress() as progress:
        report = run(request, progress)
    sources = Sources([results], report.plan.catalogue)
    every = [r for r in sources.records if r.board in report.boards]
    records = [record for record in every if report.on_its_features(record)]
    chosen = report.plan.catalogue.select_protocols(request.protocols)
    names: list[str | None] = [protocol.name for protocol in chosen]
    catalogue = report.plan.catalogue
    tracks = {home_track(cell.assessment.task, catalogue) for cell in report.plan.cells}
    boards = [
        board
        for protocol in names or [None]
        for track in sorted(tracks)
        for board in build_boards(records, catalogue, protocol, track)
    ]
    print_boards(boards, sources)
    typer.echo(
        f"{report.computed} computed, {report.reused} already there, "
        f"{len(report.failures)} failed; records in {results / 'records'}",
        err=True,
    )
    if left_out := len(every) - len(records):
        typer.echo(
            f"the board leaves out {left_out} records of other features, or of features they do "
            f"not state; see mbench leaderboard show --results {results}",
            err=True,
        )
    if problem := ending("not everything could be scored", report.failures):
        raise problem


def _run_again(request: "Request") -> None:
    """Make the cells of a finished run again, and say whether they are the same to the byte.

    Raises:
        CheckFailed: something differs.
    """
    from madeleine_bench.runner.run import check_determinism

    with LiveProgress() as progress:
        files, differences = check_determinism(request, progress)
    if differences:
        more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        lines = "\n  ".join(["not the same when made again:", *differences[:_SHOWN]])
        raise CheckFailed(f"{lines}{more}")
    typer.echo(f"made again, the same to the byte: {files} files", err=True)

"""`mbench submit`: scaffold an encoder, pack its results, verify what others packed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import Catalogue, Results, with_workspace
from madeleine_bench.errors import InputError
from madeleine_bench.report import sorted_json
from madeleine_bench.specs.workspace import Workspace

app = typer.Typer(help="Submissions to a leaderboard.", no_args_is_help=True)

Level = Annotated[
    Literal["V0", "V1", "V2", "V3"],
    typer.Option(
        help="V0: consistent; V1: recomputed; V2: some slides encoded again; V3: all of them."
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="V2, V3: RUN the code in the bundle. It can do all that you can; read it first.",
    ),
]
Sample = Annotated[int, typer.Option(min=1, help="V2: slides of each cohort to encode again.")]
Draw = Annotated[
    str | None, typer.Option(help="V2: chooses the slides; a new random one by default.")
]
TimeLimit = Annotated[
    float, typer.Option(metavar="SECONDS", help="The most that all of it may take; exit 1 then.")
]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens.")],
    folder: Annotated[Path, typer.Option(help="Where the new folder goes.")] = Path("."),
) -> None:
    """Write a working encoder to start from: card, class, test, README.

    Example: mbench submit new my-encoder
    """
    from madeleine_bench.submissions.pack import new_encoder

    card = new_encoder(name, folder)
    typer.echo(f"wrote {card.parent}\ntry: mbench encoders check {card}")


@app.command()
def pack(
    card: Annotated[str, typer.Argument(help="Path of the card, or name of the encoder.")],
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="The zip; NAME.zip by default.")] = None,
    board: Annotated[str | None, typer.Option(help="Which board, where there are several.")] = None,
    code: Annotated[
        bool, typer.Option("--code", help="Add implementation and weights, for V2 and V3.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Pack card, embeddings and the newest records of an encoder into one zip.

    Example: mbench submit pack my-encoder/card.yaml
    """
    from madeleine_bench.cli.console import deliver
    from madeleine_bench.specs.workspace import Workspace
    from madeleine_bench.submissions.pack import pack as pack_bundle

    deliver(
        pack_bundle(
            card, results, out, board, Workspace(catalogue=catalogue).tasks(), with_code=code
        )
    )


@app.command()
@with_workspace("phantom_signal", "phantom_seed")
def verify(
    bundle: Annotated[Path, typer.Argument(help="The zip.")],
    level: Level = "V1",
    allow_code: AllowCode = False,
    sample: Sample = 16,
    draw: Draw = None,
    time_limit: TimeLimit = 3600.0,
    out: Annotated[Path | None, typer.Option(help="The report, Markdown.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="The report, JSON.")] = None,
    *,
    workspace: Workspace,
) -> None:
    """Check a submission without running its code: exit 0 verified, 1 a claim is false, 2 refused.

    Example: mbench submit verify my-encoder.zip --out report.md
    """
    from madeleine_bench.submissions.report import verify_submission
    from madeleine_bench.submissions.verify import VerifyRequest

    _clear_reports(bundle, [place for place in (out, json) if place is not None])
    request = VerifyRequest(workspace, level, allow_code, sample, draw, time_limit)
    with LiveProgress() as progress:
        report = verify_submission(bundle, request, progress)
    deliver(report, files={out: report.texts["report.md"], json: sorted_json(report.document)})


def _clear_reports(bundle: Path, reports: list[Path]) -> None:
    """Remove the reports of an earlier try: where this one ends early, they would pass for its own.

    Raises:
        InputError: two of bundle and reports are one file, or a report cannot be written there.
    """
    if len({path.resolve() for path in (bundle, *reports)}) < 1 + len(reports):
        raise InputError("the bundle, --out and --json must be different files")
    for report in reports:
        try:
            report.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {report}: {error.strerror or error}") from error

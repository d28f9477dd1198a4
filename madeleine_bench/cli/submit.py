"""`mbench submit`: scaffold an encoder, pack its results, verify what others packed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import Catalogue, Results, with_workspace
from madeleine_bench.errors import InputError
from madeleine_bench.report import sorted_json
from madeleine_bench.specs.workspace import Workspace

app = typer.Typer(help="Create, pack and verify submissions.", no_args_is_help=True)

Level = Annotated[
    Literal["V0", "V1", "V2", "V3"],
    typer.Option(
        help="V0: check consistency; V1: recompute scores; V2: encode some slides again; V3: "
        "encode all again."
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="V2, V3: RUN the submitted code with your permissions. Read it first.",
    ),
]
Sample = Annotated[
    int, typer.Option(min=1, help="V2: number of slides per cohort to encode again.")
]
Draw = Annotated[
    str | None, typer.Option(help="V2: seed that selects the slides (default: random).")
]
TimeLimit = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="Maximum time for the whole check; exit 1 after that."),
]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Encoder name: lower-case words joined by hyphens.")],
    folder: Annotated[Path, typer.Option(help="Parent folder of the new folder.")] = Path("."),
) -> None:
    """Create a new encoder: card, class, test and README.

    Example: mbench submit new my-encoder
    """
    from madeleine_bench.submissions.pack import new_encoder

    card = new_encoder(name, folder)
    typer.echo(f"wrote {card.parent}\ntry: mbench encoders check {card}")


@app.command()
def pack(
    card: Annotated[str, typer.Argument(help="Encoder name or path of its card.")],
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="Output zip file (default: NAME.zip).")] = None,
    board: Annotated[str | None, typer.Option(help="Leaderboard, if there are several.")] = None,
    code: Annotated[
        bool, typer.Option("--code", help="Include code and weights, for V2 and V3.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Pack an encoder's results for submission.

    The zip file holds the card, the embeddings and the newest results.

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
    bundle: Annotated[Path, typer.Argument(help="Submission (.zip).")],
    level: Level = "V1",
    allow_code: AllowCode = False,
    sample: Sample = 16,
    draw: Draw = None,
    time_limit: TimeLimit = 3600.0,
    out: Annotated[
        Path | None, typer.Option(help="Write the report to this Markdown file.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this JSON file.")
    ] = None,
    *,
    workspace: Workspace,
) -> None:
    """Verify a submission without running its code.

    Exit code 0: verified; 1: a claim is wrong; 2: the submission is refused.

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

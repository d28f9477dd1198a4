"""What the commands of submissions do at length: pack, verify, add, and what each says."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.runner.cohorts import SourceChoice
from madeleine_bench.submissions.add import add_submission
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.cohorts import VerifyRequest
from madeleine_bench.submissions.findings import MEANING, Level
from madeleine_bench.submissions.markdown import review_markdown
from madeleine_bench.submissions.pack import Packed
from madeleine_bench.submissions.review import Review, review, review_json
from madeleine_bench.submissions.text import plain
from madeleine_bench.submissions.verify import Verification, verify

_SHOWN_FINDINGS = 20


def print_packed(packed: Packed) -> None:
    """Say what was packed, which tasks are missing, and what comes next."""
    typer.echo(
        f"wrote {packed.path}: {packed.records} records of board {packed.board}, embeddings of "
        f"{', '.join(packed.cohorts)}"
    )
    if packed.missing:
        typer.echo(
            f"{len(packed.missing)} of {packed.core} core tasks have no record, so it will not be "
            f"ranked: {', '.join(packed.missing)}"
        )
    if packed.left_out:
        typer.echo(
            f"left out: records of {', '.join(packed.left_out)}, which nobody can recompute from "
            "embeddings of slides"
        )
    typer.echo(f"try: mbench submit verify {packed.path}")


def asked(
    level: Level,
    source: SourceChoice,
    config: Path | None,
    results: Path,
    catalogue: Path | None,
    jobs: int | None,
    allow_code: bool,
    sample: int,
    draw: str | None,
) -> VerifyRequest:
    """Return how to verify; without a draw, one that no submitter can know beforehand."""
    return VerifyRequest(
        level, source, config, results, catalogue, jobs or os.cpu_count() or 1, allow_code, sample,
        draw or secrets.token_hex(4),
    )  # fmt: skip


def verify_bundle(path: Path, request: VerifyRequest, out: Path | None, json: Path | None) -> None:
    """Verify a bundle, say what was found, and write the reports.

    Raises:
        InputError: the bundle is refused, or cannot be verified here.
        CheckFailed: a claim is false.
    """
    with _verified(path, request) as (verification, _):
        found = review(verification, request.results)
    if out is not None:
        write_text(out, review_markdown(found))
    if json is not None:
        write_text(json, review_json(found))
    _print_review(found)
    _require_verified(verification)


def add_bundle(path: Path, request: VerifyRequest, reported: bool) -> None:
    """Verify a bundle and write its recomputed records into the results folder.

    With `reported` the claimed records are written as they are, as V0.

    Raises:
        InputError: the bundle is refused, or V0 was asked for without --reported.
        CheckFailed: a claim is false; nothing is written then.
    """
    if reported:
        request = replace(request, level="V0")
    elif request.level == "V0":
        raise InputError(
            "at V0 the scores are the submitter's word, which no board ranks; add --reported to "
            "keep them as such, or leave out --level to recompute them"
        )
    with _verified(path, request) as (verification, scratch):
        _require_verified(verification)
        added = add_submission(verification, scratch, request.results)
    card = verification.bundle.card
    typer.echo(
        f"{card.name} {card.revision}: {added.written} records added as {verification.reached}, "
        f"{added.kept} there already, in {request.results}"
    )
    typer.echo(f"see: mbench leaderboard show --results {request.results}")


@contextlib.contextmanager
def _verified(path: Path, request: VerifyRequest) -> Iterator[tuple[Verification, Path]]:
    """Yield the verification of a bundle and the folder with what was recomputed."""
    bundle = read_bundle(path)
    if request.allow_code and request.level in ("V2", "V3"):
        typer.echo("--allow-code: running code that came with the submission", err=True)
    with tempfile.TemporaryDirectory(prefix="mbench-") as name:
        with LiveProgress() as progress:
            verification = verify(bundle, request, Path(name), progress)
        yield verification, Path(name)


def _require_verified(verification: Verification) -> None:
    if verification.verified:
        return
    findings = verification.findings
    lines = [f"  {plain(finding.line, 1000)}" for finding in findings[:_SHOWN_FINDINGS]]
    if (more := len(findings) - _SHOWN_FINDINGS) > 0:
        lines.append(f"  and {more} more")
    reached = verification.reached or "nothing"
    raise CheckFailed(
        f"{verification.bundle.path}: asked for {verification.asked}, reached {reached}; "
        f"{len(findings)} claims are false:\n" + "\n".join(lines)
    )


def _print_review(found: Review) -> None:
    verification = found.verification
    card = verification.bundle.card
    rows = [
        [plain(task), plain(protocol), plain(record.scores.main.metric),
         f"{record.scores.main.value:.4f}"]
        for (task, protocol), record in sorted(found.records.items())
    ]  # fmt: skip
    said = "recomputed here" if found.recomputed else "claimed, not recomputed"
    board = verification.bundle.manifest.board
    title = f"{card.name} {card.revision} on board {board}, scores {said}"
    print_table(plain(title), ["task", "protocol", "metric", "score"], rows)
    for note in verification.notes:
        typer.echo(plain(note, 400))
    for hit in found.suspicions:
        typer.echo(plain(f"look at: {hit.rule}: {hit.where}: {hit.seen}", 400))
    if verification.verified and verification.reached is not None:
        typer.echo(f"{verification.reached} {MEANING[verification.reached]}")

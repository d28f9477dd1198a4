"""What the commands of submissions do at length: pack, verify, add, and what each says."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.specs.workspace import SourceChoice
from madeleine_bench.submissions.add import add_submission
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.cohorts import VerifyRequest
from madeleine_bench.submissions.deadline import Steps, deadline
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
    time_limit: float,
) -> VerifyRequest:
    """Return how to verify; without a draw, one that no submitter can know beforehand."""
    return VerifyRequest(
        level, source, config, results, catalogue, jobs or os.cpu_count() or 1, allow_code, sample,
        draw or secrets.token_hex(4), time_limit,
    )  # fmt: skip


def verify_bundle(path: Path, request: VerifyRequest, out: Path | None, json: Path | None) -> None:
    """Verify a bundle, say what was found, and write the reports.

    Raises:
        InputError: the bundle is refused, or cannot be verified here.
        CheckFailed: a claim is false, or time ran out.
    """
    _clear_reports(path, [report for report in (out, json) if report is not None])
    with tempfile.TemporaryDirectory(prefix="mbench-") as scratch, _limited(path, request) as steps:
        verification = _verified(path, request, Path(scratch), steps)
        steps.phase("compare with known encoders", 0)
        found = review(verification, request.results)
    _print_review(found)
    if out is not None:
        write_text(out, review_markdown(found))
    if json is not None:
        write_text(json, review_json(found))
    _require_verified(verification)


def add_bundle(path: Path, request: VerifyRequest, reported: bool) -> None:
    """Verify a bundle and write its recomputed records into the results folder.

    With `reported` the claimed records are written as they are, as V0.

    Raises:
        InputError: the bundle is refused, V0 was asked for without --reported, or more with it.
        CheckFailed: a claim is false, or time ran out; nothing is written then.
    """
    if reported:
        if request.level in ("V2", "V3"):
            raise InputError(
                f"--reported keeps the claimed scores as V0, and --level {request.level} verifies "
                "them; leave one of them out"
            )
        request = replace(request, level="V0")
    elif request.level == "V0":
        raise InputError(
            "at V0 the scores are the submitter's word, which no board ranks; add --reported to "
            "keep them as such, or leave out --level to recompute them"
        )
    with tempfile.TemporaryDirectory(prefix="mbench-") as scratch:
        with _limited(path, request) as steps:
            verification = _verified(path, request, Path(scratch), steps)
        _require_verified(verification)
        added = add_submission(verification, Path(scratch), request.results)
    card = verification.bundle.card
    typer.echo(
        f"{card.name} {card.revision}: {added.written} records added as {verification.reached}, "
        f"{added.kept} there already, in {request.results}"
    )
    typer.echo(f"see: mbench leaderboard show --results {request.results}")


def _clear_reports(bundle: Path, reports: Sequence[Path]) -> None:
    """Remove the reports of an earlier try: where this one ends early, they would pass for its own.

    Raises:
        InputError: two of bundle and reports are one file, or a report cannot be written there.
    """
    places = [path.resolve() for path in (bundle, *reports)]
    if len(set(places)) < len(places):
        raise InputError("the bundle, --out and --json must be different files")
    for report in reports:
        try:
            report.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {report}: {error.strerror or error}") from error


@contextlib.contextmanager
def _limited(path: Path, request: VerifyRequest) -> Iterator[Steps]:
    """Yield the progress of a verification that ends when its time is out."""
    with LiveProgress() as progress:
        steps = Steps(progress)
        with deadline(request.time_limit_s, path, steps):
            yield steps


def _verified(path: Path, request: VerifyRequest, scratch: Path, steps: Steps) -> Verification:
    """Return the verification of a bundle; what was recomputed lies in the scratch folder."""
    bundle = read_bundle(path)
    if request.allow_code and request.level in ("V2", "V3"):
        steps.say("--allow-code: running code that came with the submission")
    return verify(bundle, request, scratch, steps)


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

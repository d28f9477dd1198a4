"""What becomes of a bundle, under a time limit: a report for a reviewer, or records on a board.

A report has the verdict, scores beside those of encoders in the results folder that were scored on
the same data, and what to look at. No submission that is added takes the place of an encoder that
is there already.
"""

import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from madeleine_bench.alarm import OutOfTime, alarm
from madeleine_bench.embeddings.contents import differing_facts
from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import EncoderCard, card_text, contamination
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle, read_bundle
from madeleine_bench.submissions.claims import MEANING, Level
from madeleine_bench.submissions.parsing import inert, plain
from madeleine_bench.submissions.suspicion import (
    Scored,
    Suspicion,
    likenesses,
    suspicious_embeddings,
    suspicious_likeness,
    suspicious_scores,
)
from madeleine_bench.submissions.verify import Verification, VerifyRequest, verify
from madeleine_bench.types import Progress

_MOST_S = 1e8
# An alarm that goes off in a destructor is swallowed by Python; the next one is not.
_AGAIN_S = 10.0


@contextmanager
def deadline(bundle: Path, seconds: float) -> Iterator[None]:
    """End the block after some seconds of wall time, and the worker processes that it started.

    An alarm interrupts this process, so whatever may hang in compiled code must run in a worker.
    Where there is no alarm (Windows, another thread than the main one) the block has no limit.

    Args:
        bundle: what is verified; begins the message.
        seconds: above 0.

    Raises:
        CheckFailed: time ran out.
        InputError: the limit is no number of seconds.
    """
    if not 0.0 < seconds <= _MOST_S:
        raise InputError(
            f"--time-limit must be above 0 and at most {_MOST_S:g} seconds, found {seconds:g}"
        )
    try:
        with alarm(seconds, _AGAIN_S):
            yield
    except OutOfTime:
        for worker in multiprocessing.active_children():
            worker.join(_AGAIN_S)  # killed already; while one lives, it writes into the scratch
        raise CheckFailed(
            f"{bundle}: not verified: the time limit of {seconds:g} s ran out. No report was "
            "written. Allow more time with --time-limit, or ask for a lower --level; if no "
            "limit is "
            "enough, the encoder hangs, or the bundle is too large for this machine"
        ) from None


# "none" is a record made here, which nobody has to vouch for.
_TRUST = ("V0", "V1", "V2", "V3", "none")


def add_submission(path: Path, request: VerifyRequest, progress: Progress) -> Report:
    """Verify a bundle, write its records into the results folder, and say how many.

    From V1 on the recomputed records are written with their predictions, and the embeddings and
    the card, so that later submissions can be compared with them. For V0 the claimed records are
    written as they are: their predictions are not there, and no board ranks them. Doing it again
    writes nothing.

    Args:
        path: the bundle.
        request: how to verify, and which results folder.
        progress: told of each job.

    Raises:
        InputError: the bundle is refused; the name is that of an encoder that ships; the folder
            holds another encoder of this name and revision, or is not writable.
        CheckFailed: a claim is false, or time ran out; nothing is written then.
    """
    with tempfile.TemporaryDirectory(prefix="mbench-") as scratch:
        with deadline(path, request.time_limit_s):
            done = verify(read_bundle(path), request, Path(scratch), progress)
        if problem := done.problem():
            raise problem
        written, kept = _write(done, request.level)
    card, results = done.bundle.card, request.workspace.results
    lines = [
        f"{card.name} {card.revision}: {written} records added as {request.level}, {kept} there "
        f"already, in {results}",
        f"see: mbench leaderboard show --results {results}",
    ]
    return Report({"written": written, "kept": kept}, lines)


def why_taken(bundle: Bundle, records: Iterable[Record], results: Path) -> str:
    """Return why a submission cannot have its name and revision; "" where it can.

    The names of encoders that ship are reserved. A name and a revision of the results folder stand
    for the card and the embeddings that they have there, to the byte.

    Args:
        bundle: the submission.
        records: those of the results folder.
        results: the results folder.

    Raises:
        InputError: a card that the folder keeps is broken.
    """
    card = bundle.card
    if card.name in shipped_encoders() or card.name in external_encoders():
        return (
            f"the name '{card.name}' is reserved, as an encoder of this name comes with "
            "madeleine-bench; choose another name and pack it again"
        )
    if difference := next(_differences(bundle, records, results), ""):
        return (
            f"{results} holds revision {card.revision} of {card.name} already, which differs in "
            f"{difference}. A name and a revision stand for one card and one set of embeddings: "
            "give the card a new revision, or another name, and pack it again"
        )
    return ""


def _differences(bundle: Bundle, records: Iterable[Record], results: Path) -> Iterator[str]:
    """Yield what a results folder has otherwise of this name and revision."""
    card, board = bundle.card, bundle.manifest.board
    for record in records:
        if (record.encoder.name, record.encoder.revision) == (card.name, card.revision):
            yield from differing_facts(record.encoder, card)
            submitted = bundle.embeddings.get(record.task.cohort)
            if submitted and record.board == board and submitted.hash != record.inputs.embeddings:
                yield f"embeddings of {record.task.cohort}"
    for path in sorted(results.glob(f"cards/*/{card.name}@{card.revision}.yaml")):
        if parse_spec(EncoderCard, read_yaml(path), path) != card:
            yield f"the card {path}"


def _write(done: Verification, level: Level) -> tuple[int, int]:
    """Write what a submission came to, and return how many records that is, and how many not.

    Records that are there as well verified are left as they are. Embeddings are kept under a name
    that no run of ours looks for: a run looks for a hash of weights, code and bags, and the name
    here is a hash of the content. So what a third party sent can be compared with, and is never
    taken for what we encoded.
    """
    bundle, results, card = done.bundle, done.request.workspace.results, done.bundle.card
    store, embeddings = ResultStore(results), EmbeddingStore(results)
    there = {record.record_id: record for record in store.records()}
    if reason := why_taken(bundle, there.values(), results):
        raise InputError(f"{bundle.path}: not added: {reason}")
    records = list(done.records.values()) or [claim.record for claim in bundle.claims]
    written = 0
    for record in records:
        earlier = there.get(record.record_id)
        if earlier is not None and _TRUST.index(earlier.verification) >= _TRUST.index(level):
            continue
        content = record.model_dump(mode="json", exclude={"record_id"})
        if done.records:
            path = record.predictions.path
            write_bytes(results / path, (done.scratch / "results" / path).read_bytes())
        else:
            # The submitter's own provenance is not hashed, so nothing vouches for it, and its date
            # would say which of two records is the newer.
            content["provenance"] = {"created": machine_provenance()["created"]}
        submission = {"sha256": bundle.sha256, "mbench": bundle.manifest.mbench}
        content["provenance"]["submission"] = submission
        store.write_record({**content, "verification": level})
        written += 1
    for cohort, submitted in bundle.embeddings.items() if done.records else ():
        place = embeddings.path(bundle.manifest.board, card.name, cohort, submitted.hash)
        embeddings.write(place, submitted.ids, submitted.matrix)
    kept_card = results / "cards" / bundle.manifest.board / f"{card.name}@{card.revision}.yaml"
    write_text(kept_card, card_text(card))
    return written, len(records) - written


_MOST_ROWS = 40
_MOST_LIKE = 5
_NO_VERDICT = "no rule is a verdict: an honest encoder may hit one (docs/submissions.md)"
_BROKEN = "The bundle contradicts itself; none of its scores can be believed."
_CAUTION = "Embeddings that encode the labels of the test slides pass V0 and V1."


def verify_submission(path: Path, request: VerifyRequest, progress: Progress) -> Report:
    """Return the report of a bundle: for the screen, and as Markdown in report.md.

    Raises:
        InputError: the bundle is refused, or cannot be verified here.
        CheckFailed: time ran out. A false claim is the problem of the report.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mbench-") as scratch,
        deadline(path, request.time_limit_s),
    ):
        return review(verify(read_bundle(path), request, Path(scratch), progress))


def review(done: Verification) -> Report:
    """Return the report of a verified, or failed, submission against a results folder.

    Raises:
        InputError: a record of the folder is broken.
    """
    bundle, catalogue, results = done.bundle, done.catalogue, done.request.workspace.results
    card, records = bundle.card, done.records or {c.cell: c.record for c in bundle.claims}
    there = list(ResultStore(results).records())
    scored = beside_known(bundle, records.values(), there)
    like = likenesses(bundle.manifest.board, card.name, bundle.embeddings, results)
    cohorts = sorted(set(bundle.embeddings) & set(catalogue.cohorts))
    hits = suspicious_scores(scored)
    data = {cohort_id: cohort.data for cohort_id, cohort in done.cohorts.items()}
    cohort_of = {task: catalogue.tasks[task].cohort for task in done.units}
    hits += suspicious_embeddings(bundle.embeddings, done.units, cohort_of, data)
    hits += suspicious_likeness(like)
    seen = {cohort: contamination(card.training_cohorts, cohort) for cohort in cohorts}
    trained = [cohort for cohort, verdict in seen.items() if verdict == "contaminated"]
    hits += [Suspicion("trained on the cohort", cohort, "by its own card") for cohort in trained]
    if reason := why_taken(bundle, there, results):
        hits.append(Suspicion("taken name", card.name, reason))
    core = {task.id for task in catalogue.tasks.values() if task.status == "core"}
    scores = [{**_row(each), "recomputed": bool(done.records)} for each in scored]
    document: dict[str, Any] = {
        "schema_version": 1,
        "sha256": bundle.sha256,
        "encoder": {"name": card.name, "revision": card.revision},
        "board": bundle.manifest.board,
        "asked": done.request.level,
        "reached": done.reached,
        "verified": done.problem() is None,
        "findings": [asdict(finding) for finding in done.findings],
        "notes": done.notes,
        "scores": scores,
        "missing": sorted(core - {claim.record.task.id for claim in bundle.claims}),
        "contamination": seen,
        "suspicions": [asdict(hit) for hit in hits],
        "likeness": [asdict(each) for each in like],
    }
    made = "recomputed here" if done.records else "CLAIMED, not recomputed"
    tables: tuple[tuple[str, list[Any]], ...] = (
        ("False claims", document["findings"]),
        (f"Scores, {made}", scores),
        ("Closest known encoders", document["likeness"][:_MOST_LIKE]),
        ("Contamination, by the card", [{"cohort": c, "verdict": v} for c, v in seen.items()]),
    )
    body: list[Table | str] = [
        *_lines(done, document),
        *(_table(title, rows) for title, rows in tables if rows),
    ]
    return Report(document, body, texts={"report.md": _markdown(body)}, problem=done.problem())


def beside_known(
    bundle: Bundle, records: Iterable[Record], there: Iterable[Record]
) -> list[Scored]:
    """Return each record with those of other encoders on the same board, task, protocol and data.

    Of each encoder and its features it is the newest, and none that is only reported (V0).
    """
    known: dict[Any, dict[Any, Record]] = {}
    for record in sorted(there, key=lambda record: record.age):
        encoder = record.encoder.name, record.encoder.revision
        if (
            record.board == bundle.manifest.board
            and record.verification != "V0"
            and encoder != (bundle.card.name, bundle.card.revision)
        ):
            data = record.task.id, record.protocol, record.task.task_hash
            known.setdefault(data, {})[encoder, record.features] = record
    scored = []
    for record in sorted(records, key=lambda record: (record.task.id, record.protocol)):
        others = known.get((record.task.id, record.protocol, record.task.task_hash), {})
        scored.append(Scored(record, list(others.values())))
    return scored


def _row(scored: Scored) -> dict[str, Any]:
    """Return a score of the submission beside that of mean-pool and the best known encoder."""
    record, main, best = scored.record, scored.record.scores.main, scored.best
    pooled = [
        other.scores.main.value
        for other in scored.others
        if other.encoder.name == "mean-pool" and other.features == record.features
    ]
    return {
        "task": record.task.id,
        "protocol": record.protocol,
        "metric": main.metric,
        "value": main.value,
        "ci95": main.ci95,
        "method": main.method,
        "mean_pool": pooled[-1] if pooled else None,
        "best": best.scores.main.value if best else None,
        "best_encoder": scored.label_of(best) if best else None,
    }


def _lines(done: Verification, document: Mapping[str, Any]) -> list[str]:
    """Return the verdict, what it means, and what else there is to know."""
    card, reached, board = done.bundle.card, done.reached, document["board"]
    verdict = "verified" if document["verified"] else "NOT VERIFIED"
    lines = [
        f"{card.name} {card.revision} on board {board}: {verdict}; asked for {document['asked']}, "
        f"reached {reached or 'nothing'}",
        f"{card.title}, {card.kind}; bundle sha256 {document['sha256']}",
        f"{reached} {MEANING[reached]}" if reached else _BROKEN,
    ]
    if reached in ("V0", "V1"):
        lines.append(_CAUTION)
    if board.startswith("phantom"):
        lines.append(PHANTOM_NOTICE)
    lines += document["notes"]
    if missing := document["missing"]:
        lines.append(f"{len(missing)} core tasks without a record: {', '.join(missing)}")
    hits = [
        f"look at: {hit['rule']}: {hit['where']}: {hit['seen']}" for hit in document["suspicions"]
    ]
    return [plain(line, 1000) for line in (*lines, *hits, *([_NO_VERDICT] if hits else []))]


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows of one shape as a table of plain text."""
    more = f" ({len(rows)}, {_MOST_ROWS} shown)" if len(rows) > _MOST_ROWS else ""
    keys = [key for key in rows[0] if key != "recomputed"]
    cells = [[plain(_cell(row[key]), 400) for key in keys] for row in rows[:_MOST_ROWS]]
    return Table(title + more, [key.replace("_", " ") for key in keys], cells)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)


def _markdown(body: Iterable[Table | str]) -> str:
    """Return lines and tables as Markdown, ending in a newline.

    Whatever may come from the bundle, or from an error about it, is a code span without angle
    brackets, backticks, bars or @ (see `inert`).
    """
    lines = ["## Submission", ""]
    for part in body:
        if isinstance(part, str):
            lines.append(f"- {inert(part, 1000)}")
            continue
        lines += ["", f"### {part.title}", ""]
        lines += [f"| {' | '.join(part.header)} |", "|" + "---|" * len(part.header)]
        lines += [f"| {' | '.join(inert(cell, 400) for cell in row)} |" for row in part.rows]
    return "\n".join(lines) + "\n"

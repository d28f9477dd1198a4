"""A verified submission into a results folder: the recomputed records, marked by their rung.

No submission takes the place of an encoder that is there already.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from madeleine_bench.embeddings.contents import differing_facts
from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import external_encoders, shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import Report
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import EncoderCard, card_text
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle, read_bundle
from madeleine_bench.submissions.claims import Level
from madeleine_bench.submissions.deadline import deadline
from madeleine_bench.submissions.verify import Verification, VerifyRequest, verify
from madeleine_bench.types import Progress

# "none" is a record made here, which nobody has to vouch for.
_TRUST = ("V0", "V1", "V2", "V3", "none")


def add_submission(
    path: Path, request: VerifyRequest, reported: bool, progress: Progress
) -> Report:
    """Verify a bundle, write its recomputed records into the results folder, and say how many.

    From V1 on the recomputed records are written with their predictions, and the embeddings and
    the card, so that later submissions can be compared with them. Doing it again writes nothing.

    Args:
        path: the bundle.
        request: how to verify, and which results folder.
        reported: write the claimed records as they are, as V0: their predictions are not there,
            and no board ranks them.
        progress: told of each job.

    Raises:
        InputError: the bundle is refused; V0 was asked for without `reported`, or more with it; the
            name is that of an encoder that ships; the folder holds another encoder of this name and
            revision, or is not writable.
        CheckFailed: a claim is false, or time ran out; nothing is written then.
    """
    if reported and request.level in ("V2", "V3"):
        raise InputError(
            f"--reported keeps the claimed scores as V0, and --level {request.level} verifies "
            "them; leave one of them out"
        )
    if not reported and request.level == "V0":
        raise InputError(
            "at V0 the scores are the submitter's word, which no board ranks; add --reported to "
            "keep them as such, or leave out --level to recompute them"
        )
    request = replace(request, level="V0" if reported else request.level)
    with tempfile.TemporaryDirectory(prefix="mbench-") as scratch:
        with deadline(path, request.time_limit_s, progress) as steps:
            done = verify(read_bundle(path), request, Path(scratch), steps)
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
    differences: list[str] = []
    for record in records:
        if (record.encoder.name, record.encoder.revision) == (card.name, card.revision):
            differences += differing_facts(record.encoder, card)
            submitted = bundle.embeddings.get(record.task.cohort)
            same = submitted is None or submitted.hash == record.inputs.embeddings
            if record.board == bundle.board and not same:
                differences.append(f"embeddings of {record.task.cohort}")
    for path in sorted(results.glob(f"cards/*/{card.name}@{card.revision}.yaml")):
        if parse_spec(EncoderCard, read_yaml(path), path) != card:
            differences.append(f"the card {path}")
    if not differences:
        return ""
    return (
        f"{results} holds revision {card.revision} of {card.name} already, which differs in "
        f"{differences[0]}. A name and a revision stand for one card and one set of embeddings: "
        "give the card a new revision, or another name, and pack it again"
    )


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
    submission = {"sha256": bundle.sha256, "mbench": bundle.manifest.mbench}
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
        content["provenance"]["submission"] = submission
        store.write_record({**content, "verification": level})
        written += 1
    for cohort, submitted in bundle.embeddings.items() if done.records else ():
        place = embeddings.path(bundle.board, card.name, cohort, submitted.hash)
        embeddings.write(place, submitted.ids, submitted.matrix)
    kept_card = results / "cards" / bundle.board / f"{card.name}@{card.revision}.yaml"
    write_text(kept_card, card_text(card))
    return written, len(records) - written

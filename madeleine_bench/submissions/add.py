"""A verified submission into a results folder: the recomputed records, marked by their rung."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import Bundle
from madeleine_bench.submissions.findings import Level
from madeleine_bench.submissions.names import card_path, why_taken
from madeleine_bench.submissions.verify import Verification

# "none" is a record made here, which nobody has to vouch for.
_TRUST = ("V0", "V1", "V2", "V3", "none")


@dataclass(frozen=True)
class Added:
    """Records written, and records that were there already and as well verified."""

    written: int
    kept: int


def add_submission(verification: Verification, scratch: Path, results: Path) -> Added:
    """Write what a submission came to into a results folder and return what was done.

    From V1 on the recomputed records are written with their predictions, and the embeddings and
    the card, so that later submissions can be compared with them. At V0 the claimed records are
    written as V0: their predictions are not there, and no board ranks them. Doing it again writes
    nothing.

    Raises:
        CheckFailed: the submission was not verified to the rung asked for; nothing is written.
        InputError: the name is that of an encoder that ships, the folder holds another encoder of
            this name and revision, or it is not writable.
    """
    bundle, level = verification.bundle, verification.reached
    if level is None or not verification.verified:
        raise CheckFailed(f"{bundle.path}: not added: {len(verification.findings)} false claims")
    store = ResultStore(results)
    known = {record.record_id: record for record in store.records()}
    if reason := why_taken(bundle, known.values(), results):
        raise InputError(f"{bundle.path}: not added: {reason}")
    if level == "V0":
        records = [claim.record for claim in bundle.claims]
        source = None
    else:
        records = list(verification.records.values())
        source = ResultStore(scratch / "results")
    written = 0
    for record in records:
        there = known.get(record.record_id)
        if there is not None and _TRUST.index(there.verification) >= _TRUST.index(level):
            continue
        if source is not None:
            _copy_predictions(source, store, record)
        store.write_record(_content(bundle, record, level))
        written += 1
    if source is not None:
        _keep_embeddings(bundle, EmbeddingStore(results))
    write_text(card_path(results, bundle.manifest.board, bundle.card), card_text(bundle.card))
    return Added(written, len(records) - written)


def _content(bundle: Bundle, record: Record, level: Level) -> dict[str, Any]:
    """Return the content of a record to keep.

    The submitter's own provenance is not kept: it is not hashed, so nothing vouches for it, and
    its date would say which of two records is the newer.
    """
    content = record.model_dump(mode="json", exclude={"record_id"})
    provenance = record.provenance
    if level == "V0":
        provenance = {"created": machine_provenance()["created"]}
    submission = {"sha256": bundle.sha256, "mbench": bundle.manifest.mbench}
    return {
        **content,
        "provenance": {**provenance, "submission": submission},
        "verification": level,
    }


def _copy_predictions(source: ResultStore, store: ResultStore, record: Record) -> None:
    """Write the predictions of a record into the other store, to the byte."""
    copied = store.write_predictions(
        record.board,
        record.encoder.name,
        f"{record.task.id}@{record.task.version}",
        record.protocol,
        record.resume_key,
        source.read_predictions(record),
    )
    if copied != record.predictions:
        raise InputError(f"{record.predictions.path}: parquet came out other; add it again")


def _keep_embeddings(bundle: Bundle, store: EmbeddingStore) -> None:
    """Keep the submitted embeddings under a name that no run of ours looks for.

    A run looks for a hash of weights, code and bags; the name here is a hash of the content. So
    what a stranger sent can be compared with, and is never taken for what we encoded.
    """
    for cohort, claimed in bundle.embeddings.items():
        found = claimed.embeddings
        path = store.path(bundle.manifest.board, bundle.card.name, cohort, found.hash)
        if store.content_hash(path) != found.hash:
            store.write(path, found.ids, found.matrix)

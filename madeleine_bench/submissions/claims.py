"""V0: is a submission consistent in itself? Nothing of ours but the catalogue is looked at."""

import re
from collections.abc import Iterator
from typing import Any

from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.hashing import hash_json
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.submissions.bundle import Bundle, Claim
from madeleine_bench.submissions.findings import Finding
from madeleine_bench.submissions.text import plain, shown

_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 400


def record_member(task_id: str, protocol: str) -> str:
    """Return the name of a claimed record in a bundle."""
    return f"records/{task_id}.{protocol.replace('/', '-')}.json"


def check_claims(bundle: Bundle, catalogue: Catalogue) -> list[Finding]:
    """Return every claim that contradicts the bundle itself or the catalogue."""
    found = list(_check_encoder(bundle))
    found += _check_embeddings(bundle, catalogue)
    for claim in bundle.claims:
        found += _check_record(bundle, claim)
        found += _check_task(claim, catalogue)
    return found


def usable_task(record: Record, catalogue: Catalogue) -> TaskSpec | None:
    """Return the catalogue's task of a claimed record; None where it cannot be scored by it."""
    task = catalogue.tasks.get(record.task.id)
    protocol = catalogue.protocols.get(record.protocol)
    if task is None or protocol is None or task.cohort != record.task.cohort:
        return None
    return None if misfit(task, protocol) or not protocol.from_slides else task


def _differs(where: str, field: str, claimed: object, found: object, advice: str = "") -> Finding:
    return Finding("V0", where, field, plain(str(claimed)), plain(str(found)), advice)


def _check_encoder(bundle: Bundle) -> Iterator[Finding]:
    card, stated = bundle.card, bundle.manifest.encoder
    for field in ("name", "revision"):
        if getattr(stated, field) != getattr(card, field):
            yield _differs(
                "submission.json", f"encoder {field}", getattr(stated, field),
                getattr(card, field), "card.yaml says otherwise; pack it again",
            )  # fmt: skip
    ours = shipped_encoders().get(card.name)
    if ours is not None and ours.card != card:
        yield _differs(
            "card.yaml", "name", card.name, "an encoder that ships with madeleine-bench",
            "The name is taken; choose another",
        )  # fmt: skip


def _check_embeddings(bundle: Bundle, catalogue: Catalogue) -> Iterator[Finding]:
    for cohort, claimed in bundle.embeddings.items():
        if claimed.stated_hash != claimed.embeddings.hash:
            yield _differs(
                claimed.member, "hash of ids and matrix", shown(claimed.stated_hash),
                claimed.embeddings.hash, "An id or a value was altered after the file was made",
            )  # fmt: skip
        if cohort not in catalogue.cohorts:
            hint = did_you_mean(cohort, list(catalogue.cohorts))
            yield _differs(claimed.member, "cohort", cohort, f"no such cohort{hint}")


def _check_record(bundle: Bundle, claim: Claim) -> Iterator[Finding]:
    record, where = claim.record, claim.member
    if claim.stated_id != record.record_id:
        yield _differs(
            where, "record_id", shown(claim.stated_id), record.record_id,
            "The record was altered after it was made",
        )  # fmt: skip
    expected: list[tuple[str, object, object]] = [
        (f"encoder {name}", getattr(record.encoder, name), getattr(bundle.card, name))
        for name in ("name", "revision", "title", "kind", "training_cohorts")
    ]
    expected += [("board", record.board, bundle.manifest.board)]
    key = [record.inputs.embeddings, record.task.task_hash, record.protocol, record.scoring_version]
    # The formula of runner.plan.resume_key, over what the record itself says.
    expected += [("resume_key", record.resume_key, hash_json(key))]
    expected += [("predictions path", record.predictions.path, _predictions_path(record))]
    embeddings = bundle.embeddings.get(record.task.cohort)
    there = "no embeddings of this cohort" if embeddings is None else embeddings.embeddings.hash
    first = next(c.record for c in bundle.claims if c.record.task.cohort == record.task.cohort)
    expected += [("features of the cohort", record.features, first.features)]
    expected += [("embeddings it was scored from", record.inputs.embeddings, there)]
    expected += [("file name", where, record_member(record.task.id, record.protocol))]
    for field, claimed, found in expected:
        if claimed != found:
            yield _differs(where, field, claimed, found)
    if not _HEX.fullmatch(record.encoder.fingerprint):
        yield _differs(where, "fingerprint", record.encoder.fingerprint, "not 64 hex digits")
    for text in _texts(record.model_dump(mode="json", exclude={"provenance"})):
        if len(text) > _MAX_TEXT or plain(text, _MAX_TEXT) != text:
            yield _differs(
                where, "a text", shown(text),
                f"longer than {_MAX_TEXT} characters, or holds characters that cannot be shown",
            )  # fmt: skip
            return


def _check_task(claim: Claim, catalogue: Catalogue) -> Iterator[Finding]:
    record, where = claim.record, claim.member
    task = catalogue.tasks.get(record.task.id)
    if task is None:
        hint = did_you_mean(record.task.id, list(catalogue.tasks))
        yield _differs(where, "task", record.task.id, f"no such task{hint}")
        return
    protocol = catalogue.protocols.get(record.protocol)
    if protocol is None:
        hint = did_you_mean(record.protocol, list(catalogue.protocols))
        yield _differs(where, "protocol", record.protocol, f"no such protocol{hint}")
    elif fault := misfit(task, protocol):
        yield _differs(where, "protocol", record.protocol, fault)
    elif not protocol.from_slides:
        yield _differs(
            where, "protocol", record.protocol, "scores nothing from the embeddings of slides",
            "such records cannot be recomputed from a submission",
        )  # fmt: skip
    main = record.scores.main
    for field, claimed, found in (
        ("cohort", record.task.cohort, task.cohort),
        ("family", record.task.family, task.family),
        ("metric", main.metric, task.metric.name),
        ("chance", main.chance, task.metric.chance),
    ):
        if claimed != found:
            yield _differs(where, field, claimed, found)


def _predictions_path(record: Record) -> str:
    slug = record.protocol.replace("/", "-")
    name = f"{slug}.{record.resume_key[:16]}.{record.predictions.hash[:16]}.parquet"
    task = f"{record.task.id}@{record.task.version}"
    return f"predictions/{record.board}/{record.encoder.name}/{task}/{name}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)

"""V2 and V3: slides encoded again from the weights, and compared with the submitted rows.

This runs the encoder, so whose code it is matters. Code that is part of madeleine-bench is run
with weights that are data (safetensors, hash-checked); a stranger's code only where the verifier
said so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.store import (
    ROW_TOLERANCE,
    EmbeddingStore,
    read_embeddings,
    relative_gaps,
)
from madeleine_bench.encoders.registry import EncoderEntry, fingerprint, shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.hashing import hash_bytes, hash_json
from madeleine_bench.runner.embedding import EmbedJob, run_embed_job
from madeleine_bench.runner.failures import Failure, Outcome
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.runner.workers import LocalWorkers
from madeleine_bench.specs.card import card_text
from madeleine_bench.submissions.bundle import Bundle, ClaimedEmbeddings
from madeleine_bench.submissions.cohorts import OwnCohorts, VerifyRequest
from madeleine_bench.submissions.findings import Finding, Level
from madeleine_bench.submissions.text import plain, shown
from madeleine_bench.types import Progress

_SHARD = 64
_SHOWN_SLIDES = 3


@dataclass(frozen=True)
class Reencoded:
    """Rows encoded again by cohort, as far as they could be, and what differs from the claims."""

    rows: dict[str, tuple[tuple[str, ...], NDArray[np.float32]]]
    findings: list[Finding]
    notes: list[str]


def runnable_encoder(bundle: Bundle, allow_code: bool, scratch: Path) -> EncoderEntry:
    """Return the encoder of a bundle, its files laid into the scratch folder; nothing is run yet.

    Raises:
        InputError: its code is a stranger's and was not allowed; or code or weights are not here.
    """
    ours = shipped_encoders()
    same = ours.get(bundle.card.name)
    if same is not None and same.card == bundle.card:
        return same
    card = bundle.card
    # The class and its parameters: a parameter of our class can still ask for all the memory.
    known = {(e.card.implementation, hash_json(e.card.parameters)) for e in ours.values()}
    if (card.implementation, hash_json(card.parameters)) not in known and not allow_code:
        raise InputError(
            f"{bundle.path}: V2 and V3 run the encoder, and its code ({shown(card.implementation)}"
            ", or its parameters) is not that of an encoder of madeleine-bench. STRANGERS' CODE "
            "CAN DO ALL THAT YOU CAN: read your files, send them away, delete them. Read code/ in "
            "the bundle first, use a machine without secrets or network, then add --allow-code; "
            "or stay at --level V1, which runs none of it"
        )
    _lay_out(bundle, scratch)
    return EncoderEntry(card, scratch / "card.yaml", "submission")


def reencode(
    bundle: Bundle,
    own: OwnCohorts,
    entry: EncoderEntry,
    request: VerifyRequest,
    scratch: Path,
    progress: Progress,
) -> Reencoded:
    """Return rows encoded again: of some slides for V2, of every slide for V3.

    The encoder runs in workers alone: it may hang, die, or reach into the process that judges it.
    """
    level: Level = "V3" if request.level == "V3" else "V2"
    done = Reencoded({}, [], list(_check_fingerprint(bundle, entry)))
    chosen = {
        cohort_id: _chosen(cohort_id, bundle.embeddings[cohort_id], own, request)
        for cohort_id in own.cohorts
        if cohort_id in bundle.embeddings
    }
    jobs = [
        EmbedJob(cohort_id, own.cohorts[cohort_id].data, ids, ((entry, part),))
        for cohort_id, slides in chosen.items()
        for ids, part in _shards(cohort_id, slides, scratch)
    ]
    progress.phase("encode", len(jobs))
    failed: dict[str, str] = {}
    for outcome in LocalWorkers(request.jobs, apart=True).run(run_embed_job, jobs, _lost):
        failed.update({cohort: str(why) for (_, cohort), why in outcome.failed.items()})
        progress.advance(outcome.note)
    for cohort_id, slides in chosen.items():
        claimed = bundle.embeddings[cohort_id]
        if cohort_id in failed:
            done.findings.append(
                Finding("V2", claimed.member, "encoding again", "these rows", "an error",
                        plain(failed[cohort_id], 400))
            )  # fmt: skip
            continue
        parts = [read_embeddings(part) for _, part in _shards(cohort_id, slides, scratch)]
        if not parts:
            continue
        ids = tuple(slide_id for part in parts for slide_id in part.ids)
        rows = np.concatenate([part.matrix for part in parts])
        done.rows[cohort_id] = (ids, rows)
        finding, note = _compare_rows(level, cohort_id, claimed, ids, rows)
        done.notes.append(note)
        done.findings.extend([finding] if finding else [])
    return done


def _lost(job: EmbedJob, reason: str) -> Outcome:
    failed = {(entry.card.name, job.cohort_id): Failure(reason) for entry, _ in job.encoders}
    return Outcome(f"{job.cohort_id} {job.slide_ids[-1]}", failed)


def _chosen(
    cohort_id: str, claimed: ClaimedEmbeddings, own: OwnCohorts, request: VerifyRequest
) -> tuple[str, ...]:
    """Return the slides to encode again: all, or some chosen by the verifier's draw."""
    there = set(slides_with_bags(own.cohorts[cohort_id].data))
    ids = [slide_id for slide_id in claimed.embeddings.ids if slide_id in there]
    if request.level == "V3":
        return tuple(ids)
    ids.sort(key=lambda slide_id: hash_json([request.draw, cohort_id, slide_id]))
    return tuple(ids[: request.sample])


def _shards(
    cohort_id: str, slides: tuple[str, ...], scratch: Path
) -> list[tuple[tuple[str, ...], Path]]:
    folder = scratch / "again" / cohort_id
    return [
        (slides[start : start + _SHARD], folder / f"{start:06d}.safetensors")
        for start in range(0, len(slides), _SHARD)
    ]


def _compare_rows(
    level: Level,
    cohort_id: str,
    claimed: ClaimedEmbeddings,
    ids: tuple[str, ...],
    rows: NDArray[np.float32],
) -> tuple[Finding | None, str]:
    """Return what is wrong with the submitted rows, if anything, and how close they came."""
    position = {slide_id: row for row, slide_id in enumerate(claimed.embeddings.ids)}
    submitted = claimed.embeddings.matrix[[position[slide_id] for slide_id in ids]]
    if submitted.shape[1] != rows.shape[1]:
        return Finding(
            level, claimed.member, "width", str(submitted.shape[1]), str(rows.shape[1]),
            "The weights make embeddings of another width",
        ), f"{cohort_id}: other widths"  # fmt: skip
    gaps = relative_gaps(submitted, rows)
    note = f"{cohort_id}: {len(ids)} slides encoded again, largest relative gap {gaps.max():.1e}"
    bad = np.flatnonzero(gaps > ROW_TOLERANCE)
    if not len(bad):
        return None, note
    worst = sorted(bad, key=lambda row: -gaps[row])[:_SHOWN_SLIDES]
    named = ", ".join(f"{shown(ids[row])} by {gaps[row]:.1e}" for row in worst)
    return Finding(
        level, claimed.member, f"rows of {len(ids)} slides encoded again",
        f"those the weights make, to {ROW_TOLERANCE:g} of their length",
        f"{len(bad)} other rows: {named}", "These embeddings are not what card and weights make",
    ), note  # fmt: skip


def _check_fingerprint(bundle: Bundle, entry: EncoderEntry) -> Iterator[str]:
    stated = {claim.record.encoder.fingerprint for claim in bundle.claims}
    if stated != {fingerprint(entry)}:
        yield (
            "the records carry another fingerprint than card, weights and code have here: the "
            "encoder code of another version of madeleine-bench, or other files than were run"
        )


def _lay_out(bundle: Bundle, scratch: Path) -> None:
    """Write card, code and weights of a bundle beside each other, as the card expects them."""
    card = bundle.card
    module = card.implementation.rsplit(":", 1)[0]
    write_bytes(scratch / "card.yaml", card_text(card).encode())
    if module.endswith(".py"):
        if module not in bundle.code:
            raise InputError(f"{bundle.path}: no code/{module} in it; pack it with --code")
        write_bytes(scratch / module, bundle.code[module])
    if card.weights is None:
        return
    data = bundle.weights.get(card.weights.path)
    if data is None:
        raise InputError(f"{bundle.path}: no weights/{card.weights.path} in it; pack with --code")
    if hash_bytes(data) != card.weights.sha256:
        raise InputError(
            f"{bundle.path}: weights/{card.weights.path} has sha256 {hash_bytes(data)[:16]}..., "
            f"the card says {card.weights.sha256[:16]}..."
        )
    write_bytes(scratch / card.weights.path, data)


def stage_rows(bundle: Bundle, again: Reencoded, scratch: Path) -> Bundle:
    """Return the bundle with the rows encoded again in place of the submitted ones."""
    embeddings = dict(bundle.embeddings)
    store = EmbeddingStore(scratch)
    for cohort_id, (ids, rows) in again.rows.items():
        path = store.path(bundle.manifest.board, bundle.card.name, cohort_id, "again")
        store.write(path, ids, rows)
        found = read_embeddings(path)
        embeddings[cohort_id] = replace(embeddings[cohort_id], embeddings=found)
    return replace(bundle, embeddings=embeddings)

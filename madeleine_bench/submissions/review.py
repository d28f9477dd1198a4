"""What a reviewer is told of a submission: verdict, standing, suspicions, likeness."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import Contamination, contamination
from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.duplicates import Likeness, likenesses
from madeleine_bench.submissions.names import why_taken
from madeleine_bench.submissions.recompute import Cell
from madeleine_bench.submissions.standing import (
    KnownEncoder,
    Standing,
    known_encoders,
    primary_cells,
    standings,
)
from madeleine_bench.submissions.suspicion import (
    Suspicion,
    contaminated,
    suspicious_embeddings,
    suspicious_likeness,
    suspicious_scores,
)
from madeleine_bench.submissions.verify import Verification


@dataclass(frozen=True)
class Review:
    """A verification and what it means.

    Attributes:
        verification: how far up the ladder it came.
        records: recomputed records under each task's first protocol; at V0 the claimed ones.
        recomputed: whether `records` are ours.
        known: the other encoders of this board in the results folder.
        standing: it and those of them that have all its tasks, best first.
        contamination: by cohort, whether the encoder has seen it, by its card.
        missing: core tasks without a record.
        suspicions: hits of the rules.
        likeness: known encoders by how alike their embeddings are.
    """

    verification: Verification
    records: Mapping[Cell, Record]
    recomputed: bool
    known: list[KnownEncoder]
    standing: list[Standing]
    contamination: dict[str, Contamination]
    missing: list[str]
    suspicions: list[Suspicion]
    likeness: list[Likeness]


def review(verification: Verification, results: Path) -> Review:
    """Return the review of a verified, or failed, submission against a results folder.

    Raises:
        InputError: a record of the folder is broken.
    """
    bundle, catalogue = verification.bundle, verification.catalogue
    card, board = bundle.card, bundle.manifest.board
    claimed = {(c.record.task.id, c.record.protocol): c.record for c in bundle.claims}
    records = primary_cells(verification.records or claimed, catalogue)
    there = list(ResultStore(results).records())
    features = {c.record.task.cohort: c.record.features for c in bundle.claims}
    known = known_encoders(there, board, card.name, card.revision, features)
    embeddings = {cohort: found.embeddings for cohort, found in bundle.embeddings.items()}
    like = likenesses(board, card.name, embeddings, results)
    cohorts = sorted(set(embeddings) & set(catalogue.cohorts))
    scored = {task for task, _ in claimed}
    suspicions = suspicious_scores(records, known)
    if verification.own is not None:
        data = {cohort: own.data for cohort, own in verification.own.cohorts.items()}
        cohort_of = {task: catalogue.tasks[task].cohort for task in verification.units}
        suspicions += suspicious_embeddings(embeddings, verification.units, cohort_of, data)
    suspicions += suspicious_likeness(like) + contaminated(card.training_cohorts, cohorts)
    if reason := why_taken(bundle, there, results):
        suspicions.append(Suspicion("taken name", card.name, reason))
    return Review(
        verification=verification,
        records=records,
        recomputed=bool(verification.records),
        known=known,
        standing=standings(f"{card.name} {card.revision}", card.kind, records, known),
        contamination={c: contamination(card.training_cohorts, c) for c in cohorts},
        missing=sorted(
            t.id for t in catalogue.tasks.values() if t.status == "core" and t.id not in scored
        ),
        suspicions=suspicions,
        likeness=like,
    )


def review_json(found: Review) -> str:
    """Return a review as JSON: every number, no clock. Texts of the bundle are as they came."""
    verification = found.verification
    bundle = verification.bundle
    content = {
        "schema_version": 1,
        "sha256": bundle.sha256,
        "encoder": {"name": bundle.card.name, "revision": bundle.card.revision},
        "board": bundle.manifest.board,
        "asked": verification.asked,
        "reached": verification.reached,
        "verified": verification.verified,
        "findings": [asdict(finding) for finding in verification.findings],
        "notes": list(verification.notes),
        "scores": [
            {"task": task, "protocol": protocol, "recomputed": found.recomputed,
             "metric": record.scores.main.metric, "value": record.scores.main.value,
             "ci95": record.scores.main.ci95}
            for (task, protocol), record in sorted(found.records.items())
        ],
        "standing": [asdict(row) for row in found.standing],
        "missing": found.missing,
        "contamination": found.contamination,
        "suspicions": [asdict(hit) for hit in found.suspicions],
        "likeness": [asdict(like) for like in found.likeness],
    }  # fmt: skip
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"

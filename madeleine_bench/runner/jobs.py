"""The two kinds of job. Each stands alone: it reads files, writes its own file atomically, ends."""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from madeleine_bench.embeddings.compute import embed_slides, unit_embeddings
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.registry import EncoderEntry, load_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import SCORING_VERSION, score
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Assessment
from madeleine_bench.runner.provenance import blas_libraries, peak_memory_mb
from madeleine_bench.specs.record import (
    MainScore,
    RecordEncoder,
    RecordFold,
    RecordInputs,
    RecordScores,
    RecordTask,
)
from madeleine_bench.types import CohortData


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a note for the screen, and the reason of what failed by (encoder, where)."""

    note: str
    failed: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbedJob:
    """Embed some slides of a cohort with every encoder that lacks them."""

    cohort_id: str
    data: CohortData
    slide_ids: tuple[str, ...]
    encoders: tuple[tuple[EncoderEntry, Path], ...]


@dataclass(frozen=True)
class EvaluateJob:
    """Score the embeddings of one encoder on one task under one protocol."""

    results: Path
    entry: EncoderEntry
    fingerprint: str
    assessment: Assessment
    embeddings: Path
    embeddings_hash: str
    resume_key: str
    source: str
    variant: str
    machine: dict[str, Any]

    @property
    def cost(self) -> float:
        """A rough cost, so that long jobs start first."""
        weight = {"cox": 100.0, "few-shot": 3.0, "linear-probe": 1.0}
        return weight[self.assessment.protocol.method.kind] * len(self.assessment.units.table)


def run_embed_job(job: EmbedJob) -> Outcome:
    """Write the embeddings of some slides, one part file an encoder, and say what failed."""
    with threadpool_limits(1):
        failed: dict[str, str] = {}
        encoders: dict[str, SlideEncoder] = {}
        for entry, _ in job.encoders:
            try:
                encoders[entry.card.name] = _loaded(entry)
            except InputError as error:
                failed[entry.card.name] = str(error)
        try:
            done, raised = embed_slides(encoders, job.data, job.slide_ids)
            failed.update(raised)
            for entry, part in job.encoders:
                if entry.card.name in done:
                    store = EmbeddingStore(part.parent)
                    store.write(part, job.slide_ids, done[entry.card.name])
        except InputError as error:
            failed.update({entry.card.name: str(error) for entry, _ in job.encoders})
    note = f"{job.cohort_id} {job.slide_ids[-1]}"
    return Outcome(note, {(name, job.cohort_id): reason for name, reason in failed.items()})


def run_evaluate_job(job: EvaluateJob) -> Outcome:
    """Fit, predict, score, and write predictions and record; say what failed."""
    started = time.perf_counter()
    assessment = job.assessment
    task, protocol = assessment.task, assessment.protocol
    note = f"{job.entry.card.name} {task.id} {protocol.name}"
    try:
        embeddings = read_embeddings(job.embeddings)
        matrix = unit_embeddings(embeddings, assessment.units)
        evaluation = evaluate(task, protocol, matrix, assessment.units, assessment.splits)
        scores = score(task, protocol, evaluation.predictions, evaluation.fits)
        store = ResultStore(job.results)
        board = f"{job.source}-{job.variant}" if job.variant else job.source
        cell = (board, job.entry.card.name, task.name, protocol.name, job.resume_key)
        predictions = store.write_predictions(*cell, evaluation.predictions)
        fits = {fit.key: fit for fit in evaluation.fits}
        names = assessment.splits.key_names
        folds = [
            RecordFold(
                key=dict(zip(names, fold.key, strict=True)),
                value=fold.value,
                n_train=fold.n_train,
                n_test=fold.n_test,
                converged=fold.converged,
                reason=fold.reason,
                flag=fold.flag,
                n_iter=fits[fold.key].n_iter,
                diagnostics=dict(fits[fold.key].diagnostics),
            )
            for fold in scores.folds
        ]
        sound = sum(fold.converged for fold in folds)
        card = job.entry.card
        store.write_record(
            {
                "resume_key": job.resume_key,
                "source": job.source,
                "variant": job.variant,
                "encoder": RecordEncoder(
                    name=card.name,
                    revision=card.revision,
                    title=card.title,
                    kind=card.kind,
                    fingerprint=job.fingerprint,
                    training_cohorts=card.training_cohorts,
                ),
                "task": RecordTask(
                    id=task.id,
                    version=task.version,
                    task_hash=assessment.task_hash,
                    family=task.family,
                    cohort=task.cohort,
                ),
                "protocol": protocol.name,
                "scoring_version": SCORING_VERSION,
                "inputs": RecordInputs(
                    embeddings=job.embeddings_hash,
                    labels=assessment.units.hash,
                    splits=assessment.splits.hash,
                    n=len(matrix),
                    dim=matrix.shape[1],
                    missing={k: tuple(v) for k, v in sorted(assessment.units.missing.items())},
                ),
                "scores": RecordScores(
                    main=MainScore(
                        metric=task.metric.name,
                        value=scores.value,
                        chance=task.metric.chance,
                        ci95=scores.ci95,
                        method=scores.ci_method,
                    ),
                    secondary=dict(scores.secondary),
                ),
                "folds": tuple(folds),
                "predictions": predictions,
                "provenance": {
                    **job.machine,
                    "blas": blas_libraries(),
                    "seconds": round(time.perf_counter() - started, 3),
                    "peak_memory_mb": peak_memory_mb(),
                },
                "status": "ok" if sound == len(folds) else "partly-failed" if sound else "failed",
            }
        )
    except InputError as error:
        return Outcome(note, {(job.entry.card.name, task.name): str(error)})
    return Outcome(note)


@lru_cache(maxsize=32)
def _loaded_by_path(path: str, card: str) -> SlideEncoder:
    from madeleine_bench.specs.card import EncoderCard

    return load_encoder(EncoderEntry(EncoderCard.model_validate_json(card), Path(path), path))


def _loaded(entry: EncoderEntry) -> SlideEncoder:
    """Return the encoder, made once for each process."""
    return _loaded_by_path(str(entry.path), entry.card.model_dump_json())

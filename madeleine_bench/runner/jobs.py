"""The kinds of job. Each stands alone: it reads files, writes its own file atomically, ends."""

import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from madeleine_bench.data.packed import INDEX, FeatureStore, open_store
from madeleine_bench.embeddings.compute import embed_slides, unit_embeddings
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.registry import EncoderEntry, load_encoder
from madeleine_bench.errors import MbenchError
from madeleine_bench.files import write_text
from madeleine_bench.finetuning.evaluation import (
    Device,
    FitRequest,
    collect,
    fit,
    fit_path,
    read_fit,
    seeded_splits,
    torch_device,
    write_fit,
)
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.hashing import file_state, hash_code
from madeleine_bench.protocols.evaluation import Evaluation, evaluate
from madeleine_bench.protocols.scoring import SCORING_VERSION, Scores, score
from madeleine_bench.provenance import blas_libraries, peak_memory_mb, return_freed_memory
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.plan import Assessment
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.implementation import code_file
from madeleine_bench.specs.record import (
    MainScore,
    RecordEncoder,
    RecordFeatures,
    RecordFold,
    RecordInputs,
    RecordScores,
    RecordTask,
)
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import CohortData, Source, board_name


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a note for the screen, and what failed by (encoder, where)."""

    note: str
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbedJob:
    """Embed some slides of a cohort with every encoder that lacks them.

    `time_limit_s` is the most that an encoder may take for one slide; None sets no limit.
    """

    cohort_id: str
    data: CohortData
    slide_ids: tuple[str, ...]
    encoders: tuple[tuple[EncoderEntry, Path], ...]
    time_limit_s: float | None = None


@dataclass(frozen=True)
class FitJob:
    """Train the network of one encoder on one split of a task, and keep what it predicts."""

    entry: EncoderEntry
    assessment: Assessment
    key: tuple[int, int]
    folder: Path
    features: Path
    organ: str
    device: Device


@dataclass(frozen=True)
class EvaluateJob:
    """Score one encoder on one task under one protocol.

    `embeddings` is the file of its embeddings, or the folder of its fits where the protocol trains
    networks; `embeddings_hash` says what is in it. `features` are those of the cohort; None where
    a submission does not say.
    """

    results: Path
    entry: EncoderEntry
    fingerprint: str
    assessment: Assessment
    embeddings: Path
    embeddings_hash: str
    resume_key: str
    features: RecordFeatures | None
    source: Source
    variant: str
    machine: dict[str, Any]

    @property
    def board(self) -> str:
        """The board its record belongs to."""
        return board_name(self.source, self.variant)

    @property
    def cost(self) -> float:
        """A rough cost, so that long jobs start first."""
        weight = {"cox": 100.0, "few-shot": 3.0}.get(self.assessment.protocol.method.kind, 1.0)
        return weight * len(self.assessment.units.table)


def run_embed_job(job: EmbedJob) -> Outcome:
    """Write the embeddings of some slides, one part file an encoder, and say what failed."""
    with threadpool_limits(1):
        failed: dict[str, Failure] = {}
        encoders: dict[str, SlideEncoder] = {}
        for entry, _ in job.encoders:
            try:
                encoders[entry.card.name] = _loaded(entry)
            except MbenchError as error:
                failed[entry.card.name] = Failure.of(error)
        try:
            done, costs, raised = embed_slides(encoders, job.data, job.slide_ids, job.time_limit_s)
            failed.update({name: Failure.of(error) for name, error in raised.items()})
        except MbenchError as error:
            done, costs = {}, {}
            failed.update({entry.card.name: Failure.of(error) for entry, _ in job.encoders})
        for entry, part in job.encoders:
            name = entry.card.name
            if name in done:
                # Each by itself: another process may have joined and removed the parts of one.
                try:
                    store = EmbeddingStore(part.parent)
                    store.write_cost(part, costs[name])
                    store.write(part, job.slide_ids, done[name])
                except MbenchError as error:
                    failed[name] = Failure.of(error)
    note = f"{job.cohort_id} {job.slide_ids[-1]}"
    return Outcome(note, {(name, job.cohort_id): reason for name, reason in failed.items()})


def run_fit_job(job: FitJob) -> Outcome:
    """Train, predict, and write the fit; say what failed."""
    import torch

    started = time.perf_counter()
    task, protocol = job.assessment.task, job.assessment.protocol
    name = job.entry.card.name
    note = f"{name} {task.id} {job.key[0]}/{job.key[1]}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            splits = seeded_splits(protocol, job.assessment.splits)
            split = next(split for split in splits if split.key == job.key)
            packed = _opened(str(job.features), file_state(job.features / INDEX))
            bags = UnitBags(packed, job.assessment.units)
            request = FitRequest(task, protocol, job.assessment.units, split, job.organ)
            made = fit(_loaded(job.entry), bags, request, job.device)
            path = fit_path(job.folder, job.key)
            seconds = round(time.perf_counter() - started, 3)
            device = torch_device(job.device).type
            write_text(path.with_suffix(".json"), json.dumps([seconds, device]) + "\n")
            write_fit(path, made)
    except MbenchError as error:
        return Outcome(note, {(name, f"{task.name} {protocol.name}"): Failure.of(error)})
    finally:
        torch.set_num_threads(threads)
    return Outcome(note)


def run_evaluate_job(job: EvaluateJob) -> Outcome:
    """Fit, predict, score, and write predictions and record; say what failed."""
    started = time.perf_counter()
    task, protocol, units = job.assessment.task, job.assessment.protocol, job.assessment.units
    name = job.entry.card.name
    note = f"{name} {task.id} {protocol.name}"
    try:
        return_freed_memory()
        evaluation, dim, cost = _evaluated(job)
        return_freed_memory()
        scores = score(task, protocol, evaluation.predictions, evaluation.fits, dim)
        return_freed_memory()
        store = ResultStore(job.results)
        cell = (job.board, name, task.name, protocol.name, job.resume_key)
        folds = _folds(scores, evaluation, job.assessment.splits.key_names)
        sound = sum(fold.converged for fold in folds)
        store.write_record(
            {
                "resume_key": job.resume_key,
                "source": job.source,
                "variant": job.variant,
                "encoder": _encoder(job),
                "task": _task(job.assessment),
                "protocol": protocol.name,
                "scoring_version": SCORING_VERSION,
                "features": job.features,
                "inputs": RecordInputs(
                    embeddings=job.embeddings_hash,
                    labels=units.hash,
                    splits=job.assessment.splits.hash,
                    n=len(units.table),
                    dim=dim,
                    missing={reason: tuple(ids) for reason, ids in sorted(units.missing.items())},
                ),
                "scores": _scores(scores, task),
                "folds": folds,
                "predictions": store.write_predictions(*cell, evaluation.predictions),
                "provenance": {
                    **job.machine,
                    **cost,
                    "blas": blas_libraries(),
                    "seconds": round(time.perf_counter() - started, 3),
                    "peak_memory_mb": peak_memory_mb(),
                },
                "status": "ok" if sound == len(folds) else "partly-failed" if sound else "failed",
            }
        )
    except MbenchError as error:
        return Outcome(note, {(name, task.name): Failure.of(error)})
    return Outcome(note)


def _evaluated(job: EvaluateJob) -> tuple[Evaluation, int, dict[str, Any]]:
    """Return the evaluation, the width of what it started from, and what that had cost."""
    task, protocol, units = job.assessment.task, job.assessment.protocol, job.assessment.units
    if protocol.trains_networks:
        evaluation = collect(job.embeddings, task, protocol, units, job.assessment.splits)
        paths = [fit_path(job.embeddings, report.key) for report in evaluation.fits]
        first = read_fit(paths[0])
        assert first is not None  # it was collected
        return evaluation, len(first.scale["centre"]), {"training": _training(paths)}
    matrix = unit_embeddings(read_embeddings(job.embeddings), units, job.assessment.groups)
    evaluation = evaluate(task, protocol, matrix, units, job.assessment.splits)
    return evaluation, matrix.shape[1], {"encoding": _encoding(job.embeddings)}


def _training(paths: list[Path]) -> dict[str, Any]:
    """Return what fits cost: seconds in all, and on which devices; empty where nothing is known."""
    try:
        known = [
            json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in paths
        ]
        seconds, devices = zip(*known, strict=True)
        return {"seconds": round(sum(seconds), 3), "devices": sorted(set(devices))}
    except (OSError, ValueError, TypeError):
        return {}


def _encoding(embeddings: Path) -> dict[str, float | int | None]:
    """Return what is known of the cost of embeddings; empty where nothing is."""
    cost = EmbeddingStore(embeddings.parent).cost(embeddings)
    if cost is None or not cost.slides:
        return {}
    each = float(f"{cost.seconds / cost.slides:.3g}")
    return {"slides": cost.slides, "seconds_per_slide": each, "parameters": cost.parameters}


def _encoder(job: EvaluateJob) -> RecordEncoder:
    card = job.entry.card
    return RecordEncoder(
        name=card.name,
        revision=card.revision,
        title=card.title,
        kind=card.kind,
        fingerprint=job.fingerprint,
        training_cohorts=card.training_cohorts,
    )


def _task(assessment: Assessment) -> RecordTask:
    task = assessment.task
    return RecordTask(
        id=task.id,
        version=task.version,
        task_hash=assessment.task_hash,
        family=task.family,
        cohort=task.cohort,
    )


def _scores(scores: Scores, task: TaskSpec) -> RecordScores:
    main = MainScore(
        metric=task.metric.name,
        value=scores.value,
        chance=task.metric.chance,
        ci95=scores.ci95,
        method=scores.ci_method,
        rare_cases=scores.rare_cases,
    )
    return RecordScores(main=main, secondary=dict(scores.secondary))


def _folds(
    scores: Scores, evaluation: Evaluation, key_names: tuple[str, str]
) -> tuple[RecordFold, ...]:
    fits = {fit.key: fit for fit in evaluation.fits}
    return tuple(
        RecordFold(
            key=dict(zip(key_names, fold.key, strict=True)),
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
    )


@lru_cache(maxsize=2)
def _opened(path: str, state: tuple[int, ...]) -> FeatureStore:
    """Return a packed store, opened once for each process until its index changes.

    Every slide of it has been checked before the jobs were given out.
    """
    return open_store(Path(path), verify=False)


@lru_cache(maxsize=32)
def _loaded_by_path(path: str, card: str, code: str) -> SlideEncoder:
    return load_encoder(EncoderEntry(EncoderCard.model_validate_json(card), Path(path), path))


def _loaded(entry: EncoderEntry) -> SlideEncoder:
    """Return the encoder, made once for each process until its card or code is another."""
    code = hash_code([code_file(entry.path, entry.card.implementation)])
    return _loaded_by_path(str(entry.path), entry.card.model_dump_json(), code)

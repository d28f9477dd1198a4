"""Records of the cells of a run: those that are there are kept, the others are scored."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import EmbeddingStore, read_embeddings
from madeleine_bench.errors import MbenchError
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.results import Evaluation
from madeleine_bench.protocols.scoring import SCORING_VERSION, Scores, score
from madeleine_bench.provenance import blas_libraries, peak_memory_mb, return_freed_memory
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.failures import Failure, Outcome
from madeleine_bench.runner.plan import Cell, resume_key
from madeleine_bench.specs.record import MainScore, RecordFeatures, RecordFold
from madeleine_bench.types import Source, board_name


@dataclass(frozen=True)
class EvaluateJob:
    """Score one encoder on one task under one protocol.

    Attributes:
        results: the results folder.
        cell: encoder and assessment.
        embeddings: the file of its embeddings, or the folder of its fits where the protocol trains
            networks.
        content: hash of what is in them.
        features: those of the cohort; None where a submission does not say.
        source: of the cohort.
        variant: of the cohort.
        machine: what the record says of this machine.
    """

    results: Path
    cell: Cell
    embeddings: Path
    content: str
    features: RecordFeatures | None
    source: Source
    variant: str
    machine: Mapping[str, Any]

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        """Board, encoder, task, protocol and resume key of its record."""
        assessment = self.cell.assessment
        board, key = board_name(self.source, self.variant), resume_key(self.content, assessment)
        name, protocol = self.cell.entry.card.name, assessment.protocol.name
        return board, name, assessment.task.name, protocol, key

    @property
    def cost(self) -> float:
        """A rough cost, so that long jobs start first."""
        assessment = self.cell.assessment
        weight = {"cox": 100.0, "few-shot": 3.0}.get(assessment.protocol.method.kind, 1.0)
        return weight * len(assessment.units.table)


def run_evaluate_job(job: EvaluateJob) -> Outcome:
    """Fit, predict, score, and write predictions and record; say what failed."""
    started = time.perf_counter()
    task, protocol = job.cell.assessment.task, job.cell.assessment.protocol
    try:
        return_freed_memory()
        evaluation, dim, cost = _evaluated(job)
        return_freed_memory()
        scores = score(task, protocol, evaluation.predictions, evaluation.fits, dim)
        return_freed_memory()
        store = ResultStore(job.results)
        content = _content(job, evaluation, scores, dim)
        content["predictions"] = store.write_predictions(*job.place, evaluation.predictions)
        content["provenance"] = {
            **job.machine,
            **cost,
            "blas": blas_libraries(),
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_mb": peak_memory_mb(),
        }
        store.write_record(content)
    except MbenchError as error:
        return _outcome(job, Failure.of(error))
    return _outcome(job)


def on_worker_death(job: EvaluateJob, reason: str) -> Outcome:
    """Return the outcome of a job that ended its worker each time."""
    return _outcome(job, Failure(f"{job.cell.assessment.protocol.name}: {reason}"))


def _outcome(job: EvaluateJob, failure: Failure | None = None) -> Outcome:
    name, assessment = job.cell.entry.card.name, job.cell.assessment
    note = f"{name} {assessment.task.id} {assessment.protocol.name}"
    return Outcome(note, {(name, assessment.task.name): failure} if failure else {})


def _evaluated(job: EvaluateJob) -> tuple[Evaluation, int, dict[str, Any]]:
    """Return the evaluation, the width of what it started from, and what that had cost."""
    assessment = job.cell.assessment
    task, protocol, units = assessment.task, assessment.protocol, assessment.units
    if protocol.trains_networks:
        from madeleine_bench.finetuning.evaluation import collect, fit_path, read_fit

        evaluation = collect(job.embeddings, task, protocol, units, assessment.splits)
        paths = [fit_path(job.embeddings, report.key) for report in evaluation.fits]
        first = read_fit(paths[0])
        assert first is not None  # it was collected
        return evaluation, len(first.scale["centre"]), {"training": _training_cost(paths)}
    matrix = unit_embeddings(read_embeddings(job.embeddings), units, assessment.groups)
    evaluation = evaluate(task, protocol, matrix, units, assessment.splits)
    return evaluation, matrix.shape[1], {"encoding": _encoding_cost(job.embeddings)}


def _content(job: EvaluateJob, evaluation: Evaluation, scores: Scores, dim: int) -> dict[str, Any]:
    """Return what the record says, but for predictions and provenance."""
    assessment, card = job.cell.assessment, job.cell.entry.card
    task, units = assessment.task, assessment.units
    fits = {fit.key: fit for fit in evaluation.fits}
    folds = []
    for fold in scores.folds:
        key = dict(zip(assessment.splits.key_names, fold.key, strict=True))
        fit = {"n_iter": fits[fold.key].n_iter, "diagnostics": fits[fold.key].diagnostics}
        folds.append(RecordFold.model_validate({**asdict(fold), "key": key, **fit}))
    converged = [fold.converged for fold in scores.folds]
    return {
        "resume_key": job.place[-1],
        "source": job.source,
        "variant": job.variant,
        "encoder": {
            **card.model_dump(include={"name", "revision", "title", "kind", "training_cohorts"}),
            "fingerprint": job.cell.fingerprint,
        },
        "task": {
            **task.model_dump(include={"id", "version", "family", "cohort"}),
            "task_hash": assessment.task_hash,
        },
        "protocol": assessment.protocol.name,
        "scoring_version": SCORING_VERSION,
        "features": job.features,
        "inputs": {
            "embeddings": job.content,
            "labels": units.hash,
            "splits": assessment.splits.hash,
            "n": len(units.table),
            "dim": dim,
            "missing": dict(sorted(units.missing.items())),
        },
        "scores": {
            "main": MainScore(
                metric=task.metric.name,
                value=scores.value,
                chance=task.metric.chance,
                ci95=scores.ci95,
                method=scores.ci_method,
                rare_cases=scores.rare_cases,
            ),
            "secondary": scores.secondary,
        },
        "folds": folds,
        "status": "ok" if all(converged) else "partly-failed" if any(converged) else "failed",
    }


def _training_cost(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what fits cost: seconds in all, and on which devices; empty where nothing is known."""
    try:
        costs = [json.loads(path.with_suffix(".json").read_text("utf-8")) for path in paths]
        seconds, devices = zip(*costs, strict=True)
        return {"seconds": round(sum(seconds), 3), "devices": sorted(set(devices))}
    except (OSError, ValueError, TypeError):
        return {}


def _encoding_cost(embeddings: Path) -> dict[str, float | int | None]:
    """Return what is known of the cost of embeddings; empty where nothing is."""
    cost = EmbeddingStore(embeddings.parent).cost(embeddings)
    if cost is None or not cost.slides:
        return {}
    each = float(f"{cost.seconds / cost.slides:.3g}")
    return {"slides": cost.slides, "seconds_per_slide": each, "parameters": cost.parameters}

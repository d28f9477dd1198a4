"""One run, top to bottom: plan, embed, evaluate, report. Interrupt it anywhere and run it again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.errors import InputError
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.jobs import (
    EmbedJob,
    EvaluateJob,
    run_embed_job,
    run_evaluate_job,
)
from madeleine_bench.runner.plan import (
    Plan,
    Request,
    board_of,
    embeddings_key,
    make_plan,
    resume_key,
    slides_with_bags,
)
from madeleine_bench.runner.workers import in_parallel
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.types import Progress

SHARD_SLIDES = 64


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        catalogue: the catalogue it ran on.
        boards: boards its records belong to.
        computed: records made.
        reused: records that were there already.
        failures: what failed and why: (encoder or cohort, reason).
    """

    catalogue: Catalogue
    boards: list[str]
    computed: int = 0
    reused: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def run(request: Request, progress: Progress) -> RunReport:
    """Return the report of a run; its records lie in the results folder.

    Raises:
        InputError: the request cannot be carried out. Nothing has been computed then.
    """
    plan = make_plan(request)
    report = RunReport(plan.catalogue, plan.boards)
    embeddings = _embed(plan, request, progress, report)
    _evaluate(plan, request, embeddings, progress, report)
    return report


def _embed(
    plan: Plan, request: Request, progress: Progress, report: RunReport
) -> dict[tuple[str, str], tuple[Path, str]]:
    """Return path and content hash of the embeddings of each (encoder, cohort) that has them."""
    store = EmbeddingStore(request.results)
    ready: dict[tuple[str, str], tuple[Path, str]] = {}
    missing: dict[tuple[str, str], tuple[Path, int]] = {}
    jobs: list[EmbedJob] = []
    for cohort_id, cohort in plan.cohorts.items():
        slide_ids = slides_with_bags(cohort.data)
        shards = [
            slide_ids[start : start + SHARD_SLIDES]
            for start in range(0, len(slide_ids), SHARD_SLIDES)
        ]
        wanted: list[tuple[Any, Path]] = []
        for entry, print_ in plan.encoders:
            key = embeddings_key(print_, cohort.data, slide_ids)
            path = store.path(board_of(cohort.data), entry.card.name, cohort_id, key)
            content = None if request.resume == "never" else store.content_hash(path)
            if content is not None:
                ready[entry.card.name, cohort_id] = (path, content)
            elif request.resume == "always":
                report.failures.append(
                    (f"{entry.card.name} on {cohort_id}", "not embedded yet, and --resume always")
                )
            else:
                missing[entry.card.name, cohort_id] = (path, len(shards))
                wanted.append((entry, path))
        for shard, ids in enumerate(shards):
            parts = [(entry, store.part(path, shard)) for entry, path in wanted]
            todo = tuple(
                (entry, part)
                for entry, part in parts
                if request.resume == "never" or not part.is_file()
            )
            if todo:
                jobs.append(EmbedJob(cohort_id, cohort.data, tuple(ids), todo))
    failed: dict[tuple[str, str], str] = {}
    progress.phase("embed", len(jobs))
    for outcome in in_parallel(run_embed_job, jobs, request.jobs):
        failed.update(outcome.failed)
        progress.advance(outcome.note)
    for (encoder, cohort_id), (path, shards_made) in missing.items():
        reason = failed.get((encoder, cohort_id))
        if reason is None:
            try:
                ready[encoder, cohort_id] = (path, store.join(path, shards_made))
            except InputError as error:
                reason = str(error)
        if reason is not None:
            report.failures.append((f"{encoder} on {cohort_id}", reason))
    return ready


def _evaluate(
    plan: Plan,
    request: Request,
    embeddings: dict[tuple[str, str], tuple[Path, str]],
    progress: Progress,
    report: RunReport,
) -> None:
    """Make the record of every cell whose embeddings are there and whose record is not."""
    results = ResultStore(request.results)
    machine: dict[str, Any] | None = None
    jobs: list[EvaluateJob] = []
    for assessment in plan.assessments:
        data = plan.cohorts[assessment.task.cohort].data
        board = board_of(data)
        for entry, print_ in plan.encoders:
            found = embeddings.get((entry.card.name, assessment.task.cohort))
            if found is None:
                continue
            path, content = found
            key = resume_key(content, assessment)
            cell = (board, entry.card.name, assessment.task.name, assessment.protocol.name)
            if request.resume != "never" and results.find(*cell, key) is not None:
                report.reused += 1
            elif request.resume == "always":
                report.failures.append((" ".join(cell), "no record yet, and --resume always"))
            else:
                machine = machine or machine_provenance()
                jobs.append(
                    EvaluateJob(
                        results=results.folder,
                        entry=entry,
                        fingerprint=print_,
                        assessment=assessment,
                        embeddings=path,
                        embeddings_hash=content,
                        resume_key=key,
                        source=data.source,
                        variant=data.variant,
                        machine=machine,
                    )
                )
    jobs.sort(key=lambda job: -job.cost)
    progress.phase("evaluate", len(jobs))
    for outcome in in_parallel(run_evaluate_job, jobs, request.jobs):
        report.failures.extend((f"{e} on {t}", reason) for (e, t), reason in outcome.failed.items())
        report.computed += not outcome.failed
        progress.advance(outcome.note)

"""Embeddings of cohorts by encoders: those that are there are kept, the others are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.errors import MbenchError
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.jobs import EmbedJob, Outcome, run_embed_job
from madeleine_bench.runner.plan import Resume, board_of, embeddings_key, slides_with_bags
from madeleine_bench.runner.workers import Executor, LocalWorkers
from madeleine_bench.types import CohortData, Progress

SHARD_SLIDES = 64
# By (encoder, name of what was embedded): path and content hash, or the reason why there is none.
Ready = dict[tuple[str, str], tuple[Path, str]]
Failures = dict[tuple[str, str], Failure]


@dataclass(frozen=True)
class ToEmbed:
    """Bags to embed and the encoders, each with its fingerprint, that are to do it.

    `name` is that of the file: the id of a cohort, or what tells its cases from its slides.
    """

    name: str
    data: CohortData
    encoders: tuple[tuple[EncoderEntry, str], ...]


def embed(
    wanted: Sequence[ToEmbed],
    results: Path,
    workers: int,
    resume: Resume,
    progress: Progress,
    executor: Executor | None = None,
    time_limit_s: float | None = None,
) -> tuple[Ready, Failures]:
    """Return which embeddings there are now, and why the others are missing.

    Slides are embedded in shards, each bag read once for all encoders; a run that was cut off goes
    on with the shards that are not there.

    Args:
        wanted: bags and encoders.
        results: the results folder.
        workers: processes of this machine, where there is no executor.
        resume: what to do with embeddings that are there.
        progress: told of each shard.
        executor: where the shards are embedded.
        time_limit_s: the most that an encoder may take for one slide; None sets no limit.
    """
    executor = executor or LocalWorkers(workers, apart=time_limit_s is not None)
    store = EmbeddingStore(results)
    ready: Ready = {}
    failed: Failures = {}
    missing: dict[tuple[str, str], tuple[Path, int]] = {}
    jobs: list[EmbedJob] = []
    for each in wanted:
        slide_ids = slides_with_bags(each.data)
        shards = [
            tuple(slide_ids[start : start + SHARD_SLIDES])
            for start in range(0, len(slide_ids), SHARD_SLIDES)
        ]
        lacking: list[tuple[EncoderEntry, Path]] = []
        for entry, print_ in each.encoders:
            key = embeddings_key(print_, each.data, slide_ids)
            path = store.path(board_of(each.data), entry.card.name, each.name, key)
            content = None if resume == "never" else store.content_hash(path)
            place = (entry.card.name, each.name)
            if content is not None:
                store.drop_parts(path)
                ready[place] = (path, content)
            elif resume == "always":
                failed[place] = Failure("not embedded yet, and --resume always", of_input=True)
            else:
                missing[place] = (path, len(shards))
                lacking.append((entry, path))
        for shard, ids in enumerate(shards):
            parts = [(entry, store.part(path, shard)) for entry, path in lacking]
            if todo := tuple((e, p) for e, p in parts if resume == "never" or not p.is_file()):
                jobs.append(EmbedJob(each.name, each.data.part(ids), ids, todo, time_limit_s))
    progress.phase("embed", len(jobs))
    alone: list[EmbedJob] = []

    def set_apart(job: EmbedJob, reason: str) -> Outcome:
        # One of its encoders ended the worker; each alone shows which, and the others are kept.
        if len(job.encoders) == 1:
            return _on_worker_death(job, reason)
        alone.extend(replace(job, encoders=(one,)) for one in job.encoders)
        return Outcome(f"{job.cohort_id}: each encoder alone")

    for outcome in executor.run(run_embed_job, jobs, set_apart):
        failed.update(outcome.failed)
        progress.advance(outcome.note)
    for outcome in executor.run(run_embed_job, alone, _on_worker_death):
        failed.update(outcome.failed)
    for place, (path, shards_made) in missing.items():
        if place in failed and resume != "never":
            # Another process that made the same has ended, and cleared away what was half done.
            if (content := store.content_hash(path)) is not None:
                ready[place] = (path, content)
                del failed[place]
        elif place not in failed:
            try:
                ready[place] = (path, store.join(path, shards_made))
            except MbenchError as error:
                failed[place] = Failure.of(error)
    return ready, failed


def _on_worker_death(job: EmbedJob, reason: str) -> Outcome:
    where = f"slides {job.slide_ids[0]} to {job.slide_ids[-1]}: {reason}"
    if job.time_limit_s is not None:
        where += f"; or it hung, and did not end after --time-limit {job.time_limit_s:g}"
    failed = {(entry.card.name, job.cohort_id): Failure(where) for entry, _ in job.encoders}
    return Outcome(f"{job.cohort_id} {job.slide_ids[-1]}", failed)

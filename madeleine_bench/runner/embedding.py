"""Embeddings of cohorts by encoders: those that are there are kept, the others are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from threadpoolctl import threadpool_limits

from madeleine_bench.embeddings.compute import embed_slides
from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.registry import EncoderEntry, load_encoder
from madeleine_bench.errors import MbenchError
from madeleine_bench.hashing import hash_code
from madeleine_bench.runner.cohorts import board_of, slides_with_bags
from madeleine_bench.runner.failures import Failure, Outcome
from madeleine_bench.runner.plan import Resume, embeddings_key
from madeleine_bench.runner.workers import Executor, LocalWorkers
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.implementation import code_file
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import CohortData, Progress

SHARD_SLIDES = 64
# By (encoder, name of what was embedded): path and content hash, or the reason why there is none.
Ready = dict[tuple[str, str], tuple[Path, str]]
Failures = dict[tuple[str, str], Failure]


@dataclass(frozen=True)
class ToEmbed:
    """Bags to embed and the encoders, each with its fingerprint, that are to do it.

    `name` is that of the file: the id of a cohort, or what tells its cases from its slides.
    `folder` is the feature folder of a cohort that has several.
    """

    name: str
    data: CohortData
    encoders: tuple[tuple[EncoderEntry, str], ...]
    folder: str = ""

    @property
    def place(self) -> str:
        """Name, and feature folder where there are several."""
        return f"{self.name} {self.folder}".rstrip()


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


def embed(
    bags: Sequence[ToEmbed],
    workspace: Workspace,
    progress: Progress,
    *,
    resume: Resume = "only-missing",
    executor: Executor | None = None,
    time_limit_s: float | None = None,
) -> tuple[Ready, Failures]:
    """Return which embeddings there are now, and why the others are missing.

    Slides are embedded in shards, each bag read once for all encoders; a run that was cut off goes
    on with the shards that are not there.

    Args:
        bags: what to embed, and by which encoders.
        workspace: results folder, and worker processes where there is no executor.
        progress: told of each shard.
        resume: what to do with embeddings that are there.
        executor: where the shards are embedded.
        time_limit_s: the most that an encoder may take for one slide; None sets no limit.
    """
    executor = executor or LocalWorkers(workspace.jobs, apart=time_limit_s is not None)
    store = EmbeddingStore(workspace.results)
    ready: Ready = {}
    failed: Failures = {}
    missing: dict[tuple[str, str], tuple[Path, int]] = {}
    jobs: list[EmbedJob] = []
    for each in bags:
        slide_ids = slides_with_bags(each.data)
        starts = range(0, len(slide_ids), SHARD_SLIDES)
        shards = [tuple(slide_ids[start : start + SHARD_SLIDES]) for start in starts]
        incomplete: list[tuple[EncoderEntry, Path]] = []
        for entry, print_ in each.encoders:
            key = embeddings_key(print_, each.data, slide_ids)
            path = store.path(board_of(each.data), entry.card.name, each.name, key)
            content = None if resume == "never" else store.content_hash(path)
            place = (entry.card.name, each.place)
            if content is not None:
                store.drop_parts(path)
                ready[place] = (path, content)
            else:
                missing[place] = (path, len(shards))
                incomplete.append((entry, path))
        for shard, ids in enumerate(shards):
            parts = [(entry, store.part(path, shard)) for entry, path in incomplete]
            if todo := tuple((e, p) for e, p in parts if resume == "never" or not p.is_file()):
                jobs.append(EmbedJob(each.place, each.data.part(ids), ids, todo, time_limit_s))
    progress.phase("embed", len(jobs))
    singles: list[EmbedJob] = []

    def separate(job: EmbedJob, reason: str) -> Outcome:
        # One of its encoders ended the worker; each alone shows which, and the others are kept.
        if len(job.encoders) == 1:
            return _on_worker_death(job, reason)
        singles.extend(replace(job, encoders=(one,)) for one in job.encoders)
        return Outcome(f"{job.cohort_id}: each encoder alone")

    for outcome in executor.run(run_embed_job, jobs, separate):
        failed.update(outcome.failed)
        for line in outcome.said:
            progress.say(line)
        progress.advance(outcome.note)
    for outcome in executor.run(run_embed_job, singles, _on_worker_death):
        failed.update(outcome.failed)
        for line in outcome.said:
            progress.say(line)
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


def run_embed_job(job: EmbedJob) -> Outcome:
    """Write the embeddings of some slides, one part file an encoder, and say what failed."""
    failed: dict[str, Failure] = {}
    encoders: dict[str, SlideEncoder] = {}
    too_large: dict[str, dict[str, str]] = {}
    with threadpool_limits(1):
        for entry, _ in job.encoders:
            try:
                encoders[entry.card.name] = loaded_encoder(entry)
            except MbenchError as error:
                failed[entry.card.name] = Failure.of(error)
        try:
            done, costs, raised, too_large = embed_slides(
                encoders, job.data, job.slide_ids, job.time_limit_s
            )
            failed |= {name: Failure.of(error) for name, error in raised.items()}
        except MbenchError as error:
            done, costs = {}, {}
            failed |= {entry.card.name: Failure.of(error) for entry, _ in job.encoders}
        for entry, part in job.encoders:
            if (name := entry.card.name) in done:
                # Each by itself: another process may have joined and removed the parts of one.
                try:
                    store = EmbeddingStore(part.parent)
                    store.write_cost(part, costs[name])
                    ids = [one for one in job.slide_ids if one not in too_large[name]]
                    store.write(part, ids, done[name])
                except MbenchError as error:
                    failed[name] = Failure.of(error)
    said = tuple(line for lines in too_large.values() for line in lines.values())
    return replace(_outcome(job, failed), said=said)


def _on_worker_death(job: EmbedJob, reason: str) -> Outcome:
    where = f"slides {job.slide_ids[0]} to {job.slide_ids[-1]}: {reason}"
    if job.time_limit_s is not None:
        where += f"; or it hung, and did not end after --time-limit {job.time_limit_s:g}"
    return _outcome(job, {entry.card.name: Failure(where) for entry, _ in job.encoders})


def _outcome(job: EmbedJob, failed: dict[str, Failure]) -> Outcome:
    note = f"{job.cohort_id} {job.slide_ids[-1]}"
    return Outcome(note, {(name, job.cohort_id): reason for name, reason in failed.items()})


def loaded_encoder(entry: EncoderEntry) -> SlideEncoder:
    """Return the encoder, made once for each process until its card or code is another."""
    code = hash_code([code_file(entry.path, entry.card.implementation)])
    return _loaded_by_path(str(entry.path), entry.card.model_dump_json(), code)


@lru_cache(maxsize=32)
def _loaded_by_path(path: str, card: str, code: str) -> SlideEncoder:
    return load_encoder(EncoderEntry(EncoderCard.model_validate_json(card), Path(path), path))

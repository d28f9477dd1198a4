"""Embeddings of cohorts by encoders: those that are there are kept, the others are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.encoders.registry import EncoderEntry
from madeleine_bench.errors import InputError
from madeleine_bench.runner.jobs import EmbedJob, run_embed_job
from madeleine_bench.runner.plan import Resume, board_of, embeddings_key, slides_with_bags
from madeleine_bench.runner.workers import in_parallel
from madeleine_bench.types import CohortData, Progress

SHARD_SLIDES = 64
# By (encoder, name of what was embedded): path and content hash, or the reason why there is none.
Ready = dict[tuple[str, str], tuple[Path, str]]
Failures = dict[tuple[str, str], str]


@dataclass(frozen=True)
class ToEmbed:
    """Bags to embed and the encoders, each with its fingerprint, that are to do it.

    `name` is that of the file: the id of a cohort, or what tells its cases from its slides.
    """

    name: str
    data: CohortData
    encoders: tuple[tuple[EncoderEntry, str], ...]


def embed(
    wanted: Sequence[ToEmbed], results: Path, workers: int, resume: Resume, progress: Progress
) -> tuple[Ready, Failures]:
    """Return which embeddings there are now, and why the others are missing.

    Slides are embedded in shards, each bag read once for all encoders; a run that was cut off goes
    on with the shards that are not there.
    """
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
                ready[place] = (path, content)
            elif resume == "always":
                failed[place] = "not embedded yet, and --resume always"
            else:
                missing[place] = (path, len(shards))
                lacking.append((entry, path))
        for shard, ids in enumerate(shards):
            parts = [(entry, store.part(path, shard)) for entry, path in lacking]
            if todo := tuple((e, p) for e, p in parts if resume == "never" or not p.is_file()):
                jobs.append(EmbedJob(each.name, each.data, ids, todo))
    progress.phase("embed", len(jobs))
    for outcome in in_parallel(run_embed_job, jobs, workers):
        failed.update(outcome.failed)
        progress.advance(outcome.note)
    for place, (path, shards_made) in missing.items():
        if place not in failed:
            try:
                ready[place] = (path, store.join(path, shards_made))
            except InputError as error:
                failed[place] = str(error)
    return ready, failed

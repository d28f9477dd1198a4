"""Is a run the same whenever it is made? Its cells made again otherwise, and bytes compared."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.runner.workers import Executor, Job, LocalWorkers, Result
from madeleine_bench.specs.record import Record
from madeleine_bench.types import Progress


class Shuffled(Executor):
    """An executor that hands the jobs out in another order."""

    def __init__(self, inner: Executor, seed: int) -> None:
        self.inner, self.seed, self.jobs_ahead = inner, seed, inner.jobs_ahead

    def spread(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], at_once: int, gpu: bool
    ) -> Iterator[tuple[Job, str | None, Any]]:
        """Yield each job with its result; see `Executor`."""
        shuffled = random.Random(self.seed).sample(jobs, len(jobs))
        return self.inner.spread(work, shuffled, at_once, gpu)


def check_determinism(request: Request, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Return how many files were compared, and a line for each difference, of a run made again.

    Everything is made again: with one worker more, one thread more for each, the jobs in another
    order, and in new processes of this machine, whatever the executor was.

    Args:
        request: of the run, whose results are there.
        progress: told of each job.

    Raises:
        InputError: the request cannot be carried out.
    """
    workers = request.workspace.jobs + 1
    threads = max((os.cpu_count() or 1) // request.workspace.jobs, 1) + 1
    with tempfile.TemporaryDirectory(prefix="mbench-again-") as folder:
        again = replace(
            request,
            workspace=replace(request.workspace, results=Path(folder), jobs=workers),
            resume="never",
            executor="local",
            scheduler=None,
        )
        executor = Shuffled(LocalWorkers(workers, apart=True, threads=threads), seed=workers)
        report = run(again, progress, executor)
        lines = [f"{what}: failed when it was made again: {why}" for what, why in report.failures]
        embeddings = list(_embeddings(request.workspace.results, again.workspace.results))
        predictions = list(_predictions(request.workspace.results, again.workspace.results))
    lines += [line for line in (*embeddings, *predictions) if line is not None]
    return len(embeddings) + len(predictions), tuple(lines)


def _embeddings(first: Path, again: Path) -> Iterator[str | None]:
    """Yield for each file of embeddings how it differs, or None."""
    for path in sorted((again / "embeddings").rglob("*.safetensors")):
        relative = path.relative_to(again)
        before = first / relative
        what = f"embeddings of {path.parent.name} on {path.name.split('.')[0]}"
        if not before.is_file():
            yield f"{what}: the run left none ({before})"
        elif before.read_bytes() == path.read_bytes():
            yield None
        else:
            one, other = read_embeddings(before).matrix, read_embeddings(path).matrix
            if one.shape != other.shape:
                yield f"{what}: shape {one.shape}, made again {other.shape}"
            else:
                gap = np.abs(one.astype(np.float64) - other).max(axis=1)
                yield (
                    f"{what}: {int((gap > 0).sum())} of {len(gap)} slides differ, "
                    f"by at most {gap.max():.3g} ({before})"
                )


def _predictions(first: Path, again: Path) -> Iterator[str | None]:
    """Yield for each record made again how its predictions differ, or None."""
    before: dict[tuple[str, ...], list[Record]] = {}
    for record in ResultStore(first).records():
        before.setdefault(_cell(record), []).append(record)
    for record in ResultStore(again).records():
        known = before.get(_cell(record), [])
        what = f"predictions of {record.encoder.name} on {record.task.id}, {record.protocol}"
        if any(one.predictions.hash == record.predictions.hash for one in known):
            yield None
        elif not known:
            yield f"{what}: the run left none"
        else:
            newest = max(known, key=lambda one: one.age)
            yield (
                f"{what}: not the same bytes; {record.scores.main.metric} "
                f"{newest.scores.main.value:.6g}, made again {record.scores.main.value:.6g}"
            )


def _cell(record: Record) -> tuple[str, ...]:
    """Return what tells a record from others by what it was asked of, not by what came out."""
    encoder, task = record.encoder, record.task
    features = record.features.content if record.features else ""
    return (
        record.board, encoder.name, encoder.fingerprint, features, task.task_hash, record.protocol
    )  # fmt: skip

"""Worker processes: jobs in, outcomes out, and nobody left behind when the run is killed."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOOK_EVERY_S = 1.0


def in_parallel(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yield the result of each job as it ends; with one worker, in this process and in order.

    Jobs must not depend on each other. An error of a job is raised here.
    """
    queue = list(jobs)
    if workers == 1 or len(queue) <= 1:
        yield from map(work, queue)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(
        n_jobs=min(workers, len(queue)),
        return_as="generator_unordered",
        initializer=_end_with,
        initargs=(os.getpid(),),
    )
    yield from parallel(delayed(work)(job) for job in queue)


def _end_with(parent: int) -> None:
    """Let this process end soon after its parent does; joblib's own workers would wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()

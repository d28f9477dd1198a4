"""Worker processes: jobs in, outcomes out, and nobody left behind when the run is killed."""

import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from madeleine_bench.errors import InputError
from madeleine_bench.types import Progress

Job = TypeVar("Job")
Result = TypeVar("Result")

ExecutorKind = Literal["local", "dask"]

_LOOK_EVERY_S = 1.0
_LOST_AFTER_S = 5.0
_IDLE_S = 300.0  # a worker that has had nothing to do for so long ends
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Executor(ABC):
    """Where jobs run: processes of this machine, or a cluster.

    The system ends a worker that takes too much memory, and compiled code may crash. Jobs that
    were with a worker then are tried once more when all others have ended, alone; one that ends
    its worker again is given up.
    """

    jobs_ahead: int

    def run(
        self,
        work: Callable[[Job], Result],
        jobs: Iterable[Job],
        on_worker_death: Callable[[Job, str], Result],
        *,
        gpu: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of each job as it ends, in any order.

        Args:
            work: does a job and returns its result; a function of a module.
            jobs: do not depend on each other, and may be done twice.
            on_worker_death: makes the result of a job that ended its worker each time, from why.
            gpu: whether a job computes on a GPU where its worker has one.

        Raises:
            InputError: there is no worker. An error of a job is raised too.
        """
        retry_in_isolation: list[Job] = []
        for job, death, result in self.spread(work, list(jobs), self.jobs_ahead, gpu):
            if death is None:
                yield result
            else:
                retry_in_isolation.append(job)
        for job, death, result in self.spread(work, retry_in_isolation, 1, gpu):
            yield result if death is None else on_worker_death(job, death)

    def spread(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], at_once: int, gpu: bool
    ) -> Iterator[tuple[Job, str | None, Any]]:
        """Yield each job with its result, or with how a worker died while the job was out."""
        waiting, running = iter(jobs), dict[Any, Job]()
        ended: SimpleQueue[Any] = SimpleQueue()

        def submit(number: int) -> None:
            for job in islice(waiting, number):
                future = self.submit(work, job)
                running[future] = job
                future.add_done_callback(ended.put)

        try:
            submit(at_once)
            while running:
                future, death, result = self.take(ended)
                yield running.pop(future), death, result
                submit(1)
        finally:
            if running:  # an error of a job, an interrupt, or nobody wants the rest
                self.cancel(list(running))

    @abstractmethod
    def submit(self, work: Callable[[Job], Result], job: Job) -> Any:
        """Return the future of a job."""

    @abstractmethod
    def take(self, ended: "SimpleQueue[Any]") -> tuple[Any, str | None, Any]:
        """Wait for a future that has ended; return it with how its worker died, or its result."""

    @abstractmethod
    def cancel(self, futures: Sequence[Any]) -> None:
        """End jobs that nobody waits for."""


class LocalWorkers(Executor):
    """Processes of this machine; with one, jobs are done in this process and in order."""

    def __init__(
        self,
        number: int,
        *,
        apart: bool = False,
        threads: int | None = None,
    ) -> None:
        """Choose the processes; they start with the first job.

        Args:
            number: of processes.
            apart: whether jobs are never done in this process, so that one which hangs can be
                ended.
            threads: of libraries that compute, in each process; None shares the CPUs out.
        """
        self.number, self.apart, self.threads = number, apart, threads
        self.jobs_ahead = 2 * number  # none waits for this process; few are blamed for a death
        self._pool_of: dict[Any, Any] = {}  # by future that is out

    def spread(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], at_once: int, gpu: bool
    ) -> Iterator[tuple[Job, str | None, Any]]:
        """Yield each job with its result, or with how a worker died; see `Executor`."""
        if at_once > 1 and not self.apart and (self.number == 1 or len(jobs) == 1):
            yield from ((job, None, work(job)) for job in jobs)
        else:
            yield from super().spread(work, jobs, at_once, gpu)

    def submit(self, work: Callable[[Job], Result], job: Job) -> Any:
        """Return the future of a job."""
        pool = self._pool()
        try:
            future = pool.submit(work, job)
        except BrokenExecutor:
            pool = self._pool()  # of new processes; the jobs that are out tell
            future = pool.submit(work, job)
        self._pool_of[future] = pool
        return future

    def take(self, ended: "SimpleQueue[Any]") -> tuple[Any, str | None, Any]:
        """Wait for a future that has ended; return it with how its worker died, or its result."""
        while True:
            try:
                future = ended.get(timeout=_LOST_AFTER_S)
                break
            except Empty:
                self._end_lost()
        del self._pool_of[future]
        try:
            return future, None, future.result()
        except BrokenExecutor as error:
            return future, _how(error), None

    def _end_lost(self) -> None:
        """End the futures that no thread of their pool watches: they would be waited for for ever.

        A pool may break just while it is given a job, which it then neither does nor refuses.
        """
        for future, pool in list(self._pool_of.items()):
            manager = pool._executor_manager_thread
            if not future.done() and (manager is None or not manager.is_alive()):
                future.set_exception(BrokenExecutor("its pool had ended"))

    def cancel(self, futures: Sequence[Any]) -> None:
        """End the processes with their jobs."""
        for future in futures:
            future.cancel()
        self._pool().shutdown(wait=False, kill_workers=True)

    def _pool(self) -> Any:
        """Return the processes; new ones where the last have died."""
        from joblib.externals.loky import get_reusable_executor

        each = self.threads or max((os.cpu_count() or 1) // self.number, 1)
        chosen = {} if self.threads else os.environ
        return get_reusable_executor(
            max_workers=self.number,
            timeout=_IDLE_S,
            initializer=_end_with,
            initargs=(os.getpid(),),
            env={name: chosen.get(name, str(each)) for name in _THREADS},
        )


@contextmanager
def open_executor(
    kind: ExecutorKind,
    scheduler: str | None,
    jobs: int,
    folder: Path,
    progress: Progress,
    *,
    apart: bool = False,
) -> Iterator[Executor]:
    """Yield what runs jobs until the block ends; no process is left behind then.

    A cluster is opened when the first job comes, so a run with nothing to do opens none.

    Args:
        kind: "local" for processes of this machine, "dask" for workers of dask.
        scheduler: of dask: an address, or a queueing system; None starts workers here.
        jobs: worker processes.
        folder: where jobs write; workers of dask must see it at the same place.
        progress: told which workers there are.
        apart: whether no job may be done in this process, as it may have to be ended.

    Raises:
        InputError: dask is not installed, or the choice contradicts itself.
    """
    if kind == "local":
        if scheduler is not None:
            raise InputError("--scheduler is for --executor dask; add that, or leave it out")
        yield LocalWorkers(jobs, apart=apart)
        return
    from madeleine_bench.runner.dask_workers import DaskWorkers

    with closing(DaskWorkers(scheduler, jobs, folder, progress.say)) as workers:
        yield workers


def in_parallel(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yield the result of each job as it ends; with one worker, in this process and in order.

    Jobs must not depend on each other. An error of a job is raised here.

    Raises:
        InputError: a job has ended its worker twice.
    """

    def on_worker_death(job: Job, reason: str) -> Result:
        raise InputError(f"a job could not be done: {reason}")

    return LocalWorkers(workers).run(work, jobs, on_worker_death)


def _how(error: Exception) -> str:
    """Return how workers ended, such as "SIGKILL(-9)", from what their pool says."""
    codes = re.search(r"exit codes of the workers are \{(.*?)\}", str(error))
    how = codes.group(1) if codes else type(error).__name__
    return (
        f"its worker process died when it was tried again alone ({how}): out of memory, or a crash "
        "of compiled code; fewer --jobs leave more memory to each"
    )


def _end_with(parent: int) -> None:
    """Let this process end soon after its parent does, and not before.

    joblib's workers would wait for ever for a parent that is gone. They also end once they hold
    300 MB more than after their first job, with a warning about a memory leak; ours keep encoders
    and cohorts in caches of limited size on purpose.
    """
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = float("inf")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()

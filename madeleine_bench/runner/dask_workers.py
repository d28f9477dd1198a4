"""Jobs on the workers of dask.distributed, which may come, go and die while the work goes on.

joblib has a backend for dask too. It hands out jobs in batches, and the first job that ends its
worker each time ends the whole run; here each job is a task, and such a job fails alone, by name.
"""

import importlib
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from madeleine_bench import __version__
from madeleine_bench.errors import InputError
from madeleine_bench.runner.dask_clusters import GPU, Connection, connected, describe
from madeleine_bench.runner.workers import Job, Result, suspects_alone
from madeleine_bench.specs.executor import ExecutorSection, LocalCluster

_LOOK_EVERY_S = 1.0
_TASKS_AHEAD = 2048  # keeps 512 workers busy, and bounds what the scheduler must hold
_FETCH_S = 10.0
_ONE_JOB = threading.Lock()
_LAST_RUN: list[str] = []
_SAME = "scheduler and workers need the environment that this mbench runs in"


class DaskWorkers:
    """An executor on a cluster of dask, which is opened when the first job comes.

    dask gives the jobs of a worker that died to others. A job that was with a worker each of the
    times one died is tried once more when all others have ended, alone, as a worker's death is
    blamed on all jobs it held; if its workers die again, it is lost.
    """

    def __init__(
        self, section: ExecutorSection, workers: int, folder: Path, say: Callable[[str], None]
    ) -> None:
        """Prepare to open a cluster.

        Args:
            section: which workers.
            workers: how many on this machine, where the section does not say.
            folder: where jobs write; workers must see it at the same place.
            say: told which workers there are.
        """
        self.section, self.workers, self.say = section, workers, say
        self.folder = folder.absolute()
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._run = uuid.uuid4().hex

    def __enter__(self) -> Self:
        """Begin; nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the cluster, and end what was started for it."""
        self._connection = None
        self._stack.close()

    @property
    def elsewhere(self) -> bool:
        """Whether workers may be on other machines."""
        return not isinstance(self.section, LocalCluster)

    @property
    def _client(self) -> Any:
        assert self._connection is not None  # `_ready` was called
        return self._connection.client

    def run(
        self,
        work: Callable[[Job], Result],
        jobs: Iterable[Job],
        lost: Callable[[Job, str], Result],
        *,
        gpu: bool = False,
    ) -> Iterator[Result]:
        """Yield the result of each job as it ends, in any order.

        Where the section gives workers a GPU each, jobs with `gpu` go to such workers alone.

        Raises:
            InputError: there is no worker for as long as the section waits, the workers are of
                another version or do not see the folder, or the scheduler is gone. An error of a
                job is raised too.
        """
        queue = list(jobs)
        if not queue:
            return
        gpu = gpu and getattr(self.section, "gpus_per_worker", 0) > 0
        self._ready(gpu)
        spread = partial(self._spread, work, gpu)
        yield from suspects_alone(spread, queue, _TASKS_AHEAD, lost)

    def _spread(
        self, work: Callable[[Job], Result], gpu: bool, jobs: Sequence[Job], at_once: int
    ) -> Iterator[tuple[Job, str | None, Any]]:
        """Yield each job with its result, or with why its workers are thought to have died."""
        ended: SimpleQueue[Any] = SimpleQueue()
        waiting, running = deque(jobs), dict[str, tuple[Job, Any]]()
        resources = {GPU: 1} if gpu else None
        workers_seen = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    future = self._client.submit(
                        _do, self._run, work, waiting[0], pure=False, resources=resources
                    )
                    running[future.key] = (waiting.popleft(), future)
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=_LOOK_EVERY_S)
                except Empty:
                    workers_seen = self._look(workers_seen, len(waiting) + len(running))
                    continue
                outcome = self._outcome(future)
                if outcome is None:
                    future.add_done_callback(ended.put)
                    continue
                job, _ = running.pop(future.key)
                yield job, *outcome
        finally:
            if running:
                self._client.cancel([future for _, future in running.values()], force=True)

    def _outcome(self, future: Any) -> tuple[str | None, Any] | None:
        """Return why the workers of a task died, or None and its result.

        None alone where a worker died with the result of its task: dask does the task again.
        """
        try:
            return None, future.result(timeout=_FETCH_S)
        except importlib.import_module("distributed").scheduler.KilledWorker as error:
            times = error.allowed_failures + 1
            return (
                f"its worker died each of the {times} times it was tried alone, last at "
                f"{error.last_worker.address}: out of memory, or a crash of compiled code"
            ), None
        except CancelledError as error:
            raise self._scheduler_gone() from error
        except TimeoutError:
            if future.status == "error":  # of the job itself
                raise
            return None

    def _look(self, seen: float, left: int) -> float:
        """Return when workers were last seen, which is now where there are any."""
        try:
            if self._client.nthreads():
                return time.monotonic()
        except OSError as error:
            raise self._scheduler_gone() from error
        self._check_refusals()
        if time.monotonic() - seen < self.section.wait_s:
            return seen
        raise InputError(
            f"--executor dask: all workers are gone since {self.section.wait_s:g} s, {left} jobs "
            "are left; what was finished is kept, and the same command goes on from there"
        )

    def _check_refusals(self) -> None:
        if self._connection is not None and self._connection.refusals:
            raise InputError(f"--executor dask: {self._connection.refusals[0]}")

    def _scheduler_gone(self) -> InputError:
        return InputError(
            "--executor dask: the scheduler is gone; what was finished is kept, and the same "
            "command goes on from there"
        )

    def _ready(self, gpu: bool) -> None:
        """Open the cluster if that is to be done, and wait until a worker is fit for the jobs."""
        if self._connection is None:
            self.say(f"dask: {describe(self.section, self.workers)}")
            opened = connected(self.section, self.workers)
            self._connection = self._stack.enter_context(opened)
            try:
                _check_version("the scheduler", self._client.run_on_scheduler(_version))
            except ImportError as error:
                raise InputError(f"the scheduler: {error}; {_SAME}") from error
        deadline = time.monotonic() + self.section.wait_s
        while not self._any_fit(gpu):
            self._check_refusals()
            if time.monotonic() > deadline:
                what = f"offers a GPU (dask worker --resources {GPU}=1)" if gpu else "has come"
                raise InputError(
                    f"--executor dask: within {self.section.wait_s:g} s no worker {what}; look "
                    "at the queue and at what workers write, or raise wait_s in [executor]"
                )
            time.sleep(_LOOK_EVERY_S / 4)

    def _any_fit(self, gpu: bool) -> bool:
        """Return whether there is a worker for the jobs.

        Raises:
            InputError: a worker cannot do them as this process would.
        """
        if not self._client.nthreads():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".seen-by-workers-", dir=self.folder) as mark:
            found = self._client.run(_facts, mark.name, on_error="return")
        offers = False
        for address, facts in found.items():
            if isinstance(facts, OSError):
                continue  # it has died since, and another will come
            if isinstance(facts, BaseException):
                raise InputError(f"worker {address}: {facts}; {_SAME}")
            host, version, sees, gpus = facts
            _check_version(f"worker {address} on {host}", version)
            if not sees:
                raise InputError(
                    f"worker {address} on {host} does not see {self.folder}; name a folder on a "
                    "disk that all machines share, at the same place"
                )
            offers |= gpus > 0 or not gpu
        return offers


def _do(run: str, work: Callable[[Job], Result], job: Job) -> Result:
    """Do a job, one at a time in a process: jobs pin the threads of the process they are in.

    A process may outlive the run, and an encoder's code may change before the next.
    """
    with _ONE_JOB:
        if run not in _LAST_RUN:
            _forget()
            _LAST_RUN[:] = [run]
        return work(job)


def _forget() -> None:
    """Empty what functions of this package remember, such as encoders and opened files."""
    for name, module in list(sys.modules.items()):
        if name.startswith("madeleine_bench."):
            for value in list(vars(module).values()):
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


def _version() -> str:
    """Return the version of this package where the function runs."""
    return __version__


def _check_version(who: str, version: str) -> None:
    if version != __version__:
        raise InputError(
            f"{who} has madeleine-bench {version}, this is {__version__}; install the same there"
        )


def _facts(mark: str, dask_worker: Any) -> tuple[str, str, bool, float]:
    """Return host, version, whether a file is seen, and number of GPUs offered, of a worker.

    dask gives the worker to an argument of this name.
    """
    gpus = float(dask_worker.state.total_resources.get(GPU, 0))
    return socket.gethostname(), __version__, os.path.exists(mark), gpus

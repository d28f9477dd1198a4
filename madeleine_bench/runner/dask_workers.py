"""Jobs on the workers of dask.distributed, which may come, go and die while the work goes on."""

import importlib
import importlib.util
import logging
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from madeleine_bench import __version__
from madeleine_bench.errors import InputError
from madeleine_bench.runner.workers import Executor, Job, Result

GPU = "GPU"  # the resource that workers with a GPU of their own offer
QUEUES = ("slurm", "pbs", "lsf", "sge", "oar", "moab", "htcondor")  # of dask-jobqueue
_QUIET = logging.CRITICAL  # what a user must know, the run says in its own words
_CONNECT_S = 30.0
_WORKER_S = 60.0
_LOOK_EVERY_S = 0.25
_SETTLE_S = 1.0
_NO_WORKER = "no worker connected within a minute; start one (dask worker) and check its output"
_ONE_JOB = threading.Lock()


class DaskWorkers(Executor):
    """An executor on a cluster of dask, which is opened when the first job comes.

    dask gives the jobs of a worker that died to others. A worker's death is blamed on all jobs it
    held, so a job that dask gives up is tried once more when all others have ended, alone.
    """

    jobs_ahead = 2048  # keeps 512 workers busy, and bounds what the scheduler must hold

    def __init__(
        self, scheduler: str | None, workers: int, folder: Path, say: Callable[[str], None]
    ) -> None:
        """Prepare to open a cluster.

        Args:
            scheduler: address of a scheduler, or a queueing system; None starts workers here.
            workers: how many are started.
            folder: where jobs write; workers must see it at the same place.
            say: told which workers there are.

        Raises:
            InputError: dask is not installed, or the scheduler is neither.
        """
        self.scheduler, self.workers, self.say = scheduler, workers, say
        self.folder = folder.absolute()
        self._stack = ExitStack()
        self._client: Any = None
        self._resources: dict[str, int] | None = None
        for package in ["distributed"] + ["dask_jobqueue"] * (scheduler in QUEUES):
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"--executor dask needs the package {package.replace('_', '-')}: "
                    'pip install "madeleine-bench[dask]"'
                )
        if scheduler is not None and scheduler not in QUEUES and "://" not in scheduler:
            raise InputError(
                f"--scheduler: '{scheduler}' is no address of a scheduler, such as "
                f"tcp://node1:8786, and no queueing system; these are {', '.join(QUEUES)}"
            )

    def close(self) -> None:
        """Leave the cluster, and end what was started for it."""
        self._client = None
        self._stack.close()

    def spread(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], at_once: int, gpu: bool
    ) -> Iterator[tuple[Job, str | None, Any]]:
        """Yield each job with its result, or with why its workers are thought to have died.

        Where workers offer the resource GPU, jobs with `gpu` go to such workers alone.

        Raises:
            InputError: there is no scheduler or no worker, the workers are of another version or
                do not see the folder, or the scheduler is gone. An error of a job is raised too.
        """
        if jobs:
            client = self._client = self._client or self._connect()
            details = client.scheduler_info(n_workers=-1)["workers"].values()
            offered = gpu and any(GPU in each["resources"] for each in details)
            self._resources = {GPU: 1} if offered else None
            yield from super().spread(work, jobs, at_once, gpu)

    def submit(self, work: Callable[[Job], Result], job: Job) -> Any:
        """Return the future of a job."""
        return self._client.submit(_do, work, job, pure=False, resources=self._resources)

    def take(self, ended: "SimpleQueue[Any]") -> tuple[Any, str | None, Any]:
        """Wait for a future that has ended; return it with how its worker died, or its result."""
        killed = importlib.import_module("distributed").KilledWorker
        while True:
            try:
                future = ended.get(timeout=_WORKER_S)
                return future, None, future.result()
            except Empty:
                if self.scheduler not in QUEUES and not self._client.nthreads():
                    raise _stopped(_NO_WORKER) from None
            except killed as error:
                return future, _reason(error), None
            except CancelledError as error:
                raise _stopped("the scheduler is gone") from error

    def cancel(self, futures: Sequence[Any]) -> None:
        """Take jobs back from the cluster."""
        self._client.cancel(list(futures), force=True)

    def _connect(self) -> Any:
        """Return a client of the cluster, once there is a worker that can do the jobs."""
        distributed = importlib.import_module("distributed")
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            logging.getLogger(name).setLevel(_QUIET)
        refusals: list[str] = []
        where: Any = self.scheduler
        if self.scheduler is None:
            where = self._stack.enter_context(_local_cluster(self.workers))
        elif self.scheduler in QUEUES:
            cluster = _queue_cluster(self.scheduler, self.workers, refusals)
            where = self._stack.enter_context(cluster)
        try:
            client = distributed.Client(where, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no scheduler answers at {self.scheduler} ({error}); start one (dask scheduler) "
                "and workers (dask worker), or correct the address"
            ) from error
        self._stack.enter_context(client)
        self.say(f"dask: {self.workers} workers of {self.scheduler or 'this machine'}")
        deadline = time.monotonic() + (math.inf if self.scheduler in QUEUES else _WORKER_S)
        while not client.nthreads():
            if refusals:
                raise InputError(f"--scheduler {self.scheduler} took no job: {refusals[0]}")
            if time.monotonic() > deadline:
                raise _stopped(_NO_WORKER)
            time.sleep(_LOOK_EVERY_S)
        self._check(client)
        return client

    def _check(self, client: Any) -> None:
        """Check that workers run this version and see the folder; one that has died passes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".seen-by-workers-", dir=self.folder) as mark:
            answers = client.run(_version_and_file, mark.name, on_error="return")
        for worker, answer in answers.items():
            if answer != (__version__, True) and not isinstance(answer, OSError):
                raise InputError(
                    f"worker {worker} must have madeleine-bench {__version__} and see "
                    f"{self.folder}, and says {answer}; start workers in the environment that this "
                    "mbench runs in, and name a folder on a disk that all machines share"
                )


def _version_and_file(path: str) -> tuple[str, bool]:
    """Return the version of this package where this is called, and whether a file is seen there."""
    return __version__, os.path.exists(path)


def _local_cluster(workers: int) -> Any:
    """Return workers on this machine, with one thread and no limit of memory each.

    A job that needs much memory would be killed for it, time and again.
    """
    return importlib.import_module("distributed").LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        silence_logs=_QUIET,
        preload=__name__,
    )


def queue_class(system: str) -> Any:
    """Return the class of dask-jobqueue for a queueing system, such as SLURMCluster."""
    classes = vars(importlib.import_module("dask_jobqueue")).items()
    return next(each for name, each in classes if name.lower() == f"{system}cluster")


def _queue_cluster(system: str, workers: int, refusals: list[str]) -> Any:
    """Return workers in jobs of a queueing system, as the settings of dask-jobqueue say.

    Jobs that end, as at their time limit, are submitted again.

    Args:
        system: one of `QUEUES`.
        workers: how many; a job may hold several.
        refusals: receives what the system said when it took no job; dask would only log it.

    Raises:
        InputError: the settings do not say what a job is.
    """
    cluster_class = queue_class(system)

    class HeardJob(cluster_class.job_cls):  # type: ignore[misc, name-defined]
        """A job of the queue that says why it was not taken."""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refusals.append(" ".join(str(error).split()))
                self.status = importlib.import_module("distributed.core").Status.failed
                raise

    settings = importlib.import_module("dask").config.get(f"jobqueue.{system}")
    if settings["cores"] is None or settings["memory"] is None:
        raise InputError(
            f"--scheduler {system}: write the cores and memory of a job under jobqueue: {system}: "
            "in ~/.config/dask/jobqueue.yaml (docs/scale.md)"
        )
    cluster = cluster_class(job_cls=HeardJob, silence_logs=_QUIET)
    cluster.adapt(minimum=workers, maximum=workers)
    return cluster


def _stopped(why: str) -> InputError:
    return InputError(
        f"--executor dask: {why}; what was finished is kept, and the same command continues from "
        "there"
    )


def _reason(error: Any) -> str:
    return (
        f"its worker died each of the {error.allowed_failures + 1} times it was tried alone, last "
        f"at {error.last_worker.address}: out of memory, or a crash of compiled code"
    )


def _do(work: Callable[[Job], Result], job: Job) -> Result:
    """Do a job, one at a time in a process: jobs pin the threads of the process they are in."""
    with _ONE_JOB:
        _settle()
        return work(job)


@cache
def _settle() -> None:
    """Let dask hear that this process works: it replaces none that dies before its first word."""
    time.sleep(_SETTLE_S)


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the process that started this worker; dask calls this in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

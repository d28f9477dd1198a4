"""Clusters of dask: workers on this machine, workers that run already, jobs of a queue."""

import importlib
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from madeleine_bench.errors import InputError
from madeleine_bench.specs.executor import (
    ExecutorSection,
    LocalCluster,
    QueueCluster,
    RunningCluster,
)

GPU = "GPU"  # the resource that workers with a GPU of their own offer

_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
_QUIET = logging.CRITICAL  # what a user must know, the run says in its own words
_ANY_PORT = "127.0.0.1:0"  # dask's own pages are off; what is left of their server stays at home
_CONNECT_S = 30.0
_RESTART_S = 10.0


@dataclass(frozen=True)
class Connection:
    """A cluster under way.

    Attributes:
        client: dask's door to it.
        refusals: what the queue said each time it took no job.
    """

    client: Any
    refusals: list[str] = field(default_factory=list)


@contextmanager
def connected(section: ExecutorSection, workers: int) -> Iterator[Connection]:
    """Yield the cluster that a section describes; what was started for it ends with the block.

    Args:
        section: which workers.
        workers: how many on this machine, where the section does not say.

    Raises:
        InputError: the scheduler does not answer, or there is no queue here.
    """
    with _quiet("distributed", "distributed.client", "tornado.application", "asyncio"):
        if isinstance(section, RunningCluster):
            opened = _running(section)
        elif isinstance(section, LocalCluster):
            opened = _local(section, workers)
        else:
            opened = _queued(section)
        with opened as connection:
            yield connection


def describe(section: ExecutorSection, workers: int) -> str:
    """Return the workers of a section in words."""
    if isinstance(section, LocalCluster):
        return f"{section.workers or workers} workers on this machine"
    if isinstance(section, RunningCluster):
        return f"the workers of {section.address}"
    least, most = section.job_range
    jobs = f"{most}" if least == most else f"{least} to {most}"
    return f"{jobs} jobs of {section.kind}, {section.workers_in_a_job} workers each"


@contextmanager
def _running(section: RunningCluster) -> Iterator[Connection]:
    distributed = importlib.import_module("distributed")
    try:
        client = distributed.Client(
            section.address, timeout=min(section.wait_s, _CONNECT_S), set_as_default=False
        )
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no scheduler answers at {section.address} ({error}); start one (dask scheduler) and "
            "workers (dask worker), or correct the address"
        ) from error
    with client:
        yield Connection(client)


@contextmanager
def _local(section: LocalCluster, workers: int) -> Iterator[Connection]:
    distributed = importlib.import_module("distributed")
    number = section.workers or workers
    # No limit of memory: a job that needs much would be killed for it, time and again.
    with (
        _unchanged_environment(),
        distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": _ANY_PORT},
            silence_logs=_QUIET,
            preload=__name__,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield Connection(client)
        # A worker that is stopped while it starts, in place of one that died, complains aloud.
        with suppress(TimeoutError):
            client.wait_for_workers(number, timeout=_RESTART_S)


@contextmanager
def _queued(section: QueueCluster) -> Iterator[Connection]:
    distributed = importlib.import_module("distributed")
    cluster_class = getattr(importlib.import_module("dask_jobqueue"), _CLASSES[section.kind])
    submit = cluster_class.job_cls.submit_command
    if shutil.which(submit) is None:
        raise InputError(
            f"[executor] kind = \"{section.kind}\": there is no command '{submit}' here; start "
            f"mbench on a machine that submits jobs to {section.kind}"
        )
    refusals: list[str] = []

    class HeardJob(cluster_class.job_cls):  # type: ignore[misc, name-defined]
        """A job of the queue; what dask would only log is kept."""

        async def start(self) -> None:
            try:
                await super().start()
            except Exception as error:
                refusals.append(f"{submit} took no job: {' '.join(str(error).split())}")
                self.status = distributed.core.Status.failed  # else dask waits for it at the end
                raise

    least, most = section.job_range
    with (
        cluster_class(job_cls=HeardJob, **_options_of_jobs(section)) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        # Jobs that end, as at their walltime, are submitted again.
        cluster.adapt(minimum_jobs=least, maximum_jobs=most)
        yield Connection(client, refusals)


def _options_of_jobs(section: QueueCluster) -> dict[str, Any]:
    """Return the arguments of a cluster of dask-jobqueue."""
    distributed = importlib.import_module("distributed")
    # One thread: a job pins the threads of its process, so a process does one job at a time.
    extra = ["--nthreads", "1"]
    if section.gpus_per_worker:
        extra += ["--resources", f"{GPU}={section.gpus_per_worker}"]
    options = {
        "cores": section.cores,
        "memory": section.memory,
        "processes": section.workers_in_a_job,
        "walltime": section.walltime,
        "queue": section.partition,
        "project" if section.kind == "lsf" else "account": section.account,
        "job_extra_directives": list(section.extra_directives),
        "job_script_prologue": list(section.worker_setup),
        "worker_extra_args": extra,
        "interface": section.interface,
        "log_directory": section.log_folder,
        "job_name": "mbench",
        "silence_logs": _QUIET,
        "scheduler_options": {"dashboard": False, "dashboard_address": _ANY_PORT},
    }
    security = distributed.Security()
    if security.require_encryption:
        options["security"] = security
    return options


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the process that started this worker; dask calls this in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Undo what dask sets for its workers in the environment of this process, such as threads."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_QUIET)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

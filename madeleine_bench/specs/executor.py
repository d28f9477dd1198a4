"""The section [executor] of mbench.toml: where the workers of `--executor dask` come from."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from madeleine_bench.specs.loader import Spec

QUEUES = ("slurm", "pbs", "lsf")

_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:\d{1,5}")
_MEMORY = re.compile(r"\d+(\.\d+)? ?[kKMGT]i?B")
_TEXTS = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has arrays, never tuples


class _Section(Spec):
    """Base of the kinds: no value is taken for another, such as the text "8" for a number.

    Attributes:
        wait_s: seconds to wait for the first worker, and for another once all are gone.
    """

    model_config = ConfigDict(strict=True)

    wait_s: float = Field(default=60.0, gt=0)


class _Remote(_Section):
    """Base of the kinds whose workers are on other machines.

    Attributes:
        gpus_per_worker: 1 where each worker has a GPU of its own; jobs that compute on a GPU then
            go to such workers alone, one at a time.
    """

    gpus_per_worker: int = Field(default=0, ge=0)

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_job_one_gpu(cls, value: int) -> int:
        if value > 1:
            raise ValueError(
                "a worker does one job at a time, on one GPU; give it 1, and ask for more workers"
            )
        return value


class LocalCluster(_Section):
    """Workers on this machine. `workers` is their number; None takes that of --jobs."""

    kind: Literal["local"]
    workers: int | None = Field(default=None, ge=1)


class RunningCluster(_Remote):
    """A cluster that runs already. `address` is that of its scheduler."""

    kind: Literal["address"]
    address: str

    @field_validator("address")
    @classmethod
    def _is_one(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):
            raise ValueError(f"'{value}' is no address of a scheduler; such as tcp://node1:8786")
        return value


class QueueCluster(_Remote):
    """Workers that are jobs of a queueing system.

    Attributes:
        kind: the system.
        cores: of one job of the queue.
        memory: of one job, such as "32GB".
        processes: workers in one job; one for each core, or one where it has a GPU.
        walltime: of one job, as the system writes it.
        partition: the queue; `queue` is another name of this key.
        account: whom the system charges; the project in LSF.
        jobs: how many jobs are kept in the queue or running.
        min_jobs: fewest jobs, where their number follows the work; 1 by default.
        max_jobs: most jobs, where their number follows the work.
        extra_directives: further lines for the head of the job script, without #SBATCH or the like.
        worker_setup: lines of shell before the worker starts, such as "module load cuda".
        interface: network interface that scheduler and workers talk over, such as "ib0".
        log_folder: where the system writes what workers say; None leaves it to the system.
    """

    kind: Literal["slurm", "pbs", "lsf"]
    cores: int = Field(ge=1)
    memory: str
    processes: int | None = Field(default=None, ge=1)
    walltime: str | None = None
    partition: str | None = None
    account: str | None = None
    jobs: int | None = Field(default=None, ge=1)
    min_jobs: int | None = Field(default=None, ge=1)
    max_jobs: int | None = Field(default=None, ge=1)
    extra_directives: _TEXTS = ()
    worker_setup: _TEXTS = ()
    interface: str | None = None
    log_folder: str | None = None
    wait_s: float = Field(default=3600.0, gt=0)

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, value: str) -> str:
        if not _MEMORY.fullmatch(value):
            raise ValueError(f"'{value}' is no amount of memory; such as \"32GB\"")
        return value

    @model_validator(mode="before")
    @classmethod
    def _queue_is_partition(cls, given: Any) -> Any:
        if isinstance(given, dict) and "queue" in given:
            if "partition" in given:
                raise ValueError("'queue' and 'partition' say the same; give one of them")
            given = {**given, "partition": given["queue"]}
            del given["queue"]
        return given

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if (self.jobs is None) == (self.max_jobs is None):
            raise ValueError("give 'jobs', or 'max_jobs' with or without 'min_jobs'")
        if self.jobs is not None and self.min_jobs is not None:
            raise ValueError("'min_jobs' goes with 'max_jobs', not with 'jobs'")
        least, most = self.job_range
        if least > most:
            raise ValueError(f"'min_jobs' is {least}, more than 'max_jobs', {most}")
        if self.workers_in_a_job > self.cores:
            raise ValueError(f"'processes' is {self.processes}, more than 'cores', {self.cores}")
        if self.gpus_per_worker and self.workers_in_a_job > 1:
            raise ValueError(
                "workers of one job would share its first GPU; leave 'processes' out, and give "
                "each job one GPU and 'jobs' the number of GPUs"
            )
        return self

    @property
    def workers_in_a_job(self) -> int:
        """How many workers one job of the queue holds."""
        return self.processes or (1 if self.gpus_per_worker else self.cores)

    @property
    def job_range(self) -> tuple[int, int]:
        """Fewest and most jobs."""
        if self.jobs is not None:
            return self.jobs, self.jobs
        return self.min_jobs or 1, self.max_jobs or 1


ExecutorSection = Annotated[
    LocalCluster | RunningCluster | QueueCluster, Field(discriminator="kind")
]


def threads_in_a_worker(section: LocalCluster | RunningCluster | QueueCluster) -> int:
    """Return how many cores a worker may use: 1 but for workers of a queue with cores to spare."""
    if isinstance(section, QueueCluster):
        return section.cores // section.workers_in_a_job
    return 1

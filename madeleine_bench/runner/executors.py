"""From what the user chose to an executor: processes of this machine, or dask's workers."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from madeleine_bench.data.config import Config
from madeleine_bench.errors import InputError
from madeleine_bench.runner.workers import Executor, LocalWorkers
from madeleine_bench.specs.executor import (
    ExecutorSection,
    LocalCluster,
    QueueCluster,
    RunningCluster,
)
from madeleine_bench.types import Progress

ExecutorKind = Literal["local", "dask"]


@dataclass(frozen=True)
class ExecutorChoice:
    """Where the user wants jobs to run.

    Attributes:
        kind: "local" for processes of this machine, "dask" for the workers that mbench.toml
            describes, or as many of this machine where it describes none.
        scheduler: address of a cluster that runs already, in place of what mbench.toml says.
    """

    kind: ExecutorKind = "local"
    scheduler: str | None = None

    def section(self, config: Config) -> ExecutorSection | None:
        """Return which workers dask has; None where it is not asked for.

        Raises:
            InputError: dask is not installed, or the choice contradicts itself.
        """
        if self.kind == "local":
            if self.scheduler is not None:
                raise InputError("--scheduler is for --executor dask; add that, or leave it out")
            return None
        section = self._section(config)
        needs = ["distributed"] + ["dask_jobqueue"] * isinstance(section, QueueCluster)
        for package in needs:
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"--executor dask needs the package {package.replace('_', '-')}: "
                    'pip install "madeleine-bench[dask]"'
                )
        return section

    def _section(self, config: Config) -> ExecutorSection:
        declared = config.executor
        if self.scheduler is None:
            return declared or LocalCluster(kind="local")
        known = declared.model_dump() if isinstance(declared, RunningCluster) else {}
        try:
            return RunningCluster(**{**known, "kind": "address", "address": self.scheduler})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"--scheduler: {reason}") from error


@contextmanager
def open_executor(
    choice: ExecutorChoice,
    config: Config,
    jobs: int,
    folder: Path,
    progress: Progress,
    *,
    apart: bool = False,
) -> Iterator[Executor]:
    """Yield what runs jobs until the block ends; no process is left behind then.

    A cluster is opened when the first job comes, so a run with nothing to do opens none.

    Args:
        choice: local processes or dask.
        config: whose section [executor] describes the workers.
        jobs: worker processes, where the section does not say how many.
        folder: where jobs write; workers of dask must see it at the same place.
        progress: told which workers there are.
        apart: whether no job may be done in this process, as it may have to be ended.

    Raises:
        InputError: dask is not installed, or the choice contradicts itself.
    """
    section = choice.section(config)
    if section is None:
        yield LocalWorkers(jobs, apart)
        return
    from madeleine_bench.runner.dask_workers import DaskWorkers

    with DaskWorkers(section, jobs, folder, progress.say) as workers:
        yield workers

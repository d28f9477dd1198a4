"""Which executor a choice leads to, and what is said where there can be none."""

import importlib.util
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest

from madeleine_bench.data.config import Config
from madeleine_bench.errors import InputError
from madeleine_bench.runner.dask_clusters import _options_of_jobs, describe
from madeleine_bench.runner.executors import ExecutorChoice, open_executor
from madeleine_bench.runner.workers import LocalWorkers
from madeleine_bench.specs.executor import LocalCluster, QueueCluster, RunningCluster
from madeleine_bench.types import Silence
from tests.runner.dask_jobs import lost, slow, square

ROOT = Path(__file__).resolve().parents[2]


class Said(Silence):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def opened(tmp_path, config=None, said=None, **choice):
    return open_executor(
        ExecutorChoice("dask", **choice), config or Config(), 2, tmp_path, said or Said()
    )


def queue(**more):
    return QueueCluster(**{"kind": "slurm", "cores": 4, "memory": "8GB", "jobs": 2, **more})


def script_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_local_workers_are_the_default(tmp_path):
    with open_executor(ExecutorChoice(), Config(), 1, tmp_path, Silence()) as executor:
        assert executor == LocalWorkers(1)
        assert not executor.elsewhere
        found = [result for result, _ in executor.run(square, [1, 2, 3], lost)]
    assert found == [1, 4, 9]


def test_without_dask_it_says_how_to_get_it(tmp_path, monkeypatch):
    present = importlib.util.find_spec
    for absent, section in (("distributed", None), ("dask_jobqueue", queue())):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, absent=absent: None if name == absent else present(name),
        )
        with (
            pytest.raises(InputError, match=r'pip install "madeleine-bench\[dask\]"'),
            opened(tmp_path, Config(executor=section)),
        ):
            pass


def test_a_scheduler_belongs_to_dask_and_has_an_address(tmp_path):
    with pytest.raises(InputError, match="--scheduler is for --executor dask"):
        ExecutorChoice("local", "tcp://node1:8786").section(Config())
    with (
        pytest.raises(InputError, match=r"--scheduler: 'node1' is no address"),
        opened(tmp_path, scheduler="node1"),
    ):
        pass


def test_a_scheduler_takes_the_place_of_the_declared_one():
    declared = RunningCluster(kind="address", address="tcp://a:1", gpus_per_worker=1, wait_s=9.0)
    found = ExecutorChoice("dask", "tcp://b:2").section(Config(executor=declared))
    assert found == declared.model_copy(update={"address": "tcp://b:2"})
    found = ExecutorChoice("dask", "tcp://b:2").section(Config(executor=queue()))
    assert found == RunningCluster(kind="address", address="tcp://b:2")


def test_the_cli_says_it_too(mbench, tmp_path):
    said = mbench(
        "run", "--encoder", "mean-pool", "--task", "aidpath-her2", "--results", tmp_path,
        "--scheduler", "tcp://node1:8786",
    )  # fmt: skip
    assert said.code == 2
    assert "--scheduler is for --executor dask" in said.err


def test_nothing_to_do_opens_no_cluster(tmp_path):
    said = Said()
    with opened(tmp_path, said=said, scheduler="tcp://127.0.0.1:1") as executor:
        assert list(executor.run(square, [], lost)) == []
        assert executor.elsewhere
    assert said.lines == []


def test_workers_in_words():
    assert describe(LocalCluster(kind="local"), 2) == "2 workers on this machine"
    assert describe(LocalCluster(kind="local", workers=3), 2) == "3 workers on this machine"
    assert describe(queue(), 2) == "2 jobs of slurm, 4 workers each"
    assert describe(queue(jobs=None, max_jobs=9), 2) == "1 to 9 jobs of slurm, 4 workers each"


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("slurm", ["#SBATCH -p gpu", "#SBATCH -A me", "#SBATCH -t 04:00", "--cpus-per-task=4"]),
        ("pbs", ["#PBS -q gpu", "#PBS -A me", "walltime=04:00", "ncpus=4"]),
        ("lsf", ["#BSUB -q gpu", '#BSUB -P "me"', "#BSUB -W 04:00", "#BSUB -n 4"]),
    ],
)
def test_job_scripts(kind, head):
    import dask_jobqueue

    section = queue(
        kind=kind, walltime="04:00", partition="gpu", account="me", gpus_per_worker=1,
        extra_directives=("--extra",), worker_setup=("module load cuda",),
    )  # fmt: skip
    options = _options_of_jobs(section)
    for name in ("silence_logs", "scheduler_options"):
        del options[name]
    job = getattr(dask_jobqueue, f"{kind.upper()}Cluster").job_cls
    script = job("tcp://node1:8786", name="one", **options).job_script()
    for line in [*head, "--extra\n", "\nmodule load cuda\n"]:
        assert line in script
    command = script.splitlines()[-1]
    assert command.endswith("--nthreads 1 --resources GPU=1")  # the last one counts
    assert "--nworkers" not in command


def test_the_queue_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InputError, match="there is no command 'sbatch' here"),
        opened(tmp_path, Config(executor=queue())) as executor,
    ):
        list(executor.run(square, [1], lost))


@pytest.mark.parametrize(
    ("sbatch", "wait_s", "message"),
    [
        ("echo invalid partition >&2; exit 1", 60.0, r"sbatch took no job: .*invalid partition"),
        ("echo Submitted batch job 1", 0.5, r"within 0\.5 s no worker has come"),
    ],
)
def test_the_queue_gives_no_worker(tmp_path, monkeypatch, sbatch, wait_s, message):
    script_in(tmp_path, "sbatch", sbatch)
    script_in(tmp_path, "scancel", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with (
        pytest.raises(InputError, match=message),
        opened(tmp_path, Config(executor=queue(jobs=1, wait_s=wait_s))) as executor,
    ):
        list(executor.run(square, [1], lost))


@pytest.mark.slow
def test_a_job_of_the_queue_that_is_killed_is_submitted_again(tmp_path, monkeypatch):
    """A queue in two lines of shell: sbatch starts the job script, scancel ends its processes."""
    log = tmp_path / "jobs"
    script_in(
        tmp_path,
        "sbatch",
        f'cp "$1" "{tmp_path}/job.$$"; setsid sh "{tmp_path}/job.$$" >/dev/null 2>&1 &\n'
        f'echo "Submitted batch job $!"; echo "$!" >> "{log}"; sleep 0.2',
    )
    script_in(tmp_path, "scancel", 'kill -- "-$1"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    section = queue(cores=1, memory="2GB", jobs=1, wait_s=120.0)
    with opened(tmp_path, Config(executor=section)) as executor:
        made = executor.run(slow, range(30), lost)
        found = [next(made)]
        os.killpg(int(log.read_text().split()[0]), signal.SIGKILL)
        found += made
    assert sorted(found) == list(range(30))
    jobs = [int(job) for job in log.read_text().split()]
    assert len(jobs) >= 2
    assert not any(psutil.pid_exists(job) and is_alive(job) for job in jobs)


def is_alive(process):
    return psutil.Process(process).status() != psutil.STATUS_ZOMBIE

"""Which executor a choice leads to, and what is said where there can be none."""

import importlib.util
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.runner.workers import LocalWorkers, open_executor
from madeleine_bench.types import Silence
from tests.runner.dask_jobs import keep_much, lost, slow, square

ROOT = Path(__file__).resolve().parents[2]


class Said(Silence):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def opened(tmp_path, scheduler=None, said=None):
    return open_executor("dask", scheduler, 1, tmp_path, said or Said())


@pytest.fixture
def job_of_slurm():
    """What the settings of dask-jobqueue say of a job."""
    pytest.importorskip("dask_jobqueue")
    settings = {"cores": 1, "memory": "2GB", "walltime": "04:00", "queue": "gpu"}
    settings = {f"jobqueue.slurm.{key}": value for key, value in settings.items()}
    with pytest.importorskip("dask").config.set(settings):
        yield


def script_in(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_local_workers_are_the_default(tmp_path):
    with open_executor("local", None, 1, tmp_path, Silence()) as executor:
        assert isinstance(executor, LocalWorkers)
        assert (executor.number, executor.apart) == (1, False)
        found = [result for result, _ in executor.run(square, [1, 2, 3], lost)]
    assert found == [1, 4, 9]


def test_a_worker_that_keeps_much_memory_is_not_replaced():
    executor = LocalWorkers(1, apart=True)
    processes = set(executor.run(keep_much, range(5), lost))
    assert len(processes) == 1


def test_without_dask_it_says_how_to_get_it(tmp_path, monkeypatch):
    present = importlib.util.find_spec
    for absent, scheduler in (("distributed", None), ("dask_jobqueue", "slurm")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, absent=absent: None if name == absent else present(name),
        )
        with (
            pytest.raises(InputError, match=r'pip install "madeleine-bench\[dask\]"'),
            opened(tmp_path, scheduler),
        ):
            pass


def test_a_scheduler_belongs_to_dask_and_has_an_address(tmp_path):
    with (
        pytest.raises(InputError, match="--scheduler is for --executor dask"),
        open_executor("local", "tcp://node1:8786", 1, tmp_path, Silence()),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"--scheduler: 'node1' is no address .* are slurm, pbs"),
        opened(tmp_path, "node1"),
    ):
        pass


def test_the_cli_says_it_too(mbench, tmp_path):
    said = mbench(
        "run", "--encoder", "mean-pool", "--task", "aidpath-her2", "--results", tmp_path,
        "--scheduler", "tcp://node1:8786",
    )  # fmt: skip
    assert said.code == 2
    assert "--scheduler is for --executor dask" in said.err


def test_nothing_to_do_opens_no_cluster(tmp_path):
    said = Said()
    with opened(tmp_path, "tcp://127.0.0.1:1", said) as executor:
        assert list(executor.run(square, [], lost)) == []
    assert said.lines == []


def test_settings_that_do_not_say_what_a_job_is(tmp_path):
    pytest.importorskip("dask_jobqueue")
    with (
        pytest.raises(InputError, match=r"--scheduler slurm: .*cores.*jobqueue\.yaml"),
        opened(tmp_path, "slurm") as executor,
    ):
        list(executor.run(square, [1], lost))


@pytest.mark.usefixtures("job_of_slurm")
def test_the_queue_takes_no_job(tmp_path, monkeypatch):
    said = Said()
    script_in(tmp_path, "sbatch", "echo invalid partition >&2; exit 1")
    script_in(tmp_path, "scancel", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with (
        pytest.raises(InputError, match=r"slurm took no job: .*invalid partition"),
        opened(tmp_path, "slurm", said) as executor,
    ):
        list(executor.run(square, [1], lost))
    assert said.lines == ["dask: 1 workers of slurm"]


@pytest.mark.slow
@pytest.mark.usefixtures("job_of_slurm")
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
    with opened(tmp_path, "slurm") as executor:
        made = executor.run(slow, range(30), lost)
        found = [next(made)]
        os.killpg(int(log.read_text().split()[0]), signal.SIGKILL)
        found += made
    assert sorted(found) == list(range(30))
    assert "#SBATCH -p gpu" in next(tmp_path.glob("job.*")).read_text()
    jobs = [int(job) for job in log.read_text().split()]
    assert len(jobs) >= 2
    assert not any(psutil.pid_exists(job) and is_alive(job) for job in jobs)


def is_alive(process):
    return psutil.Process(process).status() != psutil.STATUS_ZOMBIE

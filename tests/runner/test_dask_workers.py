"""Workers of dask: jobs go to other processes, a deadly one fails alone, and nobody waits for ever.

The cluster of this module is one scheduler with two workers, found by its address.
"""

import os
import threading
from functools import lru_cache

import pytest

from madeleine_bench.data.config import Config
from madeleine_bench.errors import InputError
from madeleine_bench.runner import dask_workers, jobs
from madeleine_bench.runner.dask_clusters import connected
from madeleine_bench.runner.dask_workers import DaskWorkers
from madeleine_bench.runner.executors import ExecutorChoice, open_executor
from madeleine_bench.specs.executor import LocalCluster, RunningCluster
from madeleine_bench.types import Silence
from tests.runner.dask_jobs import (
    kill_once,
    lost,
    slow,
    square,
    square_unless_told,
    threads_wanted,
)


@pytest.fixture(scope="module")
def cluster():
    before = dict(os.environ)
    # First, as what it adds to the configuration would end with the setting below.
    pytest.importorskip("distributed")
    dask_config = pytest.importorskip("dask").config
    with (
        dask_config.set({"distributed.scheduler.allowed-failures": 1}),
        connected(LocalCluster(kind="local"), 2) as connection,
    ):
        yield connection.client.scheduler.address
    assert dict(os.environ) == before


@pytest.fixture
def workers(cluster, tmp_path):
    with workers_of(cluster, tmp_path) as found:
        yield found


def workers_of(address, folder, **more):
    section = RunningCluster(**{"kind": "address", "address": address, "wait_s": 20.0, **more})
    return DaskWorkers(section, 2, folder, lambda line: None)


def one_thread(**more):
    """A scheduler and a worker in this process."""
    import distributed

    return distributed.LocalCluster(
        processes=False, protocol="tcp", threads_per_worker=1, dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, **more,
    )  # fmt: skip


def test_jobs_are_done_by_other_processes(workers):
    found = list(workers.run(square, range(30), lost))
    assert sorted(result for result, _ in found) == [n * n for n in range(30)]
    processes = {process for _, process in found}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_worker_that_dies_once_costs_nothing(workers, tmp_path):
    marks = [str(tmp_path / f"mark-{n}") for n in range(3)]
    assert list(workers.run(kill_once, marks, lost)) == ["done"] * 3


def test_a_deadly_job_is_named_and_the_others_are_done(workers):
    found = list(workers.run(square_unless_told, [*range(6), "kill", *range(6, 12)], lost))
    assert sorted(result for result in found if isinstance(result, int)) == [
        n * n for n in range(12)
    ]
    (loss,) = (result for result in found if not isinstance(result, int))
    assert loss[:2] == ("lost", "kill")
    assert "its worker died each of the 2 times it was tried alone" in loss[2]


def test_an_error_of_a_job_is_raised_here(workers):
    with pytest.raises(InputError, match="this job cannot be done"):
        list(workers.run(square_unless_told, [1, "raise", 2], lost))
    assert list(workers.run(square_unless_told, [3], lost)) == [9], "the cluster lives on"


def test_libraries_are_told_to_use_one_thread(workers):
    assert list(workers.run(threads_wanted, [None], lost)) == ["1"]


def test_a_process_does_one_job_at_a_time():
    inside, most = [], []

    def work(job):
        inside.append(job)
        most.append(len(inside))
        slow(job)
        inside.remove(job)

    threads = [threading.Thread(target=dask_workers._do, args=("run", work, n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_process_that_outlives_a_run_forgets_what_it_had_loaded(monkeypatch):
    loads = []
    monkeypatch.setattr(jobs, "load_something", lru_cache(loads.append), raising=False)
    for run, expected in (("one", 1), ("one", 1), ("two", 2), ("one", 3)):
        dask_workers._do(run, lambda job: jobs.load_something(job), "encoder")
        assert len(loads) == expected


def test_workers_of_another_version_are_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "__version__", "0.0.0")
    with (
        workers_of(cluster, tmp_path) as workers,
        pytest.raises(InputError, match=r"worker tcp://.* has madeleine-bench .*, this is 0\.0\.0"),
    ):
        list(workers.run(square, [1], lost))


def test_workers_that_see_another_disk_are_refused(workers, monkeypatch):
    class Unseen:
        name = "/not/here"

        def __init__(self, **where):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(dask_workers.tempfile, "NamedTemporaryFile", Unseen)
    with pytest.raises(InputError, match=r"does not see .*; name a folder on a disk that all"):
        list(workers.run(square, [1], lost))


def test_workers_without_this_package_are_refused(workers, monkeypatch):
    def unknown(*arguments, **options):
        return {"tcp://node1:1": Exception("ModuleNotFoundError(\"No module named 'm'\")")}

    monkeypatch.setattr(dask_workers.DaskWorkers, "_client", SimpleClient(unknown))
    workers._connection = object()
    with pytest.raises(InputError, match=r"worker tcp://node1:1: .*No module named 'm'.*environ"):
        list(workers.run(square, [1], lost))


class SimpleClient:
    """A client whose workers answer as they are told."""

    def __init__(self, answer):
        self.run = answer

    def nthreads(self):
        return {"tcp://node1:1": 1}


def test_nobody_answers_at_an_address(tmp_path):
    with (
        workers_of("tcp://127.0.0.1:1", tmp_path, wait_s=0.5) as workers,
        pytest.raises(InputError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        list(workers.run(square, [1], lost))


def test_jobs_on_a_gpu_go_to_workers_that_offer_one(tmp_path):
    with one_thread(n_workers=1) as cluster:
        address = cluster.scheduler_address
        with (
            workers_of(address, tmp_path, wait_s=0.5, gpus_per_worker=1) as workers,
            pytest.raises(InputError, match=r"no worker offers a GPU .*--resources GPU=1"),
        ):
            list(workers.run(square, [2], lost, gpu=True))
        with workers_of(address, tmp_path, gpus_per_worker=1) as workers:
            assert [r for r, _ in workers.run(square, [2], lost)] == [4]
        with workers_of(address, tmp_path) as workers:  # not declared: as on one machine
            assert [r for r, _ in workers.run(square, [2], lost, gpu=True)] == [4]
    with (
        one_thread(n_workers=1, resources={"GPU": 1}) as cluster,
        workers_of(cluster.scheduler_address, tmp_path, gpus_per_worker=1) as workers,
    ):
        assert sorted(r for r, _ in workers.run(square, [2, 3], lost, gpu=True)) == [4, 9]


def test_all_workers_leave_and_none_comes_back(tmp_path):
    with (
        one_thread(n_workers=1) as cluster,
        workers_of(cluster.scheduler_address, tmp_path, wait_s=0.5) as workers,
    ):
        made = workers.run(slow, range(20), lost)
        next(made)
        cluster.scale(0)
        with pytest.raises(InputError, match=r"all workers are gone .* jobs are left; .*goes on"):
            list(made)


def test_the_scheduler_goes(tmp_path):
    with (
        one_thread(n_workers=1) as cluster,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
    ):
        made = workers.run(slow, range(20), lost)
        next(made)
        cluster.close()
        with pytest.raises(InputError, match=r"the scheduler is gone; .*goes on from there"):
            list(made)


@pytest.mark.slow
def test_without_a_section_as_many_workers_as_jobs(tmp_path):
    with open_executor(ExecutorChoice("dask"), Config(), 2, tmp_path, Silence()) as executor:
        assert not executor.elsewhere
        found = list(executor.run(square, range(30), lost))
    assert len({process for _, process in found}) == 2

"""Workers of dask: jobs go to other processes, a deadly one fails alone, and nobody waits for ever.

The cluster of this module is one scheduler with two workers, found by its address.
"""

import os
import threading
from contextlib import closing

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.runner import dask_workers
from madeleine_bench.runner.dask_workers import DaskWorkers
from madeleine_bench.runner.workers import open_executor
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
    # First, as what it adds to the configuration would end with the setting below.
    pytest.importorskip("distributed")
    dask_config = pytest.importorskip("dask").config
    with (
        dask_config.set({"distributed.scheduler.allowed-failures": 1}),
        dask_workers._local_cluster(2) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture
def workers(cluster, tmp_path):
    with workers_of(cluster, tmp_path) as found:
        yield found


def workers_of(address, folder):
    return closing(DaskWorkers(address, 2, folder, lambda line: None))


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


@pytest.mark.usefixtures("cluster")
def test_a_deadly_job_is_named_and_the_others_are_done(tmp_path):
    # Workers of its own: dask does not replace one that is killed while it starts.
    with (
        dask_workers._local_cluster(2) as cluster,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
    ):
        jobs = [*range(6), "kill", *range(6, 12)]
        found = list(workers.run(square_unless_told, jobs, lost))
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

    threads = [threading.Thread(target=dask_workers._do, args=(work, n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_another_version_is_refused(workers, monkeypatch):
    monkeypatch.setattr(dask_workers, "__version__", "0.0.2")
    with pytest.raises(InputError, match=r"must have madeleine-bench 0\.0\.2 .*environment"):
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
    with pytest.raises(InputError, match=r"and see .*, False\); .* a folder on a disk that all"):
        list(workers.run(square, [1], lost))


def test_nobody_answers_at_an_address(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "_CONNECT_S", 0.5)
    with (
        workers_of("tcp://127.0.0.1:1", tmp_path) as workers,
        pytest.raises(InputError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        list(workers.run(square, [1], lost))


def test_jobs_on_a_gpu_go_to_workers_that_offer_one(tmp_path):
    import distributed

    with one_thread(n_workers=1) as cluster:
        address = cluster.scheduler_address
        with workers_of(address, tmp_path) as workers:  # nobody offers one: as on one machine
            assert [r for r, _ in workers.run(square, [2], lost, gpu=True)] == [4]
            assert [r for r, _ in workers.run(square, [2], lost)] == [4]
    with (
        one_thread(n_workers=1, resources={"GPU": 1}) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
    ):
        cluster.new_spec["options"].pop("resources")
        cluster.scale(2)
        client.wait_for_workers(2)
        offering = {w for w, one in client.scheduler_info()["workers"].items() if one["resources"]}
        assert len(offering) == 1
        found = workers.run(where, range(6), lost, gpu=True)
        assert set(found) == offering


def where(_job):
    from distributed import get_worker

    return get_worker().address


def test_nobody_works_for_an_address(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "_WORKER_S", 0.5)
    with (
        one_thread(n_workers=0) as cluster,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
        pytest.raises(InputError, match=r"no worker connected .*dask worker"),
    ):
        list(workers.run(slow, range(20), lost))


def test_all_workers_leave_and_none_comes_back(tmp_path, monkeypatch):
    with (
        one_thread(n_workers=1) as cluster,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
    ):
        made = workers.run(slow, range(20), lost)
        next(made)
        monkeypatch.setattr(dask_workers, "_WORKER_S", 0.5)
        cluster.scale(0)
        with pytest.raises(InputError, match=r"no worker connected .*; .*continues"):
            list(made)


def test_the_scheduler_goes(tmp_path):
    with (
        one_thread(n_workers=1) as cluster,
        workers_of(cluster.scheduler_address, tmp_path) as workers,
    ):
        made = workers.run(slow, range(20), lost)
        next(made)
        cluster.close()
        with pytest.raises(InputError, match=r"the scheduler is gone; .*continues from there"):
            list(made)


@pytest.mark.slow
def test_without_a_scheduler_as_many_workers_as_jobs(tmp_path):
    with open_executor("dask", None, 2, tmp_path, Silence()) as executor:
        found = list(executor.run(square, range(30), lost))
    assert len({process for _, process in found}) == 2

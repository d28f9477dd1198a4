"""A worker that dies takes no run with it: its job is tried alone, then lost by name."""

import os
import signal
import time

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.runner.workers import LocalWorkers, in_parallel

KILLED, CRASHED = 3, 5


def work(number: int) -> int:
    if number == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == CRASHED:
        os._exit(9)
    return number * number


def refuse(number: int) -> int:
    raise InputError(f"number {number}")


def lost(number: int, reason: str) -> str:
    return f"{number}: {reason}"


def test_the_others_are_done_and_the_deadly_ones_named():
    found = list(LocalWorkers(2).run(work, range(9), lost))
    squares = sorted(one for one in found if isinstance(one, int))
    assert squares == [n * n for n in range(9) if n not in (KILLED, CRASHED)]
    said = sorted(one for one in found if isinstance(one, str))
    assert [one[0] for one in said] == [str(KILLED), str(CRASHED)]
    assert "SIGKILL" in said[0]
    assert "EXIT(9)" in said[1]
    assert all("out of memory" in one and "--jobs" in one for one in said)


def test_without_somebody_to_tell_it_is_an_error():
    with pytest.raises(InputError, match=r"a job could not be done: its worker process died"):
        list(in_parallel(work, range(4), 2))


def test_an_error_of_a_job_comes_out_and_new_jobs_can_be_done():
    with pytest.raises(InputError, match="number"):
        list(LocalWorkers(2).run(refuse, range(4), lost))
    assert sorted(LocalWorkers(2).run(work, range(3), lost)) == [0, 1, 4]


def test_apart_means_another_process():
    ((pid, _),) = LocalWorkers(1, apart=True).run(_here, [0], lost)
    assert pid != os.getpid()
    ((pid, _),) = LocalWorkers(2).run(_here, [0], lost)
    assert pid == os.getpid()


def _here(number: int) -> tuple[int, float]:
    return os.getpid(), time.monotonic()


def test_no_jobs_start_no_worker():
    assert list(LocalWorkers(3, apart=True).run(work, [], lost)) == []


def test_a_job_whose_pool_ended_while_it_was_given_is_not_waited_for_for_ever(monkeypatch):
    """A pool that breaks between its check and the job loses the job without a word."""
    from concurrent.futures import Future
    from types import SimpleNamespace

    from madeleine_bench.runner import workers

    monkeypatch.setattr(workers, "_LOST_AFTER_S", 0.05)
    ended = SimpleNamespace(submit=lambda work, job: Future(), _executor_manager_thread=None)
    ended.shutdown = lambda **options: None
    monkeypatch.setattr(LocalWorkers, "_pool", lambda self: ended)
    found = list(LocalWorkers(2).run(work, range(3), lost))
    assert sorted(one[0] for one in found) == ["0", "1", "2"]
    assert all("worker process died" in one for one in found)

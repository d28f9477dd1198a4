"""Jobs for the workers of dask, which import them from here."""

import os
import signal
import time
from pathlib import Path

from madeleine_bench.errors import InputError


def square(number):
    """Return the square, and which process made it."""
    return number * number, os.getpid()


def square_unless_told(job):
    """Return the square; a job that is a word ends its worker, or fails."""
    if job == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "raise":
        raise InputError("this job cannot be done")
    return job * job


def kill_once(job):
    """End the worker the first time it is done: then a file stands in for it."""
    mark = Path(job)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def threads_wanted(_job):
    """Return what the environment says of threads."""
    return os.environ.get("OMP_NUM_THREADS")


def slow(number):
    """Take a while."""
    time.sleep(0.2)
    return number


def lost(job, reason):
    """Return a job that was lost, and why."""
    return "lost", job, reason


KEPT = []


def keep_much(job):
    """Keep 200 MB for ever, as a cache may; return the process."""
    KEPT.append(bytearray(os.urandom(1)) * 200_000_000)
    time.sleep(0.6)
    return os.getpid()

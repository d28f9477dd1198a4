"""A time limit ends what hangs: by a signal in Python, by ending the process elsewhere."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from madeleine_bench.embeddings.compute import time_limit
from madeleine_bench.errors import CheckFailed

HANGS = """
import threading
from madeleine_bench.embeddings import compute
compute.GRACE_S = 0.2
def hang():
    with compute.time_limit(0.2, "it"):
        {body}
{run}
print("went on")
"""


def test_python_code_is_interrupted_and_said_by_name():
    said = r"^slow: took longer than 0.05 s; .*--time-limit"
    with pytest.raises(CheckFailed, match=said), time_limit(0.05, "slow"):
        time.sleep(30)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_code_that_catches_every_exception_is_interrupted_too():
    def stubborn():
        with contextlib.suppress(Exception):
            time.sleep(30)
        pytest.fail("it caught what ends it")

    with pytest.raises(CheckFailed, match="took longer"), time_limit(0.05, "stubborn"):
        stubborn()


def test_quick_code_and_no_limit_leave_no_trace():
    for seconds in (None, 60.0):
        with time_limit(seconds, "quick"):
            pass
    with pytest.raises(ZeroDivisionError), time_limit(60.0, "wrong"):
        _ = 1 / 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_thread_that_is_quick_needs_no_signal():
    found = []

    def quick():
        with time_limit(60.0, "quick"):
            found.append(True)

    thread = threading.Thread(target=quick)
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    ("body", "run"),
    [
        ("sum(range(10**15))", "hang()"),
        ("threading.Event().wait()", "t = threading.Thread(target=hang); t.start(); t.join()"),
    ],
    ids=["holds the interpreter", "in another thread"],
)
def test_what_no_signal_reaches_ends_with_its_process(body, run):
    code = HANGS.format(body=body, run=run)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == done.stderr == ""

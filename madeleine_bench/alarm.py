"""An alarm that interrupts the code of a block, whoever wrote it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """Raised in code that took too long; no Exception, so that `except Exception` lets it by."""


def can_alarm() -> bool:
    """Return whether there are alarms here: not on Windows, nor in another thread than the main."""
    return hasattr(signal, "setitimer") and (threading.current_thread() is threading.main_thread())


@contextmanager
def alarm(seconds: float, again_s: float = 0.0) -> Iterator[None]:
    """Interrupt the block after some seconds of wall time, where `can_alarm`; else do nothing.

    Python code is interrupted, compiled code when it comes back. When the block ends, even by an
    alarm that goes off just then, the timer is off and its signal does what it did before.

    Args:
        seconds: above 0.
        again_s: seconds between further alarms, as one that goes off in a destructor is swallowed;
            0 for none.

    Raises:
        OutOfTime: the block took longer.
    """
    if not can_alarm():
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, again_s)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise OutOfTime

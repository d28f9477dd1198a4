"""A time limit on code of others: an encoder that hangs fails by name, and the rest goes on."""

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager

from madeleine_bench.alarm import OutOfTime, alarm, can_alarm
from madeleine_bench.errors import CheckFailed

GRACE_S = 3.0


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """End the block after some seconds; None sets no limit.

    Python code is interrupted by a signal. Compiled code does not see it, nor is a thread other
    than the main one interrupted; then the whole process ends, with exit code 1, where the grace
    of 3 s passes too. So a block with a limit runs in a worker that may be lost.

    Args:
        seconds: of wall time, above 0.
        what: begins the message.

    Raises:
        CheckFailed: the block took longer.
    """
    if seconds is None:
        yield
        return
    with open(os.devnull, "w") as silent:
        # Its watch is a thread of C, which needs no lock of the interpreter to end the process.
        grace_s = GRACE_S if can_alarm() else 0.0
        faulthandler.dump_traceback_later(seconds + grace_s, exit=True, file=silent)
        try:
            with alarm(seconds):
                yield
        except OutOfTime as error:
            raise CheckFailed(
                f"{what}: took longer than {seconds:g} s; give it more with --time-limit, or "
                "leave it out"
            ) from error
        finally:
            faulthandler.cancel_dump_traceback_later()

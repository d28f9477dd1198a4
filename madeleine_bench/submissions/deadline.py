"""An end to verification: a bundle that takes too long is not verified, and the step is named."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madeleine_bench.alarm import OutOfTime, alarm
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.submissions.parsing import plain
from madeleine_bench.types import Progress

_MOST_S = 1e8
# An alarm that goes off in a destructor is swallowed by Python; the next one is not.
_AGAIN_S = 10.0


class Steps:
    """Progress that is passed on, and remembers the step at hand."""

    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._name, self._total, self._done, self._last = "read", 0, 0, ""
        self.note, self.say = drawn.note, drawn.say

    @property
    def where(self) -> str:
        """The step at hand, with how far it has come."""
        if not self._total:
            return f"step '{self._name}'"
        last = f", {plain(self._last, 80)} the last" if self._last else ""
        return f"step '{self._name}' ({self._done} of {self._total} jobs done{last})"

    def phase(self, name: str, total: int) -> None:
        """Begin a step of `total` jobs."""
        self._name, self._total, self._done, self._last = name, total, 0, ""
        self._drawn.phase(name, total)

    def advance(self, note: str) -> None:
        """Say that one job of the step has ended."""
        self._done, self._last = self._done + 1, note
        self._drawn.advance(note)


@contextmanager
def deadline(bundle: Path, seconds: float, progress: Progress) -> Iterator[Steps]:
    """End the block after some seconds of wall time, and the worker processes that it started.

    An alarm interrupts this process, so whatever may hang in compiled code must run in a worker.
    Where there is no alarm (Windows, another thread than the main one) the block has no limit.

    Args:
        bundle: what is verified; begins the message.
        seconds: above 0.
        progress: told of each job, through the yielded steps.

    Raises:
        CheckFailed: time ran out.
        InputError: the limit is no number of seconds.
    """
    if not 0.0 < seconds <= _MOST_S:
        raise InputError(
            f"--time-limit must be above 0 and at most {_MOST_S:g} seconds, found {seconds:g}"
        )
    steps = Steps(progress)
    try:
        with alarm(seconds, _AGAIN_S):
            yield steps
    except OutOfTime:
        for worker in multiprocessing.active_children():
            worker.join(_AGAIN_S)  # killed already; while one lives, it writes into the scratch
        raise CheckFailed(
            f"{bundle}: not verified: the time limit of {seconds:g} s ran out at {steps.where}. "
            "No report was written. Give it more with --time-limit, or ask for a lower --level; "
            "if no limit is enough, the encoder hangs, or the bundle is too large for this machine"
        ) from None

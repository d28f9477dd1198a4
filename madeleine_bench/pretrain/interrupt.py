"""Stopping between two steps: Ctrl-C and SIGTERM ask, the loop answers when weights are whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether the user asked the run to stop."""

    asked: bool = False


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield a flag that the first Ctrl-C or SIGTERM sets; a second one stops at once.

    Outside the main thread, where Python lets no one listen, the flag stays down.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

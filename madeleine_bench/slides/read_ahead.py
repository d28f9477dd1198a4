"""Reading in threads while the encoder works: slides made ready and batches read, in order."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Ready = TypeVar("Ready")
Rows = NDArray[np.intp]
Pixels = NDArray[np.uint8]

_SLIDES_AHEAD = 2


@dataclass(frozen=True)
class Begun(Generic[Ready]):
    """A slide whose turn it is; `ready.result()` gives it, or raises what went wrong."""

    path: Path
    ready: "Future[Ready]"


@dataclass(frozen=True)
class Batch:
    """A batch of patches of the slide begun last; `pixels.result()` gives or raises."""

    path: Path
    rows: Rows
    pixels: "Future[Pixels]"


@dataclass
class ReadAhead(Generic[Ready]):
    """Slides and their batches in order, made ready and read by threads before they are wanted.

    Attributes:
        paths: slides, in the order they are wanted.
        prepare: opens a slide and decides on its patches.
        split: gives the rows of each batch of a prepared slide.
        read: reads the patches of some rows.
        threads: number of reading threads.
        batches: how many batches may wait for the encoder at most.
    """

    paths: Sequence[Path]
    prepare: Callable[[Path], Ready]
    split: Callable[[Ready], Sequence[Rows]]
    read: Callable[[Ready, Rows], Pixels]
    threads: int
    batches: int
    _dropped: set[Path] = field(default_factory=set)

    def drop(self, path: Path) -> None:
        """Read no more batches of a slide that has failed; those read already still come."""
        self._dropped.add(path)

    def __iter__(self) -> Iterator[Begun[Ready] | Batch]:
        """Yield each slide and then its batches."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="read-slides")
        waiting = deque(self.paths)
        coming: deque[Begun[Ready]] = deque()
        queue: deque[Begun[Ready] | Batch] = deque()
        unread: deque[tuple[Begun[Ready], Rows]] = deque()
        try:
            while waiting or coming or unread or queue:
                while waiting and len(coming) < _SLIDES_AHEAD:
                    path = waiting.popleft()
                    coming.append(Begun(path, pool.submit(self.prepare, path)))
                if unread and len(queue) < self.batches:
                    slide, rows = unread.popleft()
                    if slide.path not in self._dropped:
                        pixels = pool.submit(self.read, slide.ready.result(), rows)
                        queue.append(Batch(slide.path, rows, pixels))
                elif not unread and coming and (not queue or coming[0].ready.done()):
                    slide = coming.popleft()
                    unread.extend((slide, rows) for rows in self._rows_of(slide))
                    queue.append(slide)
                else:
                    yield queue.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows_of(self, slide: Begun[Ready]) -> Sequence[Rows]:
        # Waits until the slide is ready; why it is not is told by whoever asks for it next.
        return () if slide.ready.exception() else self.split(slide.ready.result())

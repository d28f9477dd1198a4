"""Reading ahead keeps order, tells failures where they belong, and leaves no thread behind."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.slides.extraction import read_ahead

SLIDES = {"a": 5, "b": 0, "c": 3, "d": 7}


def ahead(prepare=None, read=None, threads=2, batches=3, failed=frozenset()):
    return read_ahead(
        [Path(name) for name in SLIDES],
        prepare or (lambda path: path.name),
        lambda name: [np.arange(i, i + 1) for i in range(SLIDES[name])],
        read or (lambda name, rows: np.full((1, 1, 1, 3), rows[0], np.uint8)),
        threads,
        failed,
        batches,
    )


def told(item):
    path, _, pixels = item
    return path.name if pixels is None else f"{path.name}{pixels.result()[0, 0, 0, 0]}"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batches", [1, 3, 100])
def test_slides_and_batches_come_in_order(threads, batches):
    def read(name, rows):
        time.sleep(0.001 * ((rows[0] * 7) % 3))
        return np.full((1, 1, 1, 3), rows[0], np.uint8)

    expected = [x for n, count in SLIDES.items() for x in [n, *(f"{n}{i}" for i in range(count))]]
    assert [told(item) for item in ahead(read=read, threads=threads, batches=batches)] == expected


def test_a_slide_that_cannot_be_prepared_comes_without_batches():
    def prepare(path):
        if path.name == "c":
            raise InputError("c is damaged")
        return path.name

    seen = []
    for item in ahead(prepare):
        path, ready, pixels = item
        if pixels is None and path.name == "c":
            with pytest.raises(InputError, match="c is damaged"):
                ready.result()
        else:
            seen.append(told(item))
    assert [s for s in seen if s.startswith("c")] == []
    assert [s for s in seen if s.startswith("d")] == ["d", *(f"d{i}" for i in range(7))]


def test_a_failed_read_belongs_to_its_batch_and_the_rest_is_dropped():
    read_rows = []

    def read(name, rows):
        read_rows.append((name, int(rows[0])))
        if name == "d" and rows[0] == 1:
            raise InputError("unreadable")
        return np.zeros((1, 1, 1, 3), np.uint8)

    failed = set()
    for path, _, pixels in ahead(read=read, threads=1, batches=2, failed=failed):
        if pixels is not None and pixels.exception():
            failed.add(path)
    assert ("d", 1) in read_rows
    assert ("d", 6) not in read_rows


def test_no_more_than_the_window_is_read_ahead():
    read_rows = []

    def read(name, rows):
        read_rows.append((name, int(rows[0])))
        return np.zeros((1, 1, 1, 3), np.uint8)

    items = iter(ahead(read=read, threads=1, batches=2))
    next(items)
    time.sleep(0.05)
    assert len(read_rows) <= 2
    items.close()


def test_leaving_early_leaves_no_thread():
    items = iter(ahead())
    next(items)
    items.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-slides")]

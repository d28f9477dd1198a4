"""Freed memory goes back to the system, and nothing happens where it cannot."""

import ctypes
import platform
import subprocess
import sys

import pytest

from madeleine_bench import provenance

PINNED = """
from pathlib import Path
from madeleine_bench.provenance import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

pieces = [b"x" * 100_000 + bytes([i % 256]) for i in range(1000)]
last = pieces.pop()  # at the top of the heap, which cannot shrink below it
del pieces
held = resident()
return_freed_memory()
print(held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_lies_free_below_a_piece_in_use_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", PINNED], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 50_000_000


def test_another_c_library_is_left_alone(monkeypatch):
    def no_library(name):
        raise OSError("none")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    provenance.return_freed_memory()

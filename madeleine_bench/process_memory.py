"""The memory of this process: the most it held, and what is free of it given back."""

import ctypes
import platform
from functools import cache
from typing import Any


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process so far in MB; None where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if platform.system() == "Darwin" else 1024), 1)


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library keeps it.

    glibc keeps freed pieces of up to 32 MB for the next of their size, and one of another size then
    comes on top: a process that does large jobs one after the other grows with what the largest
    ones left behind. It takes milliseconds; nothing is done on other systems.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None

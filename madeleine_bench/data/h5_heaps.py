"""Damage in HDF5 files on which the HDF5 library does not end, found before it reads them.

Texts of an attribute lie in a "global heap". Where a page of it was lost to zeros, the library
takes an object of no size for the next one, again and again.

References:
    HDF5 file format specification, version 3.0, section III.E, "Disk Format: Global Heap".
"""

import mmap
import struct
from pathlib import Path

from madeleine_bench.errors import InputError

_MARK = b"GCOL\x01\x00\x00\x00"
_HEAD = 16  # bytes before the first object, and before the data of each
_OBJECT = struct.Struct("<H6xQ")  # number (0 is free room), size


def check_heaps(path: Path, begin: int = 0, end: int = 0) -> None:
    """Check that the library can read the texts of a file's attributes.

    Args:
        path: an HDF5 file that could be opened.
        begin: byte from which there are numbers alone, which need no look.
        end: byte where they end.

    Raises:
        InputError: a heap is damaged; the message has its place.
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_MARK)
        while at >= 0:
            if begin <= at < end:
                at = data.find(_MARK, end)
                continue
            if _is_endless(data, at):
                raise InputError(
                    f"{path} cannot be read as HDF5 (the heap of texts at byte {at} is damaged). "
                    "Extract the features of this slide again"
                )
            at = data.find(_MARK, at + 1)


def _is_endless(data: mmap.mmap, begin: int) -> bool:
    if begin + _HEAD > len(data):
        return False
    end = min(begin + int.from_bytes(data[begin + 8 : begin + _HEAD], "little"), len(data))
    at = begin + _HEAD
    while at + _HEAD <= end:
        number, size = _OBJECT.unpack(data[at : at + _HEAD])
        step = _HEAD + (size + 7) // 8 * 8 if number else size
        if step == 0:
            return True
        at += step
    return False

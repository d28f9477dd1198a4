"""HDF5 files of patches: opened, written, their coords and attributes; the only door to h5py.

Patch files say which patches of a slide are taken, as CLAM and TRIDENT write and read them. Both
keep a dataset `coords` (patch x 2: x, y of the upper left corner in level-0 pixels) and say what a
patch is in its attributes, each in its own words:

=======  =====================================================================================
CLAM     `patch_level`, `patch_size` (pixels of that level), `downsample`, `level_dim`, `name`
TRIDENT  `patch_size` (pixels at `target_magnification`), `patch_size_level0`,
         `level0_magnification`, `overlap`, `level0_width`, `level0_height`, `name`
=======  =====================================================================================

`patch_size` means the same in both only where a level of the slide has exactly the resolution of
the patches. Elsewhere the words of CLAM are left out, since they would name another region.
"""

import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError, UnreadableFile
from madeleine_bench.files import NO_LOCKS, check_readable, replacing

# An objective of 20x is a pixel of half a micrometre: how TRIDENT too turns one into the other.
_UM_AT_1X = 10.0
_HEAP = b"GCOL\x01\x00\x00\x00"


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """Open a new HDF5 file, which takes the place of `path` on a clean exit.

    Raises:
        InputError: the folder cannot be written.
    """
    with replacing(path) as temporary:
        try:  # no other process knows the temporary file, and some disks have no locks
            with h5py.File(temporary, "w", locking=False) as handle:
                yield handle
        except RuntimeError as error:  # how HDF5 says that the disk is full, on closing
            raise InputError(f"cannot write {path}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read; what goes wrong inside the block becomes an InputError.

    Where the file system has no locks, the file is read without one.

    Raises:
        InputError: there is no such file, or its content is damaged or of another format.
        UnreadableFile: another process has locked the file, or the system refuses to read it.
    """
    try:
        with _unlocked_if_needed(path) as handle:
            yield handle
    except FileNotFoundError as error:
        raise InputError(f"no feature file {path}") from error
    except (OSError, RuntimeError, KeyError) as error:
        if "unable to lock file" in str(error):
            raise UnreadableFile(
                f"{path} is locked: another process writes it. Wait for that process, then give "
                "the command again"
            ) from error
        if "already open for write" in str(error):
            raise UnreadableFile(
                f"{path} is marked as open to write: another process writes it, or was stopped "
                "before it ended. Wait for it; if there is none, extract the features of this "
                "slide again"
            ) from error
        check_readable(path, OSError(_errno(error), ""))
        reason = str(error).split(" (")[-1].rstrip(")")
        raise InputError(
            f"{path} cannot be read as HDF5 ({reason}): it is cut short, damaged, or of another "
            "format. Extract the features of this slide again"
        ) from error


def _unlocked_if_needed(path: Path) -> Any:
    """Return an open HDF5 file, without a lock where the file system has none."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock file" in str(error) and _errno(error) in NO_LOCKS:
            return h5py.File(path, "r", locking=False)
        raise


def _errno(error: Exception) -> int | None:
    """Return the error number of the system; HDF5 writes it into its message."""
    stated = re.search(r"errno = (\d+)", str(error))
    return int(stated[1]) if stated else getattr(error, "errno", None)


def read_coords(handle: Any, path: Path, patches: int) -> NDArray[Any] | None:
    """Return the dataset `coords` of an open file, patch x 2 (x, y), or None where there is none.

    Raises:
        InputError: it is no table of numbers, or has another number of rows than `patches`.
    """
    if not isinstance(handle.get("coords"), h5py.Dataset):
        return None
    return coords_of(np.asarray(handle["coords"][...]), path, patches)


def coords_of(coords: NDArray[Any], path: Path, patches: int) -> NDArray[Any] | None:
    """Return coordinates as patch x 2 (x, y); None of no patch.

    Raises:
        InputError: as `read_coords`.
    """
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    is_table = coords.ndim == 2 and coords.shape[1] >= 2 and coords.dtype.kind in "iuf"
    if not is_table and coords.size == patches == 0:
        return None
    if not is_table or len(coords) != patches:
        raise InputError(
            f"{path}: 'coords' has shape {coords.shape} and type {coords.dtype}; expected a row of "
            f"numbers (x, y) for each of {patches} patches"
        )
    return coords[:, :2]


def read_attributes(handle: Any, name: str) -> dict[str, Any]:
    """Return the attributes of the coords, of a dataset and of an open file, in one mapping.

    Raises:
        InputError: they are damaged in a way that HDF5 does not end on.
    """
    owners = [owner for owner in (handle.get("coords"), handle[name], handle) if owner is not None]
    kinds = (owner.attrs.get_id(key).dtype for owner in owners for key in owner.attrs)
    if any((text := h5py.check_string_dtype(kind)) and text.length is None for kind in kinds):
        begin = handle[name].id.get_offset() or 0  # None where it lies in chunks
        _check_heaps(Path(handle.filename), begin, begin + handle[name].nbytes if begin else 0)
    return {key: _plain(owner.attrs[key]) for owner in owners for key in owner.attrs}


def _check_heaps(path: Path, begin: int, end: int) -> None:
    """Check the heaps in which texts of attributes lie, save where there are numbers alone.

    Where zeros took the place of a heap, the library takes an object of no size for the next one,
    again and again (HDF5 file format specification 3.0, section III.E).
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for low, high in ((0, begin), (end, len(data))):
            heap = data.find(_HEAP, low, high)
            while heap >= 0:
                at, size = heap + 16, int.from_bytes(data[heap + 8 : heap + 16], "little")
                while at + 16 <= min(heap + size, len(data)):
                    number, length = struct.unpack("<H6xQ", data[at : at + 16])
                    if not number and not length:
                        raise InputError(
                            f"{path} cannot be read as HDF5 (the heap of texts at byte {heap} is "
                            "damaged). Extract the features of this slide again"
                        )
                    at += 16 + (length + 7) // 8 * 8 if number else length
                heap = data.find(_HEAP, heap + 1, high)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def stated_geometry(
    attributes: Mapping[str, Any],
) -> tuple[float | None, int | None, int | None]:
    """Return what the attributes of a bag file state of its patches, in the words of any tool.

    TRIDENT states `target_magnification`, `patch_size`, `patch_size_level0` and
    `level0_magnification`; AtlasPatch the same, and 0 where it does not know; STAMP `tile_size_um`
    and `tile_size_px`; CLAM `patch_size` in pixels of `patch_level`, and `downsample` of that
    level. What follows from these is worked out: the level-0 size from two magnifications or from
    a downsample. An attribute that is not one positive number states nothing.

    Examples:
        >>> stated_geometry({"patch_size": 512, "target_magnification": 20,
        ...                  "level0_magnification": 40})
        (20.0, 512, 1024)
        >>> stated_geometry({"tile_size_um": 256.0, "tile_size_px": 512})
        (20.0, 512, None)
    """
    number = partial(_positive, attributes)
    tile_px, tile_um = number("tile_size_px"), number("tile_size_um")
    side, power = number("patch_size") or tile_px, number("target_magnification")
    level0_power, downsample = number("level0_magnification"), number("downsample")
    if power is None and tile_px and tile_um:
        power = _UM_AT_1X * tile_px / tile_um
    if power and level0_power:
        downsample = level0_power / power
    side_px0 = number("patch_size_level0") or (side and downsample and side * downsample)
    return power, round(side) if side else None, round(side_px0) if side_px0 else None


def _positive(attributes: Mapping[str, Any], key: str) -> float | None:
    """Return one positive number; CLAM's `downsample` is a pair (x, y), of which the mean."""
    try:
        numbers = np.asarray(attributes[key], dtype=np.float64)
        value = float(numbers.mean() if key == "downsample" else numbers.item())
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


@dataclass(frozen=True)
class PatchFile:
    """The patches of one slide.

    Attributes:
        coords: patch x 2 (x, y), level-0 pixels, int32.
        size_px0: side of a patch in level-0 pixels, or None where only CLAM's words say it and
            the size of its level is not in the file.
        patch_px: side of a patch in pixels at the resolution it is read at, or None.
        level: pyramid level of CLAM, or None.
    """

    coords: NDArray[np.int32]
    size_px0: int | None
    patch_px: int | None
    level: int | None


def write_patch_file(path: Path, coords: NDArray[np.int32], attributes: Mapping[str, Any]) -> None:
    """Write the patches of a slide, atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(path) as handle:
        handle.create_dataset("coords", data=coords).attrs.update(attributes)


def read_patch_file(path: Path) -> PatchFile:
    """Return the patches of a slide from a file of CLAM, of TRIDENT or of this program.

    Raises:
        InputError: the file is absent, damaged, has no coords, or does not say how large a patch
            is.
    """
    with opened(path) as handle:
        if not isinstance(handle.get("coords"), h5py.Dataset):
            inside = ", ".join(sorted(handle)) or "nothing"
            raise InputError(f"{path}: no dataset 'coords'; the file holds {inside}")
        rows = handle["coords"].shape[0] if handle["coords"].ndim else 0
        coords = read_coords(handle, path, rows)
        attributes = read_attributes(handle, "coords")
    if coords is None:
        coords = np.empty((0, 2), dtype=np.int32)
    _, patch_px, size_px0 = stated_geometry(attributes)
    level = attributes.get("patch_level")
    if not isinstance(level, int) or level < 0:
        level = None
    if size_px0 is None and (patch_px is None or level is None):
        raise InputError(
            f"{path}: the attributes of 'coords' do not say how large a patch is; expected "
            "patch_size_level0 (TRIDENT), or patch_size and patch_level (CLAM), as one number each"
        )
    return PatchFile(coords.astype(np.int32), size_px0, patch_px, level)

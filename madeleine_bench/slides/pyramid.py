"""Writing a picture as a tiled TIFF pyramid that OpenSlide opens."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing

_PHANTOM_MARK = "PHANTOM slide of madeleine-bench"
_TILE_PX = 256
_SMALLEST_PX = 256  # levels end where the longest side fits into one tile
_SOFTWARE = "madeleine-bench"


def write_pyramid(
    path: Path,
    picture: NDArray[np.uint8],
    *,
    mpp: float,
    description: str,
    jpeg_quality: int | None = None,
) -> None:
    """Write a picture as a pyramid, each level half the size of the one before, atomically.

    Level 0 holds the picture, bit for bit unless it is compressed as JPEG; the others are averages
    of 2 x 2 pixels. The resolution goes into the resolution tags, where OpenSlide looks for it.

    Args:
        path: the file, .tif or .tiff; replaced when it exists.
        picture: height x width x 3, RGB.
        mpp: micrometres per pixel.
        description: text of the ImageDescription tag.
        jpeg_quality: 1 to 100 for JPEG tiles; None stores without loss (deflate).

    Raises:
        InputError: the folder cannot be written, or the picture is not RGB.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(
            f"cannot write {path}: the picture has shape {picture.shape} and type {picture.dtype}; "
            "expected (height, width, 3) of 8-bit RGB"
        )
    with (
        replacing(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=_is_big(picture)) as out,
    ):
        for number, level in enumerate(_levels(Image.fromarray(picture))):
            per_cm = 1e4 / (mpp * picture.shape[1] / level.width)
            options: dict[str, Any] = {
                "shape": (level.height, level.width, 3),
                "dtype": np.uint8,
                "tile": (_TILE_PX, _TILE_PX),
                "resolution": (per_cm, per_cm),
                "resolutionunit": "CENTIMETER",
                "subfiletype": 1 if number else 0,
                "description": description if number == 0 else None,
                "metadata": None,
                "software": _SOFTWARE,
            }
            if jpeg_quality is None:
                options |= {"photometric": "rgb", "compression": "zlib"}
            else:
                options |= {"photometric": "rgb", "compression": "jpeg", "subsampling": (2, 2)}
                options["compressionargs"] = {"level": jpeg_quality}
            out.write(_tiles(level), **options)


def phantom_description(kind: str, text: str) -> str:
    """Return the description of a phantom slide, which every reader of ours knows it by.

    Examples:
        >>> phantom_kind(phantom_description("rendered", "drawn, not scanned"))
        'rendered'
    """
    return f"{_PHANTOM_MARK} ({kind}): {text}"


def phantom_kind(description: str) -> str | None:
    """Return the kind of phantom that a description states; None for a real slide."""
    found = re.match(rf"{_PHANTOM_MARK} \(([\w.-]+)\)", description)
    return found.group(1) if found else None


def read_description(path: Path) -> str | None:
    """Return the ImageDescription of a TIFF file; None where there is no file, or no such text."""
    if not path.is_file():
        return None
    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.description
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return None


def _levels(level: Image.Image) -> Iterator[Image.Image]:
    yield level
    while max(level.size) > _SMALLEST_PX:
        level = level.reduce(2)
        yield level


def _tiles(level: Image.Image) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles row by row; those at the right and lower edge are filled up with white."""
    for top in range(0, level.height, _TILE_PX):
        for left in range(0, level.width, _TILE_PX):
            tile = np.full((_TILE_PX, _TILE_PX, 3), 255, dtype=np.uint8)
            box = (left, top, min(left + _TILE_PX, level.width), min(top + _TILE_PX, level.height))
            part = np.asarray(level.crop(box))
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _is_big(picture: NDArray[np.uint8]) -> bool:
    # A classic TIFF ends at 4 GiB; all levels together are at most 4/3 of the first.
    return picture.nbytes * 4 // 3 > 2**32 - 2**25

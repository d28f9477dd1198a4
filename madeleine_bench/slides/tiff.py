"""TIFF by tifffile and imagecodecs: pictures of any kind, and slides that OpenSlide refuses."""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from madeleine_bench.errors import InputError
from madeleine_bench.slides.tiled import Pixels, TiledImage, TiledSlide, read_bytes

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said by errors here

JPEG_COMPRESSIONS = (6, 7, 33007, 34892)  # whose decoder returns RGB for YCbCr
_ROWS = 256  # of an uncompressed picture in one strip, which need not be decoded as a whole
_LARGEST_TILE = 2**32  # bytes that a tile may claim to hold
_SAME_ASPECT = 0.02

# TIFF compressions that OpenSlide 4.0 decodes: none, LZW, JPEG, deflate, PackBits, Aperio's JPEG
# 2000, Zstandard.
_OPENSLIDE = (1, 5, 7, 8, 32773, 32946, 33003, 50000)


def tiff_image(path: Path, page: tifffile.TiffPage) -> TiledImage:
    """Return the picture of a TIFF page, of any number and type of samples.

    Args:
        path: the file.
        page: one of its pages, of a file that is open still.

    Raises:
        InputError: its pixels are stored in a way that is not read here.
    """
    decoder = tifffile.TIFF.DECOMPRESSORS.get(page.compression)
    absent = decoder is None or decoder.__name__ == "stub_decode"  # of a library not built in
    if absent or page.dtype is None or not page.size:
        name = getattr(page.compression, "name", f"compression {page.compression}")
        kind = f"{page.bitspersample}-bit {getattr(page.sampleformat, 'name', '')}".strip()
        raise InputError(
            f"{path} holds {kind} pixels stored as {name}, which neither OpenSlide nor imagecodecs "
            "reads. Save it as a TIFF with JPEG or deflate compression"
        )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    width, height, dtype = page.imagewidth, page.imagelength, page.dtype
    tile = (page.tilewidth, page.tilelength) if page.is_tiled else (width, page.rowsperstrip)
    offsets, counts, tables = page.dataoffsets, page.databytecounts, page.jpegtables
    across, down = math.ceil(width / tile[0]), math.ceil(height / tile[1])
    decode = page.decode

    def decode_tile(column: int, row: int) -> Pixels | None:
        parts = []
        for plane in range(planes):
            index = (plane * down + row) * across + column
            if not counts[index]:
                return None
            encoded = read_bytes(path, offsets[index], counts[index])
            decoded = decode(encoded, index, jpegtables=tables)[0]
            assert decoded is not None  # it is so for no bytes only
            parts.append(decoded[0])
        return np.concatenate(parts, axis=2)

    def read_rows(column: int, row: int) -> Pixels:
        top, line = row * _ROWS, width * page_samples * stored.itemsize
        rows = min(_ROWS, height - top)
        parts = [
            np.frombuffer(
                read_bytes(path, offsets[0] + (plane * height + top) * line, rows * line), stored
            ).reshape(rows, width, page_samples)
            for plane in range(planes)
        ]
        return np.concatenate(parts, axis=2).astype(dtype, copy=False)

    stored = dtype.newbyteorder(page.parent.byteorder)
    page_samples = page.samplesperpixel // planes
    if page.is_contiguous and not page.is_tiled:
        return TiledImage(width, height, (width, _ROWS), page.samplesperpixel, dtype, read_rows)
    if (size := tile[0] * tile[1] * page.samplesperpixel * dtype.itemsize) > _LARGEST_TILE:
        raise InputError(
            f"{path} has to be read in parts of {size / 1e9:.1f} GB. Save it as a TIFF in tiles"
        )
    return TiledImage(width, height, tile, page.samplesperpixel, dtype, decode_tile)


def full_pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the pages of a TIFF that are no smaller copies of another page."""
    pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
    return [page for page in pages if not page.is_reduced]


def orientation(page: tifffile.TiffPage) -> int:
    """Return the orientation tag, 1 for upright, 2 to 8 as in EXIF."""
    value = int(page.tags.valueof("Orientation", 1))
    return value if 1 <= value <= 8 else 1


def describe_pages(pages: Sequence[tifffile.TiffPage]) -> str:
    """Return number, size and kind of pages, the first 12 of them."""
    return "; ".join(
        f"{number}: {page.imagewidth} x {page.imagelength}, {page.samplesperpixel} x {page.dtype}"
        for number, page in enumerate(pages[:12], start=1)
    )


def open_tiff_slide(path: Path) -> TiledSlide | None:
    """Return a tiled TIFF whose compression or levels OpenSlide does not read; None for any other.

    Raises:
        InputError: it is a tiled TIFF, but no picture in 8-bit colour or grey.
    """
    try:
        with tifffile.TiffFile(path) as file:
            pages = full_pages(file)
            first = pages[0]
            if not first.is_tiled or file.is_bif:  # tiles of BIF overlap
                return None
            _check_brightfield(path, pages)
            inner = list(first.pages or ())
            if first.compression in _OPENSLIDE and not inner:
                return None
            levels = [first, *(page for page in [*inner, *file.pages] if _is_level(page, first))]
            images = [tiff_image(path, page) for page in levels]
            return TiledSlide(images, _tiff_properties(file, first))
    except (tifffile.TiffFileError, IndexError, ValueError, OSError):
        return None  # cut short, and the caller says so


def _check_brightfield(path: Path, pages: Sequence[Any]) -> None:
    """Check that a tiled TIFF is one upright picture of 8-bit colour or grey.

    Raises:
        InputError: it is not.
    """
    first = pages[0]
    size = (first.imagewidth, first.imagelength)
    twins = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    fault = option = ""
    if len(twins) > 1:
        fault = f"holds {len(twins)} pages of one size (channels or focal planes)"
        option = " --page NUMBER"
    elif first.samplesperpixel not in (1, 3, 4):
        fault, option = f"holds {first.samplesperpixel} channels", " --channel NUMBER"
    elif first.dtype != np.uint8:
        option = " --scale LOW HIGH" if first.dtype != np.uint16 else ""
        fault = f"holds samples of type {first.dtype}, not of 8 bits"
    elif (turned := orientation(first)) != 1:
        fault = f"states that it is to be turned (orientation {turned})"
    elif first.compression not in _OPENSLIDE and int(first.photometric) not in (1, 2):
        fault = f"holds colours as {getattr(first.photometric, 'name', first.photometric)}"
    if fault:
        raise InputError(
            f"{path} {fault}, so it cannot be read as a slide. Convert it: "
            f"mbench slides convert {path} --mpp MICROMETRES{option}"
        )


def _is_level(page: Any, first: tifffile.TiffPage) -> bool:
    stretch = page.imagewidth / first.imagewidth * first.imagelength / page.imagelength
    smaller = page.imagewidth < first.imagewidth
    alike = page.samplesperpixel == first.samplesperpixel and page.dtype == first.dtype
    return bool(page.is_tiled and smaller and alike and abs(stretch - 1) <= _SAME_ASPECT)


def _tiff_properties(file: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, str]:
    """Return resolution and description of a TIFF, under the names that OpenSlide gives them."""
    properties = {
        "openslide.vendor": "OME-TIFF" if file.is_ome else "generic-tiff",
        "tiff.ImageDescription": page.description,
    }
    text = file.ome_metadata or page.description
    um_per_unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit))  # inch, centimetre
    for axis, per_unit in zip("XY", page.resolution, strict=True):
        # In OME-TIFF micrometres unless another unit is stated; in the description of an SVS.
        stated = re.search(
            rf'\bPhysicalSize{axis}="([\d.eE+-]+)"(?!.*PhysicalSize{axis}Unit="[^µu])', text
        ) or re.search(r"\bMPP ?= ?([\d.]+)", text)
        if stated:
            properties[f"openslide.mpp-{axis.lower()}"] = stated[1]
        elif um_per_unit and per_unit:
            properties[f"openslide.mpp-{axis.lower()}"] = repr(um_per_unit / per_unit)
    return properties

"""DICOM slides that OpenSlide refuses (YBR_FULL, JPEG-LS), by pydicom and imagecodecs."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.errors import InvalidDicomError

from madeleine_bench.errors import InputError
from madeleine_bench.slides.tiled import Pixels, TiledImage, TiledSlide, read_bytes

# Transfer syntaxes, by the last parts of 1.2.840.10008.1.2.4.x, and what decodes them.
_DICOM_CODECS: dict[str, Callable[..., Pixels]] = {
    "50": imagecodecs.jpeg8_decode,
    "57": imagecodecs.ljpeg_decode, "70": imagecodecs.ljpeg_decode,
    "80": imagecodecs.jpegls_decode, "81": imagecodecs.jpegls_decode,
    "90": imagecodecs.jpeg2k_decode, "91": imagecodecs.jpeg2k_decode,
    "201": imagecodecs.jpeg2k_decode, "202": imagecodecs.jpeg2k_decode,
    "203": imagecodecs.jpeg2k_decode,
}  # fmt: skip
_PLAIN_COLOURS = (imagecodecs.jpegls_decode, imagecodecs.ljpeg_decode)
_BROKEN = (AttributeError, EOFError, InvalidDicomError, StopIteration, TypeError, ValueError)
_DICOM_JPEG = "1.2.840.10008.1.2.4."


def open_dicom_slide(path: Path) -> TiledSlide:
    """Return the pyramid of a DICOM slide: all levels of its series in the folder.

    Raises:
        InputError: the file is damaged or of no slide, is a label or an overview, or is stored in a
            way that is not read here.

    References:
        DICOM PS3.3, A.32.8, VL Whole Slide Microscopy Image; PS3.5, A.4, encapsulated frames.
    """
    try:
        first = pydicom.dcmread(path, stop_before_pixels=True)
        if "VOLUME" not in first.get("ImageType", ()):
            raise InputError(
                f"{path} is no level of a slide ({', '.join(first.get('ImageType', ()))}). Name a "
                "file whose image type has the word VOLUME"
            )
        levels: dict[tuple[int, int], tuple[Path, pydicom.Dataset]] = {_size(first): (path, first)}
        for other, header in _headers_beside(path):
            if header.get("SeriesInstanceUID") == first.SeriesInstanceUID:
                levels.setdefault(_size(header), (other, header))
        images = [_dicom_image(place, header) for place, header in levels.values()]
        return TiledSlide(images, _dicom_properties(levels[max(levels)][1]))
    except _BROKEN as error:
        raise InputError(
            f"{path} cannot be read ({error}): the DICOM file is cut short or damaged. Copy it "
            "again from where it came from"
        ) from error


def _headers_beside(path: Path) -> Iterator[tuple[Path, pydicom.Dataset]]:
    """Yield the other levels of slides in the folder of a file, without their pixels."""
    for other in sorted(path.parent.glob("*.dcm")):
        with suppress(*_BROKEN):
            header = pydicom.dcmread(other, stop_before_pixels=True)
            if other != path and "VOLUME" in header.get("ImageType", ()):
                yield other, header


def _size(header: pydicom.Dataset) -> tuple[int, int]:
    return header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows


def _dicom_properties(header: pydicom.Dataset) -> dict[str, str]:
    """Return the resolution of a level, under the names that OpenSlide gives it."""
    properties = {"openslide.vendor": "dicom"}
    for measures in _nested(header, "SharedFunctionalGroupsSequence", "PixelMeasuresSequence"):
        down, across = (float(value) * 1000 for value in measures.PixelSpacing)
        properties |= {"openslide.mpp-x": repr(across), "openslide.mpp-y": repr(down)}
    for optics in _nested(header, "OpticalPathSequence"):
        if power := optics.get("ObjectiveLensPower"):
            properties["openslide.objective-power"] = str(power)
    return properties


def _nested(dataset: Any, *names: str) -> Iterator[Any]:
    """Yield the first item of sequences within each other, where there is one."""
    for name in names:
        items = dataset.get(name)
        if not items:
            return
        dataset = items[0]
    yield dataset


def _dicom_image(path: Path, header: pydicom.Dataset) -> TiledImage:
    syntax = header.file_meta.TransferSyntaxUID
    codec = _DICOM_CODECS.get(syntax.removeprefix(_DICOM_JPEG))
    layers = (header.get("TotalPixelMatrixFocalPlanes") or 1) * (
        header.get("NumberOfOpticalPaths") or 1
    )
    samples = header.SamplesPerPixel
    if codec is None or layers != 1 or header.BitsAllocated != 8 or samples not in (1, 3):
        raise InputError(
            f"{path} is stored as {syntax.name}, {header.BitsAllocated} bits, {samples} channels, "
            f"{layers} focal planes or optical paths, which is not read here. Save it with 8 bits, "
            "3 channels and one focal plane, as JPEG, JPEG-LS or JPEG 2000"
        )
    frames = _dicom_frames(path, header)
    stated = str(header.PhotometricInterpretation)

    def decode_tile(column: int, row: int) -> Pixels | None:
        place = frames.get((column, row))
        if place is None:
            return None
        encoded = read_bytes(path, *place)
        if codec is imagecodecs.jpeg8_decode:
            # An Adobe marker states the colours of the frame itself, and slides are seen whose
            # header contradicts it. Without one, libjpeg would take RGB for YCbCr.
            is_rgb = stated == "RGB" and b"Adobe" not in encoded[:4096]
            pixels = codec(encoded, colorspace="RGB" if is_rgb else None)
        else:
            pixels = codec(encoded)
        # JPEG 2000 undoes its own colour transform (YBR_ICT, YBR_RCT).
        if stated.startswith("YBR_FULL") and codec in _PLAIN_COLOURS:
            pixels = np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))
        return pixels.reshape(*pixels.shape[:2], samples)

    width, height = header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows
    tile = (header.Columns, header.Rows)
    return TiledImage(width, height, tile, samples, np.dtype(np.uint8), decode_tile)


def _dicom_frames(path: Path, header: pydicom.Dataset) -> dict[tuple[int, int], tuple[int, int]]:
    """Return where the frame of each column and row of tiles lies in the file: offset and bytes."""
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        file.seek(12, 1)  # the tag, the type and the length of the pixel data
        parse_basic_offsets(file)
        count, starts = parse_fragments(file)
        places = []
        for start in starts:
            file.seek(start + 4)
            places.append((start + 8, int.from_bytes(file.read(4), "little")))
    across = math.ceil(header.TotalPixelMatrixColumns / header.Columns)
    if header.get("DimensionOrganizationType") == "TILED_FULL":
        tiles = [(number % across, number // across) for number in range(count)]
    else:
        positions = [
            next(_nested(group, "PlanePositionSlideSequence"))
            for group in header.PerFrameFunctionalGroupsSequence
        ]
        tiles = [
            (
                (place.ColumnPositionInTotalImagePixelMatrix - 1) // header.Columns,
                (place.RowPositionInTotalImagePixelMatrix - 1) // header.Rows,
            )
            for place in positions
        ]
    if count != header.get("NumberOfFrames", 1) or count != len(tiles):
        raise InputError(
            f"{path} has {header.get('NumberOfFrames', 1)} frames in {count} parts: "
            "the file is cut short, or frames are split. Copy it again, or save it anew"
        )
    return dict(zip(tiles, places, strict=True))

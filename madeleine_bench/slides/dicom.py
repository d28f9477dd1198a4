"""DICOM slides that OpenSlide refuses (YBR_FULL, JPEG-LS), by pydicom and imagecodecs."""

import math
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.errors import InvalidDicomError

from madeleine_bench.errors import InputError
from madeleine_bench.slides.tiled import Pixels, TiledImage, TiledSlide, read_bytes

_CODECS = {
    pydicom.uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    pydicom.uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    pydicom.uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    pydicom.uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    pydicom.uid.JPEG2000: imagecodecs.jpeg2k_decode,
}
_BROKEN = (AttributeError, EOFError, IndexError, InvalidDicomError, TypeError, ValueError)


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
        levels: dict[int, tuple[Path, pydicom.Dataset]] = {}
        for other in [path, *sorted(path.parent.iterdir())]:
            with suppress(IsADirectoryError, *_BROKEN):
                header = pydicom.dcmread(other, stop_before_pixels=True)
                series = header.SeriesInstanceUID
                if series == first.SeriesInstanceUID and "VOLUME" in header.ImageType:
                    levels.setdefault(header.TotalPixelMatrixColumns, (other, header))
        images = [_dicom_image(place, header) for place, header in levels.values()]
        shared = levels[max(levels)][1].SharedFunctionalGroupsSequence[0]
        down, across = (
            repr(1000 * float(side)) for side in shared.PixelMeasuresSequence[0].PixelSpacing
        )
    except _BROKEN as error:
        raise InputError(
            f"{path} cannot be read ({error}): the DICOM file is cut short or damaged. Copy it "
            "again from where it came from"
        ) from error
    facts = {"openslide.vendor": "dicom", "openslide.mpp-x": across, "openslide.mpp-y": down}
    return TiledSlide(images, facts)


def _dicom_image(path: Path, header: pydicom.Dataset) -> TiledImage:
    syntax = header.file_meta.TransferSyntaxUID
    codec, samples = _CODECS.get(syntax), header.SamplesPerPixel
    planes, paths = (
        header.get(name) or 1 for name in ("TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths")
    )
    if codec is None or planes * paths != 1 or header.BitsAllocated != 8 or samples not in (1, 3):
        raise InputError(
            f"{path} is stored as {syntax.name}, {header.BitsAllocated} bits, {samples} channels, "
            f"{planes} focal planes, {paths} optical paths, which is not read here. Save it with 8 "
            "bits, 3 channels and one focal plane, as JPEG, JPEG-LS or JPEG 2000"
        )
    frames = _dicom_frames(path, header)
    colours = str(header.PhotometricInterpretation)

    def decode_tile(column: int, row: int) -> Pixels | None:
        if (column, row) not in frames:
            return None
        encoded = read_bytes(path, *frames[column, row])
        if codec is imagecodecs.jpeg8_decode:
            # An Adobe marker states the colours of the frame itself, and slides are seen whose
            # header contradicts it. Without one, libjpeg would take RGB for YCbCr.
            is_rgb = colours == "RGB" and b"Adobe" not in encoded[:4096]
            pixels: Pixels = codec(encoded, colorspace="RGB" if is_rgb else None)
        else:
            pixels = codec(encoded)
        if codec is imagecodecs.jpegls_decode and colours == "YBR_FULL":  # the others convert
            pixels = np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))
        return pixels.reshape(*pixels.shape[:2], samples)

    size = header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows
    tile = header.Columns, header.Rows
    return TiledImage(*size, tile, samples, np.dtype(np.uint8), decode_tile)


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
    if header.get("DimensionOrganizationType") == "TILED_FULL":
        across = math.ceil(header.TotalPixelMatrixColumns / header.Columns)
        tiles = [(number % across, number // across) for number in range(count)]
    else:
        groups = header.PerFrameFunctionalGroupsSequence
        corners = [group.PlanePositionSlideSequence[0] for group in groups]
        tiles = [
            (
                corner.ColumnPositionInTotalImagePixelMatrix // header.Columns,  # counted from 1
                corner.RowPositionInTotalImagePixelMatrix // header.Rows,
            )
            for corner in corners
        ]
    frames = header.get("NumberOfFrames", 1)
    if count != frames or count != len(tiles):
        raise InputError(
            f"{path} has {frames} frames in {count} parts: the file is cut short, or frames are "
            "split. Copy it again, or save it with one part for each frame"
        )
    return dict(zip(tiles, places, strict=True))

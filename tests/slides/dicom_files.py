"""Small DICOM slides, made to be read."""

import math
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

TILE = 128
SERIES = generate_uid(entropy_srcs=["series"])

_SYNTAX = {"jpeg": "50", "jpeg-ls": "80", "jpeg2000": "90", "rle": None}


def write_dicom(
    path: Path,
    picture: np.ndarray,
    *,
    codec: str,
    colours: str,
    mpp: float = 0.5,
    kind: str = "VOLUME",
    sparse: bool = False,
    skip: int | None = None,
    planes: int = 1,
    **facts: object,
) -> None:
    """Write one level of a DICOM slide in tiles of 128 pixels; `skip` leaves out a tile."""
    height, width = picture.shape[:2]
    across, down = math.ceil(width / TILE), math.ceil(height / TILE)
    padded = np.pad(
        picture, ((0, down * TILE - height), (0, across * TILE - width), (0, 0)), mode="edge"
    )
    corners = [(x * TILE, y * TILE) for y in range(down) for x in range(across)]
    if sparse:
        corners = [corner for number, corner in enumerate(corners[::-1]) if number != skip]
    header = Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    header.SOPInstanceUID = generate_uid()
    header.SeriesInstanceUID = SERIES
    header.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    header.Modality = "SM"
    header.Rows = header.Columns = TILE
    header.SamplesPerPixel, header.PlanarConfiguration = 3, 0
    header.PhotometricInterpretation = colours
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.NumberOfFrames = len(corners)
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = width, height
    header.TotalPixelMatrixFocalPlanes = planes
    header.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    if sparse:
        header.PerFrameFunctionalGroupsSequence = [_place(*corner) for corner in corners]
    frames = [_encoded(padded[y : y + TILE, x : x + TILE], codec, colours) for x, y in corners]
    header.PixelData = encapsulate(frames)
    header["PixelData"].VR = "OB"
    for name, value in facts.items():
        setattr(header, name, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    end = _SYNTAX[codec]
    meta.TransferSyntaxUID = pydicom.uid.UID(
        f"1.2.840.10008.1.2.4.{end}" if end else "1.2.840.10008.1.2.5"
    )
    file = FileDataset(path, header, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path)


def _place(x: int, y: int) -> Dataset:
    position, group = Dataset(), Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = x + 1
    position.RowPositionInTotalImagePixelMatrix = y + 1
    group.PlanePositionSlideSequence = [position]
    return group


def _encoded(tile: np.ndarray, codec: str, colours: str) -> bytes:
    tile = np.ascontiguousarray(tile)
    if codec == "jpeg":  # no marker says which colours these are
        inside = "RGB" if colours == "RGB" else "YCBCR"
        return imagecodecs.jpeg8_encode(tile, level=98, colorspace="RGB", outcolorspace=inside)
    if colours == "YBR_FULL":
        tile = np.asarray(Image.fromarray(tile).convert("YCbCr"))
    encode = {
        "jpeg-ls": imagecodecs.jpegls_encode,
        "jpeg2000": lambda pixels: imagecodecs.jpeg2k_encode(
            pixels, codecformat="j2k", reversible=True
        ),
        "rle": lambda pixels: imagecodecs.packbits_encode(pixels.tobytes()),
    }[codec]
    return bytes(encode(tile))

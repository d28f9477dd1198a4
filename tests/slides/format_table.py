"""Every kind of file that is made here, and what becomes of it: the table of docs/slide-formats.md.

`python -m tests.slides.format_table` writes the table anew.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from madeleine_bench.errors import InputError
from madeleine_bench.slides.pictures import PictureOptions, open_picture
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.tiled import TiledSlide
from tests.marked import write_marked

from .dicom_files import write_dicom

PAGE = Path(__file__).parents[2] / "docs" / "slide-formats.md"


def smooth(height: int = 300, width: int = 350) -> np.ndarray:
    """A picture that lossy compression hardly changes, different along each axis and channel."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([80 + x / 3, 250 - y / 2, 60 + (x + y) / 6]).astype(np.uint8)


def tiff(**tags) -> Callable[[Path, np.ndarray], None]:
    """Return a function that writes a tiled TIFF."""
    how = {"tile": (128, 128), "photometric": "rgb", "metadata": None, **tags}
    return lambda path, picture: tifffile.imwrite(path, picture, **how)


def changed(change, write) -> Callable[[Path, np.ndarray], None]:
    """Return a function that changes a picture and then writes it."""
    return lambda path, picture: write(path, change(picture))


def ome_pyramid(path: Path, picture: np.ndarray, unit: str = "µm") -> None:
    facts = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    facts |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(picture, subifds=1, metadata=facts, tile=(128, 128), photometric="rgb")
        out.write(picture[::2, ::2], subfiletype=1, tile=(128, 128), photometric="rgb")


def pillow(**options) -> Callable[[Path, np.ndarray], None]:
    """Return a function that writes a picture by the suffix of its name."""
    return lambda path, picture: Image.fromarray(picture).save(path, **options)


def unknown_compression(path: Path, picture: np.ndarray) -> None:
    """A TIFF whose tag of compression is one that hardly any library decodes."""
    tiff()(path, picture)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(48124)


def png_16_bit(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(picture.astype("u2") * 257))


def planes(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(picture, 2, 0))


def dicom(**facts) -> Callable[[Path, np.ndarray], None]:
    return lambda path, picture: write_dicom(path, picture, **facts)


STRIPS = {"tile": None}
TURNED = {"extratags": [(274, 3, 1, 6, True)]}
MANY = {"photometric": "minisblack"}

Case = tuple[str, str, Callable[[Path, np.ndarray], None], PictureOptions]
PLAIN = PictureOptions()
COMPRESSIONS = {
    "deflate": "zlib", "LZW": "lzw", "Zstandard": "zstd", "JPEG": "jpeg", "JPEG 2000": "jpeg2000",
    "JPEG XL": "jpegxl", "JPEG XR": "jpegxr", "WebP": "webp", "LERC": "lerc", "PNG": "png",
    "LZMA": "lzma",
}  # fmt: skip

# What the file is, its suffix, what writes it, and the options that convert needs for it.
CASES: list[Case] = [
    ("TIFF in tiles, uncompressed", ".tif", tiff(), PLAIN),
    *(
        (f"TIFF in tiles, {name}", ".tif", tiff(compression=code), PLAIN)
        for name, code in COMPRESSIONS.items()
    ),
    ("TIFF in tiles, Jetraw", ".tif", unknown_compression, PLAIN),
    ("OME-TIFF with sub-resolutions", ".tif", ome_pyramid, PLAIN),
    ("TIFF in tiles, grey", ".tif", changed(lambda p: p[..., 0], tiff(**MANY)), PLAIN),
    (
        "TIFF in tiles, red, green and blue in planes",
        ".tif",
        changed(planes, tiff(planarconfig="separate")),
        PLAIN,
    ),
    ("TIFF in tiles, turned (orientation 6)", ".tif", tiff(**TURNED), PLAIN),
    ("TIFF in tiles, 16-bit", ".tif", changed(lambda p: p.astype("u2") * 257, tiff()), PLAIN),
    (
        "TIFF in tiles, floating point, 0 to 1",
        ".tif",
        changed(lambda p: p.astype("f4") / 255, tiff()),
        PLAIN,
    ),
    (
        "TIFF in tiles, 3 pages (channels CYX)",
        ".tif",
        changed(planes, tiff(**MANY)),
        PictureOptions(pages=(1, 2, 3)),
    ),
    (
        "TIFF in tiles, 5 channels in a page",
        ".tif",
        changed(lambda p: np.dstack([p, p[..., :2]]), tiff(**MANY, planarconfig="contig")),
        PictureOptions(channels=(1, 2, 3)),
    ),
    ("TIFF in strips, 8-bit", ".tif", tiff(**STRIPS), PLAIN),
    (
        "TIFF in strips, 12 bits in 16",
        ".tif",
        changed(lambda p: p.astype("u2") * 16, tiff(**STRIPS)),
        PictureOptions(scale=(0, 4080)),
    ),
    (
        "TIFF in strips, floating point, 0 to 255",
        ".tif",
        changed(lambda p: p.astype("f4"), tiff(**STRIPS)),
        PictureOptions(scale=(0, 255)),
    ),
    (
        "TIFF in strips, signed integers",
        ".tif",
        changed(lambda p: p.astype("i2"), tiff(**STRIPS)),
        PictureOptions(scale=(0, 255)),
    ),
    ("TIFF in strips, CIELAB", ".tif", tiff(**STRIPS | {"photometric": "cielab"}), PLAIN),
    ("JPEG", ".jpg", pillow(quality=95), PLAIN),
    ("PNG", ".png", pillow(), PLAIN),
    ("PNG, 16-bit", ".png", png_16_bit, PLAIN),
    ("BMP", ".bmp", pillow(), PLAIN),
    ("JPEG 2000 file", ".jp2", pillow(), PLAIN),
    ("DICOM, JPEG, RGB", ".dcm", dicom(codec="jpeg", colours="RGB"), PLAIN),
    ("DICOM, JPEG, YBR_FULL", ".dcm", dicom(codec="jpeg", colours="YBR_FULL"), PLAIN),
    ("DICOM, JPEG-LS", ".dcm", dicom(codec="jpeg-ls", colours="RGB"), PLAIN),
    ("DICOM, JPEG-LS, YBR_FULL", ".dcm", dicom(codec="jpeg-ls", colours="YBR_FULL"), PLAIN),
    ("DICOM, JPEG 2000", ".dcm", dicom(codec="jpeg2000", colours="YBR_RCT"), PLAIN),
    (
        "DICOM, tiles in any order",
        ".dcm",
        dicom(codec="jpeg-ls", colours="RGB", sparse=True),
        PLAIN,
    ),
    ("DICOM, RLE", ".dcm", dicom(codec="rle", colours="RGB"), PLAIN),
    ("DICOM label", ".dcm", dicom(codec="jpeg", colours="RGB", kind="LABEL"), PLAIN),
]


def as_slide(path: Path) -> tuple[str, np.ndarray | None]:
    """Return what reads a file as a slide, or that nothing does, and its pixels."""
    try:
        with Slide(path, 0.5) as slide:
            reader = "second reader" if isinstance(slide._slide, TiledSlide) else "OpenSlide"
            return f"yes, {reader}", slide.thumbnail().rgb
    except InputError as error:
        return refused(error), None


def refused(error: InputError) -> str:
    """Check that a sound file is not called damaged."""
    if "damaged" in str(error):
        raise AssertionError(str(error)) from error
    return "refused"


def as_picture(path: Path, options: PictureOptions) -> tuple[str, np.ndarray | None]:
    """Return what `mbench slides convert` does with a file, and its pixels."""
    try:
        return "yes", open_picture(path)[:]
    except InputError as error:
        verdict, message = refused(error), str(error)
    if options == PictureOptions():
        return verdict, None
    given = [name for name in ("page", "channel", "scale") if f"--{name}" in message]
    return f"with `--{given[0]}`", open_picture(path, options)[:]


def table(folder: Path) -> tuple[str, dict[str, list[np.ndarray]]]:
    """Return the table, and of each kind the pictures that were read."""
    lines = ["| file | as a slide | `slides convert` |", "|---|---|---|"]
    read = {}
    for number, (name, suffix, write, options) in enumerate(CASES):
        path = folder / f"{number}" / f"file{suffix}"
        path.parent.mkdir()
        write(path, smooth())
        slide, pixels = as_slide(path)
        converted, rgb = as_picture(path, options) if suffix != ".dcm" else ("-", None)
        if suffix == ".dcm" and pixels is not None:
            slide = "yes"  # by which reader depends on facts that these files do not state
        lines.append(f"| {name} | {slide} | {converted} |")
        read[name] = [one for one in (pixels, rgb) if one is not None]
    return "\n".join(lines) + "\n", read


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        write_marked(PAGE, "formats", table(Path(place))[0])

"""Which files of a folder are slides, and plain pictures turned into slides: TIFF pyramids."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import check_readable, files_under, looking_at, replacing
from madeleine_bench.report import Report, Table
from madeleine_bench.slides.reader import Slide, checked_mpp
from madeleine_bench.types import Progress

_TILE_PX = 256


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
        picture: (height, width, 3), RGB.
        mpp: micrometres per pixel.
        description: text of the ImageDescription tag.
        jpeg_quality: 1 to 100 for JPEG tiles; None stores without loss (deflate).

    Raises:
        InputError: the folder cannot be written.
    """
    # A classic TIFF ends at 4 GiB; all levels together are at most 4/3 of the first.
    is_big = picture.nbytes * 4 // 3 > 2**32 - 2**25
    compression: dict[str, Any] = {"compression": "zlib"}
    if jpeg_quality is not None:
        compression = {"compression": "jpeg", "compressionargs": {"level": jpeg_quality}}
        compression["subsampling"] = (2, 2)
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=is_big) as out:
        for number, level in enumerate(_levels(Image.fromarray(picture))):
            per_cm = 1e4 / (mpp * picture.shape[1] / level.width)
            out.write(
                np.asarray(level),
                photometric="rgb",
                tile=(_TILE_PX, _TILE_PX),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
                description=description if number == 0 else None,
                metadata=None,
                software="madeleine-bench",
                **compression,
            )


def _levels(level: Image.Image) -> Iterator[Image.Image]:
    yield level
    while max(level.size) > _TILE_PX:  # the last level fits into one tile
        level = level.reduce(2)
        yield level


# Not .dcm: a DICOM slide is several files, and each would count as a slide. Name one of them.
SLIDE_SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".svslide", ".bif", ".vms", ".vmu",
)  # fmt: skip
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

# 6 GB in memory; a picture that claims more is a mistake or a trap. Pillow refuses twice its limit,
# which as it comes is below what scanners export.
_LARGEST_PIXELS = 2 * 10**9
Image.MAX_IMAGE_PIXELS = _LARGEST_PIXELS // 2


def list_slides(place: Path) -> tuple[Path, ...]:
    """Return the slides under a folder, nested ones too, by id; or the one slide of a path.

    Raises:
        InputError: there is no such path, a folder under it cannot be read, it holds no slide, or
            two slides have the same name.
    """
    with looking_at(place):
        is_file, is_folder = place.is_file(), place.is_dir()
    if is_file:
        return (place,)
    if not is_folder:
        raise InputError(f"no folder {place}; --slides wants a folder of slides, or one slide")
    files = [path for path in files_under(place) if path.name[0] != "."]
    slides = [path for path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    # The slices of an MRXS slide lie in a folder of its name and are not slides.
    owners = {path.with_suffix("") for path in slides}
    by_name: dict[str, Path] = {}
    for path in slides:
        if not owners & set(path.parents) and (twin := by_name.setdefault(path.stem, path)) != path:
            raise InputError(
                f"two slides are called '{path.stem}': {twin} and {path}. The name is the slide "
                "id, so each may stand once; rename one or move it away"
            )
    if not by_name:
        raise InputError(
            f"no slide under {place} ({', '.join(SLIDE_SUFFIXES)}). Plain pictures become slides "
            f"by: mbench slides convert {place} --mpp MICROMETRES --out FOLDER"
        )
    return tuple(by_name[name] for name in sorted(by_name))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a plain picture, height x width x 3; transparent parts become white.

    Raises:
        InputError: the file is absent, is no picture, is damaged, or claims over 2 billion pixels.
    """
    try:
        with Image.open(path) as picture:
            layer = picture.convert("RGBA")
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"no picture {path}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read (JPEG, PNG, TIFF)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        check_readable(path, error)
        raise InputError(f"{path} cannot be read ({error}); it is cut short or damaged") from error


def convert_picture(path: Path, out: Path, mpp: float, *, overwrite: bool = False) -> Path:
    """Write a plain picture as a slide (a tiled TIFF pyramid) and return the slide's path.

    Args:
        path: the picture.
        out: folder of the slide, which keeps the picture's name.
        mpp: micrometres per pixel of the picture.
        overwrite: replace a slide that is there.

    Raises:
        InputError: as `read_picture`; or the slide is there already or cannot be written.
    """
    slide = out / f"{path.stem}.tif"
    if slide.exists() and not overwrite:
        raise InputError(f"{slide} is there already; --overwrite replaces it")
    known_mpp = checked_mpp(mpp, "--mpp")  # before a large picture is read for nothing
    description = f"converted by madeleine-bench from {path.name!a}"
    write_pyramid(slide, read_picture(path), mpp=known_mpp, description=description)
    return slide


def describe_slides(places: Sequence[Path], mpp: float | None) -> Report:
    """Return a table of slides; a problem where one cannot be read, or has no known resolution.

    Raises:
        InputError: a path is absent.
    """
    rows: list[list[str]] = []
    faults: list[str] = []
    for path in [path for place in places for path in list_slides(place)]:
        try:
            with Slide(path, mpp) as slide:
                known = "unknown" if slide.mpp is None else f"{slide.mpp:.4g} ({slide.mpp_source})"
                levels = ", ".join(f"{down:g}" for down in slide.level_downsamples)
                kind = slide.vendor if slide.phantom is None else f"{slide.vendor}, PHANTOM"
                size = f"{slide.width_px0} x {slide.height_px0}"
                rows.append([slide.slide_id, kind, size, known, levels, str(path)])
                slide.known_mpp()
        except InputError as error:
            faults.append(str(error))
    header = ["slide", "format", "level 0", "mpp", "levels", "file"]
    problem = CheckFailed("\n".join(faults)) if faults else None
    return Report({}, [Table(f"{len(rows)} slides", header, rows)], problem=problem)


def convert_pictures(
    places: Sequence[Path],
    out: Path,
    mpp: float,
    progress: Progress,
    overwrite: bool = False,
) -> Report:
    """Turn every picture into a slide; those that could not be are the problem of the report.

    Raises:
        InputError: a path holds no picture.
    """
    pictures = [path for place in places for path in _pictures(place)]
    faults: list[str] = []
    progress.phase("convert", len(pictures))
    for path in pictures:
        try:
            convert_picture(path, out, mpp, overwrite=overwrite)
        except InputError as error:
            faults.append(str(error))
        progress.advance(path.name)
    problem = InputError("\n".join(faults)) if faults else None
    return Report({}, [f"{len(pictures) - len(faults)} slides in {out}"], problem=problem)


def _pictures(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]  # whatever it is, opening it says what is wrong
    pictures = [path for path in files_under(place) if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise InputError(f"no picture in {place} ({', '.join(PICTURE_SUFFIXES)})")
    return pictures

"""Which files of a folder are slides, and plain pictures turned into slides: TIFF pyramids."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from madeleine_bench.data.ids import SLIDE_SUFFIXES
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import check_readable, files_under, looking_at, replacing
from madeleine_bench.report import Report, Table
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.resolution import GivenMpp, checked_mpp, unmatched_note
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


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")

# 6 GB in memory; a picture that claims more is a mistake or a trap. Pillow refuses twice its limit,
# which as it comes is below what scanners export.
_LARGEST_PIXELS = 2 * 10**9
Image.MAX_IMAGE_PIXELS = _LARGEST_PIXELS // 2


def list_slides(place: Path, say: Callable[[str], None] = lambda line: None) -> tuple[Path, ...]:
    """Return the slides under a folder, nested ones too, by id; or the one slide of a path.

    What looks like a slide is in the list even where no reader opens it, such as a link that leads
    nowhere: opening it says what is wrong, so that no slide is missed without a word. Of a DICOM
    slide, a file for each level, the largest file stands for all.

    Args:
        place: a folder, or a slide.
        say: told of the files that do not look like slides.

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
    slides, others = _listed(place, SLIDE_SUFFIXES)
    # The slices of an MRXS slide lie in a folder of its name and are not slides.
    owners = {path.with_suffix("") for path in slides if path.suffix.lower() == ".mrxs"}
    slides, others = (
        [path for path in paths if not owners & set(path.parents)] for paths in (slides, others)
    )
    dicom = {path for path in slides + others if _is_dicom(path)}
    slides = [path for path in slides if path not in dicom] + _largest_of_series(dicom)
    _say_others([path for path in others if path not in dicom], say)
    by_name = _by_name(slides, "slides")
    if not by_name:
        raise InputError(
            f"no slide under {place} ({', '.join(SLIDE_SUFFIXES)}). Plain pictures become slides "
            f"by: mbench slides convert {place} --mpp MICROMETRES --out FOLDER"
        )
    return tuple(by_name[name] for name in sorted(by_name))


def _listed(place: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files under a folder that end with one of the suffixes, and the others.

    Links that lead nowhere are among the first where they may be what is sought: a file of such a
    suffix, or a folder. Hidden files are in neither.
    """
    links: list[Path] = []
    files = files_under(place, links)
    taken: list[Path] = []
    others: list[Path] = []
    for path in sorted(files + links):
        is_sought = path.suffix.lower() in suffixes or (path in links and not path.suffix)
        if path.name[0] != ".":
            (taken if is_sought else others).append(path)
    return taken, others


def _by_name(paths: Iterable[Path], kind: str) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in paths:
        if (twin := by_name.setdefault(path.stem, path)) != path:
            raise InputError(
                f"two {kind} are called '{path.stem}': {twin} and {path}. The name is the slide "
                "id, so each may stand once; rename one or move it away"
            )
    return by_name


def _say_others(others: Sequence[Path], say: Callable[[str], None]) -> None:
    counts = Counter(path.suffix.lower() or "without suffix" for path in others)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    if others:
        say(f"note: {len(others)} file(s) of other kinds left out: {kinds}, such as {others[0]}")


def _is_dicom(path: Path) -> bool:
    """Return whether a file is named as DICOM, or by a UID and has DICOM's mark (PS3.10, 7.1)."""
    if path.suffix[1:].isalpha() or not path.is_file():
        return path.suffix.lower() == ".dcm"
    with looking_at(path), path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _largest_of_series(files: Collection[Path]) -> list[Path]:
    """Return the largest file, that of level 0, of each DICOM series of a folder."""
    if not files:
        return []
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    series: dict[tuple[Path, str], Path] = {}
    for path in sorted(files, key=lambda path: (path.is_file() and path.stat().st_size, path)):
        try:
            tags = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            series[path.parent, str(tags.SeriesInstanceUID)] = path
        except (OSError, ValueError, EOFError, InvalidDicomError, AttributeError):
            # Opening the slide says what is wrong.
            series[path.parent, path.name] = path
    return sorted(series.values())


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
        dead_link = f"{path} is a link that leads nowhere" if path.is_symlink() else ""
        raise InputError(dead_link or f"no picture {path}") from error
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
    if slide.resolve() == path.resolve():
        raise InputError(f"{path} would be written over itself; choose another --out")
    if slide.exists() and not overwrite:
        raise InputError(f"{slide} is there already; --overwrite replaces it")
    known_mpp = checked_mpp(mpp, "--mpp")  # before a large picture is read for nothing
    description = f"converted by madeleine-bench from {path.name!a}"
    write_pyramid(slide, read_picture(path), mpp=known_mpp, description=description)
    return slide


def describe_slides(
    places: Sequence[Path], mpp: GivenMpp = None, force_mpp: GivenMpp = None
) -> Report:
    """Return a table of slides; a problem where one cannot be read, or has no known resolution.

    Args:
        places: slides, and folders of slides.
        mpp: micrometres per level-0 pixel where a file states none.
        force_mpp: micrometres per level-0 pixel in place of what a file states.

    Raises:
        InputError: a path is absent.
    """
    rows: list[list[str]] = []
    faults: list[str] = []
    notes: list[str] = []
    slides = [path for place in places for path in list_slides(place, notes.append)]
    notes += unmatched_note("--mpp", mpp, slides)
    notes += unmatched_note("--force-mpp", force_mpp, slides)
    for path in slides:
        try:
            with Slide(path, mpp, force_mpp) as slide:
                known = "unknown" if slide.mpp is None else f"{slide.mpp:.4g} ({slide.mpp_source})"
                levels = ", ".join(f"{down:g}" for down in slide.level_downsamples)
                kind = slide.vendor if slide.phantom is None else f"{slide.vendor}, PHANTOM"
                size = f"{slide.width_px0} x {slide.height_px0}"
                rows.append([slide.slide_id, kind, size, known, levels, str(path)])
                slide.known_mpp()
                notes += [f"{slide.slide_id}: {slide.mpp_remark}"] * bool(slide.mpp_remark)
        except InputError as error:
            faults.append(str(error))
    header = ["slide", "format", "level 0", "mpp", "levels", "file"]
    problem = CheckFailed("\n".join(faults)) if faults else None
    return Report({}, [Table(f"{len(rows)} slides", header, rows), *notes], problem=problem)


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
    pictures = [path for place in places for path in _pictures(place, out, progress.say)]
    _by_name(pictures, "pictures")
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


def _pictures(place: Path, out: Path, say: Callable[[str], None]) -> list[Path]:
    """Return the pictures of a path; slides that an earlier call has written there are none."""
    if not place.is_dir():
        return [place]  # whatever it is, opening it says what is wrong
    pictures, others = _listed(place, PICTURE_SUFFIXES)
    if place.resolve() != out.resolve():
        pictures = [path for path in pictures if out.resolve() not in path.resolve().parents]
    _say_others(others, say)
    if not pictures:
        raise InputError(f"no picture in {place} ({', '.join(PICTURE_SUFFIXES)})")
    return pictures

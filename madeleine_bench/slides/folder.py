"""Which files of a folder are slides or pictures, and what each slide says of itself."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from madeleine_bench.data.ids import SLIDE_SUFFIXES
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import files_under, looking_at
from madeleine_bench.report import Report, Table
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.resolution import GivenMpp, unmatched_note

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


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


def list_pictures(places: Sequence[Path], out: Path, say: Callable[[str], None]) -> list[Path]:
    """Return the pictures of some paths, without the slides that an earlier call has written there.

    Args:
        places: pictures, and folders of pictures.
        out: folder of the slides.
        say: told of the files that do not look like pictures.

    Raises:
        InputError: a folder holds no picture, or two pictures have the same name.
    """
    pictures: list[Path] = []
    for place in places:
        if not place.is_dir():
            pictures.append(place)  # whatever it is, opening it says what is wrong
            continue
        inside, others = _listed(place, PICTURE_SUFFIXES)
        if place.resolve() != out.resolve():
            inside = [path for path in inside if out.resolve() not in path.resolve().parents]
        _say_others(others, say)
        if not inside:
            raise InputError(f"no picture in {place} ({', '.join(PICTURE_SUFFIXES)})")
        pictures += inside
    _by_name(pictures, "pictures")
    return pictures


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

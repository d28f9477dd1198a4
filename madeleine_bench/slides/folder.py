"""Which files of a folder are slides, and what each says of itself."""

from collections.abc import Sequence
from pathlib import Path

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import files_under, looking_at
from madeleine_bench.report import Report, Table
from madeleine_bench.slides.reader import Slide

# Not .dcm: a DICOM slide is several files, and each would count as a slide. Name one of them.
SLIDE_SUFFIXES = (
    ".svs", ".ndpi", ".mrxs", ".tif", ".tiff", ".scn", ".svslide", ".bif", ".vms", ".vmu",
)  # fmt: skip


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

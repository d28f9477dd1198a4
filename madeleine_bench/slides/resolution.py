"""Micrometres per pixel of a slide: what its file states, what the user gives, and which counts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from madeleine_bench.data.ids import canonical_id, slide_name
from madeleine_bench.data.tables import missing_column, read_cells
from madeleine_bench.errors import InputError

MppSource = Literal["given", "stated", "objective"]
GivenMpp = float | Mapping[str, float] | None  # of every slide, or by the name of the slide

_MPP_RANGE = (0.02, 100.0)  # from above the finest objective to a coarse overview scan
_ANISOTROPY = 0.05  # pixels are square to this; no tool of the field reads others
_SAME_MPP = 0.01  # smaller differences move no patch by a cell
_PRINT_DPI = (72, 96, 100, 120, 144, 150, 180, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)
_COLUMNS = ("slide", "slide_id", "wsi")  # the last is that of TRIDENT's list of slides


class Resolution(NamedTuple):
    """The resolution of a slide.

    Attributes:
        mpp: micrometres per level-0 pixel; None where nothing says it.
        source: "given" by the user, "stated" in the file, "objective" worked out from the power of
            the objective (10 / power), or None.
        remark: what the user should know of it, or "".
    """

    mpp: float | None
    source: MppSource | None
    remark: str = ""


def resolve_mpp(
    properties: Mapping[str, str], mpp: float | None = None, force_mpp: float | None = None
) -> Resolution:
    """Return the resolution that counts: forced, stated, given or of the objective, in this order.

    Args:
        properties: of the slide, as OpenSlide names them.
        mpp: micrometres per level-0 pixel where the file states none.
        force_mpp: micrometres per level-0 pixel in place of what the file states.

    Raises:
        InputError: a given value is no plausible number of micrometres.
    """
    given = None if mpp is None else checked_mpp(mpp, "--mpp")
    if force_mpp is not None:
        return Resolution(checked_mpp(force_mpp, "--force-mpp"), "given")
    stated, remark = _stated_mpp(properties)
    if stated is not None:
        if given is not None and abs(given / stated - 1) > _SAME_MPP:
            remark = (
                f"its file states {stated:.4g} micrometres per pixel, so --mpp {given:g} is not "
                "used (--force-mpp replaces what a file states)"
            )
        return Resolution(stated, "stated", remark)
    if given is not None:
        return Resolution(given, "given")
    power = _number(properties.get("openslide.objective-power"))
    return (
        Resolution(10.0 / power, "objective", remark) if power else Resolution(None, None, remark)
    )


def _stated_mpp(properties: Mapping[str, str]) -> tuple[float | None, str]:
    """Return the mpp that the properties of a slide state, or None, and a remark, or ""."""
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if not x or not y:
        return None, ""
    mean, difference = (x + y) / 2, abs(x / y - 1)
    dpi = 25_400 / mean
    low, high = _MPP_RANGE
    if any(abs(dpi / density - 1) < 0.002 for density in _PRINT_DPI):
        return (
            None,
            f"its {dpi:.0f} dots per inch are a print density, not the resolution of a scan",
        )
    if not low <= mean <= high:
        return None, f"it states {mean:g} micrometres per pixel, outside of {low} to {high:g}"
    size = f"its pixels are {x:.4g} x {y:.4g} micrometres"
    if difference > _ANISOTROPY:
        return None, f"{size}, which differ by more than {_ANISOTROPY:.0%}"
    return mean, f"{size}; their mean is used" if difference > _SAME_MPP else ""


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def checked_mpp(mpp: float, name: str) -> float:
    """Return an mpp that the user gave under an option's name.

    Raises:
        InputError: it is no plausible number of micrometres.
    """
    low, high = _MPP_RANGE
    if not low <= mpp <= high:  # also refuses NaN
        raise InputError(f"{name} is {mpp}; expected micrometres per pixel, {low} to {high:g}")
    return float(mpp)


def read_mpp(text: str | None, option: str) -> GivenMpp:
    """Return what the user gave under an option: a number for all slides, or a table.

    The table has a column `slide` (or `slide_id`, or TRIDENT's `wsi`) with names or files of slides
    and a column `mpp`; a slide whose cell is empty is not in the result.

    Raises:
        InputError: it is neither, a number is not plausible, or a slide has two.
    """
    if text is None:
        return None
    try:
        return checked_mpp(float(text), option)
    except ValueError:
        path = Path(text)
    if not path.is_file():
        raise InputError(
            f"{option} is '{text}'; expected micrometres per pixel, or a table (.csv) with the "
            "columns slide and mpp"
        )
    header, rows = read_cells(path)
    name = next((name for name in _COLUMNS if name in header), "slide")
    for column in (name, "mpp"):
        if column not in header:
            raise missing_column(column, header, f"{path}: row 1")
    slide, mpp = header.index(name), header.index("mpp")
    table: dict[str, float] = {}
    for number, cells in rows:
        if not cells[mpp]:
            continue
        value = _number(cells[mpp])
        if value is None:
            raise InputError(f"{path}: row {number}: mpp is '{cells[mpp]}'; expected a number")
        checked_mpp(value, f"{path}: row {number}: mpp")
        key = _key(cells[slide])
        if table.setdefault(key, value) != value:
            raise InputError(
                f"{path}: row {number}: slide '{key}' has mpp {value:g} here and {table[key]:g} in "
                "a row above; keep one of them"
            )
    return table


def mpp_of(given: GivenMpp, path: Path) -> float | None:
    """Return what the user gave for the slide of a file; None for nothing."""
    return given.get(_key(path.name)) if isinstance(given, Mapping) else given


def unmatched_note(option: str, given: GivenMpp, slides: Sequence[Path]) -> list[str]:
    """Return a line on the rows of a table that are of no slide of a list; none without any."""
    if not isinstance(given, Mapping):
        return []
    names = sorted(set(given) - {_key(path.name) for path in slides})
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    text = (
        f"note: {len(names)} of {len(given)} slides of the table of {option} are not here: {shown}"
    )
    return [text] if names else []


def _key(name: str) -> str:
    """Return the name of a slide from that of its file, with folders or without."""
    return canonical_id(slide_name(PurePosixPath(name.replace("\\", "/")).name))

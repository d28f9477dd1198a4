"""Pictures to look at: tissue and patches drawn on a thumbnail, and values as a heat map."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from madeleine_bench.errors import InputError
from madeleine_bench.slides.contours import Contour

_OUTLINE, _HOLE, _GRID = (0, 160, 0), (0, 90, 255), (40, 40, 40)
_LINE_PER_PX = 1 / 700  # lines stay visible when a large picture is shown small
_COLOURS = "viridis"  # even to the eye, also without colour vision; no stain looks like it
_OPACITY = 0.6
_BAND_PX = 26  # height of the title, and of the colour bar with its numbers
_BAR_PX = 80
_LEAST_WIDTH_PX = 260
_GAP_PX = 8
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def tissue_overlay(
    thumbnail: NDArray[np.uint8],
    contours: Sequence[Contour],
    grid: ArrayLike = (),
) -> Image.Image:
    """Return the thumbnail with outlines in green, holes in blue and patches as thin boxes.

    Args:
        thumbnail: (height, width, 3), RGB.
        contours: in thumbnail pixels.
        grid: (patch, 4): left, top, right, bottom in thumbnail pixels.

    Raises:
        InputError: the boxes have another shape.
    """
    picture = Image.fromarray(thumbnail)
    draw = ImageDraw.Draw(picture)
    for box in _boxes(grid):
        # With its last row and column, so that neighbours share a line.
        draw.rectangle([int(edge) for edge in np.rint(box)], outline=_GRID)
    width = max(1, round(max(picture.size) * _LINE_PER_PX))
    for contour in contours:
        for colour, lines in ((_HOLE, contour.holes), (_OUTLINE, (contour.outline,))):
            for line in lines:
                # Pillow counts from the centres of pixels, contours from their corners.
                draw.line([(x - 0.5, y - 0.5) for x, y in line], fill=colour, width=width)
    return picture


def heat_overlay(
    thumbnail: NDArray[np.uint8], boxes: ArrayLike, values: ArrayLike, title: str
) -> Image.Image:
    """Return the thumbnail under coloured patches, with a title and a colour bar.

    The colours span the values from the lowest to the highest, which the bar states. Where patches
    overlap, the later one is seen.

    Args:
        thumbnail: (height, width, 3), RGB.
        boxes: (patch, 4): left, top, right, bottom in thumbnail pixels.
        values: (patch,).
        title: one line, drawn above.

    Raises:
        InputError: boxes and values do not fit together, or a value is not finite.
    """
    places, numbers = _boxes(boxes), np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(places),):
        raise InputError(f"values have shape {numbers.shape}; expected one for {len(places)} boxes")
    if not np.isfinite(numbers).all():
        raise InputError("a value to draw is not finite")
    base = Image.fromarray(thumbnail)
    heat, drawn = base.copy(), Image.new("L", base.size)
    on_heat, on_drawn = ImageDraw.Draw(heat), ImageDraw.Draw(drawn)
    for box, colour in zip(places, _colours(_relative(numbers)), strict=True):
        on_heat.rectangle(_pixels(box), fill=colour)
        on_drawn.rectangle(_pixels(box), fill=round(255 * _OPACITY))
    return _framed(Image.composite(heat, base, drawn), title, numbers)


def side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    """Return pictures in one row on white, a gap between them, aligned at the top."""
    width = sum(panel.width for panel in panels) + _GAP_PX * (len(panels) - 1)
    row = Image.new("RGB", (width, max(panel.height for panel in panels)), _WHITE)
    left = 0
    for panel in panels:
        row.paste(panel, (left, 0))
        left += panel.width + _GAP_PX
    return row


def picture_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file; the same picture gives the same bytes."""
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(boxes, dtype=np.float64)
    if not found.size:
        return np.empty((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise InputError(
            f"boxes have shape {found.shape}; expected (patch, 4): left, top, right, bottom"
        )
    return found


def _pixels(box: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Return the first and last pixel of a box along x and y, as Pillow wants them."""
    left, top, right, bottom = (int(edge) for edge in np.rint(box))
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values from 0 (the lowest) to 1; all in the middle where they are the same."""
    if not len(values) or values.min() == values.max():
        return np.full(len(values), 0.5)
    # Halved, so that the span of the largest numbers does not overflow.
    relative: NDArray[np.float64] = (values / 2 - values.min() / 2) / (
        values.max() / 2 - values.min() / 2
    )
    return relative


def _colours(relative: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    rgba = colormaps[_COLOURS](relative, bytes=True)
    return [(int(red), int(green), int(blue)) for red, green, blue, _ in rgba]


def _framed(picture: Image.Image, title: str, values: NDArray[np.float64]) -> Image.Image:
    """Return a picture with a title above it and a colour bar below."""
    font = ImageFont.load_default(size=15)
    width = max(picture.width, _LEAST_WIDTH_PX, int(font.getlength(title)) + 2 * _GAP_PX)
    panel = Image.new("RGB", (width, picture.height + 2 * _BAND_PX), _WHITE)
    panel.paste(picture, ((width - picture.width) // 2, _BAND_PX))
    draw = ImageDraw.Draw(panel)
    middle = (width / 2, _BAND_PX / 2)
    draw.text(middle, title, fill=_BLACK, font=font, anchor="mm")
    below = picture.height + 1.5 * _BAND_PX
    if not len(values):
        draw.text((width / 2, below), "no patches", fill=_BLACK, font=font, anchor="mm")
        return panel
    bar = Image.new("RGB", (_BAR_PX, 1))
    bar.putdata(_colours(np.linspace(0, 1, _BAR_PX)))
    left = (width - _BAR_PX) // 2
    panel.paste(bar.resize((_BAR_PX, _BAND_PX // 2)), (left, round(below - _BAND_PX / 4)))
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    draw.text((left - _GAP_PX, below), low, fill=_BLACK, font=font, anchor="rm")
    draw.text((left + _BAR_PX + _GAP_PX, below), high, fill=_BLACK, font=font, anchor="lm")
    return panel

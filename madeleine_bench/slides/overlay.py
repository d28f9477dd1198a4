"""Pictures to look at: outlines of tissue, patches on a thumbnail, and values as a heat map."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from madeleine_bench.data.bags import BagFile, read_bag_file
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import canonical_json
from madeleine_bench.slides.patches import PatchSettings, choose_patches
from madeleine_bench.slides.reader import Slide

Points = NDArray[np.float64]

_OUTLINE, _HOLE, _GRID = (0, 160, 0), (0, 90, 255), (40, 40, 40)
_LINE_PER_PX = 1 / 700  # lines stay visible when a large picture is shown small
_COLOURS = "viridis"  # even to the eye, also without colour vision; no stain looks like it
_OPACITY = 0.6
_PICTURE_PX = 1600
_PANEL_PX = 640  # of a head's heat map; five stand side by side
_BANDS_PX = 90  # height of the title, and of the colour bar with its numbers
_LEAST_WIDTH_PX = 260
_DPI = 100


@dataclass(frozen=True)
class Contour:
    """The outline of one piece of tissue.

    Attributes:
        outline: (point, 2) x, y in pixels, first = last; pixel i spans i to i + 1.
        holes: outlines of the holes in it, in the same way.
    """

    outline: Points
    holes: tuple[Points, ...]

    @property
    def area_px(self) -> float:
        """The area without the holes, in pixels squared."""
        return _area(self.outline) - sum(map(_area, self.holes))

    def scaled(self, x: float, y: float) -> "Contour":
        """Return the contour in pixels of another picture, x and y times as many."""
        factors = np.array([x, y])
        return Contour(self.outline * factors, tuple(hole * factors for hole in self.holes))


def tissue_contours(mask: NDArray[np.bool_]) -> tuple[Contour, ...]:
    """Return the outlines of the tissue, the largest first.

    Outlines run half-way between the centres of pixels inside and outside, so every centre is on
    the side it belongs to, and corners are cut. Pixels that touch by a corner are two pieces.

    Args:
        mask: (height, width), True on tissue.
    """
    framed = np.pad(mask, 1).astype(np.float64)  # so that outlines close at the picture's edge
    polygons: Any = contour_generator(z=framed, fill_type="OuterOffset").filled(0.5, 2.0)
    contours = []
    for points, offsets in zip(*polygons, strict=True):
        # From centres of pixels in the frame to corners in the picture.
        lines = np.split(points - 0.5, offsets[1:-1].astype(np.intp))
        outline, *holes = map(_without_straight_points, lines)
        contours.append(Contour(outline, tuple(holes)))
    return tuple(sorted(contours, key=lambda contour: -contour.area_px))


def contours_geojson(
    contours: Sequence[Contour], scale: tuple[float, float], properties: Mapping[str, Any]
) -> str:
    """Return the outlines as a GeoJSON FeatureCollection, which QuPath, geopandas and TRIDENT read.

    One Polygon a piece, in whole level-0 pixels; `tissue_id` counts from the largest piece. The
    same input gives the same bytes.

    Args:
        contours: as `tissue_contours` returns them.
        scale: level-0 pixels per pixel of the contours, along x and y.
        properties: facts on the slide, kept as a member of the collection.
    """
    features = []
    for number, contour in enumerate(contours):
        rings = [_ring(points, scale) for points in (contour.outline, *contour.holes)]
        # A speck can round away to a line; as a ring it would be invalid.
        rings = [ring for ring in rings if len(ring) >= 4]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": rings},
                "properties": {
                    "classification": {"color": _OUTLINE, "name": "Tissue"},
                    "objectType": "annotation",  # without it QuPath makes no annotation of it
                    "tissue_id": number,
                },
            }
        )
    content = {"type": "FeatureCollection", "features": features, "properties": dict(properties)}
    return canonical_json(content) + "\n"


def _ring(points: Points, scale: tuple[float, float]) -> list[list[int]]:
    """Return an outline in whole level-0 pixels, closed, without points that fell together."""
    places = np.floor(points * np.asarray(scale) + 0.5).astype(np.int64)
    moved = np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))
    ring: list[list[int]] = places[moved].tolist()
    return ring


def _without_straight_points(points: Points) -> Points:
    """Return a closed outline without the points that lie on a straight line (exact)."""
    ring = points[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    corners = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.vstack([corners, corners[:1]])


def _area(points: Points) -> float:
    """Return the area of a closed outline."""
    x, y = (points - points[0]).T  # small numbers, so nothing is lost
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2))


def slide_overlay(slide: Slide, bag: Path | None = None) -> Image.Image:
    """Return a slide with its tissue and patches: the usual ones, or those of a bag.

    Raises:
        InputError: the slide is damaged or its resolution is unknown; the bag is of another slide
            or does not say where its patches lie.
    """
    mpp = max(1.0, slide.known_mpp())  # no finer than the slide
    settings = PatchSettings(patch_px=max(1, round(256 / mpp)), mpp=mpp)
    chosen = choose_patches(slide, settings)
    assert chosen.tissue is not None
    assert chosen.thumbnail is not None
    shown = slide.thumbnail(longest_px=_PICTURE_PX)
    across, down = (a / b for a, b in zip(chosen.thumbnail.scale, shown.scale, strict=True))
    contours = [one.scaled(across, down) for one in tissue_contours(chosen.tissue.mask)]
    boxes = chosen.boxes() if bag is None else bag_on_slide(slide, bag)[1]
    return tissue_overlay(shown.rgb, contours, boxes / np.tile(shown.scale, 2))


def bag_on_slide(slide: Slide, path: Path) -> tuple[BagFile, Points]:
    """Return a bag and its patches as boxes (patch x 4) in level-0 pixels of its slide.

    Raises:
        InputError: the bag is damaged, of another slide, or does not say where its patches lie.
    """
    bag = read_bag_file(path)
    side = bag.facts.patch_size_level0
    if bag.coords is None or side is None:
        raise InputError(
            f"{path} does not say where its patches lie: coords in level-0 pixels and the "
            "attribute patch_size_level0 are needed (mbench features extract and TRIDENT write "
            "both)"
        )
    corners = np.asarray(bag.coords, dtype=np.float64)
    boxes = np.hstack([corners, corners + float(side)])
    if len(boxes) and (boxes[:, 2:].max(axis=0) > (slide.width_px0, slide.height_px0)).any():
        raise InputError(f"{path} has patches outside of {slide.path}; is it of another slide?")
    return bag, boxes


def attention_overlay(
    slide: Slide, boxes: Points, weights: NDArray[np.floating], name: str
) -> Image.Image:
    """Return the attention of each head on patches, and the mean of several, side by side.

    Args:
        slide: the slide.
        boxes: (patch, 4) in level-0 pixels.
        weights: patch x head, each head adding up to 1.
        name: of the encoder, for the titles.
    """
    thumbnail = slide.thumbnail(longest_px=_PANEL_PX)
    places = boxes / np.tile(thumbnail.scale, 2)
    # Times the number of patches: 1 is what a plain mean gives each.
    heads = weights.T * len(weights)
    titled = {f"{name}, head {number}": head for number, head in enumerate(heads, start=1)}
    if len(heads) > 1:
        titled[f"{name}, mean"] = heads.mean(axis=0)
    return heat_overlay(thumbnail.rgb, places, titled)


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
    """
    picture = Image.fromarray(thumbnail)
    draw = ImageDraw.Draw(picture)
    for box in np.reshape(grid, (-1, 4)):
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
    thumbnail: NDArray[np.uint8], boxes: Points, panels: Mapping[str, NDArray[np.floating]]
) -> Image.Image:
    """Return one panel a title, side by side: the thumbnail under coloured patches, a colour bar.

    The colours span the values of the panel, which the bar states. Where patches overlap, the later
    one is seen.

    Args:
        thumbnail: (height, width, 3), RGB.
        boxes: (patch, 4): left, top, right, bottom in thumbnail pixels.
        panels: the values (patch,) of each panel by its title.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = thumbnail.shape[:2]
    inches = (max(width, _LEAST_WIDTH_PX) * len(panels) / _DPI, (height + _BANDS_PX) / _DPI)
    figure = Figure(inches, dpi=_DPI, layout="constrained")
    for number, (title, values) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number, title=title)
        axes.imshow(thumbnail, extent=(0, width, height, 0))
        axes.axis("off")
        squares = [Rectangle((x, y), right - x, below - y) for x, y, right, below in boxes]
        heat = PatchCollection(squares, cmap=_COLOURS, alpha=_OPACITY, linewidths=0)
        heat.set_array(values)
        axes.add_collection(heat, autolim=False)
        figure.colorbar(heat, ax=axes, orientation="horizontal", shrink=0.5, aspect=30)
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight")  # wide enough for every title
    return Image.open(out).convert("RGB")


def picture_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file; the same picture gives the same bytes."""
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()

"""Outlines of tissue: from a mask to polygons with holes, and to GeoJSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours, label

from madeleine_bench.hashing import canonical_json

Points = NDArray[np.float64]

_COLOUR = [0, 160, 0]  # of the annotation in QuPath: red, green, blue


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
        return abs(_signed_area(self.outline)) - sum(abs(_signed_area(h)) for h in self.holes)

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
    framed = np.pad(mask, 1)  # so that outlines close at the edge of the picture
    pieces = label(framed, connectivity=1)
    outlines: dict[int, Points] = {}
    holes: dict[int, list[Points]] = {}
    for line in find_contours(framed.astype(np.float32), 0.5, fully_connected="low"):
        piece = _piece_beside(line[0], pieces)
        # From (row, column) of centres in the frame to x, y of corners in the picture.
        points = _without_straight_points(line[:, ::-1] - 0.5)
        if _signed_area(points) > 0:
            outlines[piece] = points
        else:
            holes.setdefault(piece, []).append(points)
    found = [Contour(outlines[i], tuple(holes.get(i, ()))) for i in sorted(outlines)]
    return tuple(sorted(found, key=lambda contour: -contour.area_px))


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
    content = {
        "type": "FeatureCollection",
        "features": list(_features(contours, scale)),
        "properties": dict(properties),
    }
    return canonical_json(content) + "\n"


def _features(
    contours: Sequence[Contour], scale: tuple[float, float]
) -> Iterator[dict[str, object]]:
    for number, contour in enumerate(contours):
        rings = [_ring(points, scale) for points in (contour.outline, *contour.holes)]
        # A speck can round away to a line; as a ring it would be invalid.
        rings = [ring for ring in rings if len(ring) >= 4]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "classification": {"color": _COLOUR, "name": "Tissue"},
                "objectType": "annotation",  # without it QuPath makes no annotation of it
                "tissue_id": number,
            },
        }


def _ring(points: Points, scale: tuple[float, float]) -> list[list[int]]:
    """Return an outline in whole level-0 pixels, closed, without points that fell together."""
    places = np.floor(points * np.asarray(scale) + 0.5).astype(np.int64)
    moved = np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))
    ring: list[list[int]] = places[moved].tolist()
    return ring


def _piece_beside(point: Points, pieces: NDArray[np.integer]) -> int:
    """Return the piece of tissue that a point of an outline, (row, column), lies beside.

    The point is half-way between two pixels, one of the piece and one of none (0).
    """
    (low_row, low_column), (high_row, high_column) = np.floor(point), np.ceil(point)
    ends = pieces[int(low_row), int(low_column)], pieces[int(high_row), int(high_column)]
    return int(max(ends))


def _without_straight_points(points: Points) -> Points:
    """Return a closed outline without the points that lie on a straight line (exact)."""
    ring = points[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    corners = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.vstack([corners, corners[:1]])


def _signed_area(points: Points) -> float:
    """Return the area of a closed outline; above 0 where x turns towards y."""
    x, y = (points - points[0]).T  # small numbers, so nothing is lost
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)

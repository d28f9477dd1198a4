"""A strip of the picture: stamping cells onto planes, and mixing planes into amounts of stain."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.phantoms.rendering.cells import Cells, Discs
from madeleine_bench.phantoms.rendering.nuclei import NucleusStamps
from madeleine_bench.phantoms.rendering.textures import Plane

FAR_UM = np.float32(1e3)


@dataclass
class Strip:
    """A window of a picture whose corner is pixel (top, left), drawn apart to save memory.

    Attributes:
        ink: haematoxylin in nuclei.
        brown: DAB in nuclei.
        nearest: micrometres to the edge of the nearest cell body, negative inside.
        second: the same to the second nearest; both are equal on the wall between two cells.
    """

    top: int
    left: int
    height: int
    width: int
    mpp: float
    ink: Plane = field(init=False)
    brown: Plane = field(init=False)
    nearest: Plane = field(init=False)
    second: Plane = field(init=False)

    def __post_init__(self) -> None:
        self.ink, self.brown = (np.zeros((self.height, self.width), np.float32) for _ in range(2))
        self.nearest, self.second = self.nothing_near()

    def nothing_near(self) -> tuple[Plane, Plane]:
        """Return two planes of distances to nothing."""
        first, second = (np.full((self.height, self.width), FAR_UM) for _ in range(2))
        return first, second

    def stamp_nuclei(self, cells: Cells, stamps: NucleusStamps) -> None:
        """Draw the nuclei; where two overlap the darker one shows."""
        fields = ("kind", "diameter_um", "aspect", "angle", "shape", "ink", "brown")
        looks = zip(*(cells[name].tolist() for name in fields), strict=True)
        places = self._pixels(cells["x_um"], cells["y_um"])
        for (row, column), (kind, size, aspect, angle, shape, ink, brown) in zip(
            places, looks, strict=True
        ):
            mask = stamps.mask(kind, size, aspect, angle, shape)
            rows, columns, part = self._window(row, column, mask)
            if part.size == 0:
                continue
            here = self.ink[rows, columns]
            np.maximum(here, part * np.float32(ink), out=here)
            if brown > 0.0:
                here = self.brown[rows, columns]
                np.maximum(here, part * np.float32(brown), out=here)

    def stamp_bodies(self, cells: Cells, cones: "Cones", margin_um: float) -> None:
        """Draw the bodies of cells, each ending where a neighbour is nearer."""
        discs = Discs(cells["x_um"], cells["y_um"], cells["reach_um"])
        self.stamp_discs(discs, cones, margin_um, (self.nearest, self.second))

    def stamp_discs(
        self, discs: Discs, cones: "Cones", margin_um: float, planes: tuple[Plane, Plane]
    ) -> tuple[Plane, Plane]:
        """Lower two planes of distances to the nearest and second nearest disc's edge.

        Distances beyond `margin_um` from an edge are not told. Returns the planes.
        """
        nearest, second = planes
        places = self._pixels(discs.x_um, discs.y_um)
        for (row, column), radius in zip(places, discs.radius_um.tolist(), strict=True):
            rows, columns, cone = self._window(row, column, cones.cone(radius, margin_um))
            if cone.size == 0:
                continue
            first, next_ = nearest[rows, columns], second[rows, columns]
            np.minimum(next_, np.maximum(first, cone), out=next_)
            np.minimum(first, cone, out=first)
        return planes

    def _pixels(
        self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]
    ) -> Iterator[tuple[int, int]]:
        rows = np.floor(y_um / self.mpp).astype(np.int64) - self.top
        columns = np.floor(x_um / self.mpp).astype(np.int64) - self.left
        return zip(rows.tolist(), columns.tolist(), strict=True)

    def _window(self, row: int, column: int, stamp: Plane) -> tuple[slice, slice, Plane]:
        """The part of the strip under a stamp, and the part of the stamp on the strip."""
        half = stamp.shape[0] // 2
        top, left = row - half, column - half
        first_row, first_column = max(top, 0), max(left, 0)
        end_row = max(min(row + half + 1, self.height), first_row)
        end_column = max(min(column + half + 1, self.width), first_column)
        part = stamp[first_row - top : end_row - top, first_column - left : end_column - left]
        return slice(first_row, end_row), slice(first_column, end_column), part


class Cones:
    """Distances to the edge of a disc, as stamps."""

    STEP_UM = 0.25

    def __init__(self, mpp: float, largest_um: float) -> None:
        self.mpp = mpp
        half = int(np.ceil(largest_um / mpp)) + 1
        steps = (np.arange(-half, half + 1) * mpp).astype(np.float32)
        self._distance: Plane = np.sqrt(steps[None, :] ** 2 + steps[:, None] ** 2)
        self._made: dict[tuple[int, int], Plane] = {}

    def cone(self, radius_um: float, margin_um: float) -> Plane:
        """Return the stamp of a disc, reaching `margin_um` beyond its edge."""
        size = round(radius_um / self.STEP_UM)
        half = int(np.ceil((radius_um + margin_um) / self.mpp)) + 1
        key = (size, half)
        if key not in self._made:
            middle = self._distance.shape[0] // 2
            span = slice(middle - half, middle + half + 1)
            self._made[key] = self._distance[span, span] - np.float32(size * self.STEP_UM)
        return self._made[key]

"""A strip of the picture: cells stamped onto planes, and planes mixed into amounts of stain."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from madeleine_bench.seeds import rng_for
from phantom_rendering.cells import Cells, Discs, NucleusStamps
from phantom_rendering.ground import (
    GRID_UM,
    SIDE,
    Ground,
    Plane,
    ShownSigns,
    tileable_noise,
    wrapped,
)
from phantom_rendering.stroma_and_fat import FAT
from phantom_rendering.tumour import TUMOUR

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


# Per tissue, in the order of the breast world: tumour, stroma, fat, immune, normal, necrosis.
MATTER = (0.34, 0.43, 0.30, 0.20, 0.38, 0.50)  # eosin between the cells
FIBROUS = (0.30, 0.36, 0.30, 0.15, 0.34, 0.05)  # how much of it is in fibres
SMUDGED = (0.03, 0.03, 0.03, 0.03, 0.03, 0.16)  # how blotchy it is
CYTOPLASM = (0.40, 0.40, 0.40, 0.30, 0.44, 0.40)  # eosin in cell bodies
BASOPHILIA = 0.13  # haematoxylin in cell bodies, the blue of their RNA
COUNTERSTAIN_INK = 0.50  # haematoxylin under immunohistochemistry, as a share of that in H&E
COUNTERSTAIN_MATTER = 0.17  # haematoxylin per unit of what eosin would stain
BLUE_HIDDEN = 0.6  # share of it that a brown nucleus keeps out
UNSPECIFIC_DAB = 0.09  # DAB per unit of what eosin would stain
TRANSITION_UM = 7.0  # over which one tissue's ground passes into the next
MEMBRANE_UM = 0.9
HER2_MOST = 1.9  # DAB in a membrane at 3+
LUMEN_WOBBLE_UM = np.float32(1.1)  # lumens are not quite round
CLEFT_UM = 1.6  # retraction of the stroma from nests, per unit of what nodal spread shows


@dataclass(frozen=True)
class Surfaces:
    """Planes of the ground (node x node) that say what a pixel of each place is made of."""

    matter: Plane
    fibrous: Plane
    smudged: Plane
    cytoplasm: Plane
    fat_um: Plane
    membrane: Plane | None
    complete: Plane | None


def lay_surfaces(ground: Ground, signs: ShownSigns, stain: str) -> Surfaces:
    """Return the surfaces of a section; in HER2 with what the membranes hold."""
    within = np.maximum(ground.tissue, 0)

    def soft(per_tissue: tuple[float, ...]) -> Plane:
        plane = np.array(per_tissue, np.float32)[within]
        smooth: Plane = gaussian_filter(plane, TRANSITION_UM / 2.0 / GRID_UM)
        return smooth

    fat = np.where(ground.tissue == FAT, ground.depth_um, -ground.depth_um - np.float32(GRID_UM))
    membrane = complete = None
    if stain == "HER2":
        score = 3.0 * expit(1.6 * signs.marker * ground.showing - 1.3).astype(np.float32)
        near = gaussian_filter((ground.tissue == TUMOUR).astype(np.float32), 1.0) > 0.2
        membrane = np.where(near, score * np.float32(HER2_MOST / 3.0), np.float32(0.0))
        complete = 1.4 * (score - 1.2)
    return Surfaces(
        soft(MATTER), soft(FIBROUS), soft(SMUDGED), soft(CYTOPLASM), fat, membrane, complete
    )


class Tiles:
    """The noise that all sections of a renderer are textured with, each at its own offset."""

    def __init__(self, mpp: float) -> None:
        rng = rng_for("picture", "textures")
        self.fibre = tileable_noise(rng, 55.0 / mpp, max(1.3 / mpp, 0.6))
        self.bundle = tileable_noise(rng, 120.0 / mpp, 6.0 / mpp)
        self.fibre = ((self.fibre + self.bundle) / np.float32(np.sqrt(2.0))).astype(np.float32)
        self.grain = tileable_noise(rng, max(0.8 / mpp, 0.5), max(0.8 / mpp, 0.5))
        self.blotch = tileable_noise(rng, 4.0 / mpp, 4.0 / mpp)


@dataclass(frozen=True)
class Spaces:
    """Distances of pixels to the edges of gland lumens and fat cells, negative inside."""

    lumen: Plane
    fat: Plane
    next_fat: Plane


class Mixer:
    """Mixes the strips of one section; see `stain_amounts`."""

    def __init__(
        self,
        ground: Ground,
        signs: ShownSigns,
        stain: str,
        tiles: Tiles,
        mpp: float,
        offset: NDArray[np.int64],
    ) -> None:
        self.ground, self.stain, self.tiles, self.mpp = ground, stain, tiles, mpp
        self.surfaces = lay_surfaces(ground, signs, stain)
        self._offset = offset
        self.cleft_um = float(np.clip(0.6 + CLEFT_UM * signs.form("aln"), 0.0, 5.0))
        self._edge_um = max(0.7, mpp)  # over which an edge passes from nothing to all

    def stain_amounts(self, strip: Strip, spaces: Spaces) -> tuple[Plane, Plane]:
        """Return the amounts of haematoxylin and of the second stain, each row x column."""
        corner = strip.top + int(self._offset[0]), strip.left + int(self._offset[1])
        grain, blotch = (
            wrapped(tile, *corner, strip.height, strip.width)
            for tile in (self.tiles.grain, self.tiles.blotch)
        )
        body = self._covered(strip.nearest)
        matter = self._matter(strip, grain, blotch, body)
        matter *= 1.0 - self._empty(strip, spaces, body, blotch)
        matter *= 1.0 - 0.6 * np.minimum(strip.ink, 1.0)
        tissue = self._covered(-self._pixels(self.ground.inside_um, strip))
        matter *= tissue
        if self.stain == "H&E":
            return strip.ink + BASOPHILIA * (body * tissue) + 0.05 * matter, matter
        hidden = 1.0 - BLUE_HIDDEN * np.minimum(strip.brown, 1.0)
        blue = COUNTERSTAIN_INK * strip.ink * hidden + COUNTERSTAIN_MATTER * matter
        brown = strip.brown + UNSPECIFIC_DAB * matter
        brown += self._membranes(strip, blotch)
        return blue, np.maximum(brown * (1.0 + 0.12 * grain), 0.0)

    def _covered(self, distance: Plane) -> Plane:
        """1 inside, where the distance to an edge is negative, 0 outside, a ramp between."""
        covered: Plane = np.clip(0.5 - distance * np.float32(1.0 / self._edge_um), 0.0, 1.0)
        return covered

    def _pixels(self, plane: Plane, strip: Strip) -> Plane:
        """A plane of the ground at the pixels of a strip, by linear interpolation."""
        step = self.mpp / GRID_UM
        box = (
            strip.left * step + 0.5,
            strip.top * step + 0.5,
            (strip.left + strip.width) * step + 0.5,
            (strip.top + strip.height) * step + 0.5,
        )
        image = Image.fromarray(plane)
        size = (strip.width, strip.height)
        found: Plane = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))
        return found

    def _fibres(self, strip: Strip) -> Plane:
        potential = self._pixels(self.ground.fibre, strip)
        potential = potential * np.float32(1.0 / self.mpp)
        rows = potential.astype(np.int32) + np.int32(self._offset[0] & (SIDE - 1))
        columns = (np.arange(strip.width) + strip.left + self._offset[1]).astype(np.int32) & (
            SIDE - 1
        )
        fibres: Plane = self.tiles.fibre.ravel().take((rows & (SIDE - 1)) * SIDE + columns)
        return fibres

    def _matter(self, strip: Strip, grain: Plane, blotch: Plane, body: Plane) -> Plane:
        surfaces = self.surfaces
        matter = self._fibres(strip) * self._pixels(surfaces.fibrous, strip) + np.float32(1.0)
        matter *= self._pixels(surfaces.matter, strip)
        matter += blotch * self._pixels(surfaces.smudged, strip)
        np.maximum(matter, 0.0, out=matter)
        cytoplasm = self._pixels(surfaces.cytoplasm, strip) * (1.0 + 0.16 * grain)
        matter += body * (cytoplasm - matter)
        return matter

    def _empty(self, strip: Strip, spaces: Spaces, body: Plane, blotch: Plane) -> Plane:
        """Where nothing is: lumens, fat vacuoles, clefts about nests."""
        empty = self._covered(spaces.lumen + LUMEN_WOBBLE_UM * blotch)
        depth = self._pixels(self.surfaces.fat_um, strip)
        if depth.max() > 0.0:
            wall = np.minimum(spaces.next_fat - spaces.fat, 2.0 * depth)
            np.minimum(wall, -2.0 * spaces.fat, out=wall)
            thin = np.float32(1.0 / max(1.7, 0.9 * self.mpp))
            np.maximum(empty, 1.0 - np.exp(-np.square(np.maximum(wall * thin, 0.0))), out=empty)
        if self.cleft_um > 0.0:
            cleft = self._covered(strip.nearest - np.float32(self.cleft_um)) - body
            np.maximum(empty, cleft * np.float32(min(1.0, self.cleft_um / 2.0)), out=empty)
        return empty

    def _membranes(self, strip: Strip, blotch: Plane) -> Plane | float:
        if self.surfaces.membrane is None or self.surfaces.complete is None:
            return 0.0
        wall = np.minimum(strip.second - strip.nearest, -2.0 * strip.nearest)
        wide = max(MEMBRANE_UM, 0.8 * self.mpp)
        line: Plane = np.exp(-np.square(wall * np.float32(0.5 / wide)))
        line *= np.float32(MEMBRANE_UM / wide)
        line[wall < -2.0] = 0.0
        line *= self._pixels(self.surfaces.membrane, strip)
        complete = self._pixels(self.surfaces.complete, strip) + 0.8 * blotch
        line *= np.clip(complete + 0.5, 0.0, 1.0)
        line *= 1.0 - np.minimum(strip.ink, 1.0)
        return line

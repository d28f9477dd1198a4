"""From stamped planes to amounts of stain: fibres, cell bodies, empty spaces, membranes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from madeleine_bench.phantoms.rendering.bystanders import FAT
from madeleine_bench.phantoms.rendering.canvas import Strip
from madeleine_bench.phantoms.rendering.ground import GRID_UM, Ground
from madeleine_bench.phantoms.rendering.signs import ShownSigns
from madeleine_bench.phantoms.rendering.textures import SIDE, Plane, tileable_noise, wrapped
from madeleine_bench.phantoms.rendering.tumour import TUMOUR
from madeleine_bench.seeds import rng_for

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

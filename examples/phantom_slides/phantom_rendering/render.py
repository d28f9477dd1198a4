"""The renderer: a slide of a breast phantom as the picture a scanner would take of it."""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from madeleine_bench.errors import InputError
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.seeds import rng_for
from phantom_rendering.canvas import Cones, Mixer, Spaces, Strip, Tiles
from phantom_rendering.cells import Cells, Discs, NucleusStamps, between, joined
from phantom_rendering.ground import (
    GRID_UM,
    Ground,
    Plane,
    ShownSigns,
    evenly,
    lay_ground,
    shown_signs,
    tileable_noise,
)
from phantom_rendering.stains import (
    SECOND_STAIN,
    Look,
    bare_glass,
    blur_passes,
    blurred,
    draw_look,
    transmit,
)
from phantom_rendering.stroma_and_fat import (
    FAT_SPACING_UM,
    debris,
    ducts,
    fat_cells,
    lymphocytes,
    spindle_cells,
)
from phantom_rendering.tumour import TumourCells

NEST_UM, FILE_UM = 21.0, 70.0  # correlation lengths of nests, and of where single files lie
ROOM_UM = 8.5  # that epithelium keeps free of other cells about each of its centres


class Patterns:
    """Patterns of the ground, one value for each node and even over 0 to 1."""

    def __init__(self) -> None:
        rng = rng_for("picture", "patterns")
        self.nests, self.files = (
            evenly(tileable_noise(rng, length / GRID_UM, length / GRID_UM))
            for length in (NEST_UM, FILE_UM)
        )


@dataclass(frozen=True)
class Population:
    """All that lies in a section, in micrometres from the corner of the picture.

    Attributes:
        cells: with a nucleus.
        lumens: of glands and ducts.
        vacuoles: of fat.
    """

    cells: Cells
    lumens: Discs
    vacuoles: Discs


def populate(
    ground: Ground, signs: ShownSigns, stain: str, patterns: Patterns, rng: np.random.Generator
) -> Population:
    """Return the cells of a section."""
    tumour, glands = TumourCells(ground, signs, stain, patterns.nests, patterns.files).draw(rng)
    vacuoles, fat = fat_cells(rng, ground)
    lumens, lining = ducts(rng, ground)
    covered = _covered(ground, [tumour, lining], [glands, lumens])
    others = [
        lymphocytes(rng, ground, signs, patterns.nests, covered),
        spindle_cells(rng, ground, covered),
        debris(rng, ground),
    ]
    cells = np.concatenate([tumour, lining, fat, *others])
    inside = ground.at(ground.inside_um, cells["x_um"], cells["y_um"]) > 2.0
    return Population(cells[inside], joined(glands, lumens), vacuoles)


def _covered(ground: Ground, cells: list[Cells], discs: list[Discs]) -> NDArray[np.bool_]:
    """Nodes of the ground where epithelium or a lumen leaves no room for other cells."""
    free = np.ones(ground.tissue.shape, bool)
    places = [(part["x_um"], part["y_um"]) for part in cells]
    places += [(part.x_um, part.y_um) for part in discs]
    for x, y in places:
        row, column = (np.rint(side / GRID_UM).astype(np.intp) for side in (y, x))
        free[row, column] = False
    near: NDArray[np.bool_] = distance_transform_edt(free) * GRID_UM < ROOM_UM
    return near


RENDERED_STAINS = tuple(SECOND_STAIN)
FINEST_MPP, COARSEST_MPP = 0.25, 2.0
STRIP_PIXELS = 1 << 20  # the planes of a strip take some 50 MB
CLEFT_REACH_UM = 6.0  # the mixer asks for distances up to this far from a cell body
LUMEN_REACH_UM = 5.0
LARGEST_UM = 0.75 * FAT_SPACING_UM  # no cell reaches further from its centre


class SectionRenderer:
    """Draws slides of a breast phantom; see "Rendered slides" in docs/phantom.md.

    The picture of a slide depends on the cohort, its seed and signal, the slide and `mpp` alone.

    Attributes:
        mpp: micrometres per pixel.
    """

    def __init__(self, cohort: PhantomCohort, mpp: float = 0.5) -> None:
        """Prepare textures and stamps; nothing is drawn yet.

        Raises:
            InputError: the cohort is not of breast, or `mpp` is out of range.
        """
        if cohort.organ != "breast":
            raise InputError(
                f"cohort {cohort.cohort_id} is of {cohort.organ}; rendered slides exist for "
                "breast cohorts only, such as acrobat"
            )
        if not FINEST_MPP <= mpp <= COARSEST_MPP:
            raise InputError(
                f"mpp of a rendered slide is {mpp}; expected {FINEST_MPP} to {COARSEST_MPP} "
                "micrometres per pixel"
            )
        self.mpp = float(mpp)
        self._cohort = cohort
        self._tiles, self._patterns = Tiles(self.mpp), Patterns()
        self._stamps, self._cones = NucleusStamps(self.mpp), Cones(self.mpp, LARGEST_UM)

    def ground(self, slide_id: str) -> Ground:
        """Return the ground plan that the picture of a slide is drawn on.

        Raises:
            InputError: the cohort has no such slide.
        """
        self._cohort.row(slide_id)
        return lay_ground(self._cohort, slide_id, self._rng("ground", slide_id))

    def render(self, slide_id: str) -> NDArray[np.uint8]:
        """Return the picture of a slide, RGB, row x column x 3, with bare glass all around.

        Raises:
            InputError: the cohort has no such slide.
        """
        stain = self._cohort.row(slide_id)[1]
        ground, signs = self.ground(slide_id), shown_signs(self._cohort, slide_id)
        rng = self._rng("picture", slide_id)
        drawn = populate(ground, signs, stain, self._patterns, rng)
        mixer = Mixer(ground, signs, stain, self._tiles, self.mpp, rng.integers(0, 1 << 20, 2))
        look = draw_look(stain, signs.nuisance)
        width, height = (floor(side / self.mpp) for side in ground.size_um)
        picture = np.empty((height, width, 3), np.uint8)
        rows = max(64, STRIP_PIXELS // width)
        for top in range(0, height, rows):
            noise = rng.standard_normal((min(rows, height - top), width), dtype=np.float32)
            picture[top : top + rows] = bare_glass(noise, look)
            self._draw_rows(picture, top, noise, mixer, drawn, look)
        return picture

    def _rng(self, what: str, slide_id: str) -> np.random.Generator:
        return self._cohort.rng(what, slide_id)

    def _draw_rows(
        self,
        picture: NDArray[np.uint8],
        top: int,
        noise: Plane,
        mixer: Mixer,
        drawn: Population,
        look: Look,
    ) -> None:
        """Draw tissue into the rows of a picture from `top` on, as many as `noise` has."""
        halo = blur_passes(look.blur_um / self.mpp) + 1
        first, last = max(top - halo, 0), min(top + len(noise) + halo, len(picture))
        left, right = self._tissue_columns(mixer.ground, first, last, halo)
        if left >= right:
            return
        strip = Strip(first, left, last - first, right - left, self.mpp)
        amounts = mixer.stain_amounts(strip, self._stamp(strip, drawn))
        rows = slice(top - first, top - first + len(noise))
        blue, second = (blurred(plane, look.blur_um / self.mpp)[rows] for plane in amounts)
        picture[top : top + len(noise), left:right] = transmit(
            blue, second, noise[:, left:right], look
        )

    def _tissue_columns(self, ground: Ground, first: int, last: int, halo: int) -> tuple[int, int]:
        """The columns of some rows outside which there is only glass, even after the blur."""
        nodes = slice(int(first * self.mpp / GRID_UM), int(last * self.mpp / GRID_UM) + 2)
        tissue = np.flatnonzero((ground.tissue[nodes] >= 0).any(axis=0))
        if len(tissue) == 0:
            return 0, 0
        spare = 2 * halo + ceil(2.0 * GRID_UM / self.mpp)
        width = floor(ground.size_um[0] / self.mpp)
        left = int(tissue[0] * GRID_UM / self.mpp) - spare
        right = int(tissue[-1] * GRID_UM / self.mpp) + spare
        return max(left, 0), min(right, width)

    def _stamp(self, strip: Strip, drawn: Population) -> Spaces:
        """Stamp the cells that may reach into a strip; return the distances to its holes."""
        low = strip.top * self.mpp - LARGEST_UM
        high = (strip.top + strip.height) * self.mpp + LARGEST_UM
        y = drawn.cells["y_um"]
        cells = drawn.cells[(y > low) & (y < high)]
        strip.stamp_nuclei(cells, self._stamps)
        strip.stamp_bodies(cells[cells["reach_um"] > 0.0], self._cones, CLEFT_REACH_UM)
        lumens, vacuoles = (between(d, low, high) for d in (drawn.lumens, drawn.vacuoles))
        lumen, _ = strip.stamp_discs(lumens, self._cones, LUMEN_REACH_UM, strip.nothing_near())
        fat = strip.stamp_discs(vacuoles, self._cones, 2.0, strip.nothing_near())
        return Spaces(lumen, *fat)

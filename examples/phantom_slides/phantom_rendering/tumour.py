"""Tumour cells: nests with glands, or single files; their form and markers carry the latents."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.special import expit

from phantom_rendering.cells import (
    DENSE,
    VESICULAR,
    Cells,
    Discs,
    fibre_angle,
    keep,
    make_cells,
    pattern,
    ring,
    scatter,
)
from phantom_rendering.ground import Ground, Plane, ShownSigns

Floats = NDArray[np.float64]
Place = tuple[Floats, Floats]

TUMOUR = 0  # index of the tissue in the breast world
NEST_COVER = 0.74  # share of the tumour's area that is cells, the rest is stroma between nests
SPACING_UM = 12.0
GLAND_SPACING_UM = 62.0
LUMEN_UM = (6.0, 17.0)
RING_UM = 5.5  # from the edge of a lumen to the nuclei around it
FILE_SPACING_UM = 33.0
FILE_STEP_UM = 9.5
FILE_REACH_UM = 6.0  # radius of the body of a cell in a file
MITOSIS_INK = 2.1
FILE_LONGEST = 11  # cells


class TumourCells:
    """Draws the tumour cells of one section.

    Attributes:
        spacing_um: between the centres of neighbouring cells of a nest.
    """

    def __init__(
        self, ground: Ground, signs: ShownSigns, stain: str, nests: Plane, files: Plane
    ) -> None:
        self.ground, self.signs, self.stain = ground, signs, stain
        self._nests, self._files = nests, files
        # More cells where they divide fast; more cytoplasm, so fewer, where HER2 is amplified.
        packed = 0.07 * signs.form("her2") - 0.09 * signs.form("ki67")
        self.spacing_um = SPACING_UM * float(np.exp(np.clip(packed, -0.3, 0.3)))

    def draw(self, rng: np.random.Generator) -> tuple[Cells, Discs]:
        """Return the tumour cells and the lumens of their glands."""
        offset = rng.integers(0, 1 << 20, (2, 2))
        glands = self._glands(rng, offset)
        nested = self._nested(rng, offset, glands)
        x, y, outwards = ring(rng, glands, RING_UM, 0.72 * self.spacing_um)
        filed = self._filed(rng, offset)
        parts = [
            self._cells(rng, nested, 0.62 * self.spacing_um),
            self._cells(rng, (x, y), 0.60 * self.spacing_um, lying=outwards),
            self._cells(
                rng, filed, FILE_REACH_UM, lying=fibre_angle(self.ground, *filed), size=0.9
            ),
        ]
        return np.concatenate(parts), glands

    def _local(self, latent: str, x: Floats, y: Floats) -> Floats:
        return self.signs.form(latent) * self._showing(x, y)

    def _showing(self, x: Floats, y: Floats) -> Floats:
        return self.ground.at(self.ground.showing, x, y).astype(np.float64)

    def _in_files(self, offset: NDArray[np.int64], x: Floats, y: Floats) -> NDArray[np.bool_]:
        share = expit(1.7 * self._local("subtype", x, y) - 1.2)
        files: NDArray[np.bool_] = pattern(self._files, offset[1], x, y) < share
        return files

    def _tumour(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        tumour: NDArray[np.bool_] = self.ground.at(self.ground.tissue, x, y) == TUMOUR
        return tumour

    def _in_nests(self, offset: NDArray[np.int64], x: Floats, y: Floats) -> NDArray[np.bool_]:
        nest = pattern(self._nests, offset[0], x, y) < NEST_COVER
        return self._tumour(x, y) & nest & ~self._in_files(offset, x, y)

    def _glands(self, rng: np.random.Generator, offset: NDArray[np.int64]) -> Discs:
        x, y = scatter(rng, self.ground, GLAND_SPACING_UM, 0.1)
        chance, size = rng.uniform(size=len(x)), rng.uniform(*LUMEN_UM, len(x))
        formed = chance < 0.85 * expit(1.7 * self._local("er", x, y) - 0.3)
        deep = self.ground.at(self.ground.depth_um, x, y) > 16.0
        return Discs(*keep(formed & deep & self._in_nests(offset, x, y), x, y, size))

    def _nested(self, rng: np.random.Generator, offset: NDArray[np.int64], glands: Discs) -> Place:
        x, y = scatter(rng, self.ground, self.spacing_um, 0.13)
        chosen = self._in_nests(offset, x, y)
        if len(glands):
            centres = np.column_stack([glands.x_um, glands.y_um])
            away, which = KDTree(centres).query(np.column_stack([x, y]))
            chosen &= away > glands.radius_um[which] + RING_UM + 0.6 * self.spacing_um
        x, y = keep(chosen, x, y)
        return x, y

    def _filed(self, rng: np.random.Generator, offset: NDArray[np.int64]) -> Place:
        """Rows of cells along the fibres, each starting at its own place and breaking off."""
        x, y = scatter(rng, self.ground, FILE_SPACING_UM, 0.3)
        length = rng.integers(3, FILE_LONGEST + 1, len(x)).astype(np.float64)  # cells
        xs, ys = [], []
        for step in range(FILE_LONGEST):
            x, y, length = keep(self._tumour(x, y) & (length > step), x, y, length)
            row = self._in_files(offset, x, y)
            xs.append(x[row])
            ys.append(y[row])
            angle = fibre_angle(self.ground, x, y)
            x = x + FILE_STEP_UM * np.cos(angle) + 0.7 * rng.standard_normal(len(x))
            y = y + FILE_STEP_UM * np.sin(angle) + 0.7 * rng.standard_normal(len(x))
        return np.concatenate(xs), np.concatenate(ys)

    def _cells(
        self,
        rng: np.random.Generator,
        place: Place,
        reach_um: float,
        lying: Floats | None = None,
        size: float = 1.0,
    ) -> Cells:
        grade, pr = self._local("grade", *place), self._local("pr", *place)
        draw = rng.standard_normal((4, len(place[0])))
        spread = 0.07 + 0.11 * expit(1.2 * grade)
        diameter = np.clip(size * (8.6 + 1.15 * grade) * np.exp(spread * draw[0]), 5.5, 15.0)
        cells = make_cells(rng, *place, kind=VESICULAR, diameter_um=diameter)
        cells["aspect"] = 1.0 + (0.12 + 0.38 * expit(-1.2 * pr)) * np.abs(draw[1])
        cells["ink"] = (0.95 + 0.14 * np.tanh(self._local("hazard", *place))) * np.exp(
            0.13 * draw[2]
        )
        cells["reach_um"] = reach_um
        if lying is not None:
            cells["aspect"] += 0.35
            cells["angle"] = lying + 0.25 * draw[3]
        self._divide(rng, cells)
        self._stain(rng, cells)
        return cells

    def _divide(self, rng: np.random.Generator, cells: Cells) -> None:
        """Turn some cells into mitoses: a dark plate instead of a nucleus."""
        rate = 0.006 * np.exp(np.clip(self._local("ki67", cells["x_um"], cells["y_um"]), -3, 2.2))
        dividing = rng.uniform(size=len(cells)) < rate
        plate = {"kind": DENSE, "diameter_um": 6.0, "aspect": 2.6, "ink": MITOSIS_INK}
        for name, value in plate.items():
            cells[name][dividing] = value

    def _stain(self, rng: np.random.Generator, cells: Cells) -> None:
        """Give nuclei the brown of a nuclear marker: how many, and how strongly."""
        chance, draw = rng.uniform(size=len(cells)), rng.standard_normal(len(cells))
        if self.stain not in NUCLEAR:
            return
        steep, shift, most = NUCLEAR[self.stain]
        shown = self.signs.marker * self._showing(cells["x_um"], cells["y_um"])
        positive = chance < most * expit(steep * shown + shift)
        amount = (0.40 + 1.15 * expit(1.1 * shown + 0.2)) * np.exp(0.22 * draw)
        cells["brown"] = np.where(positive, amount, 0.0)


# Share of positive nuclei: most * expit(steep * shown + shift). Most breast cancers are ER
# positive in most nuclei; a Ki67 index above a half is rare.
NUCLEAR = {"ER": (1.8, 0.4, 0.97), "PR": (1.8, 0.0, 0.95), "Ki67": (1.5, -1.0, 0.75)}

"""All cells and holes of one section together, none on bare glass or on top of epithelium."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from madeleine_bench.phantoms.rendering import bystanders
from madeleine_bench.phantoms.rendering.cells import Cells, Discs, joined
from madeleine_bench.phantoms.rendering.ground import GRID_UM, Ground
from madeleine_bench.phantoms.rendering.signs import ShownSigns
from madeleine_bench.phantoms.rendering.textures import evenly, tileable_noise
from madeleine_bench.phantoms.rendering.tumour import TumourCells
from madeleine_bench.seeds import rng_for

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
    vacuoles, fat = bystanders.fat_cells(rng, ground)
    lumens, ducts = bystanders.ducts(rng, ground)
    covered = _covered(ground, [tumour, ducts], [glands, lumens])
    others = [
        bystanders.lymphocytes(rng, ground, signs, patterns.nests, covered),
        bystanders.spindle_cells(rng, ground, covered),
        bystanders.debris(rng, ground),
    ]
    cells = np.concatenate([tumour, ducts, fat, *others])
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

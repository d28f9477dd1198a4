"""All cells that are not tumour: fat, ducts, lymphocytes, spindle cells, debris."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from phantom_rendering.cells import (
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

STROMA, FAT, IMMUNE, NORMAL, NECROSIS = 1, 2, 3, 4, 5  # indices of the breast world
FAT_SPACING_UM = 62.0
DUCT_SPACING_UM = 92.0
DUCT_LUMEN_UM = (7.0, 24.0)
LUMINAL_UM, OUTER_UM = 6.5, 14.0  # from a lumen to its two layers of cells
DUCT_REACH_UM = 6.4
LYMPHOCYTE_SPACING_UM = 8.2
SPINDLE_SPACING_UM = 25.0
DEBRIS_SPACING_UM = 11.0


def fat_cells(rng: np.random.Generator, ground: Ground) -> tuple[Discs, Cells]:
    """Return the vacuoles of fat, and the flat nuclei at their walls."""
    x, y = scatter(rng, ground, FAT_SPACING_UM, 0.11)
    size = FAT_SPACING_UM * rng.uniform(0.52, 0.68, len(x))
    fat = ground.at(ground.tissue, x, y) == FAT
    vacuoles = Discs(*keep(fat, x, y, size))
    if len(vacuoles) < 2:
        return vacuoles, make_cells(rng, np.empty(0), np.empty(0))
    centres = np.column_stack([vacuoles.x_um, vacuoles.y_um])
    other = np.asarray(KDTree(centres).query(centres, 2)[1])[:, 1]
    step = centres[other] - centres
    length = np.sqrt((step**2).sum(axis=1))
    share = 0.5 + (vacuoles.radius_um - vacuoles.radius_um[other]) / (2.0 * length)
    x, y = (centres + share[:, None] * step).T
    angle = np.arctan2(step[:, 1], step[:, 0]) + np.pi / 2.0
    looks = {"diameter_um": 4.0, "aspect": 3.4, "angle": angle, "ink": 1.1}
    return vacuoles, make_cells(rng, x, y, **looks)


def ducts(rng: np.random.Generator, ground: Ground) -> tuple[Discs, Cells]:
    """Return the lumens of normal glands, and the two layers of cells around each."""
    x, y = scatter(rng, ground, DUCT_SPACING_UM, 0.1)
    size = rng.uniform(*DUCT_LUMEN_UM, len(x))
    normal = ground.at(ground.tissue, x, y) == NORMAL
    deep = ground.at(ground.depth_um, x, y) > size
    lumens = Discs(*keep(normal & deep, x, y, size))
    x, y, outwards = ring(rng, lumens, LUMINAL_UM, 7.6)
    inner = {"kind": VESICULAR, "diameter_um": 6.6, "aspect": 1.3, "angle": outwards, "ink": 0.95}
    luminal = make_cells(rng, x, y, **inner, reach_um=DUCT_REACH_UM)
    x, y, outwards = ring(rng, lumens, OUTER_UM, 11.5)
    flat = {"diameter_um": 4.6, "aspect": 2.4, "angle": outwards + np.pi / 2.0, "ink": 1.2}
    return lumens, np.concatenate([luminal, make_cells(rng, x, y, **flat, reach_um=4.0)])


def lymphocytes(
    rng: np.random.Generator,
    ground: Ground,
    signs: ShownSigns,
    tile: Plane,
    covered: NDArray[np.bool_],
) -> Cells:
    """Return small dark round cells: crowded in immune tissue, in stroma as many as it shows.

    `covered` marks the nodes of the ground where other cells leave no room.
    """
    x, y = scatter(rng, ground, LYMPHOCYTE_SPACING_UM, 0.17)
    tissue = ground.at(ground.tissue, x, y)
    shown = signs.form("immune") * ground.at(ground.showing, x, y).astype(np.float64)
    crowd = np.exp(1.3 * (2.0 * pattern(tile, rng.integers(0, 1 << 20, 2), x, y) - 1.0))
    share = np.full(len(x), 0.012)
    share[tissue == STROMA] = (0.05 * np.exp(0.95 * shown) * crowd)[tissue == STROMA]
    share[tissue == IMMUNE] = 0.93
    share[(tissue == FAT) | (tissue == NECROSIS)] = 0.0
    share[ground.at(covered, x, y) & (tissue != IMMUNE)] = 0.0
    x, y = keep(rng.uniform(size=len(x)) < np.minimum(share, 0.8), x, y)
    size, ink = rng.uniform(5.8, 7.0, len(x)), rng.uniform(1.25, 1.65, len(x))
    return make_cells(rng, x, y, diameter_um=size, aspect=rng.uniform(1.0, 1.2, len(x)), ink=ink)


def spindle_cells(rng: np.random.Generator, ground: Ground, covered: NDArray[np.bool_]) -> Cells:
    """Return the long thin nuclei of fibroblasts, lying along the fibres between other cells."""
    x, y = scatter(rng, ground, SPINDLE_SPACING_UM, 0.3)
    tissue = ground.at(ground.tissue, x, y)
    room = ~ground.at(covered, x, y) & (tissue != FAT) & (tissue != NECROSIS)
    x, y = keep(room & (rng.uniform(size=len(x)) < 0.8), x, y)
    looks = {
        "diameter_um": rng.uniform(4.5, 6.2, len(x)),
        "aspect": rng.uniform(2.6, 4.6, len(x)),
        "angle": fibre_angle(ground, x, y) + 0.15 * rng.standard_normal(len(x)),
        "ink": rng.uniform(0.85, 1.2, len(x)),
    }
    return make_cells(rng, x, y, **looks)


def debris(rng: np.random.Generator, ground: Ground) -> Cells:
    """Return the dark fragments of dead nuclei, and a few pale ghosts of cells."""
    x, y = scatter(rng, ground, DEBRIS_SPACING_UM, 0.4)
    dead = ground.at(ground.tissue, x, y) == NECROSIS
    x, y = keep(dead & (rng.uniform(size=len(x)) < 0.5), x, y)
    ghost = rng.uniform(size=len(x)) < 0.25
    size = np.where(ghost, rng.uniform(5.0, 8.0, len(x)), rng.uniform(1.2, 3.2, len(x)))
    ink = np.where(ghost, 0.25, rng.uniform(0.7, 1.5, len(x)))
    return make_cells(rng, x, y, diameter_um=size, aspect=rng.uniform(1.0, 2.0, len(x)), ink=ink)

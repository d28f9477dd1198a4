"""Where which tissue lies: random fields of a case, cut by its sections with some deformation."""

from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.phantoms.world import (
    FIELD_LENGTH,
    FIELD_WAVES,
    PATCH_PX0,
    ROTATION_STD,
    SHIFT_STD,
    SIZE_JITTER,
    WARP_STD,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CaseTissue:
    """The tissue block of a case, from which its sections are cut.

    Attributes:
        waves: field x wave x 3: wave vector (two numbers, radians per patch) and phase of the
            plane waves whose sum is a Gaussian random field of variance 1. The last field is
            heterogeneity; one for each tissue stands before it.
        bias: per tissue; the tissue with the largest field + bias takes the patch.
        size: typical number of patches of a section.
        aspect: how much longer than wide the block is.
    """

    waves: Floats
    bias: Floats
    size: float
    aspect: float


@dataclass(frozen=True)
class Section:
    """One section: patch x 2 coordinates (level-0 pixels), tissue index, and field value."""

    coords: NDArray[np.int32]
    tissue: NDArray[np.intp]
    heterogeneity: Floats


def draw_tissue(rng: np.random.Generator, bias: Floats, patches: tuple[int, int]) -> CaseTissue:
    """Return the tissue block of a case; `patches` is the range of the size of its sections."""
    waves = np.empty((len(bias) + 1, FIELD_WAVES, 3))
    waves[..., :2] = rng.standard_normal((len(bias) + 1, FIELD_WAVES, 2)) / FIELD_LENGTH
    waves[..., 2] = rng.uniform(0.0, 2.0 * pi, (len(bias) + 1, FIELD_WAVES))
    low, high = patches
    size = float(np.exp(rng.uniform(log(low), log(high))))
    return CaseTissue(waves, bias, size, float(rng.uniform(1.0, 2.0)))


def field_values(waves: Floats, places: Floats) -> Floats:
    """Return the fields at places, place x field; the sums are elementwise, in a fixed order."""
    angles = (
        places[:, 0, None, None] * waves[None, :, :, 0]
        + places[:, 1, None, None] * waves[None, :, :, 1]
        + waves[None, :, :, 2]
    )
    values: Floats = np.cos(angles).sum(axis=2) * sqrt(2.0 / waves.shape[1])
    return values


def cut_section(block: CaseTissue, rng: np.random.Generator, patches: tuple[int, int]) -> Section:
    """Return one section of a block: its own size, place, rotation and stretch."""
    low, high = patches
    size = block.size * float(np.exp(SIZE_JITTER * rng.standard_normal()))
    count = int(min(max(round(size), low), high))
    cells = outline(count, block.aspect)
    centred = cells - cells.mean(axis=0)
    values = field_values(block.waves, deform(centred, rng))
    tissue = np.argmax(values[:, :-1] + block.bias, axis=1)
    coords = ((cells - cells.min(axis=0)) * PATCH_PX0).astype(np.int32)
    return Section(coords, tissue, values[:, -1])


def outline(count: int, aspect: float) -> Floats:
    """Return the `count` cells of a unit grid nearest to the centre of an ellipse, row by row."""
    reach = int(sqrt(count * aspect / pi)) + 2
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    x, y = np.meshgrid(steps, steps)
    cells = np.column_stack([x.ravel(), y.ravel()])
    distance = cells[:, 0] ** 2 / aspect + cells[:, 1] ** 2 * aspect
    nearest = np.sort(np.argsort(distance, kind="stable")[:count])
    return cells[nearest]


def deform(places: Floats, rng: np.random.Generator) -> Floats:
    """Return places after a small rotation, shift and smooth stretch, patch x 2."""
    angle, shift_x, shift_y, warp_x, warp_y = rng.standard_normal(5)
    phase_x, phase_y = rng.uniform(0.0, 2.0 * pi, 2)
    cos, sin = np.cos(ROTATION_STD * angle), np.sin(ROTATION_STD * angle)
    x, y = places[:, 0], places[:, 1]
    wave = 1.0 / (2.0 * FIELD_LENGTH)
    stretch_x = WARP_STD * warp_x * np.sin(wave * y + phase_x)
    stretch_y = WARP_STD * warp_y * np.sin(wave * x + phase_y)
    return np.column_stack(
        [
            cos * x - sin * y + SHIFT_STD * shift_x + stretch_x,
            sin * x + cos * y + SHIFT_STD * shift_y + stretch_y,
        ]
    )

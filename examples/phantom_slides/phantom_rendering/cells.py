"""The cells of a section: where they lie, how each looks, and the masks of their nuclei."""

from dataclasses import dataclass
from functools import cache
from math import ceil, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from madeleine_bench.seeds import rng_for
from phantom_rendering.ground import GRID_UM, SIDE, Ground, Plane

Floats = NDArray[np.float64]

VESICULAR, DENSE = 0, 1  # open chromatin with a rim and a nucleolus; dark all over
VARIANTS = 3
DIAMETER_STEP_UM = 0.75
ASPECT_STEP = 1.3  # factor
ANGLES = 8


class NucleusStamps:
    """A library of masks, drawn when first asked for; each depends on nothing but its key."""

    def __init__(self, mpp: float) -> None:
        self.mpp = mpp
        self._stamp = cache(self._draw)

    def mask(self, kind: int, diameter_um: float, aspect: float, angle: float, i: int) -> Plane:
        """Return the mask (side, side), side odd, of a nucleus like the one asked for.

        Args:
            kind: VESICULAR or DENSE.
            diameter_um: of the disc of the same area.
            aspect: length over width, at least 1.
            angle: of its long side to x, radians.
            i: picks one of the irregular shapes.
        """
        size = max(1, round(diameter_um / DIAMETER_STEP_UM))
        longer = round(np.log(max(aspect, 1.0)) / np.log(ASPECT_STEP))
        turn = round(angle / pi * ANGLES) % ANGLES if longer else 0
        return self._stamp(kind, size, longer, turn, i % VARIANTS)

    def _draw(self, kind: int, size: int, longer: int, turn: int, variant: int) -> Plane:
        rng = rng_for("nucleus", kind, variant)
        radius = size * DIAMETER_STEP_UM / 2.0
        aspect, angle = ASPECT_STEP**longer, turn * pi / ANGLES
        half = ceil(radius * sqrt(aspect) * 1.2 / self.mpp) + 1
        steps = np.arange(-half, half + 1) * self.mpp
        along = (np.cos(angle) * steps[None, :] + np.sin(angle) * steps[:, None]) / sqrt(aspect)
        across = (np.cos(angle) * steps[:, None] - np.sin(angle) * steps[None, :]) * sqrt(aspect)
        rim = radius * _wobble(rng, kind, np.arctan2(across, along))
        depth = rim - np.sqrt(along**2 + across**2)
        soft = max(0.5, self.mpp)
        mask = np.clip(depth / soft + 0.5, 0.0, 1.0) * self._chromatin(rng, kind, depth, radius)
        stamp: Plane = mask.astype(np.float32)
        return stamp

    def _chromatin(
        self, rng: np.random.Generator, kind: int, depth: Floats, radius: float
    ) -> Floats:
        clumps: Floats = gaussian_filter(rng.standard_normal(depth.shape), 0.55 / self.mpp)
        clumps /= clumps.std() + 1e-9
        if kind == DENSE:
            return np.asarray(np.clip(0.95 + 0.08 * clumps, 0.0, 1.1))
        rim = 0.30 * np.exp(-((depth / 0.9) ** 2))
        off = radius * 0.35 * rng.uniform(-1.0, 1.0, 2)
        half = depth.shape[0] // 2
        steps = np.arange(-half, half + 1) * self.mpp
        spot = (steps[None, :] - off[0]) ** 2 + (steps[:, None] - off[1]) ** 2
        nucleolus = 0.35 * np.exp(-spot / (0.17 * radius) ** 2)
        return np.asarray(np.clip(0.72 + 0.13 * clumps + rim + nucleolus, 0.2, 1.3))


def _wobble(rng: np.random.Generator, kind: int, around: Floats) -> Floats:
    """Radius of an outline over its mean, at angles `around`; dense nuclei are rounder."""
    size = 0.03 if kind == DENSE else 0.06
    bumps = np.ones_like(around)
    for order in (2, 3, 4):
        bumps += size * rng.standard_normal() * np.cos(order * around + rng.uniform(0.0, 2.0 * pi))
    return bumps


CELL = np.dtype(
    [
        ("x_um", "f8"),
        ("y_um", "f8"),
        ("kind", "i4"),  # of the nucleus, see nuclei.py
        ("diameter_um", "f8"),  # of the nucleus; 0 draws none
        ("aspect", "f8"),
        ("angle", "f8"),
        ("ink", "f8"),  # haematoxylin in the nucleus
        ("brown", "f8"),  # DAB in the nucleus
        ("reach_um", "f8"),  # radius of the cell body, where no neighbour limits it; 0: none
        ("shape", "i4"),  # which irregular outline
    ]
)
Cells = NDArray[np.void]


@dataclass(frozen=True)
class Discs:
    """Round things without a nucleus of their own, (disc,): gland lumens or fat cells."""

    x_um: Floats
    y_um: Floats
    radius_um: Floats

    def __len__(self) -> int:
        return len(self.x_um)


def between(discs: Discs, low_um: float, high_um: float) -> Discs:
    """Return the discs whose centres lie between two heights."""
    chosen = (discs.y_um > low_um) & (discs.y_um < high_um)
    return Discs(*keep(chosen, discs.x_um, discs.y_um, discs.radius_um))


def joined(*parts: Discs) -> Discs:
    """Return the discs of all parts."""
    sides = ([d.x_um for d in parts], [d.y_um for d in parts], [d.radius_um for d in parts])
    return Discs(*(np.concatenate(side) for side in sides))


def make_cells(rng: np.random.Generator, x_um: Floats, y_um: Floats, **looks: object) -> Cells:
    """Return round dense cells at places, with what `looks` says instead."""
    cells = np.zeros(len(x_um), CELL)
    cells["x_um"], cells["y_um"] = x_um, y_um
    cells["kind"], cells["aspect"] = DENSE, 1.0
    cells["angle"] = rng.uniform(0.0, np.pi, len(cells))
    cells["shape"] = rng.integers(0, 1 << 16, len(cells))
    for name, values in looks.items():
        cells[name] = values
    return cells


def scatter(
    rng: np.random.Generator, ground: Ground, spacing_um: float, jitter: float
) -> tuple[Floats, Floats]:
    """Return the x and y of places all over the picture: a hexagonal grid, shaken.

    `jitter` is the standard deviation of a place about its node, as a share of the spacing.
    """
    width, height = ground.size_um
    pitch = spacing_um * np.sqrt(3.0) / 2.0
    rows, columns = int(height / pitch), int(width / spacing_um)
    y, x = np.meshgrid(np.arange(rows) * pitch, np.arange(columns) * spacing_um, indexing="ij")
    x = x + (np.arange(rows) % 2)[:, None] * spacing_um / 2.0
    shake = jitter * spacing_um * rng.standard_normal((2, x.size))
    return _within(ground, x.ravel() + shake[0], y.ravel() + shake[1])


def _within(ground: Ground, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    width, height = ground.size_um
    inside = (x >= 0.0) & (y >= 0.0) & (x <= width) & (y <= height)
    x, y = x[inside], y[inside]
    tissue = ground.at(ground.inside_um, x, y) > 4.0
    return x[tissue], y[tissue]


def keep(chosen: NDArray[np.bool_], *arrays: Floats) -> tuple[Floats, ...]:
    """Return each array at the chosen places."""
    return tuple(array[chosen] for array in arrays)


def pattern(tile: Plane, offset: NDArray[np.int64], x_um: Floats, y_um: Floats) -> Floats:
    """Return a tile, laid over the ground with one value per node, at places."""
    row = (np.rint(y_um / GRID_UM).astype(np.int64) + offset[0]) & (SIDE - 1)
    column = (np.rint(x_um / GRID_UM).astype(np.int64) + offset[1]) & (SIDE - 1)
    found: Floats = tile[row, column].astype(np.float64)
    return found


def fibre_angle(ground: Ground, x_um: Floats, y_um: Floats) -> Floats:
    """Return the direction of the fibres at places, radians to x."""
    row = np.clip(np.rint(y_um / GRID_UM).astype(np.intp), 1, ground.fibre.shape[0] - 2)
    column = np.clip(np.rint(x_um / GRID_UM).astype(np.intp), 1, ground.fibre.shape[1] - 2)
    down = ground.fibre[row + 1, column] - ground.fibre[row - 1, column]
    right = ground.fibre[row, column + 1] - ground.fibre[row, column - 1]
    angle: Floats = np.arctan2(-right, down).astype(np.float64)
    return angle


def ring(
    rng: np.random.Generator, discs: Discs, away_um: float, spacing_um: float
) -> tuple[Floats, Floats, Floats]:
    """Return x, y and the direction outwards of places around each disc, `away_um` from its edge.

    All discs get the same number of draws, whatever their size.
    """
    radius = discs.radius_um + away_um
    counts = np.maximum(np.rint(2.0 * np.pi * radius / spacing_um), 4).astype(np.intp)
    which = np.repeat(np.arange(len(discs)), counts)
    turn = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    shake = rng.standard_normal((2, len(which)))
    phase = rng.uniform(0.0, 2.0 * np.pi, len(discs))
    angle = phase[which] + (turn + 0.12 * shake[0]) * 2.0 * np.pi / counts[which]
    far = radius[which] + 0.5 * shake[1]
    x, y = discs.x_um[which] + far * np.cos(angle), discs.y_um[which] + far * np.sin(angle)
    return x, y, angle

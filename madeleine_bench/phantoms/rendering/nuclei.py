"""Nuclei as pre-drawn masks: how much of the full stain each pixel about the centre holds."""

from functools import cache
from math import ceil, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from madeleine_bench.phantoms.rendering.textures import Plane
from madeleine_bench.seeds import rng_for

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

"""Tileable noise, from which fibres, grain and irregular outlines are read off."""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftfreq, irfft2, rfft2, rfftfreq
from scipy.special import ndtr

Plane = NDArray[np.float32]

SIDE = 1024  # of a tile; a power of two, so that a coordinate wraps by a bit mask


def tileable_noise(rng: np.random.Generator, along: float, across: float) -> Plane:
    """Return Gaussian noise (SIDE, SIDE) of mean 0 and variance 1 that repeats without a seam.

    Args:
        rng: source of the noise.
        along: correlation length in x, in pixels.
        across: correlation length in y, in pixels.
    """
    x = rfftfreq(SIDE).astype(np.float32)[None, :] * np.float32(along)
    y = fftfreq(SIDE).astype(np.float32)[:, None] * np.float32(across)
    smooth = np.exp(np.float32(-2.0 * np.pi**2) * (x**2 + y**2))
    white = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    noise = irfft2(rfft2(white) * smooth, (SIDE, SIDE))
    noise -= noise.mean()
    tile: Plane = (noise / noise.std()).astype(np.float32)
    return tile


def evenly(tile: Plane) -> Plane:
    """Return a normal tile spread evenly over 0 to 1, so that about a share f of it is below f."""
    even: Plane = ndtr(tile)
    return even


def wrapped(tile: Plane, top: int, left: int, height: int, width: int) -> Plane:
    """Return a window (height, width) of the endless pattern that the tile repeats."""
    rows = tile[np.arange(top, top + height) % SIDE]
    start = left % SIDE
    found: Plane = np.empty((height, width), np.float32)
    for column in range(-start, width, SIDE):
        first, last = max(column, 0), min(column + SIDE, width)
        found[:, first:last] = rows[:, first - column : last - column]
    return found

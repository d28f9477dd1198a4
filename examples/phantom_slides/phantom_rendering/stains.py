"""From amounts of stain to a picture: Beer-Lambert, the hand of the laboratory, the scanner."""

from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from phantom_rendering.ground import Plane

Floats = NDArray[np.float64]

# Optical densities of the stains in red, green and blue, each of length 1 (Ruifrok & Johnston,
# "Quantification of histochemical staining by color deconvolution", 2001).
HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DAB = (0.27, 0.57, 0.78)
# What eosin stains is protein, which takes some blue by itself; without it pink turns magenta.
PROTEIN = (0.06, 0.0, 0.24)
STAINED_PROTEIN = tuple(eosin + own for eosin, own in zip(EOSIN, PROTEIN, strict=True))
SECOND_STAIN = {"H&E": STAINED_PROTEIN, "ER": DAB, "PR": DAB, "HER2": DAB, "Ki67": DAB}

GLASS = (0.955, 0.950, 0.957)  # share of the light that a clean slide lets through to the sensor
STRENGTH_STD = 0.16  # log scale; staining strength differs this much between sections
THICKNESS_STD = 0.06  # log scale; a thicker section has more of both stains
TURN_STD = 0.035  # each component of a stain vector, before it is made of length 1 again
TINT_STD = 0.010  # share of the light, per channel
BLUR_UM = 0.35  # standard deviation of the point spread of a 20x objective in focus
NOISE_STD = 1.3  # grey levels


@dataclass(frozen=True)
class Look:
    """How one section was stained and scanned.

    Attributes:
        amounts: factor on haematoxylin and on the second stain, (2,).
        vectors: optical density per unit of each stain, stain x channel (2, 3).
        glass: grey level of bare glass per channel, (3,).
        blur_um: standard deviation of the point spread.
        noise: standard deviation of a pixel, grey levels.
    """

    amounts: Floats
    vectors: Floats
    glass: Floats
    blur_um: float
    noise: float


def draw_look(stain: str, nuisance: Floats) -> Look:
    """Return the look of a section from its nuisance draws `n_j`, the first of which is colour."""
    n = nuisance.tolist()
    thickness = THICKNESS_STD * n[2]
    amounts = np.array([exp(STRENGTH_STD * n[0] + thickness), exp(STRENGTH_STD * n[1] + thickness)])
    turn = TURN_STD * np.array([[n[3], -n[3], n[4]], [n[5], 0.0, n[6]]])
    vectors = np.maximum(np.array([HAEMATOXYLIN, SECOND_STAIN[stain]]) + turn, 0.0)
    vectors /= np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    tint = TINT_STD * np.array(n[7:10])
    glass = 255.0 * np.minimum(np.array(GLASS) + tint, 0.99)
    return Look(amounts, vectors, glass, BLUR_UM * exp(0.2 * n[10]), NOISE_STD * exp(0.2 * n[11]))


def bare_glass(noise: Plane, look: Look) -> NDArray[np.uint8]:
    """Return the picture of a window without tissue."""
    picture = np.empty((*noise.shape, 3), np.uint8)
    for channel in range(3):
        light = noise * np.float32(look.noise) + np.float32(look.glass[channel])
        picture[..., channel] = np.clip(light, 0.0, 255.0)
    return picture


def transmit(first: Plane, second: Plane, noise: Plane, look: Look) -> NDArray[np.uint8]:
    """Return the picture (row, column, 3) of two planes of stain: I = glass * exp(-OD).

    `noise` is standard normal, one value for each pixel.
    """
    picture = np.empty((*first.shape, 3), np.uint8)
    per_unit = (look.vectors * look.amounts[:, None]).astype(np.float32)
    grain = noise * np.float32(look.noise)
    for channel in range(3):
        density = first * -per_unit[0, channel]
        density -= second * per_unit[1, channel]
        np.exp(density, out=density)
        density *= np.float32(look.glass[channel])
        density += grain
        np.clip(density, 0.0, 255.0, out=density)
        picture[..., channel] = density
    return picture


def blur_passes(std_px: float) -> int:
    """Return how many pixels around it a pixel of a blurred plane depends on."""
    return max(1, int(np.ceil(2.0 * std_px**2)))


def blurred(plane: Plane, std_px: float) -> Plane:
    """Return the plane after a point spread of `std_px`, as repeated [b, 1 - 2 b, b] both ways."""
    passes = blur_passes(std_px)
    side = np.float32(std_px**2 / (2.0 * passes))
    for _ in range(passes):
        for axis in (0, 1):
            plane = _spread(plane, side, axis)
    return plane


def _spread(plane: Plane, side: np.float32, axis: int) -> Plane:
    moved = plane * (np.float32(1.0) - 2.0 * side)
    here = np.moveaxis(moved, axis, 0)
    source = np.moveaxis(plane, axis, 0)
    here[1:] += side * source[:-1]
    here[:-1] += side * source[1:]
    here[0] += side * source[0]
    here[-1] += side * source[-1]
    return moved

"""Where which tissue lies, and what its patches show: random fields of a case, cut by sections."""

from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.phantoms.world import DIM

PATCH_PX0 = 512  # a 256-px patch at 20x on a slide scanned at 40x
# Lengths in patches.
FIELD_WAVES = 12  # plane waves in a random field; enough to look Gaussian
FIELD_LENGTH = 2.5  # correlation length: glands and fat lobules span a few patches
SHARE_TO_BIAS = 0.8  # the larger, the rarer the rare tissues; brings shares near their weights
COMPOSITION_STD = 0.25  # case-to-case change of a tissue's share; modest, lest it identify a case
HETEROGENEITY_STD = 0.5  # a latent shows in some parts of a tissue more than in others
SIZE_JITTER = 0.1  # sections of a case differ this much in size (log scale)
ROTATION_STD = 0.1  # radians; sections are laid on the glass by hand ...
SHIFT_STD = 0.7  # ... and do not fall on the same spot ...
WARP_STD = 0.5  # ... and are stretched a little
NOISE_STD = 0.05  # per feature and patch; averages out over a slide

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


def patch_features(
    section: Section, typical: Floats, moved: Floats, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the features of a section, patch x DIM.

    Args:
        section: which tissue each patch shows, and how strongly signs show there.
        typical: tissue x DIM, the typical patch with the section's nuisance.
        moved: tissue x DIM, what the latents add.
        rng: source of the patch noise.
    """
    features = rng.standard_normal((len(section.tissue), DIM), dtype=np.float32)
    features *= np.float32(NOISE_STD)
    features += typical.astype(np.float32)[section.tissue]
    strength = np.maximum(1.0 + HETEROGENEITY_STD * section.heterogeneity, 0.0).astype(np.float32)
    shown = np.abs(moved).max(axis=1) > 0.0
    showing = np.flatnonzero(shown[section.tissue])
    added = moved.astype(np.float32)[section.tissue[showing]]
    added *= strength[showing, None]
    features[showing] += added
    return features

"""Exactly orthogonal unit vectors of feature space, the same to the last bit on every machine."""

from collections.abc import Iterable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.phantoms.world import DIM, World
from madeleine_bench.seeds import rng_for

Floats = NDArray[np.float64]


def hadamard(size: int) -> NDArray[np.int8]:
    """Return the Sylvester-Hadamard matrix of a power of two, entries +1 and -1.

    Raises:
        ValueError: `size` is not a power of two.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"{size} is not a power of two")
    matrix = np.ones((1, 1), dtype=np.int8)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def direction_names(world: World, nuisance_dims: int) -> list[str]:
    """Return the name of every direction a world needs, in a fixed order."""
    names = ["offset", "chromogen"]
    names += [f"tissue/{tissue}" for tissue in world.tissues]
    names += [f"stain/{stain}" for stain in world.stains]
    names += [f"tissue/{tissue}/{stain}" for stain in world.stains for tissue in world.tissues]
    names += [f"morphology/{latent}" for latent in world.morphology]
    names += [
        f"marker/{stain}/{latent}" for stain in world.markers for latent in world.markers[stain]
    ]
    return names + [f"nuisance/{axis}" for axis in range(nuisance_dims)]


def draw_directions(organ: str, names: Iterable[str]) -> dict[str, Floats]:
    """Return a unit vector (DIM,) for each name, orthogonal to all others.

    They are rows of a Hadamard matrix, in random order and with random signs of the columns, so
    that each direction spreads over all features and no linear algebra library has a say.

    Raises:
        ValueError: more names than dimensions.
    """
    wanted = list(names)
    if len(wanted) > DIM:
        raise ValueError(f"{len(wanted)} orthogonal directions do not fit into {DIM} dimensions")
    rng = rng_for("phantom-world", organ)
    order = rng.permutation(DIM)
    signs = rng.choice(np.array([-1.0, 1.0]), DIM)
    rows = hadamard(DIM)[order[: len(wanted)]] * signs / sqrt(DIM)
    return dict(zip(wanted, rows, strict=True))

"""Patch features: tissue prototype + what the stain shows of the latents + nuisance + noise.

No matrix product is taken here, so no linear algebra library and no thread count has a say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from madeleine_bench.phantoms.layout import Section
from madeleine_bench.phantoms.world import (
    COUNTERSTAIN,
    DIM,
    HETEROGENEITY_STD,
    LOOK_CASE_SHARE,
    NOISE_STD,
    NUISANCE_DECAY,
    NUISANCE_DIMS,
    NUISANCE_LARGEST_STD,
    OFFSET_LENGTH,
    PROTOTYPE_LENGTH,
    PROTOTYPE_SHARED,
    SITE_SHARE,
    STAIN_LENGTH,
    Sign,
    World,
)
from madeleine_bench.seeds import rng_for

Floats = NDArray[np.float64]


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
    names = list(names)
    if len(names) > DIM:
        raise ValueError(f"{len(names)} orthogonal directions do not fit into {DIM} dimensions")
    rng = rng_for("phantom-world", organ)
    order = rng.permutation(DIM)
    signs = rng.choice(np.array([-1.0, 1.0]), DIM)
    rows = hadamard(DIM)[order[: len(names)]] * signs / sqrt(DIM)
    return dict(zip(names, rows, strict=True))


@dataclass(frozen=True)
class Shown:
    """A sign of a latent in one stain: `vector` (DIM,) per unit in patches of tissue `row`."""

    latent: str
    fidelity: float
    row: int
    vector: Floats


@dataclass(frozen=True)
class Draws:
    """Standard normal draws of a case or of a section: one per sign and one per nuisance axis."""

    looks: Floats
    nuisance: Floats


class Appearance:
    """What the sections of an organ look like to the phantom patch encoder.

    Attributes:
        prototypes: for each stain tissue x DIM, the typical patch.
        signs: for each stain what it shows; the order is that of `Draws.looks`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        axes = draw_directions(world.organ, direction_names(world, NUISANCE_DIMS))
        self._nuisance = [
            NUISANCE_LARGEST_STD * NUISANCE_DECAY**axis * axes[f"nuisance/{axis}"]
            for axis in range(NUISANCE_DIMS)
        ]
        self.prototypes = {stain: self._prototypes(axes, stain) for stain in world.stains}
        self.signs = {stain: self._signs(axes, stain) for stain in world.stains}
        self._looks = max(len(signs) for signs in self.signs.values())

    def _prototypes(self, axes: Mapping[str, Floats], stain: str) -> Floats:
        form, colour = sqrt(PROTOTYPE_SHARED), sqrt(1.0 - PROTOTYPE_SHARED)
        common = OFFSET_LENGTH * axes["offset"] + STAIN_LENGTH * axes[f"stain/{stain}"]
        rows = [
            form * axes[f"tissue/{tissue}"] + colour * axes[f"tissue/{tissue}/{stain}"]
            for tissue in self.world.tissues
        ]
        return np.stack([common + PROTOTYPE_LENGTH * row for row in rows])

    def _signs(self, axes: Mapping[str, Floats], stain: str) -> list[Shown]:
        rows = {tissue: row for row, tissue in enumerate(self.world.tissues)}

        def shown(latent: str, sign: Sign, scale: float, direction: Floats) -> Shown:
            vector = scale * sign.strength * direction
            return Shown(latent, sign.fidelity, rows[sign.tissue], vector)

        faint = 1.0 if stain == "H&E" else COUNTERSTAIN
        common, special = sqrt(self.world.chromogen_share), sqrt(1.0 - self.world.chromogen_share)
        signs = [
            shown(latent, sign, faint, axes[f"morphology/{latent}"])
            for latent, sign in self.world.morphology.items()
        ]
        for latent, sign in self.world.markers.get(stain, {}).items():
            direction = common * axes["chromogen"] + special * axes[f"marker/{stain}/{latent}"]
            signs.append(shown(latent, sign, 1.0, direction))
        return signs

    def draw(self, rng: np.random.Generator) -> Draws:
        """Return the draws of a case, a section or a site."""
        return Draws(rng.standard_normal(self._looks), rng.standard_normal(NUISANCE_DIMS))

    def shifts(
        self, stain: str, latents: Mapping[str, float], case: Draws, section: Draws, signal: float
    ) -> Floats:
        """Return how the latents move the patches of each tissue, tissue x DIM.

        With `signal` 0 the shifts do not depend on the latents at all.
        """
        moved = np.zeros((len(self.world.tissues), DIM))
        for position, sign in enumerate(self.signs[stain]):
            look = (
                sqrt(LOOK_CASE_SHARE) * case.looks[position]
                + sqrt(1.0 - LOOK_CASE_SHARE) * section.looks[position]
            )
            seen = signal * sign.fidelity * latents[sign.latent]
            moved[sign.row] += (seen + sqrt(1.0 - sign.fidelity**2) * look) * sign.vector
        return moved

    def nuisance(self, site: Draws, case: Draws, section: Draws, case_share: float) -> Floats:
        """Return what cutting, staining and scanning add to every patch of a section, (DIM,).

        `case_share` is the share of the variance (beside the site's) that a case's sections share.
        """
        within = sqrt(case_share) * case.nuisance + sqrt(1.0 - case_share) * section.nuisance
        amounts = sqrt(SITE_SHARE) * site.nuisance + sqrt(1.0 - SITE_SHARE) * within
        total = np.zeros(DIM)
        for amount, axis in zip(amounts, self._nuisance, strict=True):
            total += amount * axis
        return total


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

"""The two organ worlds: constants with their reasons, hidden causes, and what sections look like.

A world belongs to an organ, not to a cohort: what is learned on one breast cohort holds on another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from madeleine_bench.seeds import rng_for

DIM = 512  # width of the patch features of CONCH, on which the published numbers were made
PATCH_ENCODER = "phantom-512"

# --- Lengths, in units of feature space. Calibrated together; see docs/phantom.md. ---------------
OFFSET_LENGTH = 1.5  # what all patches have in common; patch encoders are not centred
STAIN_LENGTH = 0.8  # the stains differ more than the tissues do, as colour does
PROTOTYPE_LENGTH = 0.65  # well above the noise, so that an encoder can tell tissues apart
PROTOTYPE_SHARED = 0.7  # share of a prototype that is form, the same in every stain
NUISANCE_DIMS = 12  # cut, stain and scanner move a slide along few axes ...
NUISANCE_LARGEST_STD = 0.42  # ... of which the first, colour, is much the largest ...
NUISANCE_DECAY = 0.75  # ... and each next one smaller by this factor
SITE_SHARE = 0.1  # share of the nuisance variance that belongs to the treating site

# --- How a latent is seen. -----------------------------------------------------------------------
LOOK_CASE_SHARE = 0.5  # of what a slide shows beside the latent: half is the case's own look
COUNTERSTAIN = 0.4  # morphology under immunohistochemistry, as a fraction of that in H&E

Organ = Literal["breast", "kidney"]


@dataclass(frozen=True)
class Sign:
    """How a latent shows in a stain.

    Attributes:
        tissue: the tissue whose patches show it.
        strength: shift of such a patch per unit of what is shown.
        fidelity: correlation between the latent and what is shown, 0 to 1.
    """

    tissue: str
    strength: float
    fidelity: float


@dataclass(frozen=True)
class World:
    """What all cohorts of an organ share.

    The latents follow linear structural equations in which each is standard normal.

    Attributes:
        organ: name of the organ.
        causes: for each latent the weights of the latents above it that it depends on. A latent
            is their weighted sum plus what makes its variance 1.
        tissues: tissue types and their weights; a section shows roughly these shares.
        composition: for a latent, the tissue it makes more of, and by how much (log scale).
        morphology: how each latent shows in H&E, and fainter in every other stain.
        markers: for each special stain, the latents that are plain in it.
        chromogen_share: share of a marker's direction that all markers have in common.
    """

    organ: Organ
    causes: Mapping[str, Mapping[str, float]]
    tissues: Mapping[str, float]
    composition: Mapping[str, tuple[str, float]]
    morphology: Mapping[str, Sign]
    markers: Mapping[str, Mapping[str, Sign]]
    chromogen_share: float

    @property
    def latents(self) -> tuple[str, ...]:
        """Names of the latents, causes first."""
        return tuple(self.causes)

    @property
    def stains(self) -> tuple[str, ...]:
        """The stains this world knows, H&E first."""
        return ("H&E", *self.markers)

    @cached_property
    def correlations(self) -> dict[tuple[str, str], float]:
        """The correlation of each pair of latents, worked out from the causes."""
        table: dict[tuple[str, str], float] = {}
        for position, (name, parents) in enumerate(self.causes.items()):
            for other in self.latents[:position]:
                value = sum(weight * table[parent, other] for parent, weight in parents.items())
                table[name, other] = table[other, name] = value
            table[name, name] = 1.0
        return table

    @cached_property
    def residuals(self) -> dict[str, float]:
        """For each latent the standard deviation of what its causes leave open.

        Raises:
            ValueError: the causes of a latent explain more than all of it.
        """
        residuals = {}
        for name, parents in self.causes.items():
            explained = sum(
                first * second * self.correlations[one, two]
                for one, first in parents.items()
                for two, second in parents.items()
            )
            if explained >= 1.0:
                raise ValueError(f"the causes of '{name}' explain {explained:.2f} of its variance")
            residuals[name] = sqrt(1.0 - explained)
        return residuals

    def draw_latents(self, rng: np.random.Generator) -> Mapping[str, float]:
        """Return the latents of one case by name, each standard normal over cases."""
        noise = rng.standard_normal(len(self.causes)).tolist()
        latents: dict[str, float] = {}
        for draw, (name, parents) in zip(noise, self.causes.items(), strict=True):
            caused = sum(weight * latents[parent] for parent, weight in parents.items())
            latents[name] = caused + self.residuals[name] * draw
        return latents


# Strengths of er, pr and her2 are calibrated on the published few-shot AUCs; the others are set
# beside them: a lobular subtype or a high grade is plain in H&E, nodal spread and outcome hardly.
BREAST = World(
    organ="breast",
    causes={
        "er": {},
        "pr": {"er": 0.65},
        "grade": {"er": -0.4},
        "her2": {"er": -0.2, "grade": 0.2},
        "ki67": {"grade": 0.55, "er": -0.15, "her2": 0.15},
        "subtype": {"er": 0.2, "grade": -0.25, "ki67": -0.1},
        "immune": {"grade": 0.3, "er": -0.2},
        "aln": {"grade": 0.2, "ki67": 0.15, "her2": 0.1},
        "hazard": {"grade": 0.3, "aln": 0.35, "er": -0.2, "immune": -0.2, "ki67": 0.15},
    },
    tissues={
        "tumour": 0.40,
        "stroma": 0.26,
        "fat": 0.12,
        "immune": 0.08,
        "normal": 0.08,
        "necrosis": 0.06,
    },
    composition={"immune": ("immune", 0.3), "grade": ("necrosis", 0.2)},
    morphology={
        "er": Sign("tumour", 0.36, 0.77),
        "pr": Sign("tumour", 0.25, 0.74),
        "her2": Sign("tumour", 0.24, 0.67),
        "ki67": Sign("tumour", 0.26, 0.70),
        "grade": Sign("tumour", 0.22, 0.85),
        "subtype": Sign("tumour", 0.36, 0.80),
        "immune": Sign("stroma", 0.28, 0.80),
        "aln": Sign("tumour", 0.20, 0.45),
        "hazard": Sign("tumour", 0.25, 0.50),
    },
    markers={
        "ER": {"er": Sign("tumour", 0.50, 0.88)},
        "PR": {"pr": Sign("tumour", 0.50, 0.88)},
        "HER2": {"her2": Sign("tumour", 0.50, 0.88)},
        "Ki67": {"ki67": Sign("tumour", 0.50, 0.88)},
    },
    chromogen_share=0.5,  # the same brown precipitate, in the nucleus or on the membrane
)

# Rejection is read in the vessels' end (glomeruli) or in the tubules, scarring in the interstitium.
# Each special stain is plain for what pathologists order it for.
KIDNEY = World(
    organ="kidney",
    causes={
        "age": {},
        "ifta": {"age": 0.5},
        "amr": {"age": 0.3},
        "tcmr": {"age": -0.15},
        "sclerosis": {"age": 0.4, "ifta": 0.3},
        "inflammation": {"tcmr": 0.5, "amr": 0.2},
    },
    tissues={
        "tubule": 0.46,
        "interstitium": 0.24,
        "glomerulus": 0.14,
        "vessel": 0.08,
        "medulla": 0.08,
    },
    composition={"ifta": ("interstitium", 0.25)},
    morphology={
        "amr": Sign("glomerulus", 0.60, 0.60),
        "tcmr": Sign("tubule", 0.25, 0.60),
        "ifta": Sign("interstitium", 0.40, 0.65),
        "sclerosis": Sign("glomerulus", 0.50, 0.80),
        "inflammation": Sign("interstitium", 0.30, 0.80),
        "age": Sign("vessel", 0.40, 0.50),
    },
    markers={
        "PAS": {
            "tcmr": Sign("tubule", 0.50, 0.70),
            "sclerosis": Sign("glomerulus", 0.90, 0.80),
        },
        "Jones": {"amr": Sign("glomerulus", 1.20, 0.70)},
        "trichrome": {"ifta": Sign("interstitium", 0.80, 0.75)},
    },
    chromogen_share=0.0,  # magenta, silver and blue have nothing in common
)

WORLDS: Mapping[Organ, World] = {"breast": BREAST, "kidney": KIDNEY}

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

    A patch feature is tissue prototype + what the stain shows of the latents + nuisance + noise. No
    matrix product is taken, so no linear algebra library and no thread count has a say.

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
        moves = (amount * axis for amount, axis in zip(amounts, self._nuisance, strict=True))
        return sum(moves, np.zeros(DIM))

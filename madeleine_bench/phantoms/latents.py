"""The hidden causes of a case, drawn with the correlations of its organ's world."""

from collections.abc import Mapping
from functools import cached_property
from math import sqrt

import numpy as np

from madeleine_bench.phantoms.world import World


class LatentModel:
    """Linear structural equations in which every latent is standard normal."""

    def __init__(self, world: World) -> None:
        self.world = world

    @cached_property
    def correlations(self) -> dict[tuple[str, str], float]:
        """The correlation of each pair of latents, worked out from the causes."""
        known: dict[tuple[str, str], float] = {}
        for position, (name, parents) in enumerate(self.world.causes.items()):
            for other in self.world.latents[:position]:
                value = sum(weight * known[parent, other] for parent, weight in parents.items())
                known[name, other] = known[other, name] = value
            known[name, name] = 1.0
        return known

    @cached_property
    def residuals(self) -> dict[str, float]:
        """For each latent the standard deviation of what its causes leave open.

        Raises:
            ValueError: the causes of a latent explain more than all of it.
        """
        residuals = {}
        for name, parents in self.world.causes.items():
            explained = sum(
                first * second * self.correlations[one, two]
                for one, first in parents.items()
                for two, second in parents.items()
            )
            if explained >= 1.0:
                raise ValueError(f"the causes of '{name}' explain {explained:.2f} of its variance")
            residuals[name] = sqrt(1.0 - explained)
        return residuals

    def draw(self, rng: np.random.Generator) -> Mapping[str, float]:
        """Return the latents of one case by name, each standard normal over cases."""
        noise = rng.standard_normal(len(self.world.causes)).tolist()
        latents: dict[str, float] = {}
        for own, (name, parents) in zip(noise, self.world.causes.items(), strict=True):
            caused = sum(weight * latents[parent] for parent, weight in parents.items())
            latents[name] = caused + self.residuals[name] * own
        return latents

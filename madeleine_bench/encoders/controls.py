"""Controls: rows that test the benchmark. None of them knows pathology.

A task on which a control beats mean-pool measures something other than tissue.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import WithoutNetwork
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag


class _OfWidth(WithoutNetwork):
    """A control whose embeddings are `dim` wide, whatever the patches are."""

    def __init__(self, card: EncoderCard, weights: Path | None = None, *, dim: int = 64) -> None:
        super().__init__(card, weights)
        self.dim = dim


class RandomProjection(_OfWidth):
    """The mean over patches, projected to `dim` random directions (Johnson-Lindenstrauss)."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the projected mean, shape (dim,)."""
        mean = bag.features.mean(axis=0, dtype=np.float64)
        projected: NDArray[np.float64] = mean @ _directions(len(mean), self.dim)
        return projected


@lru_cache(maxsize=8)
def _directions(width: int, dim: int) -> NDArray[np.float64]:
    directions = rng_for("random-projection", width, dim).standard_normal((width, dim))
    return np.asarray(directions / np.sqrt(dim))


class PatchCount(WithoutNetwork):
    """How much tissue there is, and nothing else."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the logarithm of the number of patches, shape (1,)."""
        return np.array([np.log(len(bag.features))])


class SiteOnly(_OfWidth):
    """Where the case was treated, and nothing else; slides without a site share one embedding."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return a random direction that belongs to the site, shape (dim,)."""
        return rng_for("site-only", bag.site or "").standard_normal(self.dim)


class CaseId(_OfWidth):
    """Which case it is, and nothing else: above chance only where a case crosses folds."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return a random direction that belongs to the case, shape (dim,)."""
        return rng_for("case-id", bag.case_id).standard_normal(self.dim)


class Oracle(WithoutNetwork):
    """The hidden causes of a phantom slide: the ceiling of what any encoder could find."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the latents in the order of their names, shape (number of latents,).

        Raises:
            InputError: the slide is not a phantom.
        """
        if bag.latents is None:
            raise InputError(
                f"oracle reads the latents of a phantom; slide {bag.slide_id} is real. "
                "Run it with --source phantom."
            )
        return np.array([bag.latents[name] for name in sorted(bag.latents)])

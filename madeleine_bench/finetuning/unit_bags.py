"""The patches of each unit of a task, sampled or whole, scaled by those of the training units."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import InputError
from madeleine_bench.protocols.scaling import Scaler
from madeleine_bench.types import Units

# A dimension whose deviation is below this share of its size varies by rounding in the store only.
_ROUNDING = 1e-3


class UnitBags:
    """The bag of each unit: the patches of its slides, one slide after the other.

    A case of several slides, of whatever stains, is one bag (early fusion).
    """

    def __init__(self, store: FeatureStore, units: Units) -> None:
        """Find the rows of every unit.

        Raises:
            InputError: a slide of a unit is not in the store.
        """
        index = {slide_id: i for i, slide_id in enumerate(store.slide_ids)}
        self._store = store
        self._slides: list[list[int]] = []
        for unit_id in units.table["unit_id"]:
            slides = units.slides[unit_id]
            if absent := [slide for slide in slides if slide not in index]:
                raise InputError(
                    f"{store.path}: slide '{absent[0]}' is not in the packed store; remove the "
                    "folder to have it packed again"
                )
            self._slides.append([index[slide] for slide in slides])
        self.lengths = np.array([store.lengths[slides].sum() for slides in self._slides])

    @property
    def dim(self) -> int:
        """Width of a patch."""
        return self._store.dim

    def whole(self, unit: int) -> NDArray[np.floating]:
        """Return all patches of a unit, patch x dim."""
        bags = [self._store.bag(slide) for slide in self._slides[unit]]
        return np.concatenate(bags)

    def sample(self, unit: int, patches: int, rng: np.random.Generator) -> NDArray[np.floating]:
        """Return at most `patches` patches of a unit, drawn without replacement, in their order.

        A unit that has no more comes back whole.
        """
        if self.lengths[unit] <= patches:
            return self.whole(unit)
        chosen = np.sort(rng.choice(self.lengths[unit], patches, replace=False))
        slides = self._slides[unit]
        starts = np.cumsum([0, *self._store.lengths[slides]])
        parts = [
            self._store.bag(slide)[chosen[(chosen >= low) & (chosen < high)] - low]
            for slide, low, high in zip(slides, starts[:-1], starts[1:], strict=True)
        ]
        return np.concatenate(parts)

    def scale(self, units: Sequence[int]) -> Scaler:
        """Return the z-score scale of all patches of some units, each unit weighing the same.

        A dimension that is constant over them becomes 0 everywhere, so that it cannot count.
        """
        total, square = np.zeros(self.dim), np.zeros(self.dim)
        largest = np.zeros(self.dim)
        for unit in units:
            patches = self.whole(unit).astype(np.float64)
            total += patches.mean(axis=0)
            square += np.square(patches).mean(axis=0)
            largest = np.maximum(largest, np.abs(patches).max(axis=0))
        centre = total / len(units)
        deviation = np.sqrt(np.maximum(square / len(units) - np.square(centre), 0.0))
        varies = deviation > _ROUNDING * largest
        factor = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        return Scaler(centre.astype(np.float32), factor.astype(np.float32))

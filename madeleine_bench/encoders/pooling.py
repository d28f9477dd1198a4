"""Baselines without weights: the mean and the maximum over the patches of a slide."""

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import WithoutNetwork
from madeleine_bench.types import Bag


class MeanPool(WithoutNetwork):
    """The mean over patches of each feature: the baseline every slide encoder must beat."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the mean feature vector, shape (dim of the patch features,), summed in float64."""
        return np.asarray(bag.features.mean(axis=0, dtype=np.float64))


class MaxPool(WithoutNetwork):
    """The maximum over patches of each feature."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the largest value of each feature, shape (dim of the patch features,)."""
        return np.asarray(bag.features.max(axis=0))

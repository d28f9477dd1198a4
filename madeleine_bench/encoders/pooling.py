"""Baselines without weights: the mean and the maximum over the patches of a slide."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import WithoutNetwork
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from madeleine_bench.models.mil.base import BagNetwork


class _Pooling(WithoutNetwork):
    """A pooling with a linear head on it, where labels are to train one."""

    pooling = "bag_means"

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return a linear head on the pooled features."""
        from madeleine_bench.models.mil import base

        network = base.EmbedderWithHead(getattr(base, self.pooling), input_dim, outputs)
        base.initialise_network(network, seed)
        return network


class MeanPool(_Pooling):
    """The mean over patches of each feature: the baseline every slide encoder must beat."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the mean feature vector, shape (dim of the patch features,), summed in float64."""
        return np.asarray(bag.features.mean(axis=0, dtype=np.float64))


class MaxPool(_Pooling):
    """The maximum over patches of each feature."""

    pooling = "bag_maxima"

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the largest value of each feature, shape (dim of the patch features,)."""
        return np.asarray(bag.features.max(axis=0))

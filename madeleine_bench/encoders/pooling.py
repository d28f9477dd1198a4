"""Baselines without weights: the mean and the maximum over the patches of a slide."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import WithoutNetwork
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from madeleine_bench.models.mil.base import BagNetwork


class MeanPool(WithoutNetwork):
    """The mean over patches of each feature: the baseline every slide encoder must beat."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the mean feature vector, shape (dim of the patch features,), summed in float64."""
        return np.asarray(bag.features.mean(axis=0, dtype=np.float64))

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return a linear head on the mean; there is nothing else to train."""
        from madeleine_bench.models.mil.base import initialise_network
        from madeleine_bench.models.mil.embedder_head import EmbedderWithHead, MeanPooling

        network = EmbedderWithHead(MeanPooling(), input_dim, outputs)
        initialise_network(network, seed)
        return network


class MaxPool(WithoutNetwork):
    """The maximum over patches of each feature."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the largest value of each feature, shape (dim of the patch features,)."""
        return np.asarray(bag.features.max(axis=0))

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return a linear head on the maximum; there is nothing else to train."""
        from madeleine_bench.models.mil.base import initialise_network
        from madeleine_bench.models.mil.embedder_head import EmbedderWithHead, MaxPooling

        network = EmbedderWithHead(MaxPooling(), input_dim, outputs)
        initialise_network(network, seed)
        return network

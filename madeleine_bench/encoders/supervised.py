"""Supervised baselines: networks that have no embedding until the labels of a task train them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from madeleine_bench.models.mil.base import BagNetwork

# The classes of madeleine_bench.models.mil, by what cards call them.
NETWORKS = {
    "abmil": "Abmil",
    "clam-sb": "ClamSb",
    "dsmil": "DsMil",
    "ilra": "Ilra",
    "mean-mlp": "MeanMlp",
    "transmil": "TransMil",
}


class SupervisedMil(BaseEncoder):
    """A multiple-instance network, trained from scratch on each training fold."""

    def __init__(
        self, card: EncoderCard, weights: Path | None = None, *, architecture: str, **sizes: Any
    ) -> None:
        """Remember what to build.

        Args:
            card: the card.
            weights: None; there are none.
            architecture: one of `NETWORKS`.
            sizes: keywords of the network, such as width.

        Raises:
            InputError: there is no such architecture.
        """
        super().__init__(card, weights)
        if architecture not in NETWORKS:
            hint = did_you_mean(architecture, list(NETWORKS))
            raise InputError(f"no architecture is called '{architecture}'{hint}")
        self.architecture, self.sizes = architecture, sizes

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Say that there is no embedding.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.card.name} is supervised: it is trained on the labels of a task and has no "
            "embedding of its own; run it under --protocol finetune"
        )

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return the network, all of it drawn from the seed."""
        from madeleine_bench.models import mil
        from madeleine_bench.models.mil.base import initialise_network

        maker = getattr(mil, NETWORKS[self.architecture])
        network: BagNetwork = maker(input_dim, outputs, **self.sizes)
        initialise_network(network, seed)
        return network

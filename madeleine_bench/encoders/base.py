"""The one interface a slide encoder has, built in or a stranger's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from madeleine_bench.models.mil.output import BagNetwork


@runtime_checkable
class SlideEncoder(Protocol):
    """Turns the bag of one slide into one embedding.

    Attributes:
        card: what the encoder declares of itself.
    """

    card: EncoderCard

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the embedding of one slide, shape (dim,), finite.

        It must not depend on the order of patches, on other slides, or on global state.
        `bag.features` is patch x dim, float32.
        """
        ...


@runtime_checkable
class AttentiveEncoder(SlideEncoder, Protocol):
    """A slide encoder that can say which patches its embedding is made of."""

    def attention(self, bag: Bag) -> NDArray[np.floating]:
        """Return the weight of each patch in each head, patch x head; each head adds up to 1."""
        ...


@runtime_checkable
class TrainableEncoder(SlideEncoder, Protocol):
    """A slide encoder whose network can be trained further, or anew, on the labels of a task."""

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return a network from bags to `outputs` numbers each: the encoder with a new head.

        Args:
            input_dim: width of the patch features.
            outputs: numbers that the head gives for a bag.
            organ: of the bags; weights may hold a network for each.
            seed: of whatever is drawn: the head, and without weights all of it.
            from_weights: whether to go on from the weights of the card.

        Raises:
            InputError: the weights do not fit the patches or the organ.
        """
        ...


class BaseEncoder:
    """What an encoder class inherits: the constructor that the registry calls.

    A subclass takes `card`, `weights` (path of the checked weights file, or None) and the card's
    `parameters` as keywords, and implements `encode`; `encode_batch` is worth overriding where
    several bags at once are faster.
    """

    def __init__(self, card: EncoderCard, weights: Path | None = None) -> None:
        self.card = card
        self.weights = weights

    @property
    def n_parameters(self) -> int | None:
        """How many numbers of a network one embedding is made with; None where it is not said."""
        return None

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the embedding of one slide, shape (dim,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement encode(bag)")

    def encode_batch(self, bags: Sequence[Bag]) -> NDArray[np.floating]:
        """Return the embeddings of several slides, slide x dim."""
        return np.stack([self.encode(bag) for bag in bags])


class WithoutNetwork(BaseEncoder):
    """An encoder that has no network."""

    @property
    def n_parameters(self) -> int:
        """None at all."""
        return 0

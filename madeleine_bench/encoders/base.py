"""The one interface a slide encoder has, built in or third-party."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import CheckFailed
from madeleine_bench.specs.card import MAX_DIM, EncoderCard
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from madeleine_bench.models.mil.base import BagNetwork


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
        `bag.features` is patch x dim, float32. A list, a tuple or a torch tensor will do as well:
        see `as_embedding`.
        """
        ...


@runtime_checkable
class AttentiveEncoder(SlideEncoder, Protocol):
    """A slide encoder that can say which patches its embedding is made of."""

    def attention(self, bag: Bag) -> NDArray[np.floating]:
        """Return the weight of each patch in each head, patch x head; each head adds up to 1."""
        ...


@runtime_checkable
class MovableEncoder(SlideEncoder, Protocol):
    """A slide encoder that may sit on a GPU; a slide that does not fit there is tried on the CPU.

    Attributes:
        device: where it is, such as "cuda" or "cpu".
    """

    device: str

    def to(self, device: str) -> None:
        """Move the network to a device."""
        ...


@runtime_checkable
class ChunkedEncoder(SlideEncoder, Protocol):
    """A slide encoder that can take the patches of a large slide in chunks."""

    def encode_in_chunks(self, bag: Bag, size: int) -> NDArray[np.floating]:
        """Return what `encode` does, up to rounding, taking at most `size` patches at a time."""
        ...


@runtime_checkable
class TrainableEncoder(SlideEncoder, Protocol):
    """A slide encoder whose network can be trained further, or again, on the labels of a task."""

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
    `parameters` as keywords, and implements `encode`.
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


class WithoutNetwork(BaseEncoder):
    """An encoder that has no network."""

    @property
    def n_parameters(self) -> int:
        """None at all."""
        return 0


def as_array(value: object) -> NDArray[Any]:
    """Return what an encoder returned as an array; of objects where it cannot be read as one.

    Torch tensors may be on any device and hold gradients; their types of less than 32 bits, some
    of which numpy does not have, become float32.
    """
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor; torch stays unimported
            tensor: Any = value.detach().cpu()
            narrow = tensor.is_floating_point() and tensor.element_size() < 4
            value = (tensor.float() if narrow else tensor).numpy()
        return np.asarray(value)
    except Exception:  # noqa: BLE001  (an encoder may return anything)
        return np.empty((), dtype=np.object_)


def dtype_of(value: object) -> str:
    """Return the name of the type of the numbers that an encoder returned, such as bfloat16."""
    returned = getattr(value, "dtype", None)
    return str(as_array(value).dtype if returned is None else returned).removeprefix("torch.")


def as_embedding(value: object, dim: int | None = None) -> NDArray[np.float32]:
    """Return what `encode` returned as it is stored and scored: float32, shape (dim,), finite.

    Args:
        value: what it returned: an array, list or tuple of floats, or a torch tensor.
        dim: the width that the card states, if it does.

    Raises:
        CheckFailed: it is no vector of floats, is empty, has another width, or holds a number that
            is not finite as float32.
    """
    array = as_array(value)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise CheckFailed(
            "encode must return a vector of floats, shape (dim,); it returned "
            f"{type(value).__name__}, shape {array.shape}, {dtype_of(value)}"
        )
    if dim is not None and len(array) != dim:
        raise CheckFailed(f"the card says dim {dim}, encode returned {len(array)}")
    if not len(array):
        raise CheckFailed("encode returned an empty vector")
    if len(array) > MAX_DIM:
        raise CheckFailed(f"encode returned {len(array):,} numbers; expected 1 to {MAX_DIM:,}")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        bad = int(np.flatnonzero(~np.isfinite(single))[0])
        raise CheckFailed(f"component {bad} of the embedding is {array[bad]}")
    return single

"""Madeleine as a slide encoder, on the CPU: with trained weights, and with random ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.encoders.base import BaseEncoder
from madeleine_bench.encoders.weights import ModelDescription, read_weights
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import seed_for
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.types import Bag

if TYPE_CHECKING:
    from torch import Tensor

    from madeleine_bench.models.madeleine import Madeleine
    from madeleine_bench.models.mil.base import BagNetwork


class _Madeleine(BaseEncoder):
    """What both have in common: the model of a bag gives its embedding and its attention."""

    def encode(self, bag: Bag) -> NDArray[np.floating]:
        """Return the slide embedding, shape (width,), float32.

        Raises:
            InputError: no model is of the bag's organ or takes features of its width, or the stain
                has no encoding.
        """
        import torch

        model, stain = self._fitting(bag)
        with torch.inference_mode():
            embedding: NDArray[np.float32] = model.encode(_tensor(bag), stain).numpy()
        return embedding

    def encode_in_chunks(self, bag: Bag, size: int) -> NDArray[np.floating]:
        """Return what `encode` does; the network sees at most `size` patches at a time.

        Raises:
            InputError: as `encode`.
        """
        import torch

        model, stain = self._fitting(bag)
        patches = _tensor(bag)
        with torch.inference_mode():
            pieces = [
                model.embed_patches(
                    part, None if stain is None else torch.full((len(part),), stain)
                )
                for part in torch.split(patches, size)
            ]
            tokens, scores = (torch.cat(parts) for parts in zip(*pieces, strict=True))
            embeddings = model.pool(tokens, scores, (len(tokens),), patches)
        embedding: NDArray[np.float32] = embeddings[0].numpy()
        return embedding

    def attention(self, bag: Bag) -> NDArray[np.floating]:
        """Return the weight of each patch in each head, (patch, head); each head adds up to 1.

        Raises:
            InputError: as `encode`.
        """
        import torch

        model, stain = self._fitting(bag)
        patches = _tensor(bag)
        stains = None if stain is None else torch.full((len(patches),), stain)
        with torch.inference_mode():
            _, scores = model.embed_patches(patches, stains)
            weights: NDArray[np.float32] = scores.softmax(dim=0).numpy()
        return weights

    def _fitting(self, bag: Bag) -> "tuple[Madeleine, int | None]":
        """Return the model for a bag, and the index of the bag's stain where it is an input."""
        raise NotImplementedError


class TrainedMadeleine(_Madeleine):
    """Madeleine with the weights of its card.

    Weights may hold a model for each organ; a bag then goes to the model of its own organ, and a
    single model takes every bag. With stain encodings, the bag's stain is an input.
    """

    def __init__(self, card: EncoderCard, weights: Path | None = None) -> None:
        """Read the weights.

        Raises:
            InputError: the card has no weights, or the file cannot be used.
        """
        super().__init__(card, weights)
        if weights is None:
            raise InputError(f"the card of {card.name} has no 'weights' {{path, sha256}}")
        self._models: dict[str, tuple[ModelDescription, Madeleine]] = {}
        for organ, (description, state) in read_weights(weights).items():
            self._models[organ] = (description, description.build(state))

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return the model of an organ with a linear head; without weights, one of its size.

        Raises:
            InputError: no model is of the organ or takes patches of this width, or the stain of a
                slide is an input, which a bag of several stains does not have.
        """
        from madeleine_bench.models.madeleine import Madeleine

        description, model = self._model_for(organ)
        if description.stain_encoding:
            raise InputError(
                "the stain of a slide is an input of this model, and fine-tuning makes one bag of "
                "all slides of a case; fine-tune a model without stain encodings (madeleine)"
            )
        if from_weights and input_dim != description.input_dim:
            raise InputError(
                f"the weights take patch features of width {description.input_dim}, the bags have "
                f"{input_dim}; another protocol may start from scratch (finetune-scratch)"
            )
        sizes = (input_dim, description.width, description.heads)
        if not from_weights:
            return _with_head(Madeleine(*sizes), outputs, seed, None)
        return _with_head(type(model)(*sizes), outputs, seed, model.state_dict())

    @property
    def n_parameters(self) -> int:
        """Of the largest of its models: a bag goes through one of them."""
        return _largest(model for _, model in self._models.values())

    def _fitting(self, bag: Bag) -> "tuple[Madeleine, int | None]":
        description, model = self._model_for(bag.organ)
        if bag.features.shape[1] != description.input_dim:
            raise InputError(
                f"the model takes patch features of width {description.input_dim}, "
                f"the bag has {bag.features.shape[1]}"
            )
        if not description.stain_encoding:
            return model, None
        if bag.stain not in description.stains:
            raise InputError(
                f"the slide is of stain {bag.stain}; the weights have encodings of: "
                f"{', '.join(description.stains)}"
            )
        return model, description.stains.index(bag.stain)

    def _model_for(self, organ: str | None) -> "tuple[ModelDescription, Madeleine]":
        if len(self._models) == 1:
            return next(iter(self._models.values()))
        if organ not in self._models:
            of = "of unknown organ" if organ is None else f"of organ '{organ}'"
            organs = ", ".join(sorted(self._models))
            raise InputError(
                f"the slide is {of}; the weights have models for: {organs}. The organ of a slide "
                "is that of its cohort (tasks/cohorts)"
            )
        return self._models[organ]


class UntrainedMadeleine(_Madeleine):
    """Madeleine's architecture with random weights: what the architecture alone is worth."""

    def __init__(
        self, card: EncoderCard, weights: Path | None = None, *, width: int = 512, heads: int = 4
    ) -> None:
        super().__init__(card, weights)
        self.width, self.heads = width, heads
        self._models: dict[int, Madeleine] = {}

    def network(
        self, *, input_dim: int, outputs: int, organ: str | None, seed: int, from_weights: bool
    ) -> "BagNetwork":
        """Return the architecture with a linear head, all of it drawn from the seed."""
        from madeleine_bench.models.madeleine import Madeleine

        return _with_head(Madeleine(input_dim, self.width, self.heads), outputs, seed, None)

    @property
    def n_parameters(self) -> int | None:
        """Of the largest network made so far; None before the first bag."""
        return _largest(self._models.values()) if self._models else None

    def _fitting(self, bag: Bag) -> "tuple[Madeleine, None]":
        import torch

        from madeleine_bench.models.madeleine import Madeleine, initialise

        input_dim = bag.features.shape[1]
        if input_dim not in self._models:
            # Made as an outline first: torch's own filling would move the global random state.
            with torch.device("meta"):
                model = Madeleine(input_dim, self.width, self.heads).eval()
            model.to_empty(device="cpu")
            initialise(model, seed_for("untrained-madeleine", input_dim, self.width, self.heads))
            self._models[input_dim] = model
        return self._models[input_dim], None


def _with_head(
    model: "Madeleine", outputs: int, seed: int, state: "Mapping[str, Tensor] | None"
) -> "BagNetwork":
    """Return a model with a linear head; parameters are drawn where no state gives them."""
    from madeleine_bench.models.mil.base import (
        EmbedderWithHead,
        MadeleineEmbedder,
        initialise_network,
    )

    network = EmbedderWithHead(MadeleineEmbedder(model), model.projector.out_features, outputs)
    initialise_network(network, seed)
    if state is not None:
        model.load_state_dict(state)
    return network


def _largest(models: "Iterable[Madeleine]") -> int:
    return max(sum(part.numel() for part in model.parameters()) for model in models)


def _tensor(bag: Bag) -> "Tensor":
    import torch

    # A copy, as how an array lies in memory changes the last bit of a product.
    return torch.tensor(np.ascontiguousarray(bag.features, dtype=np.float32))

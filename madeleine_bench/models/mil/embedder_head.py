"""A slide encoder with a linear head, to be trained as a whole; and encoders to put under it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.models.mil.base import BagNetwork, BagOutput, bag_means, split_bags


class EmbedderWithHead(BagNetwork):
    """An embedder of bags and a linear head.

    To start from trained weights, call `initialise_network` first and load them after it,
    or call it on `head` alone.
    """

    def __init__(self, embed: nn.Module, width: int, outputs: int, *, dropout: float = 0.0) -> None:
        """Make the head.

        Args:
            embed: maps patches (patch, dim) and lengths to embeddings (bag, width).
            width: width of an embedding.
            outputs: number of outputs for each bag.
            dropout: share of the embedding dropped in training.
        """
        super().__init__()
        self.embed = embed
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def outputs_of(self, patches: Tensor, lengths: Sequence[int]) -> BagOutput:
        """Return logits (bag, outputs); see `BagNetwork`."""
        return BagOutput(self.head(self.dropout(self.embed(patches, lengths))))


class MeanPooling(nn.Module):
    """The mean over the patches of each bag, (patch, dim) to (bag, dim); no parameters."""

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the mean of each feature over each bag, (bag, dim)."""
        return bag_means(patches, lengths)


class MaxPooling(nn.Module):
    """The maximum over the patches of each bag, (patch, dim) to (bag, dim); no parameters."""

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the largest value of each feature in each bag, (bag, dim)."""
        return torch.stack([bag.amax(dim=0) for bag in split_bags(patches, lengths)])


class MadeleineEmbedder(nn.Module):
    """Madeleine's slide embedding, without the tokens and the attention it also gives."""

    def __init__(self, model: Madeleine, stain: int | None = None) -> None:
        """Wrap a model.

        Args:
            model: trained or not.
            stain: index of the stain of all bags; None for a model without stain encodings.
        """
        super().__init__()
        self.model = model
        self.stain = stain

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return embeddings (bag, width).

        Raises:
            ValueError: as `Madeleine.forward`.
        """
        stains = None
        if self.stain is not None:
            stains = torch.full((len(patches),), self.stain, device=patches.device)
        embeddings: Tensor = self.model(patches, lengths, stains)[0]
        return embeddings

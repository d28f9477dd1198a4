"""Madeleine of the preset "aligned": what it learns is added to what plain features say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from madeleine_bench.models.aligned_tokens import AlignedTokens
from madeleine_bench.models.madeleine import TOKEN_DIM, Madeleine


class MeanShortcut(nn.Module):
    """A frozen linear map of the mean patch of a slide: S (mean of x - m).

    Args:
        input_dim: width of the patch features.
        width: width of the slide embedding.
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, input_dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(input_dim))
        self.register_buffer("directions", torch.zeros(width, input_dim))

    def forward(self, patches: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return (slide, width) of packed patches (patch, input_dim), in the type of the map."""
        means = torch.stack(
            [bag.to(self.centre.dtype).mean(dim=0) for bag in torch.split(patches, list(lengths))]
        )
        embeddings: Tensor = (means - self.centre) @ self.directions.mT
        return embeddings


class AlignedMadeleine(Madeleine):
    """The slide encoder z = P [attention pooling] + S (mean of x - m), with residual tokens.

    P and the learned part of the tokens start at zero, so that an untrained model is the mean of
    plain features, in embeddings and in tokens. S, m and the directions of the tokens are buffers
    that `set_start` fills from the cohort.
    """

    def __init__(self, input_dim: int, width: int, heads: int, **options: Any) -> None:
        """Make the layers; `options` are those of `Madeleine`."""
        super().__init__(input_dim, width, heads, **options)
        del self.token_projector
        outline = torch.zeros(min(TOKEN_DIM, input_dim), input_dim)
        self.aligned_tokens = AlignedTokens(outline, width * heads)
        self.shortcut = MeanShortcut(input_dim, width)

    def pool(
        self, tokens: Tensor, scores: Tensor, lengths: Sequence[int], patches: Tensor
    ) -> Tensor:
        """Return slide embeddings (slide, width); see `Madeleine.pool`."""
        learned = super().pool(tokens, scores, lengths, patches)
        embeddings: Tensor = learned + self.shortcut(patches, lengths)
        return embeddings

    def set_start(self, token_directions: Tensor, directions: Tensor, centre: Tensor) -> None:
        """Make the model that of plain features.

        Args:
            token_directions: of patch features, dim x input_dim.
            directions: S, width x input_dim.
            centre: m, (input_dim,).
        """
        with torch.no_grad():
            self.aligned_tokens.directions.copy_(token_directions)
            self.shortcut.directions.copy_(directions)
            self.shortcut.centre.copy_(centre)
            for layer in (self.aligned_tokens.residual, self.projector):
                for parameter in layer.parameters():
                    parameter.zero_()

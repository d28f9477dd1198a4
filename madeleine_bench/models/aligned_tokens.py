"""Tokens of the preset "aligned": principal directions of the features plus a learned rest."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madeleine_bench.models.madeleine import TOKEN_DIM


class AlignedTokens(nn.Module):
    """The projection u = R (x - mean of the slide) + Q t of patch features x and their tokens t.

    R is frozen, Q starts at zero: before training, tokens of partner patches are as near each other
    as their plain features are. A random projection starts farther off, and the local objective
    does not find back.

    Args:
        directions: R, row d a principal direction of the cohort's patch features, dim x feature.
        token_width: channels of a token of the model, heads times width.
    """

    directions: Tensor

    def __init__(self, directions: Tensor, token_width: int) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.residual = nn.Linear(token_width, len(directions), bias=False)
        nn.init.zeros_(self.residual.weight)

    def forward(self, patches: Tensor, slide_mean: Tensor, tokens: Tensor) -> Tensor:
        """Return projected tokens, (..., dim).

        Args:
            patches: features of the patches, (..., feature).
            slide_mean: mean feature of the slide each patch comes from; broadcasts to `patches`.
            tokens: tokens of the same patches, (..., head, width).
        """
        plain = (patches - slide_mean) @ self.directions.mT
        learned: Tensor = self.residual(tokens.flatten(-2))
        return plain + learned


def principal_directions(covariance: NDArray[np.float64], dims: int = TOKEN_DIM) -> Tensor:
    """Return the first principal directions, dim x feature in float32; at most one per feature.

    The sign of a direction is such that its largest entry is positive.

    Args:
        covariance: of patch features less the mean of their slide, feature x feature.
        dims: number of directions.
    """
    _, vectors = np.linalg.eigh(covariance)
    rows = vectors[:, ::-1][:, :dims].T
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return torch.from_numpy(np.ascontiguousarray(rows * np.sign(largest), dtype=np.float32))

"""Tokens of the preset "aligned": principal directions of the features plus a learned rest."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madeleine_bench.models.madeleine import TOKEN_DIM

GAIN = 10.0


class AlignedTokens(nn.Module):
    """The projection u = p + Q [10 p, t], with p = R (x - mean of the slide), of patch features x.

    t is the token that the model makes of x. R is frozen, Q starts at zero: before training, tokens
    of partner patches are as near each other as their plain features are. A random projection
    starts farther off, and the local objective does not find back.

    What is learned on p carries over to a stain that was not trained on; what is learned on t alone
    does not. So p enters with a gain: Adam's steps, which do not depend on the size of an input,
    move its part faster. Scale R such that p has a variance of about 1 in each dimension.

    Args:
        directions: R, row d a principal direction of the cohort's patch features, dim x feature.
        token_width: channels of a token of the model, heads times width.
    """

    directions: Tensor

    def __init__(self, directions: Tensor, token_width: int) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        dims = len(directions)
        self.residual = nn.Linear(dims + token_width, dims, bias=False)
        nn.init.zeros_(self.residual.weight)

    def forward(self, patches: Tensor, slide_mean: Tensor, tokens: Tensor) -> Tensor:
        """Return projected tokens, (..., dim).

        Args:
            patches: features of the patches, (..., feature).
            slide_mean: mean feature of the slide each patch comes from; broadcasts to `patches`.
            tokens: tokens of the same patches, (..., head, width).
        """
        plain = (patches - slide_mean) @ self.directions.mT
        learned: Tensor = self.residual(torch.cat([GAIN * plain, tokens.flatten(-2)], dim=-1))
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

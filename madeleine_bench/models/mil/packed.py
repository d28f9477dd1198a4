"""Sums, means and softmax within each bag of a packed tensor.

A loop over bags, not a scatter: scatter adds in random order on a GPU, so that the same seed
would not give the same network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_packed(patches: Tensor, lengths: Sequence[int]) -> None:
    """Check that the patches (patch, dim) are as many as the lengths say.

    Raises:
        ValueError: a bag has no patch, or the lengths do not add up to the patches.
    """
    if patches.ndim != 2:
        raise ValueError(f"patches must be (patch, dim), found shape {tuple(patches.shape)}")
    if not lengths or min(lengths) < 1 or sum(lengths) != len(patches):
        raise ValueError(
            f"each bag needs a patch, and all together {len(patches)}; these lengths start "
            f"{list(lengths[:8])} and add up to {sum(lengths)}"
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it has that precision or more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def split_bags(packed: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the part of each bag of a packed tensor (patch, ...)."""
    return torch.split(packed, list(lengths))


def bag_softmax(scores: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the softmax of each column over each bag's own patches, in float32 or better.

    `scores` is (patch, column), and so is the result: each column adds up to 1 within each bag.
    """
    parts = split_bags(at_least_float32(scores), lengths)
    return torch.cat([part.softmax(dim=0) for part in parts])


def bag_sums(weights: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the weighted sums of each bag, (bag, column, dim).

    `weights` is (patch, column) and `values` (patch, dim).
    """
    weights = weights.to(values.dtype)
    parts = zip(split_bags(weights, lengths), split_bags(values, lengths), strict=True)
    return torch.stack([weight.T @ value for weight, value in parts])


def bag_means(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the mean of each bag's patches, (patch, dim) to (bag, dim)."""
    return torch.stack([part.mean(dim=0) for part in split_bags(values, lengths)])

"""Cosines in full precision: what the contrastive and the transport losses both start from."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

EPSILON = 1e-12


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Return a context in which autocast leaves the operations on the tensor's device alone.

    In bfloat16, InfoNCE at temperature .001 is off by a quarter and the gradient of transport
    turns, so the losses compute in float32 whatever the model computes in.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is where it has that precision or more."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def unit_rows(tensor: Tensor, *, mute_zero: bool = True) -> Tensor:
    """Return the rows divided by their length, of the shape of the input; a zero row stays zero.

    Args:
        tensor: (..., dim).
        mute_zero: give rows of (nearly) no length no gradient. Without it, the gradient of a zero
            row is multiplied by 1e12, which is finite and drowns every other gradient.
    """
    length = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True)
    unit = tensor / (length + EPSILON)
    return torch.where(length > EPSILON, unit, unit.detach()) if mute_zero else unit


def cosine_distance(x: Tensor, y: Tensor, *, mute_zero: bool = True) -> Tensor:
    """Return 1 - cosine of every token of x with every token of y, pair x n x m, in [0, 2].

    A zero token is at distance 1 from every token, itself included.

    Args:
        x: (pair, n, dim).
        y: (pair, m, dim).
        mute_zero: as in `unit_rows`.
    """
    with without_autocast(x):
        x_unit = unit_rows(at_least_float32(x), mute_zero=mute_zero)
        y_unit = unit_rows(at_least_float32(y), mute_zero=mute_zero)
        return 1.0 - torch.bmm(x_unit, y_unit.mT)

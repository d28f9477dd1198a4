"""Cosines in full precision, from which the losses across stains start, and InfoNCE on them."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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


def info_nce(query: Tensor, key: Tensor, *, temperature: float, symmetric: bool = True) -> Tensor:
    """Return the mean cross-entropy in nats of finding the partner of each row; lower is better.

    Row i of `query` belongs to row i of `key`; all other rows are its negatives. Cosines are
    divided by the temperature, in float32 (float64 for float64 inputs) even under autocast. For
    training on several processes, gather both sides before the call.

    Args:
        query: (case, dim), any length of row; a zero row has cosine 0 and no gradient.
        key: (case, dim).
        temperature: positive; at .001 the loss is 0 once every partner leads by .01 of cosine.
        symmetric: mean of both directions instead of query -> key alone.

    References:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding
        (2018), equation 4; Jaume et al., Multistain Pretraining (ECCV 2024).

    Examples:
        >>> rows = torch.eye(3)
        >>> round(info_nce(rows, rows, temperature=1.0).item(), 4)  # log(1 + 2 / e)
        0.5514
    """
    with without_autocast(query):
        cosine = unit_rows(at_least_float32(query)) @ unit_rows(at_least_float32(key)).mT
        logits = cosine / temperature
        partner = torch.arange(len(logits), device=logits.device)
        loss = cross_entropy(logits, partner)
        return (loss + cross_entropy(logits.mT, partner)) / 2 if symmetric else loss

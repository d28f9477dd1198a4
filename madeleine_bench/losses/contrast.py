"""InfoNCE: each query finds its own key among all keys of the batch."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from madeleine_bench.losses.cosine import at_least_float32, unit_rows, without_autocast


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

    Raises:
        ValueError: the shapes differ, there is no row, or the temperature is not positive.

    References:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding
        (2018), equation 4; Jaume et al., Multistain Pretraining (ECCV 2024).

    Examples:
        >>> rows = torch.eye(3)
        >>> round(info_nce(rows, rows, temperature=1.0).item(), 4)  # log(1 + 2 / e)
        0.5514
    """
    if query.ndim != 2 or query.shape != key.shape or len(query) == 0:
        raise ValueError(
            f"query and key must both be (case, dim) with at least one case, "
            f"found {tuple(query.shape)} and {tuple(key.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}")
    with without_autocast(query):
        cosine = unit_rows(at_least_float32(query)) @ unit_rows(at_least_float32(key)).mT
        logits = cosine / temperature
        partner = torch.arange(len(logits), device=logits.device)
        loss = cross_entropy(logits, partner)
        return (loss + cross_entropy(logits.mT, partner)) / 2 if symmetric else loss

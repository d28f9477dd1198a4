"""CORN: ordered levels by the probability to exceed each, given that it is reached."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from madeleine_bench.losses.cosine import at_least_float32, without_autocast


def ordered_levels_loss(logits: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the loss of conditional logits in nats, a scalar; lower is better.

    With K levels from 0, sigmoid of logit k is P(level > k | level >= k). Logit k learns from the
    bags whose level is at least k, which leaves the bag out once its level is passed; the loss is
    the binary cross-entropy averaged over all such pairs of bag and logit, weighted by the weight
    of the bag's level where weights are given. Computed in float32 (float64 for float64 logits)
    even under autocast.

    Args:
        logits: (bag, K - 1).
        level: (bag,) int64 from 0 to K - 1.
        weights: (K,) not negative, such as `balanced_weights`, or None for equal weights.

    Raises:
        ValueError: there is no bag, the shapes do not fit, or a level is none of the K.

    References:
        Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based
        On Conditional Probabilities", Pattern Analysis and Applications 26 (2023) 941-955 (arXiv
        2111.08851). The weights are ours.

    Examples:
        >>> logits = torch.zeros(2, 2)
        >>> round(ordered_levels_loss(logits, torch.tensor([0, 2])).item(), 4)  # log(2)
        0.6931
    """
    if logits.ndim != 2 or 0 in logits.shape or level.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (bag, levels - 1) with a level for each bag, found "
            f"{tuple(logits.shape)} and {tuple(level.shape)}"
        )
    levels = logits.shape[1] + 1
    if bool(((level < 0) | (level >= levels)).any()):
        raise ValueError(f"levels must be from 0 to {levels - 1}, found {level.tolist()[:8]}")
    if weights is not None and weights.shape != (levels,):
        raise ValueError(f"{levels} levels need as many weights, found {tuple(weights.shape)}")
    with without_autocast(logits):
        logits = at_least_float32(logits)
        step = torch.arange(levels - 1, device=logits.device)
        reached = (level[:, None] >= step).to(logits.dtype)
        exceeded = (level[:, None] > step).to(logits.dtype)
        if weights is not None:
            reached = reached * weights.to(logits.dtype)[level][:, None]
        each = binary_cross_entropy_with_logits(logits, exceeded, reduction="none")
        return (reached * each).sum() / reached.sum()


def level_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each level, (bag, K), not negative and adding up to 1.

    P(level > k) is the product of the first k + 1 conditional probabilities, so it never rises
    with k. `logits` is (bag, K - 1); the result is in float32, float64 for float64 logits.

    Raises:
        ValueError: the logits are not (bag, levels - 1).

    References:
        Shi, Cao and Raschka (2023), as `ordered_levels_loss`.

    Examples:
        >>> level_probabilities(torch.zeros(1, 2)).tolist()
        [[0.5, 0.25, 0.25]]
    """
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be (bag, levels - 1), found {tuple(logits.shape)}")
    with without_autocast(logits):
        logits = at_least_float32(logits)
        reached = logsigmoid(logits).cumsum(dim=1)
        start = torch.zeros_like(logits[:, :1])
        # P(level = k) = P(level >= k) (1 - P(level > k | level >= k)): a product, not a
        # difference, which rounding could make negative.
        log_reached = torch.cat([start, reached], dim=1)
        log_stays = torch.cat([logsigmoid(-logits), start], dim=1)
        return (log_reached + log_stays).exp()

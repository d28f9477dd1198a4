"""Losses of classes, nominal or ordered, and weights for classes of unequal size."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from madeleine_bench.losses.cosine import at_least_float32, without_autocast


def class_loss(logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy in nats, averaged over bags, a scalar; lower is better.

    Computed in float32 (float64 for float64 logits) even under autocast. With weights, the mean
    is sum_i w[y_i] loss_i / sum_i w[y_i], as torch normalises it.

    Args:
        logits: (bag, class).
        label: (bag,) class index, int64, from 0.
        weights: (class,) not negative, or None for equal weights.

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> round(class_loss(logits, torch.tensor([0, 1])).item(), 4)  # log(2)
        0.6931
    """
    with without_autocast(logits):
        logits = at_least_float32(logits)
        weight = None if weights is None else weights.to(logits.dtype)
        return cross_entropy(logits, label, weight=weight)


def balanced_weights(label: Tensor, classes: int) -> Tensor:
    """Return n / (classes * n_k) for each class k, (class,) float64, averaging 1 over the bags.

    Args:
        label: (bag,) class index, int64, of the n bags trained on; each class has one or more.
        classes: number of classes.

    References:
        King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9 (2001)
        137-163; scikit-learn's class_weight="balanced".

    Examples:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 2).tolist()
        [0.6666666666666666, 2.0]
    """
    return len(label) / (classes * torch.bincount(label, minlength=classes).double())


def ordered_levels_loss(logits: Tensor, level: Tensor) -> Tensor:
    """Return the loss of conditional logits in nats, a scalar; lower is better.

    With K levels from 0, sigmoid of logit k is P(level > k | level >= k). Logit k learns from the
    bags whose level is at least k, which leaves the bag out once its level is passed; the loss is
    the binary cross-entropy averaged over all such pairs of bag and logit. Computed in float32
    (float64 for float64 logits) even under autocast.

    Args:
        logits: (bag, K - 1).
        level: (bag,) int64 from 0 to K - 1.

    References:
        Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based
        On Conditional Probabilities", Pattern Analysis and Applications 26 (2023) 941-955 (arXiv
        2111.08851).

    Examples:
        >>> logits = torch.zeros(2, 2)
        >>> round(ordered_levels_loss(logits, torch.tensor([0, 2])).item(), 4)  # log(2)
        0.6931
    """
    with without_autocast(logits):
        logits = at_least_float32(logits)
        step = torch.arange(logits.shape[1], device=logits.device)
        reached = (level[:, None] >= step).to(logits.dtype)
        exceeded = (level[:, None] > step).to(logits.dtype)
        each = binary_cross_entropy_with_logits(logits, exceeded, reduction="none")
        return (reached * each).sum() / reached.sum()


def level_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each level, (bag, K), not negative and adding up to 1.

    P(level > k) is the product of the first k + 1 conditional probabilities, so it never rises
    with k. `logits` is (bag, K - 1); the result is in float32, float64 for float64 logits.

    References:
        Shi, Cao and Raschka (2023), as `ordered_levels_loss`.

    Examples:
        >>> level_probabilities(torch.zeros(1, 2)).tolist()
        [[0.5, 0.25, 0.25]]
    """
    with without_autocast(logits):
        logits = at_least_float32(logits)
        reached = logsigmoid(logits).cumsum(dim=1)
        start = torch.zeros_like(logits[:, :1])
        # P(level = k) = P(level >= k) (1 - P(level > k | level >= k)): a product, not a
        # difference, which rounding could make negative.
        log_reached = torch.cat([start, reached], dim=1)
        log_stays = torch.cat([logsigmoid(-logits), start], dim=1)
        return (log_reached + log_stays).exp()

"""Cross-entropy over classes, and weights for classes of unequal size."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from madeleine_bench.losses.cosine import at_least_float32, without_autocast


def class_loss(logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy in nats, averaged over bags, a scalar; lower is better.

    Computed in float32 (float64 for float64 logits) even under autocast. With weights, the mean
    is sum_i w[y_i] loss_i / sum_i w[y_i], as torch normalises it.

    Args:
        logits: (bag, class).
        label: (bag,) class index, int64, from 0.
        weights: (class,) not negative, or None for equal weights.

    Raises:
        ValueError: there is no bag, or the shapes do not fit.

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> round(class_loss(logits, torch.tensor([0, 1])).item(), 4)  # log(2)
        0.6931
    """
    if logits.ndim != 2 or len(logits) == 0 or label.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (bag, class) with a label for each bag, found {tuple(logits.shape)} "
            f"and {tuple(label.shape)}"
        )
    if weights is not None and weights.shape != logits.shape[1:]:
        raise ValueError(
            f"{logits.shape[1]} classes need as many weights, found {tuple(weights.shape)}"
        )
    with without_autocast(logits):
        logits = at_least_float32(logits)
        weight = None if weights is None else weights.to(logits.dtype)
        return cross_entropy(logits, label, weight=weight)


def balanced_weights(label: Tensor, classes: int) -> Tensor:
    """Return n / (classes * n_k) for each class k, (class,) float64, averaging 1 over the bags.

    Args:
        label: (bag,) class index, int64, of the n bags trained on.
        classes: number of classes.

    Raises:
        ValueError: a class has no bag, or a label is no class.

    References:
        King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9 (2001)
        137-163; scikit-learn's class_weight="balanced".

    Examples:
        >>> balanced_weights(torch.tensor([0, 0, 0, 1]), 2).tolist()
        [0.6666666666666666, 2.0]
    """
    if len(label) and (int(label.min()) < 0 or int(label.max()) >= classes):
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, found {sorted(set(label.tolist()))}"
        )
    count = torch.bincount(label, minlength=classes)
    if int(count.min()) == 0:
        absent = torch.nonzero(count == 0).flatten().tolist()
        raise ValueError(f"classes without a bag have no balanced weight: {absent}")
    return len(label) / (classes * count.double())

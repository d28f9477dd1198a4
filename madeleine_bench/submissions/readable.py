"""Can labels be read off embeddings more plainly than tissue would allow?

A look for a reviewer, not a proof: a careful cheat hides a label better than this looks.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def best_column(matrix: Floats, positive: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the column that separates two groups best, and its AUROC in either direction.

    Examples:
        >>> best_column(np.array([[0.0, 5.0], [0.0, 6.0], [1.0, 1.0]]), np.array([1, 1, 0]) > 0)
        (0, 1.0)
    """
    ranks = rankdata(matrix, axis=0)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    sums = ranks[positive].sum(axis=0) - n_positive * (n_positive + 1) / 2
    area = sums / (n_positive * n_negative)
    either = np.maximum(area, 1.0 - area)
    column = int(np.argmax(either))
    return column, float(either[column])


def nearest_mean_accuracy(matrix: Floats, labels: NDArray[np.str_]) -> float:
    """Return the balanced accuracy of the nearest class mean, each row left out of its own mean.

    Columns are put on one scale first. No weights are fitted, so what it reads lies open.
    """
    scaled = matrix - matrix.mean(axis=0)
    deviation = scaled.std(axis=0)
    scaled = scaled[:, deviation > 0] / deviation[deviation > 0]
    names = sorted(set(labels.tolist()))
    distance = np.empty((len(scaled), len(names)))
    for number, name in enumerate(names):
        members = labels == name
        count = int(members.sum())
        mean = scaled[members].mean(axis=0)
        gap = ((scaled - mean) ** 2).sum(axis=1)
        # Without row i the mean moves away from it by count / (count - 1).
        own = gap * (count / (count - 1)) ** 2 if count > 1 else np.full_like(gap, np.inf)
        distance[:, number] = np.where(members, own, gap)
    nearest = np.argmin(distance, axis=1)
    right = [float(np.mean(nearest[labels == name] == i)) for i, name in enumerate(names)]
    return float(np.mean(right))


def time_correlation(matrix: Floats, time_days: Floats) -> tuple[int, float]:
    """Return the column that orders times best, and its absolute rank correlation with them."""
    ranks = rankdata(matrix, axis=0)
    times = rankdata(time_days)
    centred, own = ranks - ranks.mean(axis=0), times - times.mean()
    size = np.sqrt((centred**2).sum(axis=0) * (own**2).sum())
    value = np.abs(np.divide(own @ centred, size, out=np.zeros(ranks.shape[1]), where=size > 0))
    column = int(np.argmax(value))
    return column, float(value[column])

"""Can labels be read off embeddings more plainly than tissue would allow?

A look for a reviewer, not a proof: a careful cheat hides a label better than this looks.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, rankdata

Floats = NDArray[np.float64]


def best_column(matrix: Floats, positive: NDArray[np.bool_]) -> tuple[int, float]:
    """Return the column that separates two groups best, and its AUROC in either direction.

    Examples:
        >>> best_column(np.array([[0.0, 5.0], [0.0, 6.0], [1.0, 1.0]]), np.array([1, 1, 0]) > 0)
        (0, 1.0)
    """
    pairs = positive.sum() * (~positive).sum()
    wins = mannwhitneyu(matrix[positive], matrix[~positive], method="asymptotic").statistic
    either = np.maximum(wins, pairs - wins) / pairs
    column = int(np.argmax(either))
    return column, float(either[column])


def nearest_mean_accuracy(matrix: Floats, labels: NDArray[np.str_]) -> float:
    """Return the balanced accuracy of the nearest class mean, each row left out of its own mean.

    Columns are put on one scale first. No weights are fitted, so what it reads lies open.
    """
    scaled = matrix - matrix.mean(axis=0)
    deviation = scaled.std(axis=0)
    scaled = scaled[:, deviation > 0] / deviation[deviation > 0]
    names, classes = np.unique(labels, return_inverse=True)
    distance = np.empty((len(scaled), len(names)))
    for number in range(len(names)):
        members = classes == number
        count = int(members.sum())
        gap = ((scaled - scaled[members].mean(axis=0)) ** 2).sum(axis=1)
        # Without row i the mean moves away from it by count / (count - 1).
        left_out = (count / (count - 1)) ** 2 if count > 1 else np.inf
        distance[:, number] = np.where(members, gap * left_out, gap)
    right = np.argmin(distance, axis=1) == classes
    return float(np.mean([right[classes == number].mean() for number in range(len(names))]))


def time_correlation(matrix: Floats, time_days: Floats) -> tuple[int, float]:
    """Return the column that orders times best, and its absolute rank correlation with them."""
    ranks, times = rankdata(matrix, axis=0), rankdata(time_days)
    ranks, times = ranks - ranks.mean(axis=0), times - times.mean()
    size = np.sqrt((ranks**2).sum(axis=0) * (times**2).sum())
    value = np.abs(np.divide(times @ ranks, size, out=np.zeros(len(size)), where=size > 0))
    column = int(np.argmax(value))
    return column, float(value[column])

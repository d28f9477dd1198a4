"""Agreement of ordered classes."""

import numpy as np
from numpy.typing import NDArray


def quadratic_kappa(
    label: NDArray[np.intp], predicted: NDArray[np.intp], n_classes: int
) -> float | None:
    """Return the quadratic weighted kappa in [-1, 1], or None; higher is better, 0 is chance.

    One minus the observed over the expected mean squared distance between label and prediction,
    where the expectation keeps both margins and makes them independent. Both arguments hold class
    indices in the order of the classes. None where the labels hold fewer than two classes: any
    prediction then agrees with them by chance alone.

    References:
        Cohen, Psychological Bulletin 70 (1968) 213-220.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(np.unique(label)) < 2:
        return None
    labels = np.arange(n_classes)
    kappa = float(cohen_kappa_score(label, predicted, labels=labels, weights="quadratic"))
    return min(max(kappa, -1.0), 1.0)  # rounding may step over the ends

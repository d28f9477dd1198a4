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
    confusion = np.bincount(label * n_classes + predicted, minlength=n_classes**2)
    confusion = confusion.reshape(n_classes, n_classes)
    rows, columns = confusion.sum(axis=1), confusion.sum(axis=0)
    if (rows > 0).sum() < 2:
        return None
    place = np.arange(n_classes)
    distance = np.square(place[:, None] - place[None, :])
    observed = (distance * confusion).sum() * len(label)
    return float(1.0 - observed / (rows @ distance @ columns))

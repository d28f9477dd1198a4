"""Metrics of predicted class probabilities; all but log-loss lie in [0, 1].

Every function takes `label`, the class index of each unit, and `probability`, unit x class, in the
order of the task's classes. Binary tasks have two columns and the last class is the positive one.
A metric returns None where a class has no unit, because every one of them then means something
else than on a fold that has all classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def auroc(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve, or None where a class is absent; higher is better.

    The chance that a random unit of the class scores above a random unit of the others, ties
    counting half; 0.5 is a blind guess. Over two classes: the plain mean over classes of one
    class against the rest.

    References:
        Hanley and McNeil, Radiology 143 (1982) 29-36.
    """
    if _lacks_a_class(label, probability):
        return None
    return _mean_over_classes(_area, label, probability)


def average_precision(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return the average precision, or None where a class is absent; higher is better.

    The step-wise area under the precision-recall curve. A blind guess scores the share of the
    positive class. Over two classes: the plain mean over classes of one class against the rest.
    """
    from sklearn.metrics import average_precision_score

    if _lacks_a_class(label, probability):
        return None
    return _mean_over_classes(average_precision_score, label, probability)


def balanced_accuracy(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return the mean recall over classes, or None where a class is absent; higher is better.

    The predicted class is the one of largest probability. A blind guess scores 1 / classes.
    """
    if _lacks_a_class(label, probability):
        return None
    confusion = _confusion(label, probability)
    return float(np.mean(np.diag(confusion) / confusion.sum(axis=1)))


def macro_f1(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return the plain mean over classes of F1, or None where a class is absent; higher is better.

    The predicted class is the one of largest probability; a class never predicted has F1 0.
    """
    if _lacks_a_class(label, probability):
        return None
    confusion = _confusion(label, probability)
    either = confusion.sum(axis=0) + confusion.sum(axis=1)  # positive for a class that has units
    return float(np.mean(2 * np.diag(confusion) / either))


def log_loss(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return the mean of -ln p(true class), or None where a class is absent; lower is better.

    In nats, from 0 upwards; uniform probabilities score ln(classes). A probability of 0 counts as
    the smallest step of a double (2.2e-16), so the loss stays finite.
    """
    if _lacks_a_class(label, probability):
        return None
    chosen = probability[np.arange(len(label)), label]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).eps)).mean())


def brier(label: NDArray[np.intp], probability: NDArray[np.float64]) -> float | None:
    """Return half the mean squared distance to the truth, or None; lower is better.

    The mean over units of sum over classes of (p - truth)^2, halved, so that it lies in [0, 1]
    and equals the usual (p - y)^2 for two classes.

    References:
        Brier, Monthly Weather Review 78 (1950) 1-3.
    """
    if _lacks_a_class(label, probability):
        return None
    truth = np.eye(probability.shape[1])[label]
    return float(np.square(probability - truth).sum(axis=1).mean() / 2.0)


def _lacks_a_class(label: NDArray[np.intp], probability: NDArray[np.float64]) -> bool:
    return bool(len(np.unique(label)) < probability.shape[1])


def _area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Return the area under one ROC curve, by the ranks of the positive units.

    Twice the ranks are whole numbers, so the order of units does not move the last bit, as it does
    where the area is summed along the curve.
    """
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    beaten = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(beaten / (n_positive * (len(positive) - n_positive)))


def _confusion(label: NDArray[np.intp], probability: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of units of each class, in rows, that are taken for each, in columns.

    By hand, as scikit-learn checks its input for longer than it counts, in every fold again.
    """
    n_classes = probability.shape[1]
    cell = label * n_classes + probability.argmax(axis=1)
    return np.bincount(cell, minlength=n_classes**2).reshape(n_classes, n_classes)


def _mean_over_classes(
    metric: Any, label: NDArray[np.intp], probability: NDArray[np.float64]
) -> float:
    n_classes = probability.shape[1]
    # For two classes the second half of the mean would repeat the first (AUC) or score the
    # negative class (average precision); the field reports the positive class alone.
    classes = (1,) if n_classes == 2 else range(n_classes)
    return float(np.mean([metric(label == c, probability[:, c]) for c in classes]))


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

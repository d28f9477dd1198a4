"""One logistic regression: scikit-learn's L-BFGS, and whether it reached an optimum."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.specs.protocol import LogisticRegression

# L-BFGS may stop in its line search when the loss cannot fall any more in double precision. A
# gradient this small is an optimum all the same; probabilities are then right to about 1e-5.
_SMALL_GRADIENT = 1e-6


@dataclass(frozen=True)
class LogisticFit:
    """Predicted probabilities (unit x class) and how the fit went; uniform where it failed."""

    probability: NDArray[np.float64]
    converged: bool
    reason: str | None = None
    n_iter: int | None = None
    residual: float | None = None


def fit_and_predict(
    model: LogisticRegression,
    train: NDArray[np.float64],
    label: NDArray[np.intp],
    test: NDArray[np.float64],
    classes: tuple[str, ...],
) -> LogisticFit:
    """Return the class probabilities of the test rows after fitting on the training rows.

    The fit has failed where the training rows hold one class, where a number overflows, or where
    the optimiser stops early with a gradient above 1e-6 (`max_iter` reached counts as that). A
    class that is absent from the training rows, others being there, has probability 0. Constant
    embeddings are no failure: the probabilities are then the class shares, and the reason says so.

    Args:
        model: the declared regression.
        train: unit x dim.
        label: (unit,) class indices of the training rows.
        test: unit x dim.
        classes: all class names in order.
    """
    n_classes = len(classes)
    uniform = np.full((len(test), n_classes), 1.0 / n_classes)
    present = np.unique(label)
    if len(present) < 2:
        return LogisticFit(uniform, False, f"one class in train: '{classes[present[0]]}'")
    scaler = fit_scaler(train, model.scale)
    if model.scale == "z-score":
        train, test = scaler.apply(train), scaler.apply(test)
    estimator, warned = _fit(model, train, label)
    if estimator is None:
        return LogisticFit(uniform, False, warned)
    probability = np.zeros_like(uniform)
    probability[:, present] = _probability(estimator, test)
    fitted = _probability(estimator, train)
    n_iter = int(np.max(estimator.n_iter_))
    if not np.isfinite(probability).all():
        return LogisticFit(uniform, False, "the probabilities are not finite", n_iter)
    residual = _residual(model, train, np.searchsorted(present, label), fitted, estimator.coef_)
    if warned is not None and residual > max(model.tol, _SMALL_GRADIENT):
        return LogisticFit(uniform, False, warned, n_iter, residual)
    reason = None
    if scaler.constant:
        reason = "the embeddings are constant on the training rows"
        probability[:] = probability[0]
    elif len(present) < n_classes:
        absent = sorted(set(classes) - {classes[c] for c in present})
        reason = f"absent from train: {', '.join(absent)}"
    return LogisticFit(probability, True, reason, n_iter, residual)


def _fit(
    model: LogisticRegression, train: NDArray[np.float64], label: NDArray[np.intp]
) -> tuple[Any, str | None]:
    """Return the fitted estimator (None where it raised) and what the optimiser complained of."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression as Estimator

    estimator = Estimator(
        C=model.C, class_weight=model.class_weight, tol=model.tol, max_iter=model.max_iter
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(train, label)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            return None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            return estimator, str(warning.message).splitlines()[0].rstrip(":")
    return estimator, None


def _probability(estimator: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `estimator.predict_proba(rows)`, the same for equal rows to the last bit.

    A matrix product may round a row by where it stands; equal embeddings would then be ranked,
    and the rank would depend on the machine.
    """
    from scipy.special import expit, softmax

    margin = np.einsum("ud,cd->uc", rows, estimator.coef_) + estimator.intercept_
    if margin.shape[1] == 1:
        return np.hstack([expit(-margin), expit(margin)])
    probability: NDArray[np.float64] = softmax(margin, axis=1)
    return probability


def _residual(
    model: LogisticRegression,
    train: NDArray[np.float64],
    label: NDArray[np.intp],
    probability: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> float:
    """Return the largest component of the gradient of scikit-learn's objective.

    The objective is the weighted mean log loss plus |w|^2 / (2 C sum of weights).
    """
    counts = np.bincount(label)
    per_class = np.ones(len(counts))
    if model.class_weight == "balanced":
        per_class = len(label) / (len(counts) * counts)
    weight = per_class[label]
    error = (probability - np.eye(len(counts))[label]) * weight[:, None]
    error = error[:, -len(coefficients) :]  # two classes share one vector: that of the second
    slope = (error.T @ train + coefficients / model.C) / weight.sum()
    intercept = error.sum(axis=0) / weight.sum()
    return float(max(np.abs(slope).max(), np.abs(intercept).max()))

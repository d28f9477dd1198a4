"""Logistic regressions of a task's splits, each at its optimum, and whether it got there.

Two solvers. Fits on few units go through Newton's method in batches (`dual_newton`), where the
protocol asks for the optimum; all others through scikit-learn's L-BFGS. A protocol with a loose
tolerance asks for what L-BFGS returns when it stops early, as published numbers were made with it.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.dual_newton import fit_in_dual
from madeleine_bench.protocols.scaling import Scaler, fit_scaler
from madeleine_bench.specs.protocol import LogisticRegression
from madeleine_bench.types import Split

# L-BFGS may stop in its line search when the loss cannot fall any more in double precision. A
# gradient this small is an optimum all the same; probabilities are then right to about 1e-5.
_SMALL_GRADIENT = 1e-6
# Tolerances up to here ask for the optimum, whoever finds it.
_EXACT_TOL = 1e-6
# Measured: beyond some hundred units scikit-learn is as fast, sooner with many classes.
LARGEST_DUAL = 100
_ROWS_AT_ONCE = 2048
_LARGEST_BATCH = 32  # fits; some 25 MB of training rows


@dataclass(frozen=True)
class LogisticFit:
    """Predicted probabilities (unit x class) and how the fit went; uniform where it failed."""

    probability: NDArray[np.float64]
    converged: bool
    reason: str | None = None
    n_iter: int | None = None
    residual: float | None = None


@dataclass(frozen=True)
class _Training:
    """One training set, scaled.

    Attributes:
        split: its split.
        scaler: learned on the training rows.
        rows: unit x dim, scaled where the protocol scales.
        label: (unit,) index among the classes that are present.
        present: indices of these classes.
    """

    split: Split
    scaler: Scaler
    rows: NDArray[np.float64]
    label: NDArray[np.intp]
    present: NDArray[np.intp]


@dataclass(frozen=True)
class _Optimum:
    """Where a solver stopped: vector x dim, (vector,), how, and what it complained of."""

    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    n_iter: int
    residual: float
    warned: str | None = None


def fit_and_predict(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: Sequence[Split],
) -> Iterator[LogisticFit]:
    """Yield the class probabilities of each split's test units, fitted on its training units.

    The fit has failed where the training units hold one class, where a number overflows, or where
    the optimiser stops early with a gradient above 1e-6 (`max_iter` reached counts as that). A
    class that is absent from the training units, others being there, has probability 0. Constant
    embeddings are no failure: the probabilities are then the class shares, and the reason says so.

    Args:
        model: the declared regression.
        embeddings: unit x dim.
        label: (unit,) class indices.
        classes: all class names in order.
        splits: positions to train and to test on.
    """

    def shape(split: Split) -> tuple[int, tuple[int, ...]]:
        """Return what fits share that go through the solver together: units and classes."""
        return len(split.train), tuple(np.unique(label[split.train]).tolist())

    for (n_train, present), alike in groupby(splits, key=shape):
        small = n_train <= LARGEST_DUAL and len(present) > 1
        exact = small and model.tol <= _EXACT_TOL
        while batch := list(islice(alike, _LARGEST_BATCH if exact else 1)):
            yield from _fit_batch(model, embeddings, label, classes, batch, exact=exact)


def _fit_batch(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    splits: Sequence[Split],
    *,
    exact: bool,
) -> list[LogisticFit]:
    """Return the fits of some splits; by the solver in the dual where `exact`, if it succeeds."""
    trainings = [_training(model, embeddings, label, split) for split in splits]
    optima = _dual_optima(model, trainings) if exact else [None] * len(trainings)
    return [
        _predicted(model, training, optimum, embeddings, classes)
        for training, optimum in zip(trainings, optima, strict=True)
    ]


def _training(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    split: Split,
) -> _Training:
    # Taking rows by number copies them, so that they can be scaled where they are.
    rows, own = embeddings[split.train].astype(np.float64, copy=False), label[split.train]
    scaler = fit_scaler(rows, model.scale)
    present = np.unique(own)
    if model.scale == "z-score":
        rows = scaler.apply(rows, out=rows)
    return _Training(split, scaler, rows, np.searchsorted(present, own), present)


def _predicted(
    model: LogisticRegression,
    training: _Training,
    optimum: _Optimum | None,
    embeddings: NDArray[np.floating],
    classes: tuple[str, ...],
) -> LogisticFit:
    """Return the predictions of a split; without an optimum, or a bad one, L-BFGS finds it."""
    n_classes, present, test = len(classes), training.present, training.split.test
    uniform = np.full((len(test), n_classes), 1.0 / n_classes)
    if len(present) < 2:
        return LogisticFit(uniform, False, f"one class in train: '{classes[present[0]]}'")
    largest = max(model.tol, _SMALL_GRADIENT)
    if optimum is None or not optimum.residual <= largest:
        found = _sklearn_optimum(model, training)
        if isinstance(found, str):
            return LogisticFit(uniform, False, found)
        optimum = found
    probability = np.zeros_like(uniform)
    for start in range(0, len(test), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows = embeddings[test[part]].astype(np.float64, copy=False)
        if model.scale == "z-score":
            rows = training.scaler.apply(rows, out=rows)
        probability[part, present] = _probability(optimum, rows)
    if not np.isfinite(probability).all():
        return LogisticFit(uniform, False, "the probabilities are not finite", optimum.n_iter)
    if optimum.warned is not None and optimum.residual > largest:
        return LogisticFit(uniform, False, optimum.warned, optimum.n_iter, optimum.residual)
    reason = None
    if training.scaler.constant:
        reason = "the embeddings are constant on the training rows"
        probability[:] = probability[0]
    elif len(present) < n_classes:
        absent = sorted(set(classes) - {classes[c] for c in present})
        reason = f"absent from train: {', '.join(absent)}"
    return LogisticFit(probability, True, reason, optimum.n_iter, optimum.residual)


def _dual_optima(
    model: LogisticRegression, group: Sequence[_Training]
) -> Sequence[_Optimum | None]:
    """Return the optima of training sets of equal size and classes."""
    label = np.stack([training.label for training in group])
    fits = fit_in_dual(
        np.stack([training.rows for training in group]),
        label,
        np.stack([_weights(model, training.label) for training in group]),
        n_classes=len(group[0].present),
        C=model.C,
        tol=model.tol,
        max_iter=model.max_iter,
    )
    return [
        _Optimum(coefficients, intercepts, int(n_iter), float(residual))
        for coefficients, intercepts, n_iter, residual in zip(
            fits.coefficients, fits.intercepts, fits.n_iter, fits.residual, strict=True
        )
    ]


def _sklearn_optimum(model: LogisticRegression, training: _Training) -> _Optimum | str:
    """Return where scikit-learn's L-BFGS stops, or why it raised."""
    estimator, warned = _fit(model, training.rows, training.label)
    if estimator is None:
        assert warned is not None
        return warned
    n_iter = int(np.max(estimator.n_iter_))
    optimum = _Optimum(estimator.coef_, estimator.intercept_, n_iter, np.inf, warned)
    fitted = _probability(optimum, training.rows)
    residual = _residual(model, training.rows, training.label, fitted, optimum.coefficients)
    return replace(optimum, residual=residual)


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


def _probability(optimum: _Optimum, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the class probabilities of rows, the same for equal rows to the last bit.

    A matrix product may round a row by where it stands; equal embeddings would then be ranked,
    and the rank would depend on the machine.
    """
    from scipy.special import expit, softmax

    margin = np.einsum("ud,cd->uc", rows, optimum.coefficients) + optimum.intercepts
    if margin.shape[1] == 1:
        return np.hstack([expit(-margin), expit(margin)])
    probability: NDArray[np.float64] = softmax(margin, axis=1)
    return probability


def _weights(model: LogisticRegression, label: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return what the loss of each training unit counts, (unit,)."""
    counts = np.bincount(label)
    per_class = np.ones(len(counts))
    if model.class_weight == "balanced":
        per_class = len(label) / (len(counts) * counts)
    return per_class[label]


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
    weight = _weights(model, label)
    error = (probability - np.eye(probability.shape[1])[label]) * weight[:, None]
    error = error[:, -len(coefficients) :]  # two classes share one vector: that of the second
    slope = (error.T @ train + coefficients / model.C) / weight.sum()
    intercept = error.sum(axis=0) / weight.sum()
    return float(max(np.abs(slope).max(), np.abs(intercept).max()))

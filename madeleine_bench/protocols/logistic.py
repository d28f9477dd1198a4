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
from madeleine_bench.protocols.linear_predictions import (
    SMALL_GRADIENT,
    Line,
    LogisticFit,
    Optimum,
    failed,
    predicted,
)
from madeleine_bench.protocols.probabilities import class_shares, first_equal
from madeleine_bench.protocols.scaling import Scaler, fit_scaler, is_constant
from madeleine_bench.specs.protocol import LogisticRegression
from madeleine_bench.types import Split

__all__ = ["ALWAYS_DUAL", "LARGEST_DUAL", "LogisticFit", "fit_and_predict"]

# Tolerances up to here ask for the optimum, whoever finds it.
_EXACT_TOL = 1e-6
# Measured: the dual is faster than scikit-learn on few units; up to some 500 of them where they are
# no more than the dimensions.
ALWAYS_DUAL = 100
LARGEST_DUAL = 400
# What training rows and kernels of a batch take at most: fastest where they stay in cache.
_BYTES_OF_BATCH = 10_000_000
_BYTES_OF_MARGINS = 16_000_000
_LARGEST_BATCH = 32
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class _Training:
    """One training set.

    Attributes:
        split: its split.
        scaler: learned on the training rows, or None where the protocol does not scale.
        rows: unit x dim, scaled where the protocol scales.
        label: (unit,) index among the classes that are present.
        constant: whether no dimension of the rows varies.
    """

    split: Split
    scaler: Scaler | None
    rows: NDArray[np.float64]
    label: NDArray[np.intp]
    constant: bool


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
    first = first_equal(embeddings)

    def shape(split: Split) -> tuple[int, tuple[int, ...]]:
        """Return what fits share that go through the solver together: units and classes."""
        counts = np.bincount(label[split.train], minlength=len(classes))
        return len(split.train), tuple(np.flatnonzero(counts).tolist())

    for (n_train, present), alike in groupby(splits, key=shape):
        few = n_train <= max(ALWAYS_DUAL, min(embeddings.shape[1], LARGEST_DUAL))
        exact = few and model.tol <= _EXACT_TOL
        most = _most_at_once(n_train, len(present), embeddings.shape, exact=exact)
        while batch := list(islice(alike, most)):
            if len(present) < 2:
                reason = f"one class in train: '{classes[present[0]]}'"
                yield from (failed(len(split.test), len(classes), reason) for split in batch)
            else:
                fitted = _fitted(model, embeddings, label, classes, present, batch, exact=exact)
                yield from predicted(model.tol, fitted, embeddings, first, classes, present)


def _most_at_once(n_train: int, n_present: int, shape: tuple[int, ...], *, exact: bool) -> int:
    """Return how many fits make a batch, so that memory stays the same in a larger cohort."""
    n_units, dim = shape
    most = min(_LARGEST_BATCH, _BYTES_OF_MARGINS // (8 * n_present * n_units))
    if exact:
        most = min(most, _BYTES_OF_BATCH // (8 * n_train * (n_train + dim)))
    return max(1, most)


def _fitted(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    classes: tuple[str, ...],
    present: tuple[int, ...],
    splits: Sequence[Split],
    *,
    exact: bool,
) -> list[Line | LogisticFit]:
    """Return what was fitted on each split, or that it failed; in the dual where `exact`."""

    def training(split: Split) -> _Training:
        return _training(model, embeddings, label, present, split)

    if not exact:  # one at a time: their rows may be large
        return [_settled(model, training(split), None, len(classes)) for split in splits]
    trainings = [training(split) for split in splits]
    optima = _dual_optima(model, trainings, len(present))
    return [
        _settled(model, own, optimum, len(classes))
        for own, optimum in zip(trainings, optima, strict=True)
    ]


def _settled(
    model: LogisticRegression, training: _Training, optimum: Optimum | None, n_classes: int
) -> Line | LogisticFit:
    """Return a fit; without an optimum, or with a bad one, by L-BFGS."""
    if optimum is None or not optimum.residual <= max(model.tol, SMALL_GRADIENT):
        found = _sklearn_optimum(model, training)
        if isinstance(found, str):
            return failed(len(training.split.test), n_classes, found)
        optimum = found
    return _line(training, optimum)


def _training(
    model: LogisticRegression,
    embeddings: NDArray[np.floating],
    label: NDArray[np.intp],
    present: tuple[int, ...],
    split: Split,
) -> _Training:
    rows = _taken(embeddings, split.train)
    own = np.searchsorted(present, label[split.train])
    if model.scale == "none":
        return _Training(split, None, rows, own, is_constant(rows))
    scaler = fit_scaler(rows, model.scale)
    return _Training(split, scaler, scaler.apply(rows, out=rows), own, scaler.constant)


def _taken(embeddings: NDArray[np.floating], positions: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return some rows, copied, so that they can be scaled where they are."""
    rows = np.empty((len(positions), embeddings.shape[1]))
    for start in range(0, len(positions), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows[part] = embeddings[positions[part]]
    return rows


def _line(training: _Training, optimum: Optimum) -> Line:
    """Return an optimum with the scaling of the rows taken into its coefficients."""
    coefficients, centre = optimum.coefficients, np.zeros(training.rows.shape[1])
    if training.scaler is not None:
        coefficients, centre = coefficients * training.scaler.factor, training.scaler.centre
    return Line(
        training.split.test,
        coefficients,
        optimum.intercepts,
        centre,
        training.constant,
        optimum,
    )


def _dual_optima(
    model: LogisticRegression, group: Sequence[_Training], n_classes: int
) -> list[Optimum]:
    """Return the optima of training sets of equal size and classes."""
    label = np.stack([training.label for training in group])
    fits = fit_in_dual(
        np.stack([training.rows for training in group]),
        label,
        np.stack([_weights(model, training.label) for training in group]),
        n_classes=n_classes,
        C=model.C,
        tol=model.tol,
        max_iter=model.max_iter,
    )
    return [
        Optimum(coefficients, intercepts, int(n_iter), float(residual))
        for coefficients, intercepts, n_iter, residual in zip(
            fits.coefficients, fits.intercepts, fits.n_iter, fits.residual, strict=True
        )
    ]


def _sklearn_optimum(model: LogisticRegression, training: _Training) -> Optimum | str:
    """Return where scikit-learn's L-BFGS stops, or why it raised."""
    estimator, warned = _fit(model, training.rows, training.label)
    if estimator is None:
        assert warned is not None
        return warned
    n_iter = int(np.max(estimator.n_iter_))
    optimum = Optimum(estimator.coef_, estimator.intercept_, n_iter, np.inf, warned)
    fitted = class_shares(optimum.coefficients @ training.rows.T + optimum.intercepts[:, None]).T
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

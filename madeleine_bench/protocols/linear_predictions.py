"""From optima to predictions: the fits of a batch on their test units, checked one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.protocols.probabilities import class_probabilities

# L-BFGS may stop in its line search when the loss cannot fall any more in double precision. A
# gradient this small is an optimum all the same; probabilities are then right to about 1e-5.
SMALL_GRADIENT = 1e-6


@dataclass(frozen=True)
class LogisticFit:
    """Predicted probabilities (unit x class) and how the fit went; uniform where it failed."""

    probability: NDArray[np.float64]
    converged: bool
    reason: str | None = None
    n_iter: int | None = None
    residual: float | None = None


@dataclass(frozen=True)
class Optimum:
    """Where a solver stopped: vector x dim, (vector,), how, and what it complained of.

    Two classes have one vector, that of the second class.
    """

    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    n_iter: int
    residual: float
    warned: str | None = None


@dataclass(frozen=True)
class Line:
    """An optimum on embeddings as they are: margin = coefficients (x - centre) + intercepts.

    Attributes:
        test: positions of the units to predict.
        coefficients: vector x dim.
        intercepts: (vector,).
        centre: (dim,).
        constant: whether the training rows are all the same.
        optimum: what the solver found, on scaled embeddings.
    """

    test: NDArray[np.intp]
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    centre: NDArray[np.float64]
    constant: bool
    optimum: Optimum


def failed(
    n_test: int,
    n_classes: int,
    reason: str,
    n_iter: int | None = None,
    residual: float | None = None,
) -> LogisticFit:
    """Return a fit that failed, and why: uniform probabilities."""
    uniform = np.full((n_test, n_classes), 1.0 / n_classes)
    return LogisticFit(uniform, False, reason, n_iter, residual)


def predicted(
    tol: float,
    fitted: Sequence[Line | LogisticFit],
    embeddings: NDArray[np.floating],
    first: NDArray[np.intp],
    classes: tuple[str, ...],
    present: tuple[int, ...],
) -> Iterator[LogisticFit]:
    """Yield the predictions of a batch; uniform where a fit or its numbers failed.

    Args:
        tol: of the declared regression.
        fitted: fits that have the same classes in their training sets, or have failed.
        embeddings: unit x dim.
        first: what `first_equal` returns of them.
        classes: all class names in order.
        present: indices of those in the training sets.
    """
    lines = [line for line in fitted if isinstance(line, Line)]
    if lines:
        probabilities = class_probabilities(
            embeddings,
            first,
            np.stack([line.coefficients for line in lines]),
            np.stack([line.intercepts for line in lines]),
            np.stack([line.centre for line in lines]),
            [line.test for line in lines],
        )
    for line in fitted:
        if isinstance(line, LogisticFit):
            yield line
        else:
            yield _checked(tol, line, next(probabilities), classes, present)


def _checked(
    tol: float,
    line: Line,
    shares: NDArray[np.float64],
    classes: tuple[str, ...],
    present: tuple[int, ...],
) -> LogisticFit:
    """Return the predictions of a fit, unit x class: with the absent classes, or uniform."""
    optimum, n_test, n_classes = line.optimum, len(shares), len(classes)
    if not np.isfinite(shares).all():
        return failed(n_test, n_classes, "the probabilities are not finite", optimum.n_iter)
    if optimum.warned is not None and optimum.residual > max(tol, SMALL_GRADIENT):
        return failed(n_test, n_classes, optimum.warned, optimum.n_iter, optimum.residual)
    probability, note = shares, ""
    if len(present) < n_classes:
        probability = np.zeros((n_test, n_classes))
        probability[:, present] = shares
        absent = sorted({*classes} - {classes[c] for c in present})
        note = f"absent from train: {', '.join(absent)}"
    if line.constant:
        probability = np.tile(probability[:1], (n_test, 1))
        note = "the embeddings are constant on the training rows"
    return LogisticFit(probability, True, note or None, optimum.n_iter, optimum.residual)

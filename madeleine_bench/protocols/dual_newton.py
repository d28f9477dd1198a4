"""Many small logistic regressions at once: Newton's method in the space of the training units.

An L2-penalised fit has coefficients w = C X^T a with one number a for each training unit (and
class), so with fewer units than dimensions it is sought there, in matrices of unit x unit, and
fits of equal size go through the same few calls together. The optimum is that of scikit-learn's
`LogisticRegression`, found to rounding; there is no approximation in it.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithms 3.1 and 3.3:
    the Newton step without inverting a kernel matrix, for two and for several classes. There the
    intercept is part of the prior; here it is free of penalty, as in logistic regression.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Imported here and not where they are called: a BLAS that loads while threads are pinned is not.
from scipy.linalg.lapack import dposv, dpotrf, dpotri
from scipy.special import expit

Array = NDArray[np.float64]

_ENOUGH_STEPS = 50
_MOST_HALVINGS = 20
# Newton's last steps each square the error, so one more is cheap, and machines then agree.
_BEYOND_TOL = 1e-2
_ROUNDING = 64.0 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class DualFits:
    """The optima of several fits.

    Attributes:
        coefficients: fit x vector x dim. Two classes have one vector, that of the second class.
        intercepts: fit x vector.
        residual: (fit,) the largest component of the gradient of scikit-learn's objective.
        n_iter: (fit,) Newton steps.
    """

    coefficients: Array
    intercepts: Array
    residual: Array
    n_iter: NDArray[np.intp]


def fit_in_dual(
    train: Array,
    label: NDArray[np.intp],
    weight: Array,
    *,
    n_classes: int,
    C: float,
    tol: float,
    max_iter: int,
) -> DualFits:
    """Return the logistic regressions of several training sets of equal size.

    A fit that has not come to `tol`, as where all probabilities are 0 or 1 to the last digit, is
    returned as far as it came, which its `residual` says (infinite where numbers overflowed).

    Args:
        train: fit x unit x dim; best where there are fewer units than dimensions.
        label: fit x unit, class indices; every class is there.
        weight: fit x unit, what the loss of a unit counts; positive.
        n_classes: two or more.
        C: inverse penalty: the objective is sum of weight * log loss + |w|^2 / (2 C).
        tol: of the largest component of the gradient of the objective over the sum of weights.
        max_iter: Newton steps, at most; 50 are never needed.
    """
    centre = train.mean(axis=1, keepdims=True)
    rows = train - centre
    with np.errstate(all="ignore"):
        kernel = C * (rows @ rows.mT)
    problem = _Problem(rows, kernel, _targets(label, n_classes), weight)
    n_vectors = problem.target.shape[1]
    dual = np.zeros((len(train), n_vectors, train.shape[1]))
    intercepts = np.zeros((len(train), n_vectors))
    residual = np.full(len(train), np.inf)
    n_iter = np.zeros(len(train), dtype=np.intp)
    most = min(max_iter, _ENOUGH_STEPS)
    going, part = np.arange(len(train)), problem
    with np.errstate(all="ignore"):
        for step in range(most + 1):
            margin = part.margin(dual[going], intercepts[going])
            residual[going] = part.residual(dual[going], margin)
            left = ~(residual[going] <= _BEYOND_TOL * tol) & np.isfinite(margin).all(axis=(1, 2))
            if step == most or not left.any():
                break
            going, part, margin = going[left], part.take(left), margin[left]
            moved, dual[going], intercepts[going] = _newton_step(
                part, dual[going], intercepts[going], margin
            )
            n_iter[going] += moved
            going, part = going[moved], part.take(moved)
        coefficients = C * (dual @ rows)
        # The rows were centred, and a row further out is not: the centre goes to the intercept.
        intercepts -= np.einsum("fvd,fd->fv", coefficients, centre[:, 0])
    residual[~np.isfinite(residual)] = np.inf
    return DualFits(coefficients, intercepts, residual, n_iter)


@dataclass(frozen=True)
class _Problem:
    """Several fits: rows (fit x unit x dim), C times their products (fit x unit x unit), targets.

    `target` is fit x vector x unit: 1 where the unit is of the class of the vector, else 0.
    """

    rows: Array
    kernel: Array
    target: Array
    weight: Array

    def take(self, chosen: NDArray[np.bool_]) -> "_Problem":
        """Return some of the fits."""
        if chosen.all():
            return self
        return _Problem(
            self.rows[chosen], self.kernel[chosen], self.target[chosen], self.weight[chosen]
        )

    def margin(self, dual: Array, intercepts: Array) -> Array:
        """Return the linear predictors, fit x vector x unit."""
        return dual @ self.kernel + intercepts[:, :, None]

    def probability(self, margin: Array) -> Array:
        """Return the probability of each vector's class, fit x vector x unit."""
        if margin.shape[1] == 1:
            logistic: Array = expit(margin)
            return logistic
        relative = np.exp(margin - margin.max(axis=1, keepdims=True))
        shares: Array = relative / relative.sum(axis=1, keepdims=True)
        return shares

    def slope(self, probability: Array) -> Array:
        """Return the derivative of the weighted losses by the margins, fit x vector x unit."""
        return self.weight[:, None, :] * (probability - self.target)

    def objective(self, dual: Array, intercepts: Array, margin: Array) -> Array:
        """Return the penalised loss of each fit, (fit,)."""
        if margin.shape[1] == 1:
            sign = 2.0 * self.target[:, 0] - 1.0
            loss = np.logaddexp(0.0, -sign * margin[:, 0])
        else:
            top = margin.max(axis=1)
            loss = np.log(np.exp(margin - top[:, None]).sum(axis=1)) + top
            loss -= (margin * self.target).sum(axis=1)
        norm = (dual * (margin - intercepts[:, :, None])).sum(axis=(1, 2))
        total: Array = (self.weight * loss).sum(axis=1) + 0.5 * norm
        return total

    def residual(self, dual: Array, margin: Array) -> Array:
        """Return the largest component of the gradient by coefficients and intercepts, (fit,)."""
        slope = self.slope(self.probability(margin))
        by_coefficient = np.abs((slope + dual) @ self.rows).max(axis=(1, 2))
        by_intercept = np.abs(slope.sum(axis=2)).max(axis=1)
        largest: Array = np.maximum(by_coefficient, by_intercept) / self.weight.sum(axis=1)
        return largest


def _newton_step(
    problem: _Problem, dual: Array, intercepts: Array, margin: Array
) -> tuple[NDArray[np.bool_], Array, Array]:
    """Return which fits moved, and where all stand now: down the objective or not at all."""
    probability = problem.probability(margin)
    slope = problem.slope(probability)
    if margin.shape[1] == 1:
        aim, aim_intercepts = _binary_aim(problem, probability, slope, margin)
    else:
        aim, aim_intercepts = _multinomial_aim(problem, probability, slope, margin)
    before = problem.objective(dual, intercepts, margin)
    slack = _ROUNDING * np.abs(before)
    share = np.ones(len(dual))
    moved = np.zeros(len(dual), dtype=np.bool_)
    new, new_intercepts = dual.copy(), intercepts.copy()
    for _ in range(_MOST_HALVINGS):
        tried = dual + share[:, None, None] * (aim - dual)
        tried_intercepts = intercepts + share[:, None] * (aim_intercepts - intercepts)
        value = problem.objective(tried, tried_intercepts, problem.margin(tried, tried_intercepts))
        falls = ~moved & (value <= before + slack)
        new[falls], new_intercepts[falls] = tried[falls], tried_intercepts[falls]
        moved |= falls
        if moved.all():
            break
        share = np.where(moved, share, 0.5 * share)
    return moved, new, new_intercepts


def _binary_aim(
    problem: _Problem, probability: Array, slope: Array, margin: Array
) -> tuple[Array, Array]:
    """Return where the quadratic model of each fit is least: dual numbers and intercept.

    With D the curvature of the losses and K the kernel, the dual numbers solve
    (1 + D K) a = D (margin - b) - slope and sum to 0, which settles the intercept b.
    """
    curvature = problem.weight * probability[:, 0] * (1.0 - probability[:, 0])
    root = np.sqrt(curvature)
    scaled = problem.kernel * root[:, :, None] * root[:, None, :]
    diagonal = np.arange(scaled.shape[1])
    scaled[:, diagonal, diagonal] += 1.0
    sides = np.stack([curvature * margin[:, 0] - slope[:, 0], curvature], axis=2)
    inner = _solve(scaled, root[:, :, None] * (problem.kernel @ sides))
    solved = sides - root[:, :, None] * inner
    total = solved.sum(axis=1)
    intercept = total[:, 0] / total[:, 1]
    return (solved[:, :, 0] - intercept[:, None] * solved[:, :, 1])[:, None], intercept[:, None]


def _multinomial_aim(
    problem: _Problem, probability: Array, slope: Array, margin: Array
) -> tuple[Array, Array]:
    """Return where the quadratic model of each fit is least: dual numbers and intercepts.

    As for two classes, where D has a block between classes: diag(d) - d d^T / weight for a unit.
    Margins are the same when a number is added to all; the intercepts are made to sum to 0.
    """
    fits, n_classes, units = margin.shape
    weight = problem.weight[:, None, :]
    curvature = weight * probability

    def through(values: Array) -> Array:
        """Return D applied to fit x side x class x unit."""
        mean = (probability[:, None] * values).sum(axis=2, keepdims=True)
        applied: Array = curvature[:, None] * (values - mean)
        return applied

    free = np.eye(n_classes)[: n_classes - 1]
    constant = np.broadcast_to(free[None, :, :, None], (fits, n_classes - 1, n_classes, units))
    sides = np.concatenate([through(margin[:, None]) - slope[:, None], through(constant)], axis=1)
    root = np.sqrt(curvature)
    scaled = problem.kernel[:, None] * root[..., :, None] * root[..., None, :]
    diagonal = np.arange(units)
    scaled[..., diagonal, diagonal] += 1.0
    # One inverse a class serves the sum over classes too, which couples them.
    shrunk = root[..., :, None] * _inverse(scaled) * root[..., None, :]
    seen = np.einsum("fscu,fcuv->fscv", sides @ problem.kernel[:, None], shrunk, optimize=True)
    coupled = _solve(shrunk.sum(axis=1), seen.sum(axis=2).mT).mT
    solved = sides - seen + np.einsum("fsu,fcuv->fscv", coupled, shrunk, optimize=True)
    totals = solved.sum(axis=3)
    system = totals[:, 1:, : n_classes - 1].mT
    found = _solve_small(system, totals[:, 0, : n_classes - 1, None])[:, :, 0]
    intercepts = np.concatenate([found, np.zeros((fits, 1))], axis=1)
    dual = solved[:, 0] - np.einsum("fs,fscu->fcu", found, solved[:, 1:])
    return dual, intercepts - intercepts.mean(axis=1, keepdims=True)


def _solve(matrices: Array, sides: Array) -> Array:
    """Return the solution of each positive definite system; NaN where a matrix is not."""
    solved = np.full(sides.shape, np.nan)
    for i, (matrix, side) in enumerate(zip(matrices, sides, strict=True)):
        _, found, failed = dposv(matrix, side, lower=1)
        if not failed:
            solved[i] = found
    return solved


def _solve_small(matrices: Array, sides: Array) -> Array:
    """Return the solution of each system of class x class; NaN for all where one is singular."""
    try:
        return np.linalg.solve(matrices, sides).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return np.full(sides.shape, np.nan)


def _inverse(matrices: Array) -> Array:
    """Return the inverse of each positive definite unit x unit matrix; NaN where it is not."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    inverse = np.full(flat.shape, np.nan)
    above = np.triu_indices(flat.shape[-1], 1)
    for i, matrix in enumerate(flat):
        factor, failed = dpotrf(matrix, lower=1)
        if failed:
            continue
        found, failed = dpotri(factor, lower=1)
        if not failed:
            found[above] = found.T[above]
            inverse[i] = found
    return inverse.reshape(matrices.shape)


def _targets(label: NDArray[np.intp], n_classes: int) -> Array:
    """Return fit x vector x unit: whether the unit is of the vector's class, as 1 and 0."""
    hot = np.eye(n_classes)[label].mT
    return hot[:, 1:] if n_classes == 2 else hot

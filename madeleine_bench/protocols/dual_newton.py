"""Many small logistic regressions at once: Newton's method in the space of the training units.

An L2-penalised fit has coefficients w = C X^T a with one number a for each training unit (and
class), so with fewer units than dimensions it is sought there, in matrices of unit x unit, and
fits of equal size go through the same few calls together. The optimum is that of scikit-learn's
`LogisticRegression`, found to rounding; there is no approximation in it.

At the optimum a = weight (target - p), where p are the probabilities that the margins give. On few
units in many dimensions p comes close to 0 and 1, and Newton's method on the margins gains no more
than a factor e a step on the way there. So far from the optimum p is read off the dual numbers
instead, and log p = margin is what is made linear: a step then comes most of the way.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithms 3.1 and 3.3:
    Newton's method on dual numbers. There the intercept is part of the prior; here it is free of
    penalty, as in logistic regression.
    Yu, Huang and Lin, Dual coordinate descent methods for logistic regression and maximum entropy
    models, Machine Learning 85 (2011): the dual problem and its interior.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Imported here and not where they are called: a BLAS that loads while threads are pinned is not.
from scipy.special import expit

from madeleine_bench.protocols.conjugate_gradient import Curvature, Step, solve
from madeleine_bench.protocols.dense_newton import aim
from madeleine_bench.protocols.probabilities import vector_shares

Array = NDArray[np.float64]

_ENOUGH_STEPS = 50
_MOST_HALVINGS = 20
# Newton's last steps each square the error, so one more is cheap, and machines then agree.
_BEYOND_TOL = 3e-2
_ROUNDING = 64.0 * np.finfo(np.float64).eps
# Of the first residual: from there on the margins decide, as Newton's method squares the error.
_NEAR = 1e-2
# Of the last residual: where a step brings less, the margins decide from there on too.
_FALLING = 0.9
# Of the way to where a probability becomes 0.
_INSIDE = 0.95
# Of the twelve decades below 1: to 1%, which is near enough to start from.
_BISECTIONS = 12
_LEAST_SHARE = 1e-12


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
        problem = _Problem(kernel, _targets(label, n_classes), weight[:, None], C)
        goal = _BEYOND_TOL * tol
        # Fewer dimensions than units, or rows that depend on others: see `dense_newton`.
        dense = train.shape[2] < train.shape[1]
        dual, intercepts, n_iter = _minimise(problem, goal, max_iter, dense=dense)
        residual = _residual(problem, rows, dual, intercepts)
        failed = ~(residual <= tol)
        if failed.any() and not dense:
            again = _minimise(problem.take(failed), goal, max_iter, dense=True)
            dual[failed], intercepts[failed], n_iter[failed] = again
            residual = _residual(problem, rows, dual, intercepts)
        coefficients = C * (dual @ rows)
        # The rows were centred, and a row further out is not: the centre goes to the intercept.
        intercepts = intercepts - np.einsum("fvd,fd->fv", coefficients, centre[:, 0])
    residual[~np.isfinite(residual)] = np.inf
    return DualFits(coefficients, intercepts, residual, n_iter)


@dataclass(frozen=True)
class _Problem:
    """Several fits.

    Attributes:
        kernel: fit x unit x unit, C times the products of the centred rows.
        target: fit x vector x unit: 1 where the unit is of the class of the vector, else 0.
        weight: fit x 1 x unit.
        C: inverse penalty.
    """

    kernel: Array
    target: Array
    weight: Array
    C: float

    def take(self, chosen: NDArray[np.bool_]) -> "_Problem":
        """Return some of the fits."""
        if chosen.all():
            return self
        return _Problem(self.kernel[chosen], self.target[chosen], self.weight[chosen], self.C)

    @property
    def total(self) -> Array:
        """Return the sum of the weights of each fit, (fit,)."""
        total: Array = self.weight.sum(axis=(1, 2))
        return total

    def margin(self, dual: Array, intercepts: Array) -> Array:
        """Return the linear predictors, fit x vector x unit."""
        return dual @ self.kernel + intercepts[:, :, None]

    def slope(self, probability: Array) -> Array:
        """Return the derivative of the weighted losses by the margins, fit x vector x unit."""
        return self.weight * (probability - self.target)

    def objective(self, dual: Array, intercepts: Array, margin: Array) -> Array:
        """Return the penalised loss of each fit, (fit,)."""
        if margin.shape[1] == 1:
            loss = np.logaddexp(0.0, (1.0 - 2.0 * self.target) * margin)
        else:
            top = margin.max(axis=1, keepdims=True)
            loss = np.log(np.exp(margin - top).sum(axis=1, keepdims=True)) + top
            loss -= (margin * self.target).sum(axis=1, keepdims=True)
        norm = (dual * (margin - intercepts[:, :, None])).sum(axis=(1, 2))
        total: Array = (self.weight * loss).sum(axis=(1, 2)) + 0.5 * norm
        return total


def _minimise(
    problem: _Problem, goal: float, max_iter: int, *, dense: bool
) -> tuple[Array, Array, NDArray[np.intp]]:
    """Return dual numbers, intercepts and steps: where the gradient is below `goal`, or stuck."""
    dual, intercepts = _start(problem)
    margin = problem.margin(dual, intercepts)
    n_iter = np.zeros(len(dual), dtype=np.intp)
    interior = np.full(len(dual), not dense)
    first, last = np.full(len(dual), np.inf), np.full(len(dual), np.inf)
    going, part = np.arange(len(dual)), problem
    most = min(max_iter, _ENOUGH_STEPS)
    for step in range(most + 1):
        probability = vector_shares(margin[going])
        residual = _norm(part, dual[going], probability)
        if step == 0:
            first = residual
        left = (residual > goal) & np.isfinite(margin[going]).all(axis=(1, 2))
        if step == most or not left.any():
            break
        going, part = going[left], part.take(left)
        share = np.minimum(0.1, np.sqrt(residual[left] / first[going]))
        interior[going] &= residual[left] > _NEAR * first[going]
        interior[going] &= residual[left] < _FALLING * last[going]
        last[going] = residual[left]
        moved, dual[going], intercepts[going], margin[going] = _newton_step(
            part,
            (dual[going], intercepts[going], margin[going]),
            probability[left],
            interior[going],
            share=share,
            goal=goal,
            dense=dense,
        )
        n_iter[going] += moved
        stays = moved | interior[going]
        interior[going] &= moved
        going, part = going[stays], part.take(stays)
    return dual, intercepts, n_iter


def _start(problem: _Problem) -> tuple[Array, Array]:
    """Return dual numbers and intercepts to start from, with every probability inside (0, 1).

    The numbers are those that an optimum would have where all units had the mean margin.
    """
    weight, target = problem.weight, problem.target
    shares = (weight * target).sum(axis=2) / problem.total[:, None]
    intercepts = np.log(shares)
    if shares.shape[1] == 1:
        intercepts -= np.log1p(-shares)
    dual = weight * (target - shares[:, :, None])
    classes = max(2, shares.shape[1])
    rest = 1.0 - 1.0 / classes
    # With all dual numbers times a share, a unit's margin leads by the share times this gap, and
    # the share of the optimum is that of the probability which this lead leaves to other classes.
    gap = (dual * (dual @ problem.kernel)).sum(axis=(1, 2)) / (problem.total * rest)
    low, high = np.full(len(gap), _LEAST_SHARE), np.ones(len(gap))
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        above = middle * rest > expit(np.log(classes - 1.0) - middle * gap)
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    return high[:, None, None] * dual, intercepts


def _newton_step(
    problem: _Problem,
    state: tuple[Array, Array, Array],
    probability: Array,
    interior: NDArray[np.bool_],
    *,
    share: Array,
    goal: float,
    dense: bool,
) -> tuple[NDArray[np.bool_], Array, Array, Array]:
    """Return which fits moved, and where all stand now: down the objective or not at all."""
    dual, intercepts, margin = state
    if dense:
        slope = problem.slope(probability)
        best, free = aim(problem.kernel, problem.weight, probability, slope, margin)
        step = Step(best - dual, free - intercepts, problem.margin(best, free) - margin)
    else:
        used, right, right_intercepts = _linearised(problem, dual, margin, probability, interior)
        step = solve(
            problem.kernel,
            Curvature(used, problem.weight),
            right,
            right_intercepts,
            share=share,
            enough=0.3 * goal * problem.total,
            C=problem.C,
        )
    length = _length_inside(problem, dual, step, interior)
    before = problem.objective(dual, intercepts, margin)
    slack = _ROUNDING * np.abs(before)
    moved = np.zeros(len(dual), dtype=np.bool_)
    new, new_intercepts, new_margin = dual.copy(), intercepts.copy(), margin.copy()
    for _ in range(_MOST_HALVINGS):
        by_unit = length[:, None, None]
        tried = dual + by_unit * step.dual
        tried_intercepts = intercepts + length[:, None] * step.intercepts
        tried_margin = margin + by_unit * step.margin
        value = problem.objective(tried, tried_intercepts, tried_margin)
        falls = ~moved & (value <= before + slack)
        new[falls], new_intercepts[falls] = tried[falls], tried_intercepts[falls]
        new_margin[falls] = tried_margin[falls]
        moved |= falls
        if moved.all():
            break
        length = np.where(moved, length, 0.5 * length)
    return moved, new, new_intercepts, new_margin


def _linearised(
    problem: _Problem,
    dual: Array,
    margin: Array,
    probability: Array,
    interior: NDArray[np.bool_],
) -> tuple[Array, Array, Array]:
    """Return the probabilities of the curvature, and the right sides of the step.

    Of the margins, a = weight (target - p(margin)) is made linear; of the dual numbers, where
    `interior`, log p(a) = margin up to what is the same for all classes of a unit.
    """
    slope = problem.slope(probability)
    right, right_intercepts = -(dual + slope), -slope.sum(axis=2)
    if not interior.any():
        return probability, right, right_intercepts
    own = problem.target - dual / problem.weight
    log_ratio = np.log(own) - margin
    if own.shape[1] == 1:
        log_ratio -= np.log1p(-own)
    inner = Curvature(own, problem.weight).apply(log_ratio)
    chosen = interior[:, None, None]
    return (
        np.where(chosen, own, probability),
        np.where(chosen, inner, right),
        np.where(interior[:, None], inner.sum(axis=2) + dual.sum(axis=2), right_intercepts),
    )


def _length_inside(
    problem: _Problem, dual: Array, step: Step, interior: NDArray[np.bool_]
) -> Array:
    """Return how much of a step to try first, (fit,): one, or what keeps probabilities inside."""
    own, fall = problem.target - dual / problem.weight, step.dual / problem.weight
    most = np.where(fall > 0, own / fall, np.inf).min(axis=(1, 2))
    if own.shape[1] == 1:
        rise = np.where(fall < 0, (own - 1.0) / fall, np.inf).min(axis=(1, 2))
        most = np.minimum(most, rise)
    length: Array = np.where(interior, np.minimum(1.0, _INSIDE * most), 1.0)
    return length


def _norm(problem: _Problem, dual: Array, probability: Array) -> Array:
    """Return the length of the gradient over the sum of weights, (fit,); it bounds `_residual`."""
    slope = problem.slope(probability)
    gap = dual + slope
    square = np.maximum((gap * (gap @ problem.kernel)).sum(axis=(1, 2)), 0.0) / problem.C
    length: Array = np.sqrt(square + (slope.sum(axis=2) ** 2).sum(axis=1)) / problem.total
    return length


def _residual(problem: _Problem, rows: Array, dual: Array, intercepts: Array) -> Array:
    """Return the largest component of the gradient by coefficients and intercepts, (fit,)."""
    slope = problem.slope(vector_shares(problem.margin(dual, intercepts)))
    by_coefficient = np.abs((slope + dual) @ rows).max(axis=(1, 2))
    by_intercept = np.abs(slope.sum(axis=2)).max(axis=1)
    largest: Array = np.maximum(by_coefficient, by_intercept) / problem.total
    return largest


def _targets(label: NDArray[np.intp], n_classes: int) -> Array:
    """Return fit x vector x unit: whether the unit is of the vector's class, as 1 and 0."""
    hot = np.eye(n_classes)[label].mT
    return hot[:, 1:] if n_classes == 2 else hot

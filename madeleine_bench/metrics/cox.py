"""Proportional-hazards fits, with what happened as data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Here and not where it is called: a BLAS loaded inside threadpool_limits would not be limited.
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from madeleine_bench.types import Survival

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
# Beyond this span of the log hazard ratios the smallest of them vanish beside the largest.
_WIDEST_LOG_RATIO = 700.0
# Where coefficients run away to infinity the gradient vanishes, but the risks go on moving.
_SETTLED_LOG_RATIO = 0.1
# A gain below this share of the objective drowns in its rounding.
_ROUNDING = 1e-12
_HALVINGS = 50
# Differences below this share of the largest in their dimension count as none.
_EQUAL = 1e-9
# exp of it is finite; beyond it survival is 0 or 1 to the last digit anyway.
_LARGEST_LOG_RATIO = 500.0
# A penalty below this share of the squared spread of the features drowns in rounding.
_LEAST_PENALTY = 1e-12
_NO_STEPS = (np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class CoxFit:
    """A fitted proportional-hazards model, or the reason why there is none.

    Attributes:
        coefficients: (dim,) log hazard ratio for each unit of a feature.
        hazard_days: days at which the baseline hazard steps up.
        hazard: cumulative baseline hazard (Breslow) from each of these days on.
        reason: why the fit failed; None where it converged.
        n_iter: iterations, None where the library does not tell.
        residual: largest component of the gradient of the objective, divided by the number of
            units; None where not computed.
    """

    coefficients: NDArray[np.float64]
    hazard_days: NDArray[np.float64]
    hazard: NDArray[np.float64]
    reason: str | None = None
    n_iter: int | None = None
    residual: float | None = None

    @property
    def converged(self) -> bool:
        """Whether the optimiser reached its tolerance."""
        return self.reason is None

    def risk(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log hazard ratio of each unit against the baseline; higher is worse."""
        # A matrix product may round a row by where it stands; equal rows must tie on any machine.
        risk: NDArray[np.float64] = np.einsum("ij,j->i", features, self.coefficients)
        return risk

    def alive(self, risk: NDArray[np.float64], days: Sequence[float]) -> NDArray[np.float64]:
        """Return the predicted probability to live beyond each day, unit x day."""
        position = np.searchsorted(self.hazard_days, np.asarray(days, dtype=float), side="right")
        baseline = np.concatenate([[0.0], self.hazard])[position]
        relative = np.exp(np.clip(risk, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO))
        return np.exp(-np.outer(relative, baseline))


@dataclass(frozen=True)
class RiskSets:
    """Who is at risk at the times with an event, latest time first.

    Attributes:
        order: (unit,) positions of the units that are at risk at any of these times, by falling
            time. Sums below run over units in this order.
        event: (unit,) in this order, whether a unit has the event.
        start: (time,) where the units begin that are at risk at this time and at no later one.
        tied: (time,) where its events begin among all events; `count` is how many there are.
        days: (time,) the times.
    """

    order: Positions
    event: NDArray[np.bool_]
    start: Positions
    tied: Positions
    count: Positions
    days: Floats

    @staticmethod
    def of(survival: Survival) -> "RiskSets":
        """Return the risk sets of units of which at least one has an event."""
        order = np.argsort(-survival.time_days, kind="stable")
        time, event = survival.time_days[order], survival.event[order]
        days, count = np.unique(time[event], return_counts=True)
        days, count = days[::-1], count[::-1]
        end = np.searchsorted(-time, -days, side="right")
        return RiskSets(
            order=order[: end[-1]],
            event=event[: end[-1]],
            start=np.concatenate([[0], end[:-1]]),
            tied=np.cumsum(count) - count,
            count=count,
            days=days,
        )

    def sums(self, values: Floats, axis: int = 0) -> Floats:
        """Return the sum of `values` over each risk set, by time; units lie along the axis."""
        sums: Floats = np.add.reduceat(values, self.start, axis=axis).cumsum(axis=axis)
        return sums

    def spread(self, of_time: Floats) -> Floats:
        """Return for each unit the sum of ... x time over the times at which it is at risk."""
        later = of_time[..., ::-1].cumsum(axis=-1)[..., ::-1]
        return np.repeat(later, np.diff(self.start, append=len(self.order)), axis=-1)


@dataclass(frozen=True)
class _Point:
    """The objective at some coefficients.

    Attributes:
        w: (dim,) the coefficients.
        eta: (unit,) log hazard ratios, in the order of the risk sets.
        ratio: (unit,) exp(eta - max eta).
        denominator: (set,) sum of `ratio` over each risk set.
        expected: (unit,) expected number of events of a unit: r above.
        loss: the objective; infinite where the log hazard ratios span too much.
        gradient: (dim,).
    """

    w: Floats
    eta: Floats
    ratio: Floats
    denominator: Floats
    expected: Floats
    loss: float
    gradient: Floats


class _Objective:
    """-log partial likelihood + alpha / 2 |w|^2 and its derivatives."""

    def __init__(self, features: Floats, survival: Survival, alpha: float) -> None:
        self.sets = RiskSets.of(survival)
        self.x = np.ascontiguousarray(features[self.sets.order])
        self.alpha = alpha
        self._events = self.sets.count.astype(np.float64)

    def at(self, w: Floats) -> _Point:
        """Return the objective at some coefficients."""
        eta = self.x @ w
        top = eta.max()
        ratio = np.exp(eta - top)
        denominator = self.sets.sums(ratio)
        log_sums = self._events @ (np.log(denominator) + top)
        loss = float(log_sums - eta[self.sets.event].sum() + 0.5 * self.alpha * (w @ w))
        if not np.ptp(eta) < _WIDEST_LOG_RATIO:
            loss = np.inf
        expected = ratio * self.sets.spread(self._events / denominator)
        gradient = (expected - self.sets.event) @ self.x + self.alpha * w
        return _Point(w, eta, ratio, denominator, expected, loss, gradient)

    def hessian(self, point: _Point) -> Floats:
        """Return the second derivatives, dim x dim."""
        weighted = self.x * np.sqrt(point.expected)[:, None]
        means = self.sets.sums(self.x * point.ratio[:, None])
        means *= (np.sqrt(self._events) / point.denominator)[:, None]
        found: Floats = weighted.T @ weighted  # a product with itself costs half
        found -= means.T @ means
        found[np.diag_indices_from(found)] += self.alpha
        return found


def separated(features: Floats, survival: Survival) -> bool:
    """Return whether the partial likelihood grows without bound, so that no Cox model fits best.

    It does where some w ranks each unit with an event no lower than anyone in its risk set, and
    one unit higher: the longer such a w, the higher the likelihood, while the gradient vanishes. A
    linear program finds w if there is one; a search that rounding stops cannot tell.

    Args:
        features: unit x dim, finite.
        survival: follow-up of the units.

    References:
        Bryson and Johnson (1981); Albert and Anderson (1984) for logistic regression.
    """
    from scipy.optimize import linprog

    if not survival.event.any():
        return False
    sets = RiskSets.of(survival)
    x = features[sets.order] / (np.abs(features).max(initial=0.0) or 1.0)
    first = x[sets.event][sets.tied]  # of the events of each time
    newcomers = np.repeat(first, np.diff(sets.start, append=len(x)), axis=0) - x
    # Those at risk at later times rank no higher than the events there, so these rows say it all.
    rows = np.concatenate([newcomers, -newcomers[sets.event], np.diff(first, axis=0)])
    rows = rows[:, rows.any(axis=0)]
    if not rows.size:
        return False
    rows /= np.abs(rows).max(axis=0)
    found = linprog(
        -rows.sum(axis=0),
        A_ub=-rows,
        b_ub=np.zeros(len(rows)),
        bounds=(-1.0, 1.0),
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.x is None:
        return False
    higher = rows @ found.x
    return bool(higher.min() >= -_EQUAL and higher.max() > _EQUAL)


@np.errstate(all="ignore")  # what overflows is not finite, and is seen below
def _search(objective: _Objective, n_units: int, tol: float, max_iter: int) -> CoxFit:
    """Return the coefficients at the minimum of an objective, from w = 0, without a hazard.

    It has converged where no component of the gradient exceeds `tol` times the number of units and
    the last step moved no log hazard ratio by more than 0.1, or where rounding lets the gradient
    shrink no further. A step that does not lower the objective is halved. Where the Hessian is not
    positive definite to rounding, its diagonal is raised until it is.
    """
    point, moved = objective.at(np.zeros(objective.x.shape[1])), 0.0
    for n_iter in range(max_iter + 1):
        residual = float(np.abs(point.gradient).max(initial=0.0)) / n_units
        here = CoxFit(point.w, *_NO_STEPS, n_iter=n_iter, residual=residual)
        if residual <= tol and moved <= _SETTLED_LOG_RATIO:
            return here
        if n_iter == max_iter:
            break
        hessian = objective.hessian(point)
        if not (np.isfinite(hessian).all() and np.isfinite(point.gradient).all()):
            return replace(here, reason="the derivatives are not finite")
        step = _solve(hessian, point.gradient)
        # Below rounding the objective cannot tell a better point; the gradient still can.
        blind = float(point.gradient @ step) <= _ROUNDING * (1.0 + abs(point.loss))
        trial = objective.at(point.w - step) if blind else _lower(objective, point, step)
        if trial is None or not np.isfinite(trial.loss):
            return replace(here, reason="no step lowers the objective")
        if blind and np.abs(trial.gradient).max() > 0.5 * np.abs(point.gradient).max():
            return here
        moved = float(np.abs(trial.eta - point.eta).max())
        point = trial
    why = f"the gradient is {residual:.1e} a unit, tol {tol:g}; the last step moved {moved:.1e}"
    return replace(here, reason=f"no convergence in {max_iter} iterations: {why}")


def _lower(objective: _Objective, point: _Point, step: Floats) -> _Point | None:
    """Return the first of ever shorter steps that lowers the objective, None where none does."""
    for halved in range(_HALVINGS):
        trial = objective.at(point.w - step / 2.0**halved)
        if trial.loss < point.loss:
            return trial
    return None


def _solve(hessian: Floats, gradient: Floats) -> Floats:
    """Return the inverse of a Hessian times a gradient, both finite."""
    damping, least = 0.0, np.finfo(np.float64).eps * float(hessian.diagonal().max())
    while True:
        try:
            factor = cho_factor(hessian + damping * np.eye(len(hessian)), check_finite=False)
            break
        except LinAlgError:
            damping = max(10.0 * damping, least, np.finfo(np.float64).tiny)
    solution: Floats = cho_solve(factor, gradient, check_finite=False)
    return solution


def fit_ridge_cox(
    features: NDArray[np.float64],
    survival: Survival,
    *,
    alpha: float,
    tol: float,
    max_iter: int,
) -> CoxFit:
    """Return the Cox model that minimises -log partial likelihood + alpha / 2 |coefficients|^2.

    alpha is the penalty on the summed (not the mean) log likelihood: the inverse prior variance of
    a coefficient. scikit-survival's `CoxPHSurvivalAnalysis` divides both terms by the number of
    units, so its alpha is this one. Solved by Newton's method, which says when it
    has converged. A penalty of 0, or one so small that rounding loses it, has no fit where the
    features are `separated`.

    Args:
        features: unit x dim, centred.
        survival: follow-up of the units.
        alpha: penalty, at least 0.
        tol: largest component of the gradient, divided by the number of units.
        max_iter: Newton steps.

    References:
        Cox, JRSS B 34 (1972) 187-220; Verweij and van Houwelingen, Statistics in Medicine 13
        (1994) 2427-2436.
    """
    if fault := _fault(features, survival, alpha):
        return _failed(features.shape[1], fault)
    objective = _Objective(features, survival, alpha)
    fit = _search(objective, len(survival), tol, max_iter)
    if fit.reason is not None:
        return replace(_failed(features.shape[1], fit.reason), n_iter=fit.n_iter)
    days, hazard = breslow_hazard(survival, fit.risk(features))
    return replace(fit, hazard_days=days, hazard=hazard)


def fit_coxnet(
    features: NDArray[np.float64],
    survival: Survival,
    *,
    alpha: float,
    l1_ratio: float,
    tol: float,
    max_iter: int,
) -> CoxFit:
    """Return the elastic-net Cox model: mean log likelihood, penalty alpha.

    Minimises -log partial likelihood / n + alpha (l1_ratio |w|_1 + (1 - l1_ratio) / 2 |w|^2) by
    coordinate descent. All coefficients zero is a converged fit whose risk is constant.

    References:
        Simon et al., Journal of Statistical Software 39 (2011) 1-13.
    """
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning
    from sksurv.linear_model import CoxnetSurvivalAnalysis
    from sksurv.util import Surv

    dim = features.shape[1]
    if fault := _fault(features, survival, alpha):
        return _failed(dim, fault)
    model = CoxnetSurvivalAnalysis(
        alphas=[alpha], l1_ratio=l1_ratio, tol=tol, max_iter=max_iter, fit_baseline_model=True
    )
    target = Surv.from_arrays(event=survival.event, time=survival.time_days)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(features, target)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            return _failed(dim, f"{type(error).__name__}: {_first_line(error)}")
    for warning in caught:
        if issubclass(warning.category, (ConvergenceWarning, LinAlgWarning, RuntimeWarning)):
            reason = f"{warning.category.__name__}: {_first_line(warning.message)}"
            return _failed(dim, reason)
    if not np.isfinite(model.coef_).all():
        return _failed(dim, "the coefficients are not finite")
    # Days and cumulative hazard of a unit whose features are all zero.
    step = model.predict_cumulative_hazard_function(np.zeros((1, dim)))[0]
    coefficients, days, hazard = (
        np.asarray(numbers, dtype=np.float64)
        for numbers in (model.coef_[:, -1], step.x, step.a * step.y)
    )
    return CoxFit(coefficients, days, hazard)


def breslow_hazard(
    survival: Survival, risk: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the event days, ascending, and the cumulative baseline hazard from each of them on.

    References:
        Breslow, discussion of Cox, JRSS B 34 (1972) 216-217.
    """
    if not survival.event.any():
        return _NO_STEPS
    sets = RiskSets.of(survival)
    clipped = np.clip(risk[sets.order], -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
    hazard = (sets.count / sets.sums(np.exp(clipped)))[::-1].cumsum()
    return sets.days[::-1], hazard


def _fault(features: NDArray[np.float64], survival: Survival, alpha: float) -> str | None:
    """Return why there is nothing to fit, or None."""
    if not survival.event.any():
        return "no events"
    if not np.isfinite(features).all():
        return "the features are not finite"
    if not alpha >= 0:
        return f"alpha {alpha:g} is below 0"
    with np.errstate(over="ignore"):
        lost = alpha <= _LEAST_PENALTY * np.square(np.ptp(features, axis=0)).max(initial=0.0)
    if lost and separated(features, survival):
        return (
            "the penalty is too small: the features separate those with an event from all who "
            "outlive them, so the likelihood has no maximum"
        )
    return None


def _first_line(message: object) -> str:
    return (str(message).strip().splitlines() or ["no message"])[0].rstrip(".")


def _failed(dim: int, reason: str) -> CoxFit:
    return CoxFit(np.zeros(dim), *_NO_STEPS, reason)

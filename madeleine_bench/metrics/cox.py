"""Proportional-hazards fits, with what happened as data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.metrics.cox_newton import RiskSets, minimise, separated
from madeleine_bench.types import Survival

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


def fit_ridge_cox(
    features: NDArray[np.float64],
    survival: Survival,
    *,
    alpha: float,
    ties: Literal["breslow", "efron"],
    tol: float,
    max_iter: int,
) -> CoxFit:
    """Return the Cox model that minimises -log partial likelihood + alpha / 2 |coefficients|^2.

    alpha is the penalty on the summed (not the mean) log likelihood: the inverse prior variance of
    a coefficient. scikit-survival's `CoxPHSurvivalAnalysis` divides both terms by the number of
    units, so its alpha is this one. Solved by Newton's method (`cox_newton`), which says when it
    has converged. A penalty of 0, or one so small that rounding loses it, has no fit where the
    features are `separated`.

    Args:
        features: unit x dim, centred.
        survival: follow-up of the units.
        alpha: penalty, at least 0.
        ties: how tied event times enter; the baseline hazard is Breslow's either way.
        tol: largest component of the gradient, divided by the number of units.
        max_iter: Newton steps.

    References:
        Cox, JRSS B 34 (1972) 187-220; Verweij and van Houwelingen, Statistics in Medicine 13
        (1994) 2427-2436.
    """
    if fault := _fault(features, survival, alpha):
        return _failed(features.shape[1], fault)
    found = minimise(features, survival, alpha=alpha, ties=ties, tol=tol, max_iter=max_iter)
    if found.reason is not None:
        return replace(_failed(features.shape[1], found.reason), n_iter=found.n_iter)
    bare = CoxFit(found.coefficients, *_NO_STEPS, n_iter=found.n_iter, residual=found.residual)
    days, hazard = breslow_hazard(survival, bare.risk(features))
    return replace(bare, hazard_days=days, hazard=hazard)


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
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    if fault := _fault(features, survival, alpha):
        return _failed(features.shape[1], fault)
    model = CoxnetSurvivalAnalysis(
        alphas=[alpha], l1_ratio=l1_ratio, tol=tol, max_iter=max_iter, fit_baseline_model=True
    )
    reason = _fit(model, features, survival)
    if reason is not None:
        return _failed(features.shape[1], reason)
    days, hazard = _baseline(model, features.shape[1])
    return CoxFit(np.asarray(model.coef_[:, -1], dtype=np.float64), days, hazard)


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


def _fit(model: Any, features: NDArray[np.float64], survival: Survival) -> str | None:
    """Fit in place and return why it failed, or None."""
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning
    from sksurv.util import Surv

    target = Surv.from_arrays(event=survival.event, time=survival.time_days)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(features, target)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            return f"{type(error).__name__}: {_first_line(error)}"
    for warning in caught:
        if issubclass(warning.category, (ConvergenceWarning, LinAlgWarning, RuntimeWarning)):
            return f"{warning.category.__name__}: {_first_line(warning.message)}"
    if not np.isfinite(model.coef_).all():
        return "the coefficients are not finite"
    return None


def _first_line(message: object) -> str:
    return (str(message).strip().splitlines() or ["no message"])[0].rstrip(".")


def _baseline(model: Any, dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return days and cumulative hazard of a unit whose features are all zero."""
    step = model.predict_cumulative_hazard_function(np.zeros((1, dim)))[0]
    return np.asarray(step.x, dtype=np.float64), np.asarray(step.a * step.y, dtype=np.float64)


def _failed(dim: int, reason: str) -> CoxFit:
    return CoxFit(np.zeros(dim), *_NO_STEPS, reason)

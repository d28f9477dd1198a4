"""Cox fits against a plain Newton method, lifelines, and known invariances."""

import numpy as np
import pytest
from numpy.typing import NDArray

from madeleine_bench.metrics.cox import fit_coxnet, fit_ridge_cox
from madeleine_bench.types import Survival


def sample(seed: int, n_units: int = 90, dim: int = 7) -> tuple[NDArray[np.float64], Survival]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_units, dim))
    features -= features.mean(axis=0)
    death = rng.exponential(300 * np.exp(-features[:, 0] + 0.5 * features[:, 1]))
    leave = rng.uniform(50, 900, n_units)
    return features, Survival(np.ceil(np.minimum(death, leave) / 20) * 20, death < leave)


def objective(w: NDArray[np.float64], x: NDArray[np.float64], y: Survival, alpha: float) -> float:
    """Return -log partial likelihood (Breslow) + alpha / 2 |w|^2 by a plain loop over events."""
    risk, loss = x @ w, 0.5 * alpha * float(w @ w)
    for i in np.flatnonzero(y.event):
        loss -= risk[i] - np.log(np.exp(risk[y.time_days >= y.time_days[i]]).sum())
    return float(loss)


@pytest.mark.parametrize("alpha", [0.5, 30.0])
def test_the_penalty_is_on_the_summed_likelihood(alpha: float) -> None:
    from scipy.optimize import minimize

    x, y = sample(0)
    fit = fit_ridge_cox(x, y, alpha=alpha, tol=1e-12, max_iter=100)
    best = minimize(objective, np.zeros(x.shape[1]), args=(x, y, alpha), method="BFGS", tol=1e-8)
    assert fit.converged
    assert fit.coefficients == pytest.approx(best.x, abs=1e-5)
    assert fit.residual is not None
    assert fit.residual < 1e-8


def test_the_ridge_is_the_same_in_a_rotated_basis() -> None:
    x, y = sample(2)
    basis, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(7, 7)))
    straight = fit_ridge_cox(x, y, alpha=3.0, tol=1e-12, max_iter=100)
    turned = fit_ridge_cox(x @ basis, y, alpha=3.0, tol=1e-12, max_iter=100)
    assert turned.risk(x @ basis) == pytest.approx(straight.risk(x), abs=1e-8)


def test_baseline_survival_without_features_is_nelson_aalen() -> None:
    _, y = sample(3)
    for fit in (
        fit_ridge_cox(np.zeros((90, 1)), y, alpha=1.0, tol=1e-9, max_iter=50),
        fit_coxnet(np.zeros((90, 1)), y, alpha=0.1, l1_ratio=0.5, tol=1e-7, max_iter=1000),
    ):
        days = [10.0, 100.0, 300.0, 5000.0]
        hazard = [
            sum(1 / (y.time_days >= t).sum() for t in y.time_days[y.event] if t <= day)
            for day in days
        ]
        assert fit.converged
        assert fit.alive(np.zeros(2), days) == pytest.approx(np.exp(-np.tile(hazard, (2, 1))))


def test_survival_falls_with_risk_and_time() -> None:
    x, y = sample(4)
    fit = fit_ridge_cox(x, y, alpha=1.0, tol=1e-9, max_iter=50)
    alive = fit.alive(np.array([-1.0, 0.0, 1.0]), [100, 200, 300])
    assert (np.diff(alive, axis=0) < 0).all()
    assert (np.diff(alive, axis=1) < 0).all()
    assert ((alive > 0) & (alive < 1)).all()


def test_coxnet_minimises_its_objective() -> None:
    x, y = sample(5)
    alpha, l1_ratio = 0.05, 0.5
    fit = fit_coxnet(x, y, alpha=alpha, l1_ratio=l1_ratio, tol=1e-9, max_iter=10_000)

    def loss(w: NDArray[np.float64]) -> float:
        l1 = alpha * l1_ratio * np.abs(w).sum()
        return objective(w, x, y, len(y) * alpha * (1 - l1_ratio)) / len(y) + float(l1)

    best, rng = loss(fit.coefficients), np.random.default_rng(0)
    assert best < loss(np.zeros(7))
    assert all(best <= loss(fit.coefficients + 0.02 * rng.normal(size=7)) for _ in range(50))


def test_a_strong_l1_penalty_leaves_a_constant_risk() -> None:
    x, y = sample(6)
    fit = fit_coxnet(x, y, alpha=50.0, l1_ratio=0.5, tol=1e-7, max_iter=1000)
    assert fit.converged
    assert not fit.coefficients.any()
    assert not fit.risk(x).any()


def test_failures_are_reasons() -> None:
    x, y = sample(7)
    short = fit_ridge_cox(x, y, alpha=0.01, tol=1e-12, max_iter=1)
    assert not short.converged
    assert "no convergence in 1 iterations" in str(short.reason)
    huge = fit_ridge_cox(x * 1e300, y, alpha=0.0, tol=1e-9, max_iter=50)
    assert not huge.converged
    assert not huge.coefficients.any()


@pytest.mark.parametrize("alpha", [0.0, 1e-15])
def test_the_elastic_net_of_separated_features_has_no_fit_either(alpha: float) -> None:
    """scikit-survival stopped at a coefficient of 11.2 and called that converged."""
    days = np.arange(1.0, 21.0)
    y = Survival(days, np.ones(20, dtype=bool))
    x = 10.5 - days[:, None]
    fit = fit_coxnet(x, y, alpha=alpha, l1_ratio=0.5, tol=1e-7, max_iter=100_000)
    assert "the likelihood has no maximum" in str(fit.reason)
    held = fit_coxnet(x, y, alpha=0.01, l1_ratio=0.5, tol=1e-7, max_iter=100_000)
    assert held.converged
    assert 0 < held.coefficients[0] < 10

"""Our Newton's method for the ridge Cox model: scikit-survival, closed forms, hard cases."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from madeleine_bench.metrics.cox import CoxFit, breslow_hazard, fit_ridge_cox, separated
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.loader import parse_spec, read_yaml
from madeleine_bench.specs.protocol import Cox, ProtocolSpec
from madeleine_bench.types import Survival

Floats = NDArray[np.float64]


def ladder() -> tuple[float, ...]:
    path = resource_folder("tasks") / "protocols" / "cox-v1.yaml"
    method = parse_spec(ProtocolSpec, read_yaml(path), path).method
    assert isinstance(method, Cox)
    return method.alphas


def cohort(
    seed: int, n_units: int, dim: int, tie_days: float = 20.0, signal: float = 1.0
) -> tuple[Floats, Survival]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_units, dim))
    death = rng.exponential(300 * np.exp(-signal * x[:, 0]))
    leave = rng.uniform(50, 900, n_units)
    days = np.ceil(np.minimum(death, leave) / tie_days) * tie_days
    event = death < leave
    event[0] = True
    return x - x.mean(axis=0), Survival(days, event)


def ours(x: Floats, y: Survival, alpha: float, **changes: Any) -> CoxFit:
    settings = {"tol": 1e-12, "max_iter": 100} | changes
    return fit_ridge_cox(x, y, alpha=alpha, **settings)


def theirs(x: Floats, y: Survival, alpha: float) -> Any:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    model = CoxPHSurvivalAnalysis(alpha=alpha, tol=1e-14, n_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so tight a tolerance is not always reached
        return model.fit(x, Surv.from_arrays(y.event, y.time_days))


def assert_equal_coefficients(x: Floats, y: Survival, alpha: float) -> tuple[Any, Any]:
    fit, model = ours(x, y, alpha), theirs(x, y, alpha)
    assert fit.reason is None
    assert fit.coefficients == pytest.approx(model.coef_, abs=1e-8)
    return fit, model


def assert_equal_fits(x: Floats, y: Survival, alpha: float) -> None:
    fit, model = assert_equal_coefficients(x, y, alpha)
    step = model.cum_baseline_hazard_
    at_events = np.isin(step.x, y.time_days[y.event])
    assert fit.hazard_days.tolist() == step.x[at_events].tolist()
    hazard = breslow_hazard(y, x @ model.coef_)[1]
    assert hazard == pytest.approx(step.y[at_events], rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_units=st.integers(2, 40),
    dim=st.integers(1, 8),
    tie_days=st.sampled_from([0.01, 20.0, 300.0, 1e6]),
    alpha=st.sampled_from([0.5, 30.0, *ladder()]),
)
def test_the_fit_is_scikit_survivals(
    seed: int, n_units: int, dim: int, tie_days: float, alpha: float
) -> None:
    """With ties from none to everybody, and with fewer units than dimensions."""
    x, y = cohort(seed, n_units, dim, tie_days)
    assert_equal_fits(x, y, alpha)


@pytest.mark.parametrize("alpha", [0.07, *ladder()])
def test_embeddings_like_the_benchmarks_give_scikit_survivals_fit(alpha: float) -> None:
    x, y = cohort(1, 90, 24)
    x[:, 7] = 0.0  # a dimension that was constant on the training rows
    x[:, 8:] += x[:, :16]  # and directions that many dimensions share
    assert_equal_fits(x / np.maximum(x.std(axis=0), 1e-9), y, alpha)


@pytest.mark.parametrize("event", [(0,), (3,), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("days", [(5.0,) * 6, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)])
def test_one_event_and_everybody_at_once(event: tuple[int, ...], days: tuple[float, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = Survival(np.array(days), np.isin(np.arange(6), event))
    assert_equal_fits(x - x.mean(axis=0), y, 0.5)


@pytest.mark.parametrize("alpha", [0.01, *ladder()])
def test_risks_that_order_everybody_have_a_finite_fit(alpha: float) -> None:
    days = np.arange(1.0, 41.0)
    x = np.column_stack([20.5 - days, np.sin(days)])
    y = Survival(days, np.ones(40, dtype=bool))
    fit, _ = assert_equal_coefficients(x, y, alpha)
    # scikit-survival takes units off the sum of all, whose rounding can exceed what is left.
    ratio = np.exp(fit.risk(x))
    hazard = np.cumsum([1.0 / ratio[i:].sum() for i in range(40)])
    assert fit.hazard == pytest.approx(hazard, rel=1e-10)


def test_therneaus_six_patients() -> None:
    """The optimum is known: exp(w) solves r^2 - 3r - 6 = 0.

    Therneau and Grambsch, Modeling Survival Data (2000), appendix E.1.
    """
    x = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])[:, None]
    y = Survival(
        np.array([1.0, 1.0, 6.0, 6.0, 8.0, 9.0]),
        np.array([True, False, True, True, False, True]),
    )
    breslow = ours(x, y, 0.0).coefficients[0]
    assert breslow == pytest.approx(np.log((3 + np.sqrt(33)) / 2), abs=1e-10)
    r = np.exp(breslow)
    hazard = np.cumsum([1 / (3 * r + 3), 2 / (r + 3), 1.0])
    fit = ours(x, y, 0.0)
    assert fit.hazard_days.tolist() == [1.0, 6.0, 9.0]
    assert fit.hazard == pytest.approx(hazard, rel=1e-12)


def test_two_units_and_one_event_in_closed_form() -> None:
    """Of log(1 + exp(-2w)) + alpha / 2 w^2 the derivative vanishes: alpha w = 2 / (1 + exp(2w))."""
    y = Survival(np.array([1.0, 2.0]), np.array([True, False]))
    w = ours(np.array([[1.0], [-1.0]]), y, 0.7).coefficients[0]
    assert 0.7 * w == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-12)


def test_the_order_of_units_and_a_common_shift_change_nothing() -> None:
    x, y = cohort(2, 60, 5)
    order = np.random.default_rng(3).permutation(60)
    straight, shuffled = ours(x, y, 2.0), ours(x[order], y.take(order), 2.0)
    assert shuffled.coefficients == pytest.approx(straight.coefficients, abs=1e-12)
    assert ours(x + 9.0, y, 2.0).coefficients == pytest.approx(straight.coefficients, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_features_of_any_size_converge(scale: float) -> None:
    """Where penalty and tolerance follow the scale, the optimum does."""
    x, y = cohort(5, 80, 6, signal=3.0)
    straight = ours(x, y, 0.1)
    scaled = ours(x * scale, y, 0.1 * scale**2, tol=1e-12 * scale)
    assert scaled.reason is None
    assert scaled.risk(x * scale) == pytest.approx(straight.risk(x), abs=1e-7)


def test_a_tolerance_below_rounding_is_still_a_fit() -> None:
    x, y = cohort(6, 80, 6)
    fit = ours(1e4 * x, y, 1.0, tol=1e-300)
    assert fit.reason is None
    assert fit.residual is not None
    assert 0 < fit.residual < 1e-9


@pytest.mark.parametrize("many", [200, 3000])
def test_steps_that_overshoot_are_halved(many: int) -> None:
    """Two of many units are unlike the rest and die early: the first step is many / 2 long.

    That is far beyond the minimum, and with 3,000 units beyond the range of exp.
    """
    from scipy.optimize import brentq

    x = np.zeros((many + 2, 1))
    x[[0, 2]] = 1.0
    days = np.full(many + 2, 9.0)
    days[:4] = [1.0, 2.0, 3.0, 5.0]  # the last of these has only the many at risk

    def gradient(w: float) -> float:
        return (
            1e-6 * w
            - 2
            + sum(
                ones * np.exp(w) / (ones * np.exp(w) + zeros)
                for ones, zeros in ((2, many), (1, many), (1, many - 1))
            )
        )

    fit = ours(x, Survival(days, days < 9), 1e-6)
    assert fit.reason is None
    assert fit.coefficients[0] == pytest.approx(brentq(gradient, 0, 100, xtol=1e-13), abs=1e-8)


def test_repeated_dimensions_without_a_penalty_are_damped() -> None:
    x, y = cohort(8, 60, 3)
    alone = ours(x, y, 0.0)
    repeated = ours(np.hstack([x, 2 * x[:, :1], np.zeros((60, 1))]), y, 0.0)
    assert repeated.reason is None
    assert repeated.risk(np.hstack([x, 2 * x[:, :1], np.zeros((60, 1))])) == pytest.approx(
        alone.risk(x), abs=1e-8
    )


def test_a_fit_says_how_it_went() -> None:
    x, y = cohort(9, 70, 4)
    fit = ours(x, y, 1.0, tol=1e-9)
    assert fit.converged
    assert fit.residual is not None
    assert fit.residual <= 1e-9
    assert fit.n_iter is not None
    assert 2 <= fit.n_iter <= 8  # each step squares the error
    cut = ours(x, y, 1.0, max_iter=fit.n_iter - 1)
    assert not cut.converged
    assert cut.n_iter == fit.n_iter - 1
    assert f"no convergence in {fit.n_iter - 1} iterations: the gradient is" in str(cut.reason)


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-20, 1e-14])
def test_without_a_minimum_there_is_a_reason(alpha: float) -> None:
    """Where risks order everybody and nothing holds them, the gradient vanishes at infinity.

    Where the search ended hung on the rounding of the processor: as a failure, or as a fit with
    coefficient 33.8, residual 1.9e-15 and baseline hazards up to 1e139.
    """
    days = np.arange(1.0, 21.0)
    fit = ours(10.5 - days[:, None], Survival(days, np.ones(20, dtype=bool)), alpha, tol=1e-6)
    assert "the likelihood has no maximum" in str(fit.reason)
    assert not fit.coefficients.any()
    assert not len(fit.hazard)


def test_a_penalty_above_rounding_holds_a_separated_fit() -> None:
    """It ends at the same coefficient under every kernel: alpha w = what the events still gain."""
    days = np.arange(1.0, 21.0)
    fit = ours(10.5 - days[:, None], Survival(days, np.ones(20, dtype=bool)), 1e-8)
    assert fit.reason is None
    assert fit.coefficients[0] == pytest.approx(18.4501, abs=1e-3)


def outcome(
    x: list[list[float]], days: list[float], event: list[int] | None = None
) -> tuple[bool, str | None]:
    """Return whether data are separated, and what becomes of a fit without a penalty."""
    y = Survival(np.array(days), np.array(event or [1] * len(days), dtype=bool))
    features = np.array(x)
    fit = ours(features - features.mean(axis=0), y, 0.0)
    return separated(features, y), fit.reason


@pytest.mark.parametrize(
    ("x", "days", "event"),
    [
        ([[1.0], [0.0], [0.0]], [1.0, 2.0, 3.0], None),  # ties of risk beside one strict order
        ([[0.0], [0.0], [1.0]], [1.0, 2.0, 3.0], [1, 0, 0]),  # the first dies, one is higher
        ([[2.0], [2.0], [1.0], [0.0]], [1.0, 1.0, 2.0, 3.0], None),  # tied times, equal risks
        ([[1.0], [1.0], [0.0], [0.0]], [1.0, 2.0, 3.0, 4.0], [1, 1, 1, 0]),  # two groups
        # Partly: the second dimension orders, the first has a finite best value.
        ([[0.0, 1.0], [3.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [1.0, 2.0, 3.0, 4.0], None),
        # Only a sum of two dimensions orders.
        ([[3.0, 1.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0]], [1.0, 2.0, 3.0, 4.0], None),
        # A constant dimension hides nothing, nor do units that leave before any event.
        ([[9.0, 7.0], [2.0, 7.0], [1.0, 7.0]], [0.5, 1.0, 2.0], [0, 1, 1]),
        ([[1e300], [0.0], [-1e300]], [1.0, 2.0, 3.0], None),
        ([[1e9 + 2], [1e9 + 1], [1e9]], [1.0, 2.0, 3.0], None),
    ],
)
def test_separated_features_have_no_fit(
    x: list[list[float]], days: list[float], event: list[int] | None
) -> None:
    found, reason = outcome(x, days, event)
    assert found
    assert "the likelihood has no maximum" in str(reason)


@pytest.mark.parametrize(
    ("x", "days", "event"),
    [
        ([[2.0], [0.0], [1.0]], [1.0, 2.0, 3.0], None),  # one pair in the other order
        ([[2.0], [1.0], [1.0 + 1e-6], [0.0]], [1.0, 2.0, 3.0, 4.0], None),  # and hardly so
        ([[2.0], [1.0], [0.0]], [1.0, 1.0, 2.0], None),  # tied times, unequal risks
        ([[5.0], [5.0], [5.0]], [1.0, 2.0, 3.0], None),  # nothing to order
        ([[2.0, 4.0], [0.0, 0.0], [1.0, 2.0]], [1.0, 2.0, 3.0], None),  # and a repeated dimension
        ([[3.0], [1.0], [2.0]], [5.0, 5.0, 1.0], [1, 1, 0]),
    ],
)
def test_features_that_are_not_separated_converge(
    x: list[list[float]], days: list[float], event: list[int] | None
) -> None:
    assert outcome(x, days, event) == (False, None)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_units=st.integers(2, 8), levels=st.integers(2, 5))
def test_one_feature_is_separated_where_every_pair_says_so(
    seed: int, n_units: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, n_units).astype(float)
    y = Survival(rng.integers(1, 5, n_units).astype(float), rng.random(n_units) < 0.7)
    gaps = np.array(
        [
            x[i] - x[j]
            for i in np.flatnonzero(y.event)
            for j in np.flatnonzero(y.time_days >= y.time_days[i])
        ]
    )
    one_sided = bool((gaps >= 0).all() or (gaps <= 0).all())
    assert separated(x[:, None], y) == (one_sided and bool(gaps.any()))


def test_what_cannot_be_fitted_has_a_reason() -> None:
    x, y = cohort(10, 20, 2)
    nobody = Survival(y.time_days, np.zeros(20, dtype=bool))
    assert ours(x, nobody, 1.0).reason == "no events"
    assert ours(np.where(x == x[3, 1], np.nan, x), y, 1.0).reason == "the features are not finite"
    assert ours(x, y, -1.0).reason == "alpha -1 is below 0"
    assert ours(1e300 * x, y, 0.0).reason == "the derivatives are not finite"


def test_the_baseline_of_nobodys_event_is_flat_and_of_any_risk_finite() -> None:
    _, y = cohort(11, 20, 1)
    nobody = Survival(y.time_days, np.zeros(20, dtype=bool))
    days, hazard = breslow_hazard(nobody, np.zeros(20))
    assert not len(days)
    assert not len(hazard)
    assert CoxFit(np.zeros(1), days, hazard).alive(np.zeros(2), [1.0, 1e9]).tolist() == [[1, 1]] * 2
    assert np.isfinite(breslow_hazard(y, np.linspace(-1e6, 1e6, 20))[1]).all()

"""Calibration of predicted survival: against lifelines, brute force and simulated truth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from scipy.optimize import minimize_scalar

from madeleine_bench.metrics.calibration import (
    LEAST_IN_GROUP,
    MOST_GROUPS,
    calibration,
    risk_groups,
)
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Survival

DAY, SCALE = 800, 1000.0


def cohort(n=600, seed=0, spread=0.6, censoring=2500.0):
    """Return exponential survival with log hazards x, and the true chance to live beyond DAY."""
    rng = rng_for("calibration", seed)
    x = spread * rng.standard_normal(n)
    event_at = rng.exponential(SCALE * np.exp(-x))
    censored_at = rng.exponential(censoring, n)
    time = np.ceil(np.minimum(event_at, censored_at))
    return Survival(time, event_at <= censored_at), np.exp(-DAY / SCALE * np.exp(x))


def inside(interval, value):
    return interval[0] < value < interval[1]


def test_true_probabilities_are_calibrated():
    found = [calibration(*cohort(500, seed), DAY) for seed in range(8)]
    assert np.mean([c.slope for c in found]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([c.observed_over_expected for c in found]) == pytest.approx(1.0, abs=0.03)
    assert sum(inside(c.slope_ci95, 1.0) for c in found) >= 6
    assert sum(inside(c.observed_over_expected_ci95, 1.0) for c in found) >= 6
    covered = [inside(g.ci95, g.predicted) for c in found for g in c.groups]
    assert len(covered) == 8 * MOST_GROUPS
    assert np.mean(covered) >= 0.88


def test_predictions_twice_as_extreme_have_half_the_slope():
    survival, true = cohort(800)
    right = calibration(survival, true, DAY)
    index = np.log(-np.log(true))
    bold = np.exp(-np.exp(index.mean() + 2 * (index - index.mean())))
    found = calibration(survival, bold, DAY)
    assert found.slope == pytest.approx(right.slope / 2, rel=1e-3)


def test_twice_the_hazard_moves_observed_over_expected_alone():
    survival, true = cohort(800)
    found, right = calibration(survival, true**2, DAY), calibration(survival, true, DAY)
    assert found.slope == pytest.approx(right.slope, rel=1e-6)
    expected = right.observed_over_expected * np.mean(1 - true) / np.mean(1 - true**2)
    assert found.observed_over_expected == pytest.approx(expected)
    assert found.observed_over_expected_ci95[1] < 1.0


def test_the_slope_maximises_efrons_partial_likelihood():
    survival, alive = cohort(60, 3)
    x = np.log(-np.log(alive))
    time, event = survival.time_days, survival.event

    def loss(slope):
        total = 0.0
        for t in np.unique(time[event]):
            dead, risk = (time == t) & event, np.exp(slope * x[time >= t]).sum()
            own = np.exp(slope * x[dead]).sum()
            total += slope * x[dead].sum()
            total -= sum(np.log(risk - k / dead.sum() * own) for k in range(dead.sum()))
        return -total

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8}).x
    assert calibration(survival, alive, DAY).slope == pytest.approx(best, abs=1e-4)


def test_groups_are_quantiles_with_the_kaplan_meier_of_lifelines():
    survival, alive = cohort(203, 4)
    found = calibration(survival, alive, DAY).groups
    assert [g.n for g in found] == [41, 41, 40, 41, 40]
    order = np.argsort(alive)
    start = 0
    for group in found:
        rows = order[start : start + group.n]
        start += group.n
        own = survival.take(rows)
        fitter = KaplanMeierFitter().fit(own.time_days, own.event)
        assert group.predicted == pytest.approx(alive[rows].mean())
        assert group.events == int((own.event & (own.time_days <= DAY)).sum())
        assert group.observed == pytest.approx(float(fitter.predict(DAY)))
        band = fitter.confidence_interval_.loc[:DAY].iloc[-1]
        assert group.ci95 == pytest.approx(tuple(band), abs=1e-6)


def test_observed_over_expected_is_the_share_of_events_where_nobody_is_censored():
    time = np.array([100.0, 200.0, 900.0, 1000.0] * 10)
    survival = Survival(time, np.ones(40, dtype=bool))
    found = calibration(survival, np.full(40, 0.75), DAY)
    assert found.observed_over_expected == pytest.approx(0.5 / 0.25)
    low, high = found.observed_over_expected_ci95
    assert low < 2.0 < high


def test_what_is_undefined_is_none():
    survival, alive = cohort(100, 6)
    same = calibration(survival, np.full(100, 0.6), DAY)
    assert (same.slope, same.slope_ci95) == (None, None)
    assert [g.n for g in same.groups] == [100]
    assert same.observed_over_expected is not None
    quiet = calibration(Survival(survival.time_days, np.zeros(100, dtype=bool)), alive, 100)
    assert quiet.slope is None
    assert (quiet.observed_over_expected, quiet.observed_over_expected_ci95) == (0.0, None)
    assert {g.ci95 for g in quiet.groups} == {None}
    short = Survival(np.minimum(survival.time_days, 500.0), survival.event & (
        survival.time_days <= 500.0))  # fmt: skip
    late = calibration(short, alive, DAY)
    assert late.observed_over_expected is None
    assert {g.observed for g in late.groups} == {None}
    assert late.slope is not None  # order needs no day
    sure = calibration(survival, np.ones(100), DAY)
    assert (sure.observed_over_expected, sure.slope) == (None, None)


@pytest.mark.parametrize("order", [1, -1])
def test_predictions_that_order_every_event_have_no_slope(order):
    """The slope was 11.2 (5.0 to 17.4), where it ended; two values gave 9.8 (-2,911 to 2,930)."""
    days = np.arange(1.0, 21.0)
    survival = Survival(days, np.ones(20, dtype=bool))
    for alive in (np.linspace(0.05, 0.95, 20), np.repeat([0.2, 0.8], 10)):
        found = calibration(survival, alive[::order], 10)
        assert (found.slope, found.slope_ci95) == (None, None)
        assert found.observed_over_expected is not None
        alive[[9, 10]] = alive[[10, 9]]  # one pair the other way round makes it finite
        assert calibration(survival, alive[::order], 10).slope is not None


def test_predictions_of_zero_and_one_are_taken():
    survival, alive = cohort(200, 7)
    edges = np.where(alive > np.quantile(alive, 0.95), 1.0, alive)
    edges[alive < np.quantile(alive, 0.05)] = 0.0
    found = calibration(survival, edges, DAY)
    assert np.isfinite([found.slope, found.observed_over_expected]).all()


@pytest.mark.parametrize(
    ("n", "groups"),
    [(LEAST_IN_GROUP - 1, 1), (2 * LEAST_IN_GROUP, 2), (30 * LEAST_IN_GROUP, MOST_GROUPS)],
)
def test_small_cohorts_have_fewer_groups(n, groups):
    assert len(calibration(*cohort(n, 8), DAY).groups) == groups


@given(st.integers(0, 10_000))
@settings(max_examples=5)
def test_nothing_hangs_on_the_order_of_the_units(seed):
    survival, alive = cohort(60, seed)
    order = rng_for("order", seed).permutation(60)
    one, other = (
        calibration(survival.take(rows), alive[rows], DAY) for rows in (np.arange(60), order)
    )
    assert one.slope == pytest.approx(other.slope, abs=1e-6)
    assert one.observed_over_expected == pytest.approx(other.observed_over_expected)
    for mine, its in zip(one.groups, other.groups, strict=True):
        assert (mine.n, mine.events) == (its.n, its.events)


def test_a_shuffled_risk_has_a_hazard_ratio_about_one():
    covered = []
    for seed in range(12):
        survival, alive = cohort(200, seed)
        risk = rng_for("shuffled", seed).permutation(-alive)
        covered.append(inside(risk_groups(survival, risk > np.median(risk)).hazard_ratio_ci95, 1.0))
    assert sum(covered) >= 10
    survival, alive = cohort(400, 0)
    assert risk_groups(survival, alive < np.median(alive)).hazard_ratio_ci95[0] > 1.0


def test_a_monotone_transform_of_the_risk_leaves_the_groups():
    survival, alive = cohort(101, 1)
    groups = [
        risk_groups(survival, risk > np.median(risk))
        for risk in (-alive, -np.log(alive), 1 / alive)
    ]
    assert groups[0] == groups[1] == groups[2]


@pytest.mark.parametrize("alive", [np.full(40, 1.2), np.full(40, np.nan)])
def test_what_is_no_prediction_is_refused(alive):
    survival, _ = cohort(40)
    with pytest.raises(ValueError, match="predict"):
        calibration(survival, alive, DAY)


def test_calibration_of_a_real_fit_is_that_of_lifelines_own_predictions():
    """A Cox model judged on the units it was fitted on has slope 1 exactly."""
    from lifelines import CoxPHFitter

    survival, alive = cohort(300, 9)
    table = pd.DataFrame({"x": np.log(-np.log(alive)), "t": survival.time_days,
                          "e": survival.event.astype(int)})  # fmt: skip
    own = CoxPHFitter().fit(table, "t", "e").predict_survival_function(table, times=[DAY])
    found = calibration(survival, own.to_numpy()[0], DAY)
    assert found.slope == pytest.approx(1.0, abs=1e-4)
    assert found.observed_over_expected == pytest.approx(1.0, abs=0.02)

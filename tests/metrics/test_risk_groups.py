"""Kaplan-Meier curves and the hazard ratio of risk groups, against lifelines and by hand."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter

from madeleine_bench.metrics.calibration import risk_groups
from madeleine_bench.metrics.survival import logrank_p
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Survival


def cohort(n=80, seed=0, effect=1.0):
    rng = rng_for("risk groups", seed)
    high = np.arange(n) % 2 == 1
    time = rng.exponential(1000 * np.exp(-effect * high))
    return Survival(np.ceil(time), rng.random(n) < 0.7), high


def test_curves_are_those_of_lifelines():
    survival, high = cohort()
    found = risk_groups(survival, high)
    for curve, rows in ((found.low, ~high), (found.high, high)):
        fitter = KaplanMeierFitter().fit(survival.time_days[rows], survival.event[rows])
        expected = fitter.predict(list(curve.time_days)).to_numpy()
        assert curve.alive == pytest.approx(expected, abs=1e-12)
        band = fitter.confidence_interval_
        for day, low, up in zip(curve.time_days, curve.lower, curve.upper, strict=True):
            row = band.loc[:day].iloc[-1]
            if np.isfinite(row).all() and 0 < fitter.predict(day) < 1:
                assert (low, up) == pytest.approx(tuple(row), abs=1e-6)
        assert (curve.time_days[0], curve.alive[0]) == (0.0, 1.0)
        assert curve.n == rows.sum()
        assert curve.events == survival.event[rows].sum()


def test_high_risk_that_fares_worse_has_a_ratio_above_one():
    survival, high = cohort(400, 1, effect=1.0)
    found = risk_groups(survival, high)
    low, up = found.hazard_ratio_ci95
    assert low < found.hazard_ratio < up
    assert low < np.e < up
    turned = risk_groups(survival, ~high)
    assert turned.hazard_ratio == pytest.approx(1 / found.hazard_ratio, rel=1e-4)
    assert found.logrank_p == logrank_p(survival, high) < 0.05


def test_what_is_undefined_is_none_and_never_nan():
    survival, high = cohort(20, 2)
    one_sided = risk_groups(survival, np.ones(20, dtype=bool))
    assert one_sided.low is None
    assert one_sided.hazard_ratio is None
    quiet = risk_groups(Survival(survival.time_days, np.zeros(20, dtype=bool)), high)
    assert quiet.high.alive == (1.0, 1.0)
    assert (quiet.logrank_p, quiet.hazard_ratio) == (None, None)
    assert np.isfinite([*quiet.high.lower, *quiet.high.upper]).all()
    apart = Survival(np.arange(1.0, 21.0), np.arange(20) < 10)
    assert risk_groups(apart, np.arange(20) < 10).hazard_ratio is None


@pytest.mark.parametrize("early", [True, False])
def test_groups_whose_events_do_not_overlap_have_no_hazard_ratio(early):
    """Both have events, but the ratio that fits best is infinite, or 0."""
    days = np.arange(1.0, 21.0)
    survival = Survival(days, np.ones(20, dtype=bool))
    high = (days <= 10) == early
    found = risk_groups(survival, high)
    assert (found.hazard_ratio, found.hazard_ratio_ci95) == (None, None)
    assert found.logrank_p < 1e-4
    high[9:11] = high[[10, 9]]  # one pair the other way round makes it finite
    overlap = risk_groups(survival, high)
    assert np.isfinite([overlap.hazard_ratio, *overlap.hazard_ratio_ci95]).all()

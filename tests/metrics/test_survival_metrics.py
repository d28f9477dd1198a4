"""Survival metrics against scikit-survival's and lifelines' own data, loops and closed forms."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from madeleine_bench.metrics.survival import (
    harrell_c,
    integrated_brier,
    kaplan_meier_at,
    logrank_p,
    time_dependent_auc,
    uno_c,
)
from madeleine_bench.types import Survival


def sample(seed: int, n_units: int = 60, censored_days: float = 900.0) -> tuple[Survival, ...]:
    """Return a cohort whose risk is known, and its risk as a Survival-shaped pair."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n_units)
    death = rng.exponential(400 * np.exp(-risk))
    leave = rng.uniform(0, censored_days, n_units)
    time = np.ceil(np.minimum(death, leave) / 10) * 10  # tens of days, so that times tie
    return Survival(time, death < leave), risk  # type: ignore[return-value]


def slow_c(survival: Survival, risk: NDArray[np.float64]) -> float | None:
    top, pairs = 0.0, 0
    for i in range(len(survival)):
        for j in range(len(survival)):
            ti, tj = survival.time_days[i], survival.time_days[j]
            if survival.event[i] and (ti < tj or (ti == tj and not survival.event[j])):
                pairs += 1
                top += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return top / pairs if pairs else None


def sksurv_cohorts() -> list[tuple[str, Callable[[], tuple[object, object]]]]:
    from sksurv import datasets

    return [
        ("gbsg2", datasets.load_gbsg2),
        ("whas500", datasets.load_whas500),
        ("veterans", datasets.load_veterans_lung_cancer),
    ]


@pytest.mark.parametrize(("name", "load"), sksurv_cohorts())
def test_c_equals_scikit_survival_and_lifelines_on_bundled_cohorts(
    name: str, load: Callable[[], tuple[object, object]]
) -> None:
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    frame, outcome = load()
    event_name, time_name = outcome.dtype.names  # type: ignore[attr-defined]
    event = outcome[event_name].astype(bool)  # type: ignore[index]
    time = outcome[time_name].astype(float)  # type: ignore[index]
    column = next(c for c in frame.columns if frame[c].dtype.kind in "fi")  # type: ignore[attr-defined]
    for risk in (
        frame[column].to_numpy(float),
        np.round(np.log1p(time) + np.arange(len(time)) % 7),
    ):  # type: ignore[index]
        ours = harrell_c(Survival(time, event), risk)
        assert ours == pytest.approx(concordance_index_censored(event, time, risk)[0], abs=1e-12)
        # lifelines scores predicted survival times, so its sign is the opposite of a risk's.
        assert ours == pytest.approx(concordance_index(time, -risk, event), abs=1e-12)


@pytest.mark.parametrize("name", ["rossi", "waltons", "lung"])
def test_c_equals_lifelines_on_its_cohorts(name: str) -> None:
    from lifelines import datasets
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    time_name, event_name, risk_name = {
        "rossi": ("week", "arrest", "prio"),
        "waltons": ("T", "E", "group"),
        "lung": ("time", "status", "age"),
    }[name]
    frame = getattr(datasets, f"load_{name}")()
    time = frame[time_name].to_numpy(float)
    event = frame[event_name].to_numpy() == frame[event_name].max()
    column = frame[risk_name]
    risk = column.to_numpy(float) if column.dtype.kind in "fi" else (column == column[0]) * 1.0
    risk = np.asarray(risk, dtype=float)
    ours = harrell_c(Survival(time, event), risk)
    assert ours == pytest.approx(concordance_index(time, -risk, event), abs=1e-12)
    assert ours == pytest.approx(concordance_index_censored(event, time, risk)[0], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.integers(-2, 2)), min_size=1, max_size=12
    )
)
def test_c_equals_a_loop_over_pairs(rows: list[tuple[int, bool, int]]) -> None:
    time, event, risk = (np.array(column) for column in zip(*rows, strict=True))
    survival = Survival(time.astype(float), event.astype(bool))
    slow = slow_c(survival, risk.astype(float))
    ours = harrell_c(survival, risk.astype(float))
    assert (ours is None) == (slow is None)
    if slow is not None:
        assert ours == pytest.approx(slow, abs=1e-12)
        assert harrell_c(survival, -risk.astype(float)) == pytest.approx(1 - slow, abs=1e-12)
        bent = np.exp(risk / 1e6)  # monotone, differences far below any tolerance for ties
        assert harrell_c(survival, bent) == pytest.approx(slow, abs=1e-12)


def test_c_of_perfect_and_constant_risk() -> None:
    survival, _ = sample(0)
    alone = Survival(np.arange(1.0, 20.0), np.ones(19, dtype=bool))
    assert harrell_c(alone, -alone.time_days) == 1.0
    assert harrell_c(survival, np.zeros(len(survival))) == 0.5


def test_without_censoring_uno_equals_harrell() -> None:
    rng = np.random.default_rng(2)
    everyone = Survival(rng.permutation(np.arange(1.0, 61.0)), np.ones(60, dtype=bool))
    risk = rng.normal(size=60)
    train, test = everyone.take(np.arange(30)), everyone.take(np.arange(30, 60))
    horizon = 1.0 + min(train.time_days.max(), test.time_days.max())
    kept = test.take(test.time_days < train.time_days.max())
    ours = uno_c(train, kept, risk[30:][test.time_days < train.time_days.max()], horizon)
    assert ours == pytest.approx(
        harrell_c(kept, risk[30:][test.time_days < train.time_days.max()]), abs=1e-12
    )


def test_uno_equals_a_weighted_loop() -> None:
    survival, risk = sample(4, 120)
    train, test, r = survival.take(np.arange(80)), survival.take(np.arange(80, 120)), risk[80:]
    weight = np.ones(len(test))  # 1 / probability to be uncensored; events leave before censoring
    for day in np.unique(train.time_days[~train.event]):
        at_day = train.time_days == day
        at_risk = (train.time_days >= day).sum() - (at_day & train.event).sum()
        left = (at_day & ~train.event).sum()
        if left < at_risk:
            weight[test.time_days >= day] /= 1 - left / at_risk
    top = bottom = 0.0
    for i in range(len(test)):
        for j in range(len(test)):
            ti, tj = test.time_days[i], test.time_days[j]
            outlives = ti < tj or (ti == tj and not test.event[j])
            if test.event[i] and ti < 400.0 and outlives:
                bottom += weight[i] ** 2
                top += weight[i] ** 2 * (1.0 if r[i] > r[j] else 0.5 if r[i] == r[j] else 0.0)
    assert uno_c(train, test, r, 400.0) == pytest.approx(top / bottom, abs=1e-9)


def test_without_censoring_td_auc_at_one_day_is_the_auc_and_brier_is_the_plain_one() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    time = rng.permutation(np.arange(1.0, 101.0))
    everyone = Survival(time, np.ones(100, dtype=bool))
    train, test, risk = everyone.take(time % 2 == 0), everyone.take(time % 2 == 1), time % 7
    risk = risk[time % 2 == 1]
    dead = test.time_days <= 40
    assert time_dependent_auc(train, test, risk, [40]) == pytest.approx(roc_auc_score(dead, risk))
    alive = rng.uniform(size=(len(test), 2))
    errors = [
        np.mean((alive[:, i] - (test.time_days > day)) ** 2) for i, day in enumerate((20, 60))
    ]
    assert integrated_brier(train, test, alive, [20, 60]) == pytest.approx(np.mean(errors))


def test_brier_of_a_coin_is_a_quarter_and_of_the_truth_is_zero() -> None:
    time = np.arange(1.0, 101.0)
    everyone = Survival(time, np.ones(100, dtype=bool))
    days = [10.0, 30.0, 50.0]
    coin, truth = np.full((100, 3), 0.5), (time[:, None] > np.array(days)).astype(float)
    assert integrated_brier(everyone, everyone, coin, days) == pytest.approx(0.25)
    assert integrated_brier(everyone, everyone, truth, days) == pytest.approx(0.0)


def test_follow_up_beyond_the_training_units_does_not_raise_or_count() -> None:
    survival, risk = sample(5, 150)
    train, test = survival.take(np.arange(100)), survival.take(np.arange(100, 150))
    longer = Survival(
        np.where(test.time_days > 500, test.time_days + 5000.0, test.time_days), test.event
    )
    days, alive = [100.0, 300.0], np.random.default_rng(0).uniform(size=(50, 2))
    for metric in (
        lambda s: time_dependent_auc(train, s, risk[100:], days),
        lambda s: integrated_brier(train, s, alive, days),
        lambda s: uno_c(train, s, risk[100:], 400.0),
    ):
        assert metric(longer) == pytest.approx(metric(test), abs=0.02)
        assert metric(longer) is not None


def test_days_that_few_training_units_reach_uncensored_are_left_out() -> None:
    time = np.arange(1.0, 101.0)
    train = Survival(time, time >= 99)  # at day 97 a share of 0.03 is uncensored
    test = Survival(time, np.ones(100, dtype=bool))
    risk = np.sin(time)
    assert time_dependent_auc(train, test, risk, [50]) is not None
    assert time_dependent_auc(train, test, risk, [97]) is None
    assert time_dependent_auc(train, test, risk, [50, 97]) == time_dependent_auc(
        train, test, risk, [50]
    )


def test_logrank_equals_lifelines() -> None:
    from lifelines.statistics import logrank_test

    survival, risk = sample(6, 80)
    high = risk > 0.8
    theirs = logrank_test(
        survival.time_days[high],
        survival.time_days[~high],
        survival.event[high],
        survival.event[~high],
    ).p_value
    assert logrank_p(survival, high) == pytest.approx(theirs, rel=1e-9)
    assert logrank_p(survival, ~high) == pytest.approx(theirs, rel=1e-9)


def test_what_is_undefined_is_none() -> None:
    survival, risk = sample(8)
    censored = Survival(survival.time_days, np.zeros(len(survival), dtype=bool))
    late = Survival(np.array([5.0, 9.0]), np.array([False, True]))
    tied = Survival(np.array([5.0, 5.0]), np.array([True, True]))
    assert harrell_c(censored, risk) is None
    assert harrell_c(late, np.array([0.0, 1.0])) is None
    assert harrell_c(tied, np.array([0.0, 1.0])) is None
    assert uno_c(survival, censored, risk, 300.0) is None
    assert uno_c(survival, tied, np.array([0.0, 1.0]), 300.0) is None
    assert time_dependent_auc(survival, censored, risk, [100.0]) is None
    assert time_dependent_auc(survival, survival, risk, [1e6]) is None
    assert integrated_brier(survival, survival, np.ones((60, 1)), [100.0]) is None
    assert logrank_p(censored, risk > 0) is None
    assert logrank_p(survival, np.ones(len(survival), dtype=bool)) is None


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    events=st.tuples(*[st.sampled_from([0.0, 0.05, 0.5, 1.0])] * 2),
    longest=st.sampled_from([3, 10, 1000]),
)
def test_any_training_and_test_units_give_a_number_or_none(
    seed: int, events: tuple[float, float], longest: int
) -> None:
    """Training units without an event raised a ValueError: all samples are censored."""
    rng = np.random.default_rng(seed)
    train, test = (
        Survival(rng.integers(0, longest, n).astype(float), rng.random(n) < share)
        for n, share in zip(rng.integers(1, 30, 2), events, strict=True)
    )
    days = sorted(set(rng.integers(1, 20, 4).tolist()))
    risk = rng.integers(0, 4, len(test)).astype(float)
    found = [
        uno_c(train, test, risk, float(days[-1])),
        time_dependent_auc(train, test, risk, days),
        integrated_brier(train, test, rng.random((len(test), len(days))), days),
    ]
    assert all(value is None or np.isfinite(value) for value in found)
    if not train.event.any():
        assert found == [None, None, None]


def test_kaplan_meier_of_uncensored_units_is_the_share_alive() -> None:
    survival = Survival(np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, dtype=bool))
    assert kaplan_meier_at(survival, [0.5, 1.0, 2.5, 9.0]).tolist() == [1.0, 0.75, 0.5, 0.0]


def test_no_metric_holds_a_matrix_of_all_pairs() -> None:
    survival, risk = sample(9, 2000)
    days = [50.0, 200.0, 400.0]
    alive = np.exp(-np.outer(np.exp(risk), np.array(days) / 400))
    for metric in (
        lambda: harrell_c(survival, risk),
        lambda: uno_c(survival, survival, risk, 400.0),
        lambda: time_dependent_auc(survival, survival, risk, days),
        lambda: integrated_brier(survival, survival, alive, days),
        lambda: logrank_p(survival, risk > 0),
    ):
        metric()  # what is imported on the way does not count
        tracemalloc.start()
        assert metric() is not None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2000**2  # bytes: a matrix of booleans

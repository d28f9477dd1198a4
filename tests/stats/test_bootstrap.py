"""Weighted metrics against repetition, and what the case bootstrap keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sksurv.metrics import concordance_index_censored

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.bootstrap import (
    bayesian_case_weights,
    case_weights,
    percentile_interval,
    weighted_auroc,
    weighted_harrell_c,
    weighted_quadratic_kappa,
)
from madeleine_bench.types import Survival


def random_weights(seed: int, n_units: int, n_resamples: int = 12) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 4, (n_units, n_resamples)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.2, 0.5, 0.8]))
def test_weighted_auroc_is_scikit_learns_on_repeated_units(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    positive, score = rng.uniform(size=25) < share, np.round(rng.normal(size=25), 1)
    weights = random_weights(seed, 25)
    found = weighted_auroc(positive, score, weights)
    for value, weight in zip(found, weights.T.astype(int), strict=True):
        again = np.repeat(np.arange(25), weight)
        if len(np.unique(positive[again])) < 2:
            assert np.isnan(value)
        else:
            expected = roc_auc_score(positive[again], score[again])
            assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 6))
def test_weighted_kappa_is_scikit_learns_on_repeated_units(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    label, predicted = rng.integers(n_classes, size=(2, 21)).astype(np.intp)
    weights = random_weights(seed, 21)
    found = weighted_quadratic_kappa(label, predicted, n_classes, weights)
    for value, weight in zip(found, weights.T.astype(int), strict=True):
        again = np.repeat(np.arange(21), weight)
        if len(np.unique(label[again])) < 2:
            assert np.isnan(value)
        else:
            expected = cohen_kappa_score(
                label[again], predicted[again], labels=np.arange(n_classes), weights="quadratic"
            )
            assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weighted_c_is_scikit_survivals_on_repeated_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    survival = Survival(rng.integers(1, 12, 23).astype(float), rng.uniform(size=23) < 0.5)
    risk, weights = np.round(rng.normal(size=23), 1), random_weights(seed, 23)
    found = weighted_harrell_c(survival, risk, weights)
    for value, weight in zip(found, weights.T.astype(int), strict=True):
        again = np.repeat(np.arange(23), weight)
        repeated = survival.take(again)
        later = repeated.time_days[:, None] < repeated.time_days[None, :]
        tied = repeated.time_days[:, None] == repeated.time_days[None, :]
        pairs = repeated.event[:, None] & (later | (tied & ~repeated.event[None, :]))
        if not pairs.any():
            assert np.isnan(value)
        else:
            expected = concordance_index_censored(
                repeated.event, repeated.time_days, risk[again], tied_tol=0.0
            )[0]
            assert value == pytest.approx(expected, abs=1e-12)


def test_large_weights_stay_exact() -> None:
    rng = np.random.default_rng(0)
    positive, score = rng.uniform(size=40) < 0.4, rng.normal(size=40)
    weights = rng.integers(0, 4, (40, 5)).astype(np.float32)
    survival = Survival(rng.permutation(np.arange(1.0, 41.0)), positive)
    # Multiplying all weights changes no ratio; at 4001 float32 sums of pairs would round.
    assert (weighted_auroc(positive, score, weights * 4001) == weighted_auroc(
        positive, score, weights
    )).all()  # fmt: skip
    assert (
        weighted_harrell_c(survival, score, weights * 4001)
        == weighted_harrell_c(survival, score, weights)
    ).all()


def test_cases_move_together_and_strata_keep_their_size() -> None:
    case = [f"c{i // 3}" for i in range(60)]
    stratum = ["positive" if i // 3 % 4 == 0 else "negative" for i in range(60)]
    weights = case_weights(case, stratum, 200, rng_for("test"))
    assert weights.shape == (60, 200)
    by_case = weights.reshape(20, 3, 200)
    assert (by_case == by_case[:, :1]).all()
    is_positive = np.array(stratum) == "positive"
    assert (weights[is_positive].sum(axis=0) == 15).all()
    assert (weights[~is_positive].sum(axis=0) == 45).all()
    # Each case is drawn once on average, with the variance 1 - 1/m of a multinomial.
    assert weights.mean(axis=1) == pytest.approx(1.0, abs=0.35)
    assert by_case[is_positive.reshape(20, 3)[:, 0], 0].var() == pytest.approx(0.8, abs=0.1)


def test_no_resample_lacks_a_class_even_where_cases_hold_several() -> None:
    case = ["a", "a", "b", "c", "d", "e"]
    stratum = ["x", "y", "x", "x", "x", "z"]
    weights = case_weights(case, stratum, 300, rng_for("test"))
    for kind in "xyz":
        rows = np.array(stratum) == kind
        assert (weights[rows].sum(axis=0) > 0).all()


def test_weights_are_seeded_and_do_not_depend_on_the_order_of_units() -> None:
    case, stratum = [f"c{i % 7}" for i in range(20)], ["x"] * 20
    first = case_weights(case, stratum, 50, rng_for("t", 1))
    order = np.random.default_rng(0).permutation(20)
    again = case_weights([case[i] for i in order], stratum, 50, rng_for("t", 1))
    assert (first[order] == again).all()
    assert (first != case_weights(case, stratum, 50, rng_for("t", 2))).any()


def auc_interval(n_units: int, seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    positive = np.arange(n_units) % 3 == 0
    score = rng.normal(size=n_units) + positive
    stratum = np.where(positive, "p", "n").tolist()
    weights = case_weights([str(i) for i in range(n_units)], stratum, 1000, rng_for(seed))
    value = roc_auc_score(positive, score)
    return value, *percentile_interval(weighted_auroc(positive, score, weights))


def test_the_interval_holds_the_estimate_and_shrinks_with_the_root_of_n() -> None:
    widths = {}
    for n_units in (100, 1600):
        for seed in range(3):
            value, low, high = auc_interval(n_units, seed)
            assert low < value < high
            widths.setdefault(n_units, []).append(high - low)
    assert np.mean(widths[100]) / np.mean(widths[1600]) == pytest.approx(4.0, abs=1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    from scipy.stats import norm

    truth = float(norm.cdf(1 / np.sqrt(2)))
    hits = sum(low <= truth <= high for _, low, high in (auc_interval(150, s) for s in range(80)))
    assert hits >= 69  # 76 expected of 80; below 69 has probability under 0.002


def test_percentile_interval_of_known_values() -> None:
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert percentile_interval(np.full(10, 0.5)) == (0.5, 0.5)


def test_bayesian_weights_hang_on_cohort_and_case_alone():
    plain = bayesian_case_weights("bcnb", ["c1", "c2", "c2", "c3"], 50)
    fewer = bayesian_case_weights("bcnb", ["c3", "c2"], 50)
    np.testing.assert_array_equal(fewer, plain[[3, 1]])
    np.testing.assert_array_equal(plain[1], plain[2])
    assert not np.array_equal(plain, bayesian_case_weights("aidpath", ["c1", "c2", "c2", "c3"], 50))
    assert (plain > 0).all()
    np.testing.assert_array_equal(plain, np.rint(plain))


def test_bayesian_weights_scatter_a_mean_as_far_as_its_standard_error():
    rng = rng_for("bayesian", 1)
    values = rng.standard_normal(300)
    weights = bayesian_case_weights("any", [str(i) for i in range(300)], 2000)
    means = (weights * values[:, None]).sum(axis=0) / weights.sum(axis=0)
    assert means.std() == pytest.approx(values.std() / np.sqrt(300), rel=0.06)

"""Means over few cohorts: a plain reference, closed forms, draws, and what must not move."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.ranks import cluster_draws, cluster_mean, clusters_of

COHORTS = ["a", "a", "a", "b", "b", "c", "d", "d"]
WEIGHTS = [0.1, 0.05, 0.05, 0.2, 0.1, 0.2, 0.2, 0.1]
SCORES = st.lists(st.floats(-1, 1), min_size=8, max_size=8)


def reference(values, cohorts, weights):
    """The formulae of the module, cohort by cohort."""
    total = sum(weights)
    names = sorted(set(cohorts))
    share = {n: sum(w for w, c in zip(weights, cohorts, strict=True) if c == n) for n in names}
    mean = {
        n: sum(v * w for v, w, c in zip(values, weights, cohorts, strict=True) if c == n) / share[n]
        for n in names
    }
    share = {n: w / total for n, w in share.items()}
    centre = sum(share[n] * mean[n] for n in names)
    squares = sum(w**2 for w in share.values())
    variance = sum(
        share[n] ** 2 * (mean[n] - centre) ** 2 / (1 - 2 * share[n] + squares) for n in names
    )
    return centre, variance


@given(SCORES)
def test_mean_and_variance_are_those_of_the_formula(values):
    clusters = clusters_of(COHORTS, WEIGHTS)
    value, ci95 = cluster_mean(values, clusters)
    centre, variance = reference(values, COHORTS, WEIGHTS)
    assert value == pytest.approx(centre, abs=1e-12)
    half = stats.t.ppf(0.975, clusters.degrees_of_freedom) * math.sqrt(variance)
    assert ci95 == pytest.approx((centre - half, centre + half), abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=8))
def test_equal_clusters_give_the_t_interval_of_a_mean(values):
    clusters = clusters_of([f"c{i}" for i in range(len(values))], [1] * len(values))
    value, ci95 = cluster_mean(values, clusters)
    assert clusters.degrees_of_freedom == pytest.approx(len(values) - 1)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    assert ci95[1] - value == pytest.approx(half, abs=1e-9)


def test_the_variance_is_unbiased_where_cohorts_are_alike():
    clusters = clusters_of(COHORTS, WEIGHTS)
    rng = rng_for("unbiased", 1)
    drawn = rng.standard_normal((4000, 4))[:, [clusters.names.index(c) for c in COHORTS]]
    found = [cluster_mean(row, clusters) for row in drawn]
    quantile = stats.t.ppf(0.975, clusters.degrees_of_freedom)
    variances = [((ci95[1] - value) / quantile) ** 2 for value, ci95 in found]
    true = float(np.square(clusters.weights).sum())
    assert np.mean(variances) == pytest.approx(true, rel=0.05)
    covered = np.mean([ci95[0] <= 0 <= ci95[1] for _, ci95 in found])
    assert 0.93 < covered < 0.975


@given(SCORES, st.permutations(range(8)), st.floats(0.1, 10))
def test_order_and_scale_of_weights_do_not_matter(values, order, scale):
    plain = cluster_mean(values, clusters_of(COHORTS, WEIGHTS))
    moved = cluster_mean(
        [values[i] for i in order],
        clusters_of([COHORTS[i] for i in order], [scale * WEIGHTS[i] for i in order]),
    )
    assert moved[0] == pytest.approx(plain[0], abs=1e-12)
    assert moved[1] == pytest.approx(plain[1], abs=1e-9)


def test_no_difference_at_all_has_no_width_and_one_cohort_knows_nothing():
    nothing = cluster_mean([0.0] * 8, clusters_of(COHORTS, WEIGHTS))
    assert nothing == (0.0, (0.0, 0.0))
    alone = cluster_mean([0.1, 0.3], clusters_of(["a", "a"], [1, 1]))
    assert alone == (pytest.approx(0.2), None)


def test_draws_scatter_as_the_interval_says_and_what_all_share_keeps_their_order():
    clusters = clusters_of(COHORTS, WEIGHTS)
    rng = rng_for("draws", 2)
    one = rng.standard_normal(8)
    shared = np.array([5.0 * clusters.names.index(c) for c in COHORTS])
    draws = cluster_draws(np.stack([one, one + shared, one + shared + 0.1]), clusters, 40_000, rng)
    _, ci95 = cluster_mean(one, clusters)
    assert np.quantile(draws[0], [0.025, 0.975]) == pytest.approx(ci95, abs=0.08)
    assert (draws[2] > draws[1]).all()

"""Kendall's tau: against scipy and a plain loop, and its interval over tasks."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.rank_agreement import (
    LEAST_TASKS,
    kendall_tau,
    mean_over_families,
    rank_agreement,
)

numbers = st.lists(st.integers(0, 6), min_size=4, max_size=4)


def rng():
    return rng_for("tests", "rank agreement")


def scores(encoders=4, tasks=8, seed=0):
    return rng_for("tests", "scores", seed).standard_normal((encoders, tasks))


@given(first=numbers, second=numbers)
def test_tau_is_that_of_scipy_and_of_a_loop_over_pairs(first, second):
    x, y = np.array(first, float), np.array(second, float)
    found = float(kendall_tau(x, y))
    expected = kendalltau(x, y).statistic
    assert found == pytest.approx(expected, nan_ok=True)
    pairs = list(combinations(range(4), 2))
    agree = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs)
    untied = [sum(v[i] != v[j] for i, j in pairs) for v in (x, y)]
    if all(untied):
        assert found == pytest.approx(agree / np.sqrt(untied[0] * untied[1]))


def test_tau_of_many_rows_is_tau_of_each():
    one, other = scores(5, 7, 1), scores(5, 7, 2)
    found = kendall_tau(one, other)
    assert found.shape == (5,)
    for row in range(5):
        assert found[row] == kendall_tau(one[row], other[row])


def test_the_mean_is_over_families_and_a_family_that_a_draw_lacks_does_not_count():
    grid = np.array([[1.0, 3.0, 10.0]])
    counts = np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [2.0, 1.0, 0.0]])
    found = mean_over_families(grid, ["a", "a", "b"], counts)
    np.testing.assert_allclose(found[:, 0], [6.0, 3.0, 5 / 3])


def test_equal_scores_agree_whatever_tasks_are_drawn():
    grid = scores()
    found = rank_agreement(grid, 0.5 * grid, ["a", "b"] * 4, rng())
    assert found == (1.0, (1.0, 1.0))


def test_turned_scores_disagree():
    grid = scores()
    found = rank_agreement(grid, -grid, ["a"] * 8, rng())
    assert found == (-1.0, (-1.0, -1.0))


def test_the_interval_is_the_bootstrap_of_whole_tasks():
    one, other, families = scores(4, 8, 5), scores(4, 8, 6), list("aabbbcca")
    _, ends = rank_agreement(one, other, families, rng())
    draws = rng().multinomial(8, np.full(8, 1 / 8), size=2000)
    taus = []
    for counts in draws:
        tasks = np.repeat(np.arange(8), counts)
        means = []
        for grid in (one, other):
            drawn = sorted({families[t] for t in tasks})
            own = [grid[:, [t for t in tasks if families[t] == f]].mean(axis=1) for f in drawn]
            means.append(np.mean(own, axis=0))
        taus.append(kendalltau(*means).statistic)
    assert ends == pytest.approx(np.quantile(taus, [0.025, 0.975]))
    assert ends[0] < ends[1]


def test_few_tasks_have_no_interval_and_a_tied_side_has_no_tau():
    few = scores(4, LEAST_TASKS - 1)
    found = rank_agreement(few, few, ["a"] * (LEAST_TASKS - 1), rng())
    assert found == (1.0, None)
    tied = rank_agreement(scores(), np.zeros((4, 8)), ["a"] * 8, rng())
    assert tied == (None, None)

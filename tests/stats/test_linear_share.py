"""Left-out errors against a plain loop, closed forms, invariances and edges of the linear share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats import similarity as module
from madeleine_bench.stats.similarity import linear_share


def matrix(rows, width, *seed):
    return rng_for("linear share tests", rows, width, *seed).standard_normal((rows, width))


def turn(width, seed=0):
    return np.linalg.qr(matrix(width, width, seed))[0]


@pytest.mark.parametrize("width", [3, 40])
def test_left_out_errors_equal_a_loop_over_rows(width, monkeypatch):
    """Each row predicted by ridge regression on the centred others' normal equations."""
    monkeypatch.setattr(module, "_PENALTIES", (1e-2,))
    x, y = matrix(25, width), matrix(25, 2, 1) * 0.1
    y = y + x[:, :2] / np.abs(x).max()
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    x0, y0 = x0 / np.abs(x0).max(), y0 / np.abs(y0).max()
    penalty = 1e-2 * np.linalg.eigvalsh(x0.T @ x0).max()
    plain = []
    for row in range(25):
        rest = np.arange(25) != row
        # The intercept is not penalised; the columns stay centred as over all rows.
        design = np.hstack([np.ones((24, 1)), x0[rest]])
        normal = design.T @ design + penalty * np.diag([0.0] + [1.0] * width)
        weights = np.linalg.solve(normal, design.T @ y0[rest])
        plain.append(np.sum((y0[row] - np.r_[1.0, x0[row]] @ weights) ** 2))
    errors, variance = module._left_out_errors(x, y)
    assert np.allclose(errors, plain)
    assert np.allclose(variance, np.sum(y0**2, axis=1))


@given(st.floats(1e-3, 1e3), st.integers(0, 9), st.sampled_from([(80, 5), (30, 40)]))
def test_what_is_turned_shifted_and_scaled_is_all_a_linear_function(scale, seed, shape):
    x = matrix(*shape) * np.geomspace(1, 0.01, shape[1])
    assert linear_share(x, scale * (x @ turn(shape[1], seed)) + 3) == pytest.approx(1.0, abs=1e-6)


def test_noise_leaves_its_share_and_independent_columns_none():
    x = matrix(4000, 6)
    for noise in (0.1, 0.5, 1.0):
        share = linear_share(x, x + noise * matrix(4000, 6, 1))
        # The tenth of the slides with the largest errors is left out, so a little less is left.
        assert 1 / (1 + noise**2) < share < 1 / (1 + 0.6 * noise**2)
    assert linear_share(x, matrix(4000, 6, 2)) < 0.01


def test_the_two_directions_differ_where_one_contains_the_other():
    x, more = matrix(500, 6), matrix(500, 6, 1)
    both = np.hstack([x, more])
    assert linear_share(both, x) == pytest.approx(1.0, abs=1e-6)
    assert linear_share(x, both) < 0.6


def test_too_few_slides_for_so_many_directions_are_not_judged():
    assert linear_share(matrix(40, 900), matrix(40, 900, 1)) is None
    assert linear_share(matrix(40, 900), np.zeros((40, 3))) is None


@pytest.mark.parametrize("source", [np.zeros((40, 3)), np.ones((40, 1))])
def test_a_source_without_structure_explains_nothing(source):
    assert linear_share(source, matrix(40, 3)) == 0.0


def test_numbers_near_the_ends_of_float32_are_compared():
    x = matrix(50, 4)
    for size in (1e-37, 1e37):
        assert linear_share(x * size, x @ turn(4) / size) == pytest.approx(1.0, abs=1e-6)

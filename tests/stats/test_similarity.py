"""Linear CKA: a closed form, a plain reference, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.similarity import chance_cka, linear_cka


def noise(*shape, seed=0):
    return rng_for("similarity", seed, *shape).standard_normal(shape)


def plain(x, y):
    """The definition by the Hilbert-Schmidt criterion, with every centring matrix written out."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, g):
        return np.trace(k @ centre @ g @ centre) / (n - 1) ** 2

    k, g = x @ x.T, y @ y.T
    return hsic(k, g) / np.sqrt(hsic(k, k) * hsic(g, g))


@pytest.mark.parametrize(("n", "d", "e"), [(30, 4, 7), (9, 40, 3), (12, 50, 60), (5, 1, 1)])
def test_it_is_the_plain_definition_both_ways_round(n, d, e):
    x, y = noise(n, d), noise(n, e, seed=1)
    y[:, 0] += 2 * x[:, 0]
    assert linear_cka(x, y) == pytest.approx(plain(x, y), abs=1e-12)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)


def test_one_column_each_is_the_squared_correlation():
    x, y = noise(50, 1), noise(50, 1, seed=2)
    expected = np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)


def test_one_of_two_equally_long_directions_is_worth_the_root_of_a_half():
    """X has variance in two directions, Y in one of them: 1 / sqrt(2)."""
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert linear_cka(x, x[:, :1]) == pytest.approx(1 / np.sqrt(2), abs=1e-12)


@given(
    st.integers(2, 12), st.floats(-1e6, 1e6).filter(lambda v: abs(v) > 1e-6),
    st.floats(-1e3, 1e3), st.integers(0, 5),
)  # fmt: skip
def test_rotation_scale_shift_and_order_do_not_matter(width, scale, shift, seed):
    x, y = noise(20, width, seed=seed), noise(20, 5, seed=seed + 100)
    turn = np.linalg.qr(noise(width, width, seed=seed + 50))[0]
    order = rng_for("order", seed).permutation(20)
    expected = linear_cka(x, y)
    turned = (x @ turn) * scale + shift * min(1.0, abs(scale))
    assert linear_cka(turned, y) == pytest.approx(expected, abs=1e-7)
    assert linear_cka(turned, x) == pytest.approx(1.0, abs=1e-7)
    assert linear_cka(x[order], y[order]) == pytest.approx(expected, abs=1e-9)


def test_shuffled_slides_are_not_the_same():
    x = noise(400, 8)
    assert linear_cka(x, x[rng_for("order").permutation(400)]) < 0.1


def test_extreme_sizes_neither_overflow_nor_vanish():
    x = noise(30, 6)
    assert linear_cka(x * 1e200, x) == pytest.approx(1.0)
    assert linear_cka(x * 1e-200, x) == pytest.approx(1.0)


def test_equal_rows_have_no_structure():
    assert linear_cka(np.full((5, 3), 0.1), noise(5, 3)) == 0.0
    assert linear_cka(np.zeros((5, 3)), np.zeros((5, 3))) == 0.0


@pytest.mark.parametrize(("n", "d", "e"), [(200, 512, 512), (60, 300, 40), (1000, 64, 512)])
def test_white_noise_is_about_as_alike_as_said(n, d, e):
    found = linear_cka(noise(n, d), noise(n, e, seed=1))
    assert found == pytest.approx(chance_cka(n, d, e), abs=0.02)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((3, 2)), np.ones((4, 2))),
        (np.ones(3), np.ones(3)),
        (np.ones((0, 2)), np.ones((0, 2))),
        ([[np.nan], [1.0]], [[1.0], [2.0]]),
    ],
)
def test_what_cannot_be_compared_is_refused(x, y):
    with pytest.raises(ValueError, match=r"rows|matrix"):
        linear_cka(x, y)

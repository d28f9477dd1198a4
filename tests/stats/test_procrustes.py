"""What the best rotation leaves over: against scipy, closed forms, and what it must not see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.procrustes import procrustes_residual


def matrix(rows, width, *seed):
    return rng_for("procrustes", rows, width, *seed).standard_normal((rows, width))


def test_it_is_the_disparity_of_scipy():
    first, second = matrix(40, 7), matrix(40, 7, 1) + matrix(40, 7)
    _, _, disparity = procrustes(first, second)
    assert procrustes_residual(first, second) == pytest.approx(disparity, abs=1e-12)


@pytest.mark.parametrize("widths", [(7, 5), (90, 60), (5, 60)])
def test_the_narrower_one_gets_columns_of_zeros(widths):
    first, second = matrix(40, widths[0]), matrix(40, widths[1], 1)
    wide = [np.hstack([m, np.zeros((40, max(widths) - m.shape[1]))]) for m in (first, second)]
    _, _, disparity = procrustes(*wide)
    assert procrustes_residual(first, second) == pytest.approx(disparity, abs=1e-12)


@given(
    rows=st.integers(5, 30),
    width=st.integers(1, 40),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 99),
)
def test_rotation_shift_and_scale_leave_nothing_and_it_is_the_same_both_ways(
    rows, width, scale, seed
):
    first, second = matrix(rows, width, seed), matrix(rows, 6, seed, 1)
    turn = np.linalg.qr(matrix(width, width, seed, 2))[0]
    assert procrustes_residual(first, scale * (first @ turn) + 3 * scale) < 1e-9
    there, back = procrustes_residual(first, second), procrustes_residual(second, first)
    assert there == pytest.approx(back, abs=1e-9)
    assert 0.0 <= there <= 1.0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
def test_noise_leaves_its_square_at_most(share):
    first = matrix(4000, 6)
    found = procrustes_residual(first, first + share * matrix(4000, 6, 1))
    assert 0.9 * share**2 < found < 1.05 * share**2


def test_a_block_beside_leaves_its_share_of_the_variance():
    first = np.eye(8)[:, :4]
    first = first - first.mean(axis=0)
    beside = np.linalg.qr(np.hstack([np.ones((8, 1)), first, matrix(8, 2)]))[0][:, -2:]
    both = np.hstack([first, 0.3 * beside])
    share = 0.09 * 2 / (np.sum(first**2) + 0.09 * 2)
    assert procrustes_residual(first, both) == pytest.approx(share, abs=1e-12)


def test_equal_rows_explain_nothing_and_other_rows_are_refused():
    assert procrustes_residual(np.full((9, 3), 0.1), matrix(9, 2)) == 1.0
    with pytest.raises(ValueError, match="found 9 and 8"):
        procrustes_residual(matrix(9, 2), matrix(8, 2))

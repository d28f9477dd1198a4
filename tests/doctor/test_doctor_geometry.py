"""Effective rank, cosines and duplicates: closed forms, invariances and edge cases."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.embeddings.cloud import (
    Rows,
    cloud_findings,
    cosines,
    effective_rank,
    equal_rows,
    singular_values,
)
from madeleine_bench.encoders.contract import CHECKS, spread_of


def rows_of(matrix, contents=None):
    contents = contents or [str(n) for n in range(len(matrix))]
    slides = pd.DataFrame(
        {
            "slide_id": [f"s{n}" for n in range(len(matrix))],
            "case_id": [f"c{n}" for n in range(len(matrix))],
            "site": "", "stain": "H&E", "patches": 10, "content": contents,
        }
    )  # fmt: skip
    return Rows(slides, np.asarray(matrix, float), np.asarray(matrix, float))


def verdict(matrix, check, contents=None):
    found = cloud_findings(rows_of(matrix, contents))
    return next(each for each in found if each.check == check)


def test_effective_rank_of_equal_and_of_lone_singular_values():
    assert effective_rank(np.ones(7)) == pytest.approx(7.0)
    assert effective_rank(np.array([5.0, 0.0, 0.0])) == 1.0
    # Two values, shares 3/4 and 1/4: exp of their entropy.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(np.array([3.0, 1.0])) == pytest.approx(expected)


@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_effective_rank_knows_no_shift_scale_or_rotation(seed, scale):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((9, 4)) * np.array([1.0, 2.0, 3.0, 4.0])
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    rank = effective_rank(singular_values(matrix))
    moved = effective_rank(singular_values(scale * matrix @ turn + rng.standard_normal(4)))
    assert moved == pytest.approx(rank)
    assert 1.0 <= rank <= 4.0


def test_equal_rows_have_no_spectrum_even_where_the_mean_is_rounded():
    assert not singular_values(np.full((5, 3), 0.1)).any()
    assert effective_rank(singular_values(np.full((5, 3), 0.1))) == 0.0


def test_cosines_against_a_plain_loop():
    matrix = np.random.default_rng(1).standard_normal((6, 3))
    plain = [
        matrix[i] @ matrix[j] / (np.linalg.norm(matrix[i]) * np.linalg.norm(matrix[j]))
        for i in range(6)
        for j in range(i + 1, 6)
    ]
    np.testing.assert_allclose(cosines(matrix), plain)
    assert cosines(np.array([[0.0, 0.0], [1.0, 0.0]])) == [0.0]


def test_rows_equal_to_rounding_are_equal():
    matrix = np.array([[1.0, 2.0], [1.0, 2.0 + 1e-7], [1.0, 2.0 + 1e-3]])
    assert equal_rows(matrix)[0].tolist() == [True, True, False]


def test_equal_bags_are_the_fault_of_the_data_and_a_warning():
    matrix = np.random.default_rng(2).standard_normal((10, 4))
    matrix[3] = matrix[7]
    assert verdict(matrix, "duplicates").verdict == "fail"
    contents = [str(n) for n in range(10)]
    contents[3] = contents[7]
    found = verdict(matrix, "duplicates", contents)
    assert found.verdict == "warn"
    assert "2 slides have equal bags (s3, s7)" in found.found


@pytest.mark.parametrize(("dead", "expected"), [(0, "pass"), (2, "warn"), (5, "fail")])
def test_constant_dimensions_by_their_share(dead, expected):
    matrix = np.random.default_rng(3).standard_normal((10, 20))
    matrix[:, :dead] = 0.7
    found = verdict(matrix, "constant dimensions")
    assert (found.verdict, found.number) == (expected, dead / 20)


@pytest.mark.parametrize(("offset", "expected"), [(0.0, "pass"), (12.0, "warn"), (100.0, "fail")])
def test_a_common_offset_moves_the_mean_cosine(offset, expected):
    matrix = np.random.default_rng(4).standard_normal((20, 30)) + offset
    assert verdict(matrix, "mean cosine").verdict == expected


def test_few_directions_warn_and_one_fails():
    rng = np.random.default_rng(5)
    few = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 100))
    assert verdict(few, "effective rank").verdict == "warn"
    one = rng.standard_normal((60, 1)) @ rng.standard_normal((1, 100))
    assert verdict(one, "effective rank").verdict == "fail"


def test_all_zero_and_all_equal_embeddings_are_judged_without_a_warning_of_numpy():
    for matrix in (np.zeros((9, 3)), np.ones((9, 3))):
        failed = {f.check for f in cloud_findings(rows_of(matrix)) if f.verdict == "fail"}
        assert {"constant dimensions", "effective rank", "duplicates"} <= failed
    assert verdict(np.zeros((9, 3)), "scale").verdict == "fail"
    assert spread_of(np.zeros((9, 3))) == 1.0
    assert spread_of(np.ones((9, 3))) == pytest.approx(np.sqrt(3.0))


def test_a_single_number_has_no_cosine():
    found = verdict(np.arange(1.0, 10.0)[:, None], "mean cosine")
    assert found == replace(CHECKS["mean cosine"].skipped(found.found))

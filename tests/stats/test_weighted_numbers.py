"""Weighted metrics of numbers and classes: those of scikit-learn and SciPy on repeated units."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from madeleine_bench.metrics import regression
from madeleine_bench.stats.bootstrap import (
    weighted_average_precision,
    weighted_balanced_accuracy,
    weighted_pearson,
    weighted_r2,
    weighted_spearman,
)

N = 23
drawn = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)


def agrees(found: Any, weights: Any, expected: Callable[[Any], float | None]) -> None:
    """Check each resample against a plain function of the rows it repeats; None is NaN."""
    for value, weight in zip(found, weights.T, strict=True):
        right = expected(np.repeat(np.arange(len(weight)), weight))
        if right is None:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(right, abs=1e-9)


def drawn_numbers(seed: int, decimals: int) -> tuple[Any, Any, Any, Any]:
    """Labels and predictions with ties, baselines, and how often each unit is drawn."""
    rng = np.random.default_rng(seed)
    value, other = np.round(rng.normal(size=(2, N)), decimals)
    predicted = np.round(value + 2.0 * other, decimals)
    return value, predicted, rng.normal(size=N), rng.integers(0, 4, (N, 12)).astype(np.uint8)


@drawn
@given(seed=seeds, decimals=st.integers(0, 3))
def test_correlations_are_scipys(seed: int, decimals: int) -> None:
    value, predicted, _, weights = drawn_numbers(seed, decimals)

    def of(function: Any, rows: Any) -> float | None:
        constant = np.ptp(value[rows]) == 0 or np.ptp(predicted[rows]) == 0
        return None if constant else float(function(value[rows], predicted[rows]).statistic)

    pearson = weighted_pearson(value, predicted, weights)
    agrees(pearson, weights, lambda rows: of(stats.pearsonr, rows))
    spearman = weighted_spearman(value, predicted, weights)
    agrees(spearman, weights, lambda rows: of(stats.spearmanr, rows))
    assert regression.pearson(value, predicted) == pytest.approx(
        stats.pearsonr(value, predicted).statistic
    )
    assert regression.spearman(value, predicted) == pytest.approx(
        stats.spearmanr(value, predicted).statistic
    )


@drawn
@given(seed=seeds)
def test_r2_is_one_less_the_ratio_of_squared_errors(seed: int) -> None:
    value, predicted, baseline, weights = drawn_numbers(seed, 3)

    def expected(rows: Any) -> float:
        of = value[rows]
        model, mean = (sklearn.mean_squared_error(of, each[rows]) for each in (predicted, baseline))
        return 1.0 - float(model / mean)

    agrees(weighted_r2(value, predicted, baseline, weights), weights, expected)
    assert regression.r2(value, predicted, baseline) == pytest.approx(expected(np.arange(N)))
    centre = np.full(N, value.mean())
    assert regression.r2(value, predicted, centre) == pytest.approx(
        sklearn.r2_score(value, predicted)
    )


@drawn
@given(seed=seeds, n_classes=st.integers(2, 4))
def test_balanced_accuracy_is_scikit_learns(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    label, predicted = rng.integers(n_classes, size=(2, N)).astype(np.intp)
    weights = rng.integers(0, 4, (N, 12)).astype(np.float32)

    def expected(rows: Any) -> float | None:
        if len(np.unique(label[rows])) < n_classes:
            return None
        return float(sklearn.recall_score(
            label[rows], predicted[rows], labels=np.arange(n_classes), average="macro",
            zero_division=0.0,
        ))  # fmt: skip

    found = weighted_balanced_accuracy(label, predicted, n_classes, weights)
    agrees(found, weights.astype(np.intp), expected)


@drawn
@given(seed=seeds, share=st.sampled_from([0.1, 0.5]))
def test_average_precision_is_scikit_learns(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    positive, score = rng.uniform(size=N) < share, np.round(rng.normal(size=N), 1)
    weights = rng.integers(0, 4, (N, 12)).astype(np.uint8)

    def expected(rows: Any) -> float | None:
        some = positive[rows].any()
        return float(sklearn.average_precision_score(positive[rows], score[rows])) if some else None

    agrees(weighted_average_precision(positive, score, weights), weights, expected)


def test_what_is_constant_has_no_correlation() -> None:
    value, same, weights = np.arange(5.0), np.full(5, 0.1), np.ones((5, 1))
    assert regression.pearson(value, same) is None
    assert regression.spearman(same, value) is None
    assert regression.r2(same, value, same + 1.0) is None
    assert np.isnan(weighted_pearson(value, same, weights)).all()
    assert np.isnan(weighted_spearman(value, same, weights)).all()
    # A resample of one unit alone, thrice, has none either.
    alone = np.array([[3.0], [0], [0], [0], [0]])
    assert np.isnan(weighted_pearson(value / 3.0, value / 7.0, alone)).all()

"""Sums over comparable pairs: against the matrix of all pairs, to the last bit."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from madeleine_bench.stats.bootstrap import concordance_sums, weighted_harrell_c
from madeleine_bench.types import Survival

Floats = NDArray[np.float64]


def by_matrix(survival: Survival, risk: Floats, weights: Floats) -> tuple[Floats, Floats]:
    time, event = survival.time_days, survival.event
    outlived = (time[:, None] == time) & ~event
    pairs = (event[:, None] & ((time[:, None] < time) | outlived)).astype(float)
    twice = pairs * (1 + np.sign(risk[:, None] - risk))
    return tuple(np.einsum("ur,ur->r", weights, m @ weights) for m in (twice, pairs))  # type: ignore[return-value]


def cohort(
    seed: int, n_units: int, days: int, events: float = 0.5
) -> tuple[Survival, Floats, Floats]:
    rng = np.random.default_rng(seed)
    survival = Survival(
        rng.integers(0, days, n_units).astype(float), rng.uniform(size=n_units) < events
    )
    risk = np.round(rng.normal(size=n_units), 1)
    return survival, risk, rng.integers(0, 5, (n_units, 7)).astype(float)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_units=st.integers(1, 60),
    days=st.sampled_from([1, 2, 5, 1000]),
    events=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_every_pair_counts_once(seed: int, n_units: int, days: int, events: float) -> None:
    given = cohort(seed, n_units, days, events)
    for ours, plain in zip(concordance_sums(*given), by_matrix(*given), strict=True):
        assert ours.tolist() == plain.tolist()


@pytest.mark.parametrize("days", [1, 3, 400, 100_000])
def test_larger_cohorts_keep_every_bit(days: int) -> None:
    survival, risk, weights = cohort(1, 900, days)
    twice, pairs = by_matrix(survival, risk, weights)
    expected = np.divide(twice, 2 * pairs, out=np.full(7, np.nan), where=pairs > 0)
    for kind in (np.float64, np.float32, np.uint16):
        found = weighted_harrell_c(survival, risk, weights.astype(kind))
        np.testing.assert_array_equal(found, expected)


def test_nobody_and_one_unit_have_no_pair() -> None:
    for n_units in (0, 1):
        survival, risk, weights = cohort(3, n_units, 5, 1.0)
        assert np.isnan(weighted_harrell_c(survival, risk, weights)).all()


def test_memory_grows_with_the_units_and_not_with_their_pairs() -> None:
    peaks = []
    for n_units in (2_000, 8_000):
        survival, risk, weights = cohort(4, n_units, 10**6)
        tracemalloc.start()
        weighted_harrell_c(survival, risk, weights)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 8 * peaks[0]  # 16 times as many pairs
    assert peaks[1] < 8_000**2 / 4  # bytes: a matrix of booleans would take four times that

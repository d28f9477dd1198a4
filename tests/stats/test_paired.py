"""Paired bootstrap, signed ranks and Holm: slow references, closed forms, invariances."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.bootstrap import Weights, case_weights, weighted_auroc
from madeleine_bench.stats.paired import (
    ScoredUnits,
    across_tasks,
    holm,
    paired_difference,
    two_sided_p,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)
DIFFERENCES = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=6)


def make_scored(positive: NDArray[np.bool_], score: NDArray[np.float64], **more) -> ScoredUnits:
    """Return two units a case, scored by their AUROC."""
    n = len(positive)
    return ScoredUnits(
        unit=tuple(f"u{i}" for i in range(n)),
        case=tuple(f"c{i // 2}" for i in range(n)),
        stratum=tuple(np.where(positive, "positive", "negative").tolist()),
        splits="0123456789abcdef",
        scores=lambda weights: weighted_auroc(positive, score, weights),
        **more,
    )


def make_pair(n: int, seed: int, gain: float = 1.0) -> tuple[ScoredUnits, ScoredUnits]:
    """Return two encoders; the first sees the label better by `gain` standard deviations."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 6 < 2
    shared = rng.normal(size=n)
    return (
        make_scored(positive, shared + rng.normal(size=n) + gain * positive),
        make_scored(positive, shared + rng.normal(size=n)),
    )


def make_means(first: NDArray[np.float64], second: NDArray[np.float64]):
    """Return two encoders whose score is the mean of a number of each unit; a unit is a case."""
    names = tuple(f"c{i}" for i in range(len(first)))

    def make(values: NDArray[np.float64]) -> ScoredUnits:
        def mean(weights: Weights) -> NDArray[np.float64]:
            return (values @ weights) / weights.sum(axis=0)

        return ScoredUnits(names, names, ("all",) * len(first), "splits", mean)

    return make(first), make(second)


# --- the paired bootstrap ---


def test_difference_interval_and_p_are_those_of_a_loop_over_repeated_units() -> None:
    rng = np.random.default_rng(3)
    positive = np.arange(30) % 6 < 2
    scores = [np.round(rng.normal(size=30) + gain * positive, 1) for gain in (1.0, 0.4)]
    first, second = (make_scored(positive, score) for score in scores)
    found = paired_difference(first, second, 79, rng_for("test"))
    weights = case_weights(first.case, first.stratum, 79, rng_for("test"))
    drawn = []
    for weight in weights.T.astype(int):
        again = np.repeat(np.arange(30), weight)
        one, other = (roc_auc_score(positive[again], score[again]) for score in scores)
        drawn.append(one - other)
    expected = roc_auc_score(positive, scores[0]) - roc_auc_score(positive, scores[1])
    assert found.difference == pytest.approx(expected, abs=1e-12)
    ordered = sorted(drawn)
    # Quantiles of 79 ordered values by hand: position .025 * 78 = 1.95, and 78 - 1.95.
    assert found.ci95[0] == pytest.approx(0.05 * ordered[1] + 0.95 * ordered[2], abs=1e-12)
    assert found.ci95[1] == pytest.approx(0.05 * ordered[77] + 0.95 * ordered[76], abs=1e-12)
    at_most = sum(d <= 1e-12 for d in drawn)
    at_least = sum(d >= -1e-12 for d in drawn)
    assert found.p_value == pytest.approx(min(1.0, 2 * (min(at_most, at_least) + 1) / 80))
    assert found.resamples == 79


def test_the_bootstrap_of_a_mean_has_its_known_standard_error() -> None:
    rng = np.random.default_rng(0)
    shared, gain = rng.normal(size=(2, 90)) * [[5.0], [0.3]]
    first, second = make_means(shared + gain, shared)
    found = paired_difference(first, second, 4000, rng_for("test"))
    # What both share cancels: the standard error is that of the mean of the gains alone.
    error = gain.std() / np.sqrt(90)
    assert found.difference == pytest.approx(gain.mean())
    assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * 1.96 * error, rel=0.08)
    expected = 2 * norm.sf(abs(gain.mean()) / error)
    assert found.p_value == pytest.approx(expected, abs=0.03)


def test_equal_predictions_differ_by_nothing() -> None:
    first, _ = make_pair(42, seed=1)
    found = paired_difference(first, replace(first), 99, rng_for("test"))
    assert (found.difference, found.ci95, found.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_swapping_the_encoders_turns_the_sign_and_keeps_p() -> None:
    first, second = make_pair(42, seed=2)
    found = paired_difference(first, second, 99, rng_for("test"))
    turned = paired_difference(second, first, 99, rng_for("test"))
    assert turned.difference == -found.difference
    assert turned.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]), abs=1e-15)
    assert turned.p_value == found.p_value


def test_a_monotone_change_of_the_scores_of_units_changes_nothing() -> None:
    positive = np.arange(24) % 6 < 2
    score = np.random.default_rng(4).normal(size=24)
    _, second = make_pair(24, seed=5)
    plain = paired_difference(make_scored(positive, score), second, 60, rng_for("test"))
    bent = paired_difference(make_scored(positive, np.exp(3 * score)), second, 60, rng_for("test"))
    assert plain == bent


def test_p_and_interval_say_the_same() -> None:
    verdicts = set()
    for seed in range(12):
        found = paired_difference(*make_pair(48, seed, gain=0.7), 999, rng_for(seed))
        clear = not found.ci95[0] <= 0 <= found.ci95[1]
        assert clear == (found.p_value <= 0.05)
        verdicts.add(clear)
    assert verdicts == {True, False}


def test_without_a_difference_one_in_twenty_is_called_one() -> None:
    false_alarms = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = paired_difference(*make_means(*rng.normal(size=(2, 60))), 199, rng_for(seed))
        false_alarms += found.p_value < 0.05
    assert 4 <= false_alarms <= 28  # 15 expected; outside has probability under 0.002


def test_p_counts_zeros_on_both_sides_and_is_never_zero() -> None:
    assert two_sided_p(np.full(999, 0.2)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.array([0.0] * 30 + [0.1] * 69)) == pytest.approx(2 * 31 / 100)
    assert two_sided_p(np.array([0.0] * 60 + [-0.1] * 39)) == 1.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": "another"}, "needs the same splits, found 0123456789ab and another"),
        ({"unit": ("u0", "u2"), "case": ("c", "c"), "stratum": ("a", "a")}, "found 12 and 2;"),
        ({"unit": ("u1", "u0", *(f"u{i}" for i in range(2, 12)))}, r"\('u0', .*\) and \('u1'"),
        ({"case": ("x",) * 12}, r"\('u0', 'c0', 'positive'\) and \('u0', 'x', 'positive'\)"),
        ({"stratum": ("b",) * 12}, r"\('u0', 'c0', 'positive'\) and \('u0', 'c0', 'b'\)"),
    ],
)
def test_other_data_is_refused(change: dict[str, object], said: str) -> None:
    first, second = make_pair(12, seed=0)
    with pytest.raises(InputError, match=said):
        paired_difference(first, replace(second, **change), 10, rng_for("test"))


def test_units_without_their_columns_are_refused() -> None:
    first, _ = make_pair(12, seed=0)
    for change in ({"case": ("c",)}, {"unit": (), "case": (), "stratum": ()}):
        with pytest.raises(ValueError, match="one length and not empty"):
            replace(first, **change)


def test_scores_that_are_no_numbers_are_refused() -> None:
    first, second = make_pair(12, seed=0)
    with pytest.raises(ValueError, match="at least one resample"):
        paired_difference(first, second, 0, rng_for("test"))
    broken = replace(second, scores=lambda weights: np.full(weights.shape[1], np.nan))
    with pytest.raises(ValueError, match="one finite number each"):
        paired_difference(first, broken, 10, rng_for("test"))
    single = replace(first, scores=lambda weights: np.zeros(1))
    with pytest.raises(ValueError, match="one finite number each"):
        paired_difference(single, single, 10, rng_for("test"))


# --- signed ranks over tasks ---


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the share of all sign patterns whose rank sum is as far from its middle."""
    values = np.array(differences)
    ranks = rankdata(np.abs(values))
    middle = ranks.sum() / 2
    seen = abs((np.sign(values) * ranks).sum() / 2)
    far = [
        abs((np.array(signs) * ranks)[: len(values)].sum() - middle) >= seen - 1e-9
        for signs in itertools.product((0, 1), repeat=len(values))
    ]
    return float(np.mean(far))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True), seed=st.integers())
def test_the_test_over_tasks_is_the_count_of_sign_patterns(values: list[int], seed: int) -> None:
    signs = np.random.default_rng(abs(seed)).choice([-1, 1], size=len(values))
    found = across_tasks((signs * values).tolist())
    assert found.p_value == pytest.approx(signed_rank_p(signs * values), abs=1e-12)


@pytest.mark.parametrize("n_tasks", [1, 5, 6, 21])
def test_winning_every_task_has_the_smallest_p(n_tasks: int) -> None:
    found = across_tasks([0.01 * (i + 1) for i in range(n_tasks)])
    assert found.p_value == pytest.approx(min(1.0, 2 / 2**n_tasks), rel=1e-9)
    assert (found.wins, found.ties, found.losses) == (n_tasks, 0, 0)
    assert found.mean == pytest.approx(0.01 * (n_tasks + 1) / 2)


@settings(max_examples=20, deadline=None)
@given(values=DIFFERENCES, seed=st.integers(0, 99))
def test_order_scale_and_sign_of_the_differences(values: list[float], seed: int) -> None:
    found = across_tasks(values)
    shuffled = across_tasks(np.random.default_rng(seed).permutation(values).tolist())
    halved = across_tasks([v / 2 for v in values])
    turned = across_tasks([-v for v in values])
    assert found.p_value == pytest.approx(shuffled.p_value)
    assert found.p_value == pytest.approx(halved.p_value)
    assert found.p_value == pytest.approx(turned.p_value)
    assert (found.wins, found.ties, found.losses) == (turned.losses, turned.ties, turned.wins)
    assert found.wins + found.ties + found.losses == len(values)
    assert 0 < found.p_value <= 1


def test_ties_are_split_between_wins_and_losses() -> None:
    found = across_tasks([0.0, 0.0, 0.3, 0.4, -0.1, 0.5])
    assert (found.wins, found.ties, found.losses) == (3, 2, 1)
    # Ranks 1.5, 1.5, 4, 5, 3, 6: losses hold 3 + half of 3; 4 of the 16 sign patterns of the
    # four others are as far out (sums 0, 3 on either side).
    assert found.p_value == pytest.approx(4 / 16)
    assert across_tasks([0.0, 0.0, 0.0]).p_value == 1.0


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")]])
def test_differences_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite, and at least one"):
        across_tasks(values)


# --- Holm ---


@given(p_values=P_VALUES)
def test_holm_is_the_step_down_done_by_hand(p_values: list[float]) -> None:
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    expected, highest = [0.0] * len(p_values), 0.0
    while left:
        highest = max(highest, min(1.0, len(left) * p_values[left[0]]))
        expected[left.pop(0)] = highest
    assert holm(p_values) == pytest.approx(expected, abs=1e-15)


@given(p_values=P_VALUES)
def test_holm_rejects_what_is_small_among_those_left(p_values: list[float]) -> None:
    """The procedure as Holm states it: reject in order while p_(i) <= alpha / (m - i + 1)."""
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.3):
        rejected = 0
        for p in sorted(p_values):
            if p * (len(p_values) - rejected) > alpha:
                break
            rejected += 1
        assert sum(p <= alpha for p in adjusted) == rejected


def test_holm_of_known_values() -> None:
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)
    assert holm([0.05] * 4) == pytest.approx((0.2,) * 4)
    assert holm([0.03, 0.001, 0.9, 0.02]) == pytest.approx((0.06, 0.004, 0.9, 0.06))


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(seed).uniform(size=7) ** 3
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values.tolist()) == pytest.approx(tuple(expected), abs=1e-15)


@given(p_values=P_VALUES, seed=st.integers(0, 99))
def test_holm_follows_the_order_given(p_values: list[float], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(p_values))
    mixed = holm([p_values[i] for i in order])
    assert mixed == pytest.approx([holm(p_values)[i] for i in order])
    assert all(a >= p for a, p in zip(holm(p_values), p_values, strict=True))


@pytest.mark.parametrize("p_values", [[-0.1], [0.5, 1.1], [float("nan")]])
def test_what_is_no_p_value_is_refused(p_values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        holm(p_values)

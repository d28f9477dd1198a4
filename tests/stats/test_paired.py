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
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.bootstrap import Weights, case_weights, weighted_auroc
from madeleine_bench.stats.intervals import ScoreDesign
from madeleine_bench.stats.paired import (
    ScoredUnits,
    across_tasks,
    holm,
    paired_difference,
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


def test_encoders_that_never_vary_have_no_interval() -> None:
    """The factor made rounding of 0.7, so the interval was 0 to 0 within 1e-17."""
    positive = np.arange(40) % 2 == 0
    same = make_scored(positive, np.zeros(40), design=ScoreDesign(20, 4, 0.7, moving=0.6))
    same = replace(same, scores=lambda weights: np.full(weights.shape[1], 0.7))
    found = paired_difference(same, replace(same, design=ScoreDesign(20, 4, 0.3)), 200, rng_for(1))
    assert (found.difference, found.ci95, found.p_value) == (0.0, None, 1.0)


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
    # Nothing is corrected without a design: the error is the deviation, the quantile normal.
    error = np.std(drawn, ddof=1)
    assert found.ci95 == pytest.approx((expected - 1.959964 * error, expected + 1.959964 * error))
    assert found.p_value == pytest.approx(2 * norm.sf(abs(expected) / error), rel=1e-6)


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
    assert (found.difference, found.ci95, found.p_value) == (0.0, None, 1.0)


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


def test_the_design_widens_and_too_few_cases_have_no_interval() -> None:
    first, second = make_pair(48, seed=3)
    plain = paired_difference(first, second, 99, rng_for("test"))
    design = ScoreDesign(rare_cases=20, rare_per_test=4.0, training_share=1.25)
    wide = paired_difference(
        replace(first, design=design), replace(second, design=design), 99, rng_for("test")
    )
    half = (plain.ci95[1] - plain.ci95[0]) / 2 / 1.959964
    half *= np.sqrt(2.25 * 4 / 3) * student.ppf(0.975, 15)
    assert wide.ci95[1] - wide.difference == pytest.approx(half)
    few = replace(design, rare_cases=7, rare_per_test=1.4)
    found = paired_difference(replace(first, design=few), second, 99, rng_for("test"))
    assert found.ci95 is None
    assert found.p_value > wide.p_value


def test_draws_of_training_cases_add_their_variance() -> None:
    first, second = make_pair(48, seed=3)
    plain = paired_difference(first, second, 99, rng_for("test"))
    drawn = paired_difference(
        replace(first, draw_scores=(0.6, 0.8, 0.7)), replace(second, draw_scores=(0.6, 0.6, 0.6)),
        99, rng_for("test"),
    )  # fmt: skip
    error = [(d.ci95[1] - d.difference) / 1.959964 for d in (plain, drawn)]
    assert error[1] ** 2 - error[0] ** 2 == pytest.approx(0.1**2 / 3, rel=1e-4)


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
    with pytest.raises(ValueError, match="at least two resamples"):
        paired_difference(first, second, 0, rng_for("test"))
    broken = replace(second, scores=lambda weights: np.full(weights.shape[1], np.nan))
    with pytest.raises(ValueError, match="one finite number each"):
        paired_difference(first, broken, 10, rng_for("test"))
    single = replace(first, scores=lambda weights: np.zeros(1))
    with pytest.raises(ValueError, match="one finite number each"):
        paired_difference(single, single, 10, rng_for("test"))


# --- signed ranks over tasks ---


def signed_rank_p(differences: Sequence[float], greater: bool) -> float:
    """Return the share of all sign patterns with as large (or small) a sum over the wins."""
    values = np.array(differences)
    ranks = rankdata(np.abs(values))
    moving = np.flatnonzero(values)
    seen = ranks[values > 0].sum()
    sums = [
        ranks[moving][list(signs)].sum()
        for signs in itertools.product((False, True), repeat=len(moving))
    ]
    return float(np.mean([s >= seen - 1e-9 if greater else s <= seen + 1e-9 for s in sums]))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_the_test_over_tasks_counts_sign_patterns_ties_and_zeros_included(
    values: list[int],
) -> None:
    found = across_tasks([v / 100 for v in values])
    assert found.p_greater == pytest.approx(signed_rank_p(values, True), abs=1e-12)
    assert found.p_less == pytest.approx(signed_rank_p(values, False), abs=1e-12)
    assert found.p_value == min(1.0, 2 * min(found.p_greater, found.p_less))


def test_ties_are_exact_for_any_number_of_tasks() -> None:
    """Before, from 14 tasks with ties on, a normal approximation gave .0125 here."""
    values = [0.01] * 12 + [-0.01] * 2
    ways = 1 + 14 + 91  # two losses or fewer, of 2^14 patterns of equal ranks
    assert across_tasks(values).p_value == pytest.approx(2 * ways / 2**14)


def test_rounding_does_not_break_ties() -> None:
    assert across_tasks([0.1, 0.3 - 0.2, 0.8 - 0.7]).p_value == across_tasks([0.1] * 3).p_value


def test_a_test_for_the_other_side_is_no_evidence() -> None:
    """1 win and 20 losses, the mean above 0 by one leaked task: p was .0022 for its opposite."""
    found = across_tasks([0.9, *(-0.001 * (i + 1) for i in range(20))])
    assert found.mean > 0
    assert found.p_value < 0.01
    assert found.p_in_direction(found.mean) == 1.0
    assert found.p_in_direction(-found.mean) == found.p_value


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

"""Friedman and Nemenyi: against the worked example of Demsar (2006) and against plain counting."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare

from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.ranks import critical_difference, letter_display


def board(rng, encoders=4, tasks=14):
    return {f"e{i}": (rng.random(tasks) + 0.2 * i).tolist() for i in range(encoders)}


def test_the_critical_difference_of_demsars_example():
    # Demsar 2006, section 3.2.4: 4 classifiers, 14 data sets, q = 2.569, CD = 1.25.
    found = critical_difference(board(rng_for("demsar")))
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=5e-4)


@given(st.integers(0, 1000), st.integers(3, 6), st.integers(6, 12))
def test_mean_ranks_are_sorted_and_friedmans_test_is_that_of_scipy(seed, encoders, tasks):
    scores = board(rng_for("ranks", seed), encoders, tasks)
    found = critical_difference(scores)
    assert list(found.mean_ranks.values()) == sorted(found.mean_ranks.values())
    expected = friedmanchisquare(*[scores[n] for n in sorted(scores)]).pvalue
    assert found.friedman_p == pytest.approx(expected)


def test_too_few_have_no_mean_ranks_and_equal_ones_do_not_differ():
    rng = rng_for("few")
    assert critical_difference(board(rng, 2, 20)) is None
    assert critical_difference(board(rng, 5, 5)) is None
    assert critical_difference({}) is None
    same = critical_difference({name: [0.5] * 8 for name in "abc"})
    assert same.friedman_p == 1.0


# --- letters ---


@given(st.integers(1, 9), st.randoms())
def test_a_letter_is_shared_exactly_by_those_that_do_not_differ(n, random):
    names = [f"e{i}" for i in range(n)]
    pairs = list(itertools.combinations(names, 2))
    different = {pair for pair in pairs if random.random() < random.random()}
    letters = letter_display(names, different)
    for first, second in pairs:
        shared = set(letters[first]) & set(letters[second])
        assert bool(shared) == ((first, second) not in different)
    assert all(letters.values())
    # No letter stands for part of another's names.
    groups = [
        frozenset(n for n in names if c in letters[n]) for c in set("".join(letters.values()))
    ]
    assert not any(one < other for one in groups for other in groups)


def test_letters_where_groups_by_leader_were_wrong():
    """Before, the first marked worse than a leader led a group: c shared b's, though marked."""
    letters = letter_display(["a", "b", "c", "d"], [("a", "c"), ("b", "c"), ("a", "d")])
    assert letters == {"a": "a", "b": "ab", "c": "c", "d": "bc"}


def test_very_many_groups_have_no_letters():
    names = [f"e{i}" for i in range(120)]
    apart = {(names[i], names[i + 1]) for i in range(0, 120, 2)}
    assert letter_display(names, apart) == {}
    assert letter_display(names[:4], list(apart)[:0]) == dict.fromkeys(names[:4], "a")

"""Retrieval metrics against plain loops, and chance against every order of a gallery."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.metrics.retrieval import (
    average_precision,
    average_precision_at,
    expected_average_precision,
    expected_hit,
    expected_reciprocal_rank,
    hit_at,
    majority_class,
    ranked_neighbours,
    reciprocal_rank,
    vote_counts,
    vote_hit,
)

ROW = st.lists(st.booleans(), min_size=1, max_size=8)
VOTES = st.lists(st.integers(0, 3), min_size=1, max_size=9)


def slow_average_precision(row: list[bool]) -> float:
    found, total = 0, 0.0
    for rank, relevant in enumerate(row, start=1):
        if relevant:
            found += 1
            total += found / rank
    return total / found if found else 0.0


def slow_precision_at(row: list[bool], k: int) -> float:
    first = row[:k]
    return sum(sum(first[: r + 1]) / (r + 1) for r in range(len(first)) if first[r]) / k


def slow_vote(votes: list[int]) -> int:
    counts = Counter(votes)
    most = max(counts.values())
    return next(vote for vote in votes if counts[vote] == most)


@given(ROW, st.integers(1, 10))
def test_hits_ranks_and_precision_equal_plain_loops(row, k):
    relevant = np.array([row])
    ranks = [rank for rank, found in enumerate(row, start=1) if found]
    assert hit_at(relevant, k).tolist() == [bool(ranks) and ranks[0] <= k]
    assert reciprocal_rank(relevant).tolist() == [1 / ranks[0] if ranks else 0.0]
    assert average_precision(relevant)[0] == pytest.approx(slow_average_precision(row), abs=1e-12)


@given(VOTES)
def test_of_equal_votes_the_class_of_the_most_similar_wins(votes):
    assert majority_class(np.array([votes]), 4).tolist() == [slow_vote(votes)]
    assert vote_counts(np.array([votes]), 4).tolist() == [[votes.count(c) for c in range(4)]]


@given(ROW, st.integers(1, 10))
def test_precision_at_k_is_divided_by_k(row, k):
    """`average_precision` of the first k rows divides by the relevant rows among them."""
    relevant = np.array([row])
    assert average_precision_at(relevant, k)[0] == pytest.approx(slow_precision_at(row, k))
    assert average_precision_at(relevant, 1).tolist() == hit_at(relevant, 1).tolist()


def test_precision_at_k_by_hand():
    relevant = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    assert average_precision_at(relevant, 3) == pytest.approx([(1 + 2 / 3) / 3, 0.5 / 3, 1.0])
    assert average_precision(relevant[:, :3]) == pytest.approx([(1 + 2 / 3) / 2, 0.5, 1.0])
    assert average_precision_at(relevant, 5) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 5, 0.1, 0.8])


@given(VOTES, st.integers(0, 3))
def test_a_tied_vote_is_a_hit(votes, own):
    counts = Counter(votes)
    right = counts[own] == max(counts.values())
    assert vote_hit(np.array([votes]), np.array([own]), 4).tolist() == [right]


def test_votes_by_hand():
    votes = np.array([[2, 1, 1, 2, 0], [0, 1, 2, 1, 2], [1, 0, 0, 0, 1], [2, 1, 0, 0, 0]])
    assert majority_class(votes, 3).tolist() == [2, 1, 0, 0]


def test_several_queries_are_several_single_ones():
    relevant = np.random.default_rng(0).random((20, 13)) < 0.3
    for metric in (average_precision, reciprocal_rank, lambda r: hit_at(r, 3)):
        alone = np.concatenate([metric(relevant[i : i + 1]) for i in range(len(relevant))])
        assert (metric(relevant) == alone).all()


def test_average_precision_by_hand():
    relevant = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    assert average_precision(relevant).tolist() == [(1 + 2 / 3) / 2, 1.0, 0.25, 0.0]


def test_average_precision_agrees_with_scikit_learn():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    relevant = rng.random((15, 40)) < 0.25
    relevant[:, 7] = True
    similarity = np.linspace(1, 0, 40)
    theirs = [average_precision_score(row, similarity) for row in relevant]
    assert average_precision(relevant) == pytest.approx(theirs, abs=1e-12)


def test_ties_are_ranked_in_the_order_of_the_gallery():
    gallery = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]])
    label = np.array([0, 1, 0, 1])
    order = ranked_neighbours(np.array([[1.0, 0.0]]), gallery, 4).indices
    relevant = label[order] == 1
    assert order.tolist() == [[0, 2, 3, 1]]
    assert average_precision(relevant).tolist() == [(1 / 3 + 2 / 4) / 2]


@given(st.integers(1, 6), st.data())
@settings(max_examples=30)
def test_chance_is_the_mean_over_every_order(n_rows, data):
    n_relevant = data.draw(st.integers(0, n_rows))
    k = data.draw(st.integers(1, n_rows + 1))
    row = [True] * n_relevant + [False] * (n_rows - n_relevant)
    orders = np.array(sorted(set(permutations(row))))
    assert expected_hit(n_rows, n_relevant, k) == pytest.approx(hit_at(orders, k).mean())
    assert expected_reciprocal_rank(n_rows, n_relevant) == pytest.approx(
        reciprocal_rank(orders).mean()
    )
    assert expected_average_precision(n_rows, n_relevant) == pytest.approx(
        average_precision(orders).mean()
    )

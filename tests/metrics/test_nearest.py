"""Nearest neighbours: exact, in one order, whatever the blocks."""

from functools import partial
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from madeleine_bench.metrics.retrieval import ranked_neighbours, unit_rows

WHOLE = st.integers(-2, 2)


def table(rows: int, dim: int) -> st.SearchStrategy[NDArray[np.float64]]:
    row = st.lists(WHOLE, min_size=dim, max_size=dim)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda r: np.array(r, np.float64))


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of few whole numbers: ties, repeated rows and zeros are the rule."""
    dim = draw(st.integers(1, 4))
    return draw(table(draw(st.integers(1, 6)), dim)), draw(table(draw(st.integers(1, 9)), dim))


def slow(queries: NDArray[np.float64], gallery: NDArray[np.float64], k: int) -> list[list[int]]:
    """Return the neighbours by plain loops: cosine, then the place in the gallery."""
    found = []
    for query in queries.tolist():
        scored = []
        for place, row in enumerate(gallery.tolist()):
            length = sqrt(sum(a * a for a in query)) * sqrt(sum(b * b for b in row))
            product = sum(a * b for a, b in zip(query, row, strict=True))
            scored.append((-round(product / length if length else 0.0, 9), place))
        found.append([place for _, place in sorted(scored)[:k]])
    return found


@given(problems(), st.integers(1, 10))
@settings(max_examples=150)
def test_it_equals_plain_loops_with_ties_in_the_order_of_the_gallery(problem, k):
    queries, gallery = problem
    found = ranked_neighbours(queries, gallery, k)
    assert found.indices.tolist() == slow(queries, gallery, k)
    cosine = unit_rows(queries) @ unit_rows(gallery).T
    assert found.similarity == pytest.approx(np.take_along_axis(cosine, found.indices, 1))


@given(problems(), st.integers(1, 10))
@settings(max_examples=150)
def test_by_distance_it_equals_plain_loops_too(problem, k):
    queries, gallery = problem
    found = ranked_neighbours(queries, gallery, k, similarity="l2")
    for i, query in enumerate(queries.tolist()):
        apart = [sqrt(sum((a - b) ** 2 for a, b in zip(query, row, strict=True)))
                 for row in gallery.tolist()]  # fmt: skip
        nearest_first = sorted(range(len(apart)), key=lambda place: (round(apart[place], 9), place))
        assert found.indices[i].tolist() == nearest_first[:k]
        share = [-apart[place] / (max(apart) or 1.0) for place in found.indices[i]]
        assert found.similarity[i] == pytest.approx(share)


def test_by_distance_far_from_the_origin_nothing_cancels():
    """Squared lengths less twice the product would lose all digits of these distances."""
    rng = np.random.default_rng(2)
    queries, gallery = rng.integers(0, 99, (5, 8)) + 2.0**45, rng.integers(0, 99, (12, 8)) + 2.0**45
    moved = ranked_neighbours(queries, gallery, 12, similarity="l2")
    usual = ranked_neighbours(queries - 2.0**45, gallery - 2.0**45, 12, similarity="l2")
    assert moved.similarity.tobytes() == usual.similarity.tobytes()


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
@pytest.mark.parametrize("dim", [1, 7, 64, 513])
def test_the_size_of_blocks_moves_no_bit(dim, similarity):
    rng = np.random.default_rng(dim)
    queries, gallery = rng.normal(size=(23, dim)), rng.normal(size=(31, dim))
    gallery[17], queries[5] = gallery[3], gallery[3]
    search = partial(ranked_neighbours, gallery=gallery, k=31, similarity=similarity)
    whole = search(queries)
    for block in (1, 31, 62, 31 * 5, 31 * 22):
        again = search(queries, block_values=block)
        assert again.indices.tobytes() == whole.indices.tobytes()
        assert again.similarity.tobytes() == whole.similarity.tobytes()
    alone = [search(queries[i : i + 1]) for i in range(23)]
    assert np.vstack([a.similarity for a in alone]).tobytes() == whole.similarity.tobytes()


def test_equal_rows_tie_and_the_first_comes_first():
    rng = np.random.default_rng(0)
    row = rng.normal(size=512)
    gallery = np.tile(row, (40, 1)) * rng.uniform(0.1, 10.0, (40, 1))
    found = ranked_neighbours(rng.normal(size=(9, 512)), gallery, 40)
    assert (found.indices == np.arange(40)).all()
    assert (found.similarity == found.similarity[:, :1]).all()


def test_neither_scale_nor_width_of_the_numbers_matters():
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(5, 8)), rng.normal(size=(12, 8))
    usual = ranked_neighbours(queries, gallery, 12)
    near = ranked_neighbours(queries, gallery, 12, similarity="l2")
    for factor in (1e-300, 1e300):
        assert (ranked_neighbours(queries, gallery * factor, 12).indices == usual.indices).all()
        found = ranked_neighbours(queries * factor, gallery * factor, 12, similarity="l2")
        assert (found.indices == near.indices).all()
    single = ranked_neighbours(queries.astype(np.float32), gallery.astype(np.float32), 12)
    assert (single.indices == usual.indices).all()
    assert single.similarity.dtype == np.float64


def test_by_distance_equal_rows_tie():
    rng = np.random.default_rng(3)
    gallery = np.tile(rng.normal(size=513), (40, 1))
    found = ranked_neighbours(rng.normal(size=(9, 513)), gallery, 40, similarity="l2")
    assert (found.indices == np.arange(40)).all()
    assert (found.similarity == -1.0).all()
    found = ranked_neighbours(gallery[:1], gallery, 40, similarity="l2")
    assert (found.similarity == 0.0).all()


def test_a_row_of_zeros_is_unlike_and_like_nothing():
    found = ranked_neighbours(np.zeros((1, 3)), np.eye(3), 3)
    assert (found.indices.tolist(), found.similarity.tolist()) == ([[0, 1, 2]], [[0.0, 0.0, 0.0]])
    found = ranked_neighbours(np.array([[-1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 0.0]]), 2)
    assert found.indices.tolist() == [[1, 0]]

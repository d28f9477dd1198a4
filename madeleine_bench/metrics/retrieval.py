"""How well a ranking finds what is alike: hits, votes, average precision, and what chance gives.

A ranking is `relevant`, query x rank of booleans, most similar first: whether the gallery row at
that rank is what the query asks for. Ties in similarity are settled before, by the declared order
of the gallery, which is the same for every query and so knows nothing of what is relevant to one.

References:
    Manning, Raghavan and Schuetze, Introduction to Information Retrieval (2008), section 8.4.
    Bestgen, Exact expected average precision of the random baseline for system evaluation, The
    Prague Bulletin of Mathematical Linguistics 103 (2015) 131-138.
"""

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Relevant = NDArray[np.bool_]


def hit_at(relevant: Relevant, k: int) -> NDArray[np.bool_]:
    """Return for each query whether one of the first k rows is relevant; all rows if fewer.

    Its mean over queries is the top-k accuracy of the retrieval literature, there also called
    recall@k: 0-1, higher is better.
    """
    hit: NDArray[np.bool_] = np.any(relevant[:, :k], axis=1)
    return hit


def reciprocal_rank(relevant: Relevant) -> NDArray[np.float64]:
    """Return for each query 1 / the rank (from 1) of the first relevant row; 0 without one."""
    first = relevant.argmax(axis=1)
    rank: NDArray[np.float64] = np.where(relevant.any(axis=1), 1.0 / (first + 1.0), 0.0)
    return rank


def average_precision(relevant: Relevant) -> NDArray[np.float64]:
    """Return for each query the mean, over its relevant rows, of the precision at their ranks.

    The ranking is the whole gallery. In [0, 1], higher is better; 1 where all relevant rows come
    first. A query without a relevant row has nothing to find and gets 0.
    """
    ranks = np.arange(1.0, relevant.shape[1] + 1.0)
    precision = np.cumsum(relevant, axis=1) / ranks
    count = relevant.sum(axis=1)
    total = np.where(relevant, precision, 0.0).sum(axis=1)
    mean: NDArray[np.float64] = np.divide(
        total, count, out=np.zeros(len(relevant)), where=count > 0
    )
    return mean


def average_precision_at(relevant: Relevant, k: int) -> NDArray[np.float64]:
    """Return for each query the sum of the precisions at its relevant rows of the first k, by k.

    In [0, 1], higher is better; 1 where all of the first k rows are relevant, so a query with fewer
    than k relevant rows in the gallery cannot reach it. Also of a gallery of fewer than k rows, the
    sum is divided by k. At k = 1 it is `hit_at`.
    """
    first = relevant[:, :k]
    precision = np.cumsum(first, axis=1) / np.arange(1.0, first.shape[1] + 1.0)
    total: NDArray[np.float64] = np.where(first, precision, 0.0).sum(axis=1)
    return total / k


def vote_counts(neighbour_class: NDArray[np.intp], n_classes: int) -> NDArray[np.int64]:
    """Return query x class, how many of a query's neighbours are of each class.

    Args:
        neighbour_class: query x neighbour, class indices.
        n_classes: number of classes.
    """
    each = np.eye(n_classes, dtype=np.int64)[neighbour_class]
    counts: NDArray[np.int64] = each.sum(axis=1)
    return counts


def majority_class(neighbour_class: NDArray[np.intp], n_classes: int) -> NDArray[np.intp]:
    """Return the class most neighbours are of; of equal votes, that of the most similar of them.

    Args:
        neighbour_class: query x neighbour, class indices, most similar first.
        n_classes: number of classes.
    """
    counts = vote_counts(neighbour_class, n_classes)
    tied = counts == counts.max(axis=1, keepdims=True)
    of_tied = np.take_along_axis(tied, neighbour_class, axis=1)
    first = of_tied.argmax(axis=1)
    chosen: NDArray[np.intp] = neighbour_class[np.arange(len(first)), first]
    return chosen


def vote_hit(
    neighbour_class: NDArray[np.intp], query_class: NDArray[np.intp], n_classes: int
) -> NDArray[np.bool_]:
    """Return for each query whether no class has more votes than its own: a tie is a hit.

    Args:
        neighbour_class: query x neighbour, class indices.
        query_class: (query,) class indices.
        n_classes: number of classes.
    """
    counts = vote_counts(neighbour_class, n_classes)
    hit: NDArray[np.bool_] = counts[np.arange(len(counts)), query_class] == counts.max(axis=1)
    return hit


def expected_hit(n_rows: int, n_relevant: int, k: int) -> float:
    """Return the chance that a random order of the gallery has a relevant row among the first k.

        1 - C(n - r, k) / C(n, k)

    Examples:
        >>> expected_hit(10, 1, 5), expected_hit(4, 2, 9)
        (0.5, 1.0)
    """
    drawn = min(k, n_rows)
    return 1.0 - comb(n_rows - n_relevant, drawn) / comb(n_rows, drawn)


def expected_reciprocal_rank(n_rows: int, n_relevant: int) -> float:
    """Return the mean reciprocal rank of the first relevant row over all orders of the gallery.

        sum over ranks i of (1 / i) C(n - i, r - 1) / C(n, r)

    Examples:
        >>> expected_reciprocal_rank(2, 1)
        0.75
    """
    if not n_relevant:
        return 0.0
    total = comb(n_rows, n_relevant)
    firsts = range(1, n_rows - n_relevant + 2)
    return sum(comb(n_rows - i, n_relevant - 1) / total / i for i in firsts)


def expected_average_precision(n_rows: int, n_relevant: int) -> float:
    """Return the mean average precision over all orders of the gallery (Bestgen 2015).

        (1 / n) sum over ranks i of (1 / i) (1 + (i - 1) (r - 1) / (n - 1))

    Examples:
        >>> expected_average_precision(2, 1), expected_average_precision(5, 5)
        (0.75, 1.0)
    """
    if not n_relevant:
        return 0.0
    share = (n_relevant - 1) / (n_rows - 1) if n_rows > 1 else 0.0
    return sum((1.0 + (i - 1) * share) / i for i in range(1, n_rows + 1)) / n_rows


SIMILARITY_DECIMALS = 12
_BLOCK_VALUES = 2**22


@dataclass(frozen=True)
class Neighbours:
    """What a gallery holds for each query, most similar first.

    Attributes:
        indices: query x neighbour, rows of the gallery.
        similarity: query x neighbour, rounded to 1e-12: the cosine, in [-1, 1]; or for l2, in
            [-1, 0], minus the distance as a share of the distance to the query's farthest row.
    """

    indices: NDArray[np.intp]
    similarity: NDArray[np.float64]


def ranked_neighbours(
    queries: NDArray[np.floating],
    gallery: NDArray[np.floating],
    k: int,
    *,
    similarity: Literal["cosine", "l2"] = "cosine",
    block_values: int = _BLOCK_VALUES,
) -> Neighbours:
    """Return the k most similar rows of the gallery for each query; all rows where it has fewer.

    The answer is the same to the last bit whatever `block_values` is. A row of zeros has no
    direction: its cosine with every row is 0.

    Args:
        queries: query x dim, finite.
        gallery: row x dim, finite.
        k: number of neighbours, 1 or more.
        similarity: what the rows are ranked by.
        block_values: similarities held in memory at a time; a block has one query at least.

    Examples:
        >>> found = ranked_neighbours(np.eye(2), np.array([[0.0, 2.0], [1.0, 1.0], [3.0, 0.0]]), 2)
        >>> found.indices.tolist()
        [[2, 1], [0, 1]]
    """
    cosine, kept = similarity == "cosine", min(k, len(gallery))
    asked, rows = (
        unit_rows(m) if cosine else np.asarray(m, np.float64) for m in (queries, gallery)
    )
    nearest = Neighbours(np.empty((len(asked), kept), np.intp), np.empty((len(asked), kept)))
    step = max(1, block_values // len(rows))
    for start in range(0, len(asked), step):
        block = slice(start, start + step)
        likeness = _cosine(asked[block], rows) if cosine else _nearness(asked[block], rows)
        order = np.argsort(-likeness, axis=1, kind="stable")[:, :kept]
        nearest.indices[block] = order
        nearest.similarity[block] = np.take_along_axis(likeness, order, axis=1)
    return nearest


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the rows in float64 at length 1; a row of zeros stays zero.

    The largest component is divided out first, so that no square overflows or vanishes.
    """
    exact = np.asarray(rows, dtype=np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(exact, largest, out=np.zeros_like(exact), where=largest > 0)
    length = np.sqrt(np.einsum("rd,rd->r", scaled, scaled))[:, None]
    unit: NDArray[np.float64] = np.divide(scaled, length, out=scaled, where=length > 0)
    return unit


def _cosine(queries: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return query x row, on the grid.

    A matrix product may round a row by where it stands in it; einsum adds up every pair alike.
    """
    similarity: NDArray[np.float64] = np.round(
        np.einsum("qd,rd->qr", queries, rows), SIMILARITY_DECIMALS
    )
    return similarity + 0.0  # -0.0 becomes 0.0


def _nearness(queries: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return query x row, minus the distance as a share of the query's farthest row, on the grid.

    Distances are of the differences themselves: the short way, by squared lengths and products,
    cancels where rows are near each other. The largest difference is divided out first, so that no
    square overflows or vanishes.
    """
    nearness = np.zeros((len(queries), len(rows)))
    for query, value in zip(queries, nearness, strict=True):
        apart = rows - query
        if largest := float(np.abs(apart).max(initial=0.0)):
            apart /= largest
            distance = np.sqrt(np.einsum("rd,rd->r", apart, apart))
            value[:] = -np.round(distance / distance.max(), SIMILARITY_DECIMALS)
    return nearness + 0.0  # -0.0 becomes 0.0

"""The most similar rows of a gallery, exactly, in one order that every machine finds.

Similarity is the cosine, or the distance (l2) with its sign changed, in float64, rounded to 1e-12
before anything is ranked: equal rows then tie wherever they stand and whatever the processor. Ties
keep the order of the gallery.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SIMILARITY_DECIMALS = 12
FAISS_FROM = 100_000
_BLOCK_VALUES = 2**22
_SPARE_CANDIDATES = 64


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
    direction: its cosine with every row is 0. For the cosine, from 100,000 gallery rows on, the
    package faiss proposes the candidates where it is installed; they are ranked here all the same,
    and a query for which the proposal cannot be proved complete is searched without it.

    Args:
        queries: query x dim, finite.
        gallery: row x dim, finite.
        k: number of neighbours, 1 or more.
        similarity: what the rows are ranked by.
        block_values: similarities held in memory at a time; a block has one query at least.

    Raises:
        ValueError: k is below 1, the gallery is empty, or the widths differ.

    Examples:
        >>> found = ranked_neighbours(np.eye(2), np.array([[0.0, 2.0], [1.0, 1.0], [3.0, 0.0]]), 2)
        >>> found.indices.tolist()
        [[2, 1], [0, 1]]
    """
    if k < 1 or not len(gallery) or queries.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"expected k of 1 or more and rows of one width in a gallery that is not empty; found "
            f"k {k}, queries {queries.shape}, gallery {gallery.shape}"
        )
    cosine, kept = similarity == "cosine", min(k, len(gallery))
    asked, rows = (
        unit_rows(m) if cosine else np.asarray(m, np.float64) for m in (queries, gallery)
    )
    found = Neighbours(np.empty((len(asked), kept), np.intp), np.empty((len(asked), kept)))
    large = cosine and len(rows) >= FAISS_FROM and kept + _SPARE_CANDIDATES < len(rows)
    proposed = _faiss() if large else None
    left = np.arange(len(asked))
    if proposed is not None:
        left = _among_candidates(proposed, asked, rows, found)
    step = max(1, block_values // len(rows))
    for start in range(0, len(left), step):
        block = left[start : start + step]
        likeness = _cosine(asked[block], rows) if cosine else _nearness(asked[block], rows)
        order = np.argsort(-likeness, axis=1, kind="stable")[:, :kept]
        found.indices[block] = order
        found.similarity[block] = np.take_along_axis(likeness, order, axis=1)
    return found


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


def _faiss() -> ModuleType | None:
    """Return the optional package faiss, or None where it is not installed."""
    try:
        return importlib.import_module("faiss")
    except ImportError:
        return None


def _among_candidates(
    faiss: ModuleType,
    queries: NDArray[np.float64],
    rows: NDArray[np.float64],
    found: Neighbours,
) -> NDArray[np.intp]:
    """Fill in the queries whose neighbours are surely among faiss's candidates; return the others.

    faiss adds up in float32. With n = dim + 4 roundings of 2^-24 each, a row that is not proposed
    is no more similar than the last candidate by faiss's count plus twice that error; a query
    whose last neighbour is above it by our count has them all.
    """
    kept = found.indices.shape[1]
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.astype(np.float32))
    counted, proposed = index.search(queries.astype(np.float32), kept + _SPARE_CANDIDATES)
    error = 2.0 * (rows.shape[1] + 4) * 2.0**-24
    unsure = []
    for query in range(len(queries)):
        candidates = np.sort(proposed[query]).astype(np.intp)
        similarity = _cosine(queries[query : query + 1], rows[candidates])[0]
        order = np.argsort(-similarity, kind="stable")[:kept]
        if similarity[order[-1]] <= float(counted[query].min()) + error:
            unsure.append(query)
            continue
        found.indices[query] = candidates[order]
        found.similarity[query] = similarity[order]
    return np.array(unsure, dtype=np.intp)

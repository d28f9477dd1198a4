"""Class probabilities of many linear fits: the embeddings are read once for all of them.

Equal embeddings get the same probability to the last bit. A matrix product may round a row by
where it stands; equal embeddings would then be ranked, and the rank would depend on the machine.
So of equal rows the first one is predicted, and the others take its value.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# Imported here and not where it is called: see `dual_newton`.
from scipy.special import expit

Array = NDArray[np.float64]

# A block that stays in cache while it meets each vector.
_ROWS_AT_ONCE = 128
# Rows that agree in these are compared in all; equal rows always do.
_COLUMNS_OF_KEY = 16


def first_equal(embeddings: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return for each row the position of the first row that equals it, often its own, (unit,)."""
    first = np.arange(len(embeddings))
    # 0.0 and -0.0 are equal but for their bits, which adding 0.0 mends.
    start = np.ascontiguousarray(embeddings[:, :_COLUMNS_OF_KEY] + 0.0)
    key = start.view(f"u{start.itemsize}").sum(axis=1, dtype=np.uint64)
    _, group, size = np.unique(key, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for row in np.flatnonzero(size[group] > 1).tolist():
        first[row] = seen.setdefault((embeddings[row] + 0.0).tobytes(), row)
    return first


def class_probabilities(
    embeddings: NDArray[np.floating],
    first: NDArray[np.intp],
    coefficients: Array,
    intercepts: Array,
    centres: Array,
    tests: Sequence[NDArray[np.intp]],
) -> Iterator[Array]:
    """Yield for each fit the probabilities of its test units, unit x class; NaN on overflow.

    Args:
        embeddings: unit x dim.
        first: what `first_equal` returns of them.
        coefficients: fit x vector x dim. Two classes have one vector, that of the second class.
        intercepts: fit x vector, the margins at the centre of the fit.
        centres: fit x dim.
        tests: for each fit, positions into the embeddings.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        margins = _margins(embeddings, coefficients, intercepts, centres)
        for margin, test in zip(margins, tests, strict=True):
            yield class_shares(margin)[:, first[test]].T


def _margins(
    embeddings: NDArray[np.floating], coefficients: Array, intercepts: Array, centres: Array
) -> Array:
    """Return the linear predictors of all units, fit x vector x unit.

    One product for each vector and block, not one for all: what a fit predicts then does not
    depend on which others are predicted with it.
    """
    fits, vectors, dim = coefficients.shape
    each = coefficients.reshape(-1, 1, dim)
    # Rows far from 0 lose digits in a product; those of a cohort are near to any one of them.
    near = embeddings[0].astype(np.float64)
    offset = intercepts + np.einsum("fvd,fd->fv", coefficients, near - centres)
    margins = np.empty((len(each), 1, len(embeddings)))
    for start in range(0, len(embeddings), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        block = embeddings[part].astype(np.float64, copy=False) - near
        np.matmul(each, block.T, out=margins[:, :, part])
    margins += offset.reshape(-1, 1, 1)
    return margins.reshape(fits, vectors, -1)


def class_shares(margin: Array) -> Array:
    """Return the probabilities of linear predictors of vector x row, class x row."""
    shares = vector_shares(margin)
    return np.concatenate([expit(-margin), shares]) if len(margin) == 1 else shares


def vector_shares(margin: Array) -> Array:
    """Return the probability of each vector's class, ... x vector x row.

    Two classes have one vector, that of the second class.
    """
    if margin.shape[-2] == 1:
        logistic: Array = expit(margin)
        return logistic
    relative: Array = np.exp(margin - margin.max(axis=-2, keepdims=True))
    relative /= relative.sum(axis=-2, keepdims=True)
    return relative

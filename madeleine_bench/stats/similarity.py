"""How alike two sets of embeddings of the same slides are: linear centred kernel alignment.

References:
    Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited
    (ICML 2019), section 3.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madeleine_bench.seeds import rng_for


def linear_cka(first: ArrayLike, second: ArrayLike) -> float:
    """Return the linear CKA of two matrices, row x dim, whose rows are the same slides: 0 to 1.

        CKA(X, Y) = ||Y'X||^2 / (||X'X|| ||Y'Y||),  columns centred, Frobenius norms

    It is 1 for embeddings equal up to a shift, a rotation (so also an order of the columns) and
    one common scale, and does not need equal widths. Where all rows of a matrix are equal it has
    no structure to compare, and the answer is 0.

    Raises:
        ValueError: the numbers of rows differ, there is none, or a value is not finite.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]]
        >>> turned = [[-2.0, 0.0], [0.0, 2.0], [-10.0, 4.0]]
        >>> round(linear_cka(x, turned), 12)
        1.0
        >>> linear_cka([[1.0], [0.0], [1.0], [0.0]], [[1.0], [1.0], [0.0], [0.0]])
        0.0
    """
    x, y = _centred(first), _centred(second)
    if len(x) != len(y):
        raise ValueError(f"the rows must be of the same slides; found {len(x)} and {len(y)}")
    if x.shape[1] + y.shape[1] <= 2 * len(x):
        shared, own_x, own_y = (_square(b.T @ a) for a, b in ((x, y), (x, x), (y, y)))
    else:  # the same number by slide x slide products, smaller where embeddings are wide
        gram_x, gram_y = x @ x.T, y @ y.T
        shared = float(np.sum(gram_x * gram_y))
        own_x, own_y = _square(gram_x), _square(gram_y)
    if own_x == 0.0 or own_y == 0.0:
        return 0.0
    return float(np.clip(shared / np.sqrt(own_x * own_y), 0.0, 1.0))


def chance_cka(rows: int, first_dim: int, second_dim: int) -> float:
    """Return about what linear CKA gives for white noise of these widths, which is not 0.

    Wide embeddings of few slides look alike whatever they hold. With n rows and widths d and e,
    centred Gram matrices of white noise give about 1 / sqrt((1 + n / d)(1 + n / e)).

    Examples:
        >>> round(chance_cka(1058, 512, 512), 2), round(chance_cka(40, 4096, 4096), 2)
        (0.33, 0.99)
    """
    return float(1.0 / np.sqrt((1.0 + rows / first_dim) * (1.0 + rows / second_dim)))


def _centred(values: ArrayLike) -> NDArray[np.float64]:
    """Return a matrix with columns of mean 0 and largest entry 1, so that no product overflows."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise ValueError(f"expected a finite matrix, row x dim; found shape {matrix.shape}")
    size = float(np.max(np.abs(matrix)))
    matrix = matrix / size if size else matrix
    centred: NDArray[np.float64] = matrix - matrix.mean(axis=0)
    # What is left of equal rows after subtraction is rounding, not structure.
    if np.max(np.abs(centred)) <= 1e-12:
        return np.zeros_like(centred)
    scaled: NDArray[np.float64] = centred / np.max(np.abs(centred))
    return scaled


def _square(matrix: NDArray[np.float64]) -> float:
    return float(np.sum(matrix * matrix))


Matrix = NDArray[np.float64]

KEPT = 0.9  # share of the slides that are judged: those that are explained best
LEAST_JUDGED = 0.3
_PENALTIES = tuple(10.0**-power for power in range(0, 9, 2))  # of the largest eigenvalue
_SKETCH = 64
_RANK = 1e-12  # of the largest eigenvalue; what is below is rounding of float32


def linear_share(source: Matrix, target: Matrix) -> float | None:
    """Return what share of the target is a linear function of the source: 0 to 1.

    Ridge regression predicts every slide from the other slides. The share is that of the
    variance so explained, over the one that the target explains of itself: with fewer slides than
    columns even a copy cannot explain all. The tenth of the slides that is explained worst is left
    out, so a few replaced rows hide nothing. Scaled columns, rows of length 1 and whitening are
    no linear functions, or change what has most of the variance; each is undone on both sides, and
    the largest share counts.

    Args:
        source: slide x dim, finite.
        target: the same slides x another or the same dim, finite.

    Returns:
        The share; None where the target explains less than `LEAST_JUDGED` of itself: the slides are
        too few for so many directions of like variance.
    """
    shares = [
        share for view in _views(source, target) if (share := _paired_share(*view)) is not None
    ]
    return float(np.clip(max(shares), 0.0, 1.0)) if shares else None


def _views(source: Matrix, target: Matrix) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield what is compared: as it is, columns of one scale, rows of one length, whitened."""
    yield source, target
    yield source, _standard(target)
    yield _unit(source), _unit(target)
    yield _unit(source - source.mean(axis=0)), _unit(target)
    white = _principal(target - target.mean(axis=0))[0]
    if 0 < white.shape[1] < len(target) - 1:  # all directions whitened: equal distances, no shape
        yield _principal(source - source.mean(axis=0))[0][:, -white.shape[1] :], white


def _paired_share(source: Matrix, target: Matrix) -> float | None:
    """Return the share of a view, over that of the target by itself on the same slides."""
    sketch = _sketched(target)
    error, _ = _left_out_errors(source, sketch)
    kept = error <= np.quantile(error, KEPT)
    error, variance = _left_out_errors(source[kept], sketch[kept])
    itself, _ = _left_out_errors(target[kept], sketch[kept])
    total = float(variance.sum())
    if total - float(itself.sum()) < LEAST_JUDGED * total or not total:
        return None
    return (total - float(error.sum())) / (total - float(itself.sum()))


def _left_out_errors(source: Matrix, target: Matrix) -> tuple[Matrix, Matrix]:
    """Return the squared errors of left-out rows at the best penalty, and the rows' squares."""
    x, y = (_scaled(part - part.mean(axis=0)) for part in (source, target))
    variance = np.square(y).sum(axis=1)
    basis, eigenvalues = _principal(x)
    inside, leverage = basis.T @ y, np.square(basis)
    best = variance
    for penalty in _PENALTIES:
        kept = eigenvalues / (eigenvalues + penalty * eigenvalues.max(initial=0.0))
        left = 1.0 - leverage @ kept - 1.0 / len(x)
        residual = (y - basis @ (kept[:, None] * inside)) / np.maximum(left, 1e-12)[:, None]
        error = np.square(residual).sum(axis=1)
        if _trimmed(error) < _trimmed(best):
            best = error
    return best, variance


def _trimmed(error: Matrix) -> float:
    return float(np.minimum(error, np.quantile(error, KEPT)).sum())


def _principal(x: Matrix) -> tuple[Matrix, Matrix]:
    """Return the left singular vectors of a matrix and the squares of its singular values."""
    wide = x.shape[1] > len(x)
    eigenvalues, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    there = eigenvalues > _RANK * eigenvalues.max(initial=0.0)
    eigenvalues, vectors = eigenvalues[there], vectors[:, there]
    return (vectors if wide else x @ vectors / np.sqrt(eigenvalues)), eigenvalues


def _sketched(target: Matrix) -> Matrix:
    """Return random combinations of many columns: they have the same share of errors."""
    if target.shape[1] <= _SKETCH:
        return target
    rng = rng_for("linear share", target.shape[1])
    return target @ rng.standard_normal((target.shape[1], _SKETCH))


def _standard(matrix: Matrix) -> Matrix:
    matrix = _scaled(matrix)
    deviation = matrix.std(axis=0)
    return matrix / np.where(deviation > 1e-9, deviation, np.inf)


def _unit(rows: Matrix) -> Matrix:
    rows = _scaled(rows)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _scaled(matrix: Matrix) -> Matrix:
    size = float(np.max(np.abs(matrix), initial=0.0))
    return matrix / size if size else matrix

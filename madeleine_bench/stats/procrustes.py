"""What the best rotation, shift and scale leave over between embeddings of the same slides.

References:
    Schonemann, A generalized solution of the orthogonal Procrustes problem (Psychometrika 1966).
    Williams, Kunz, Kornblith and Linderman, Generalized Shape Metrics on Neural Representations
    (NeurIPS 2021), for matrices of other widths.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def procrustes_residual(first: ArrayLike, second: ArrayLike) -> float:
    """Return the share of variance that the best rotation, shift and scale leave over: 0 to 1.

        1 - ||Y'X||*^2 / (||X||^2 ||Y||^2),  columns centred, nuclear and Frobenius norms

    It is the same both ways, and 0 exactly where one matrix is the other turned, shifted and
    scaled; the narrower one gets columns of zeros. Noise of a share s of each column's spread
    leaves s^2 at most. Linear CKA compares squares of variances and hardly sees what has little of
    them; this sees it in proportion. Where all rows of a matrix are equal the answer is 1.

    Args:
        first: row x dim, finite.
        second: the same rows x another or the same dim, finite.

    Raises:
        ValueError: the numbers of rows differ.

    Examples:
        >>> x = [[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]]
        >>> turned = [[-2.0, 0.0], [0.0, 2.0], [-10.0, 4.0]]
        >>> round(procrustes_residual(x, turned), 12)
        0.0
        >>> round(procrustes_residual([[1.0], [0.0], [1.0], [0.0]], [[1], [1], [0], [0]]), 12)
        1.0
    """
    x, y = _unit(first), _unit(second)
    if len(x) != len(y):
        raise ValueError(f"the rows must be of the same slides; found {len(x)} and {len(y)}")
    if not x.any() or not y.any():
        return 1.0
    shared = float(np.linalg.svd(y.T @ x, compute_uv=False).sum())
    return float(np.clip(1.0 - shared * shared, 0.0, 1.0))


def _unit(values: ArrayLike) -> NDArray[np.float64]:
    """Return a matrix of centred columns and length 1, turned into no more columns than rows."""
    matrix = np.asarray(values, dtype=np.float64)
    size = float(np.max(np.abs(matrix), initial=0.0))
    matrix = matrix / size if size else matrix
    centred: NDArray[np.float64] = matrix - matrix.mean(axis=0)
    # What is left of equal rows after subtraction is rounding, not structure.
    if np.max(np.abs(centred), initial=0.0) <= 1e-12:
        return np.zeros_like(centred[:, :1])
    if centred.shape[1] > len(centred):
        _, corner = np.linalg.qr(centred.T)
        centred = corner.T
    unit: NDArray[np.float64] = centred / np.linalg.norm(centred)
    return unit

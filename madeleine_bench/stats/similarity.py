"""How alike two sets of embeddings of the same slides are: linear centred kernel alignment.

References:
    Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited
    (ICML 2019), section 3.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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

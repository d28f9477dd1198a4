"""A Newton step of many fits at once by factorised matrices: for kernels of less than full rank.

There the dual numbers have parts that the kernel does not see. Conjugate gradients do not settle
them, and they take its digits; a factorisation does. It costs the cube of the units.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithms 3.1 and 3.3:
    the Newton step without inverting a kernel matrix, for two and for several classes.
"""

import numpy as np
from numpy.typing import NDArray

# Imported here and not where they are called: a BLAS that loads while threads are pinned is not.
from scipy.linalg.lapack import dposv, dpotrf, dpotri

Array = NDArray[np.float64]


def aim(
    kernel: Array, weight: Array, probability: Array, slope: Array, margin: Array
) -> tuple[Array, Array]:
    """Return where the quadratic model of each fit is least: dual numbers and intercepts.

    Args:
        kernel: fit x unit x unit.
        weight: fit x 1 x unit, what the loss of a unit counts.
        probability: fit x vector x unit. One vector is that of the second of two classes.
        slope: fit x vector x unit, the derivative of the weighted losses by the margins.
        margin: fit x vector x unit.
    """
    of_classes = _binary_aim if margin.shape[1] == 1 else _multinomial_aim
    return of_classes(kernel, weight, probability, slope, margin)


def _binary_aim(
    kernel: Array, weight: Array, probability: Array, slope: Array, margin: Array
) -> tuple[Array, Array]:
    """Return where the quadratic model of each fit is least: dual numbers and intercept.

    With D the curvature of the losses and K the kernel, the dual numbers solve
    (1 + D K) a = D (margin - b) - slope and sum to 0, which settles the intercept b.
    """
    curvature = weight[:, 0] * probability[:, 0] * (1.0 - probability[:, 0])
    root = np.sqrt(curvature)
    scaled = kernel * root[:, :, None] * root[:, None, :]
    diagonal = np.arange(scaled.shape[1])
    scaled[:, diagonal, diagonal] += 1.0
    sides = np.stack([curvature * margin[:, 0] - slope[:, 0], curvature], axis=2)
    inner = _solve(scaled, root[:, :, None] * (kernel @ sides))
    solved = sides - root[:, :, None] * inner
    total = solved.sum(axis=1)
    intercept = total[:, 0] / total[:, 1]
    return (solved[:, :, 0] - intercept[:, None] * solved[:, :, 1])[:, None], intercept[:, None]


def _multinomial_aim(
    kernel: Array, weight: Array, probability: Array, slope: Array, margin: Array
) -> tuple[Array, Array]:
    """Return where the quadratic model of each fit is least: dual numbers and intercepts.

    As for two classes, where D has a block between classes: diag(d) - d d^T / weight for a unit.
    Margins are the same when a number is added to all; the intercepts are made to sum to 0.
    """
    fits, n_classes, units = margin.shape
    curvature = weight * probability

    def through(values: Array) -> Array:
        """Return D applied to fit x side x class x unit."""
        mean = (probability[:, None] * values).sum(axis=2, keepdims=True)
        applied: Array = curvature[:, None] * (values - mean)
        return applied

    free = np.eye(n_classes)[: n_classes - 1]
    constant = np.broadcast_to(free[None, :, :, None], (fits, n_classes - 1, n_classes, units))
    sides = np.concatenate([through(margin[:, None]) - slope[:, None], through(constant)], axis=1)
    root = np.sqrt(curvature)
    scaled = kernel[:, None] * root[..., :, None] * root[..., None, :]
    diagonal = np.arange(units)
    scaled[..., diagonal, diagonal] += 1.0
    # One inverse a class serves the sum over classes too, which couples them.
    shrunk = root[..., :, None] * _inverse(scaled) * root[..., None, :]
    seen = np.einsum("fscu,fcuv->fscv", sides @ kernel[:, None], shrunk, optimize=True)
    coupled = _solve(shrunk.sum(axis=1), seen.sum(axis=2).mT).mT
    solved = sides - seen + np.einsum("fsu,fcuv->fscv", coupled, shrunk, optimize=True)
    totals = solved.sum(axis=3)
    system = totals[:, 1:, : n_classes - 1].mT
    found = _solve_small(system, totals[:, 0, : n_classes - 1, None])[:, :, 0]
    intercepts = np.concatenate([found, np.zeros((fits, 1))], axis=1)
    dual = solved[:, 0] - np.einsum("fs,fscu->fcu", found, solved[:, 1:])
    return dual, intercepts - intercepts.mean(axis=1, keepdims=True)


def _solve(matrices: Array, sides: Array) -> Array:
    """Return the solution of each positive definite system; NaN where a matrix is not."""
    solved = np.full(sides.shape, np.nan)
    for i, (matrix, side) in enumerate(zip(matrices, sides, strict=True)):
        _, found, failed = dposv(matrix, side, lower=1)
        if not failed:
            solved[i] = found
    return solved


def _solve_small(matrices: Array, sides: Array) -> Array:
    """Return the solution of each system of class x class; NaN for all where one is singular."""
    try:
        return np.linalg.solve(matrices, sides).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return np.full(sides.shape, np.nan)


def _inverse(matrices: Array) -> Array:
    """Return the inverse of each positive definite unit x unit matrix; NaN where it is not."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    inverse = np.full(flat.shape, np.nan)
    above = np.triu_indices(flat.shape[-1], 1)
    for i, matrix in enumerate(flat):
        factor, failed = dpotrf(matrix, lower=1)
        if failed:
            continue
        found, failed = dpotri(factor, lower=1)
        if not failed:
            found[above] = found.T[above]
            inverse[i] = found
    return inverse.reshape(matrices.shape)

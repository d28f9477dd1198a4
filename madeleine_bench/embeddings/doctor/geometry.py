"""Checks of the cloud of embeddings: dead dimensions, scale, collapse and duplicates.

References:
    Roy and Vetterli, The Effective Rank: A Measure of Effective Dimensionality, EUSIPCO 2007.
"""

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.embeddings.doctor.checks import (
    CHECKS,
    CONSTANT_FAIL,
    CONSTANT_WARN,
    COSINE_FAIL,
    COSINE_WARN,
    NORM_RATIO,
    RANK_FAIL,
    RANK_SHARE_WARN,
    Finding,
    Verdict,
    graded,
)
from madeleine_bench.embeddings.doctor.outputs import named
from madeleine_bench.embeddings.doctor.sample import Floats, Rows

# Differences below this share of the largest value are float32 rounding.
_ROUNDING = 1e-6


def geometry_findings(rows: Rows) -> list[Finding]:
    """Return what is wrong with the embeddings as a cloud; `rows` has several slides."""
    return [_constant(rows), _scale(rows), _cosine(rows), _rank(rows), _duplicates(rows)]


def singular_values(matrix: Floats) -> Floats:
    """Return the singular values of the centred matrix, largest first; zeros where rows are equal.

    Args:
        matrix: slide x dim, finite.
    """
    centred = matrix - matrix.mean(axis=0)
    if np.max(np.abs(centred)) <= _ROUNDING * np.max(np.abs(matrix)):
        centred = np.zeros_like(centred)
    values: Floats = np.linalg.svd(centred, compute_uv=False)
    return values


def effective_rank(values: Floats) -> float:
    """Return the effective rank of a matrix from its singular values: 1 to their number.

        p_i = s_i / sum s,   erank = exp(-sum p_i ln p_i)

    0 where all singular values are 0.

    Examples:
        >>> import numpy as np
        >>> effective_rank(np.array([2.0, 2.0, 2.0, 0.0])), effective_rank(np.zeros(3))
        (3.0, 0.0)
    """
    total = float(values.sum())
    if total == 0.0:
        return 0.0
    share = values[values > 0.0] / total
    return round(float(np.exp(-np.sum(share * np.log(share)))), 12)


def cosines(matrix: Floats) -> Floats:
    """Return the cosine of each pair of different rows, (pair,); a zero row has cosine 0."""
    unit = unit_rows(matrix)
    upper = np.triu_indices(len(unit), k=1)
    found: Floats = (unit @ unit.T)[upper]
    return found


def unit_rows(matrix: Floats) -> Floats:
    """Return rows of norm 1; rows of zeros stay so."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    found: Floats = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0.0)
    return found


def equal_rows(matrix: Floats) -> NDArray[np.bool_]:
    """Return which rows are equal to which up to float32 rounding, slide x slide."""
    from scipy.spatial.distance import cdist

    largest = float(np.max(np.abs(matrix)))
    equal: NDArray[np.bool_] = cdist(matrix, matrix, "chebyshev") <= _ROUNDING * largest
    return equal


def _constant(rows: Rows) -> Finding:
    matrix = rows.matrix
    largest = float(np.max(np.abs(matrix)))
    dead = np.ptp(matrix, axis=0) <= _ROUNDING * largest
    share = float(dead.mean())
    seen = f"{int(dead.sum())} of {len(dead)} dimensions ({share:.0%})"
    return CHECKS["constant dimensions"].finding(
        graded(share, CONSTANT_WARN, CONSTANT_FAIL), seen, share
    )


def _scale(rows: Rows) -> Finding:
    check = CHECKS["scale"]
    norms = np.linalg.norm(rows.matrix, axis=1)
    median = float(np.median(norms))
    seen = f"norms {norms.min():.3g} to {norms.max():.3g}, median {median:.3g}"
    ids = [slide.slide_id for slide in rows.slides]
    zero = [slide_id for slide_id, norm in zip(ids, norms, strict=True) if norm == 0.0]
    if zero:
        found = f"{seen}; all zeros on {len(zero)} slides ({named(zero)})"
        return check.finding("fail", found, float("inf"))
    ratio = np.maximum(norms / median, median / norms)
    odd = [slide_id for slide_id, r in zip(ids, ratio, strict=True) if r > NORM_RATIO]
    if odd:
        found = f"{seen}; {len(odd)} slides stand apart ({named(odd)})"
        return check.finding("warn", found, float(ratio.max()))
    return check.finding("pass", seen, float(ratio.max()))


def _cosine(rows: Rows) -> Finding:
    if rows.matrix.shape[1] == 1:  # all of one direction, whatever it says
        return CHECKS["mean cosine"].skipped("the embedding is a single number")
    mean = float(cosines(rows.matrix).mean())
    verdict = graded(mean, COSINE_WARN, COSINE_FAIL)
    return CHECKS["mean cosine"].finding(verdict, f"{mean:.4f}", mean)


def _rank(rows: Rows) -> Finding:
    values = singular_values(rows.matrix)
    rank, most = effective_rank(values), min(len(rows.matrix) - 1, rows.matrix.shape[1])
    seen = f"{rank:.1f} of {most} possible"
    verdict: Verdict = "warn" if rank < RANK_SHARE_WARN * most else "pass"
    if rank < RANK_FAIL:
        verdict = "fail"
    return CHECKS["effective rank"].finding(verdict, seen, rank)


def _duplicates(rows: Rows) -> Finding:
    """A pair whose bags are equal too is the data's fault, which is a warning."""
    check = CHECKS["duplicates"]
    equal = equal_rows(rows.matrix)
    content = np.array([slide.content for slide in rows.slides])
    same_bag = content[:, None] == content[None, :]
    odd = (equal & ~same_bag).any(axis=1)
    ids = [slide.slide_id for slide in rows.slides]
    if odd.any():
        which = named([ids[i] for i in np.flatnonzero(odd)])
        seen = f"{int(odd.sum())} of {len(ids)} slides share an embedding ({which})"
        return check.finding("fail", seen, float(odd.sum()))
    twice = (same_bag.sum(axis=1) > 1).nonzero()[0]
    if len(twice):
        seen = f"none, but {len(twice)} slides have equal bags ({named([ids[i] for i in twice])})"
        return check.finding("warn", f"{seen}: the same features under several ids", 0.0)
    return check.finding("pass", "none", 0.0)

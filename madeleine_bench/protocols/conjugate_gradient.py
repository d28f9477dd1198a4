"""The linear system of a Newton step for many fits at once, by conjugate gradients.

A step d of the dual numbers and s of the intercepts (see `dual_newton`) solves

    d + D (K d + s) = right,    sum over units of D (K d + s) = right_intercept

where K is the kernel and D the curvature of the losses by the margins. In the inner product of K
this is symmetric and positive, and each iteration costs one product with K. Its spectrum is that of
the penalised loss: from 1 (the penalty) up to curvature times the largest eigenvalue of K.

References:
    Nocedal and Wright, Numerical Optimization (2006), algorithm 5.2 and section 7.1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Iterations after which a direction is taken as it is: it leads down from the first one on.
_MOST_ITERATIONS = 200
# The intercepts are scaled to this curvature, amid those of the coefficients: the least work.
_INTERCEPT_CURVATURE = 3.0


@dataclass(frozen=True)
class Curvature:
    """The second derivative of the weighted losses by the margins, unit by unit.

    Attributes:
        probability: fit x vector x unit. One vector is that of the second of two classes.
        weight: fit x 1 x unit, what the loss of a unit counts.
    """

    probability: Array
    weight: Array

    @property
    def per_vector(self) -> Array:
        """Return the curvature by one intercept, the mean over vectors, (fit,)."""
        own = self.weight * self.probability * (1.0 - self.probability)
        per_vector: Array = own.sum(axis=2).mean(axis=1)
        return per_vector

    def apply(self, values: Array) -> Array:
        """Return the curvature times values of fit x vector x unit."""
        applied: Array = self.probability * values
        if values.shape[1] == 1:
            applied *= 1.0 - self.probability
        else:
            applied -= self.probability * applied.sum(axis=1, keepdims=True)
        applied *= self.weight
        return applied


@dataclass(frozen=True)
class Step:
    """A step: of the dual numbers, of the intercepts, and of the margins they make."""

    dual: Array
    intercepts: Array
    margin: Array


def solve(
    kernel: Array,
    curvature: Curvature,
    right: Array,
    right_intercepts: Array,
    *,
    share: Array,
    enough: Array,
    C: float,
) -> Step:
    """Return the step of each fit; a fit that has come far enough stands still from then on.

    Args:
        kernel: fit x unit x unit.
        curvature: of the losses.
        right: fit x vector x unit.
        right_intercepts: fit x vector.
        share: (fit,) of the norm of the right side that may be left.
        enough: (fit,) length of the gradient of the step by coefficients and intercepts below
            which no share is asked for.
        C: inverse penalty, which the kernel has as a factor.
    """
    scale = np.sqrt(_INTERCEPT_CURVATURE / curvature.per_vector)[:, None]
    left, left_scaled = right.copy(), right_intercepts * scale
    seen = left @ kernel
    step, step_scaled, step_seen = np.zeros_like(left), np.zeros_like(left_scaled), 0.0 * seen
    along, along_scaled, along_seen = left.copy(), left_scaled, seen.copy()
    square = _dot(left, seen) + (left_scaled**2).sum(axis=1)
    least = enough * np.minimum(np.sqrt(C), scale[:, 0])
    goal = np.maximum(share * np.sqrt(square), least) ** 2
    for _ in range(_MOST_ITERATIONS):
        going = square > goal
        if not going.any():
            break
        margin = along_seen + (along_scaled * scale)[:, :, None]
        bent = curvature.apply(margin)
        slope = _dot(along, along_seen) + _dot(margin, bent)
        length = np.where(going, square / slope, 0.0)
        by_unit, by_vector = length[:, None, None], length[:, None]
        step += by_unit * along
        step_scaled += by_vector * along_scaled
        step_seen += by_unit * along_seen
        left_scaled = left_scaled - by_vector * (bent.sum(axis=2) * scale)
        bent += along
        bent *= by_unit
        left -= bent
        np.matmul(left, kernel, out=seen)
        before, square = square, _dot(left, seen) + (left_scaled**2).sum(axis=1)
        turn = np.where(going, square / before, 0.0)
        by_unit = turn[:, None, None]
        along *= by_unit
        along += left
        along_scaled = left_scaled + turn[:, None] * along_scaled
        along_seen *= by_unit
        along_seen += seen
    intercepts = step_scaled * scale
    return Step(step, intercepts, step_seen + intercepts[:, :, None])


def _dot(one: Array, other: Array) -> Array:
    """Return the inner product of each fit, (fit,)."""
    product: Array = np.einsum("fvu,fvu->f", one, other)
    return product

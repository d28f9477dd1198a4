"""The linear system of a Newton step: equal to a dense solution, and each fit for itself."""

import numpy as np
import pytest
from numpy.typing import NDArray

from madeleine_bench.protocols.conjugate_gradient import Curvature, solve

Array = NDArray[np.float64]


def problem(vectors: int, fits: int = 3, units: int = 7) -> tuple[Array, Curvature, Array, Array]:
    rng = np.random.default_rng(vectors)
    rows = rng.normal(size=(fits, units, 12))
    shares = rng.dirichlet(np.ones(max(2, vectors)), size=(fits, units)).mT[:, -vectors:]
    curvature = Curvature(shares, rng.uniform(0.5, 2.0, size=(fits, 1, units)))
    right = curvature.apply(rng.normal(size=shares.shape))
    return rows @ rows.mT, curvature, right, right.sum(axis=2)


def exactly(fits: int, value: float) -> Array:
    return np.full(fits, value)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_step_solves_the_system(vectors: int) -> None:
    kernel, curvature, right, of_intercepts = problem(vectors)
    step = solve(
        kernel,
        curvature,
        right,
        of_intercepts,
        share=exactly(3, 1e-13),
        enough=exactly(3, 0.0),
        C=1.0,
    )
    margin = step.dual @ kernel + step.intercepts[:, :, None]
    assert step.margin == pytest.approx(margin, abs=1e-9)
    bent = curvature.apply(margin)
    assert step.dual + bent == pytest.approx(right, abs=1e-9)
    assert bent.sum(axis=2) == pytest.approx(of_intercepts, abs=1e-9)


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_curvature_is_the_slope_of_the_probabilities(vectors: int) -> None:
    from scipy.special import expit, softmax

    rng = np.random.default_rng(4)
    margin, move = rng.normal(size=(2, 2, vectors, 5))
    weight = rng.uniform(0.5, 2.0, size=(2, 1, 5))

    def probability(at: Array) -> Array:
        found: Array = expit(at) if vectors == 1 else softmax(at, axis=1)
        return found

    slow = weight * (probability(margin + 1e-6 * move) - probability(margin - 1e-6 * move)) / 2e-6
    fast = Curvature(probability(margin), weight).apply(move)
    assert fast == pytest.approx(slow, abs=1e-8)


def test_a_fit_that_came_far_enough_stands_still_while_others_go_on() -> None:
    kernel, curvature, right, of_intercepts = problem(3)
    alone = solve(
        kernel[:1],
        Curvature(curvature.probability[:1], curvature.weight[:1]),
        right[:1],
        of_intercepts[:1],
        share=exactly(1, 0.5),
        enough=exactly(1, 0.0),
        C=1.0,
    )
    share = np.array([0.5, 1e-12, 1e-12])
    together = solve(
        kernel, curvature, right, of_intercepts, share=share, enough=exactly(3, 0.0), C=1.0
    )
    assert alone.dual[0].tobytes() == together.dual[0].tobytes()
    assert alone.intercepts[0].tobytes() == together.intercepts[0].tobytes()


def test_nothing_on_the_right_side_is_no_step() -> None:
    kernel, curvature, right, of_intercepts = problem(2)
    step = solve(
        kernel,
        curvature,
        0 * right,
        0 * of_intercepts,
        share=exactly(3, 0.1),
        enough=exactly(3, 0),
        C=1.0,
    )
    assert not step.dual.any()
    assert not step.margin.any()

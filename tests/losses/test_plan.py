"""The plan between sections: against a plain search, closed forms, and what must not change it."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from madeleine_bench.losses.plan import transport_plan


def section(seed: int = 0, side: int = 9, dim: int = 6):
    """Features and positions of tissue on a grid; features vary from place to place."""
    rng = np.random.default_rng(seed)
    rows = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    positions = rows + 0.2 * rng.random(rows.shape)  # ties would leave the plan to rounding
    waves = rng.normal(size=(2, dim)) * 0.6
    features = np.sin(positions @ waves) + 0.3 * rng.normal(size=(len(rows), dim))
    return features, positions


def other_stain(features, seed: int = 1):
    rng = np.random.default_rng(seed)
    return features + 0.6 * rng.normal(size=features.shape) + 3.0


def map_error(plan, positions_b, true_positions):
    """The median distance of a patch's partners from where they are, over patches with partners."""
    weight = plan.sum(axis=1)
    kept = weight > 0.2 / len(weight)
    partners = (plan @ positions_b)[kept] / weight[kept, None]
    return np.median(np.linalg.norm(partners - true_positions[kept], axis=1))


def cost_of(plan, features_a, features_b, positions_a, positions_b, alpha):
    """The objective in four loops, as the formula reads."""
    a, b = (f - f.mean(axis=0) for f in (features_a, features_b))
    d, e = (cdist(p, p) / cdist(p, p).mean() for p in (positions_a, positions_b))
    linear = quadratic = 0.0
    for i, j in itertools.product(range(len(a)), range(len(b))):
        cosine = a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])
        linear += plan[i, j] * (1 - cosine)
        for k, n in itertools.product(range(len(a)), range(len(b))):
            quadratic += (d[i, k] - e[j, n]) ** 2 * plan[i, j] * plan[k, n]
    return (1 - alpha) * linear + alpha * quadratic


def test_no_one_to_one_plan_is_cheaper():
    rng = np.random.default_rng(3)
    positions = rng.random((5, 2))
    features = rng.normal(size=(5, 4))
    given = features, features[::-1] + 0.05, positions, positions[::-1]
    plan = transport_plan(*given, mass=1.0, blur=0.0).toarray()
    costs = [
        cost_of(np.eye(5)[list(order)] / 5, *given, 0.5)
        for order in itertools.permutations(range(5))
    ]
    assert cost_of(plan, *given, 0.5) == pytest.approx(min(costs), abs=1e-12)
    np.testing.assert_allclose(plan, np.eye(5)[::-1] / 5, atol=1e-12)


@pytest.mark.parametrize(("alpha", "located"), [(0.5, True), (0.0, True), (0.5, False)])
def test_mass_and_marginals(alpha, located):
    (features, positions), other = section(), section(side=8)
    places = (positions, other[1]) if located else (positions, None)
    plan = transport_plan(features, other_stain(other[0]), *places, alpha=alpha, mass=0.6, blur=0.0)
    assert plan.shape == (81, 64)
    assert plan.sum() == pytest.approx(0.6)
    assert plan.sum(axis=1).max() <= 1 / 81 + 1e-9
    assert plan.sum(axis=0).max() <= 1 / 64 + 1e-9
    assert plan.data.min() >= 0.0
    assert plan.nnz < 200  # sparse as it comes


def test_without_positions_on_one_side_features_decide_alone():
    features, positions = section()
    other = other_stain(features)
    plans = [
        transport_plan(features, other, positions, None),
        transport_plan(features, other, positions, positions, alpha=0.0, blur=0.0),
    ]
    np.testing.assert_allclose(*(plan.toarray() for plan in plans), atol=1e-12)


TURN = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])


@pytest.mark.parametrize(
    "moved",
    [
        lambda rows: rows @ TURN,
        lambda rows: rows * np.array([-1.0, 1.0]),
        lambda rows: rows + np.array([1e4, -50.0]),
        lambda rows: rows * 0.25,
    ],
    ids=["turned", "mirrored", "shifted", "other units"],
)
def test_how_a_section_lies_on_the_glass_does_not_matter(moved):
    features, positions = section()
    other = other_stain(features)
    plan = transport_plan(features, other, positions, positions)
    again = transport_plan(features, other, positions, moved(positions))
    np.testing.assert_allclose(again.toarray(), plan.toarray(), atol=1e-9)


def test_sides_and_order_of_patches_do_not_matter():
    features, positions = section()
    other = other_stain(features)
    plan = transport_plan(features, other, positions, positions).toarray()
    swapped = transport_plan(other, features, positions, positions).toarray()
    np.testing.assert_allclose(swapped.T, plan, atol=1e-9)
    order = np.random.default_rng(0).permutation(len(features))
    shuffled = transport_plan(features[order], other, positions[order], positions).toarray()
    np.testing.assert_allclose(shuffled, plan[order], atol=1e-9)


@pytest.mark.parametrize("cut", [0.0, 0.3])
def test_partners_lie_within_a_patch_and_a_cut_of_a_third_does_not_matter(cut):
    features, positions = section(side=15)
    other = other_stain(features)
    kept = positions[:, 0] >= np.quantile(positions[:, 0], cut)
    plan = transport_plan(other[kept], features, positions[kept] @ TURN, positions)
    assert map_error(plan, positions, positions[kept]) < 0.75


def test_a_large_section_is_merged_and_its_plan_spread_over_the_patches():
    features, positions = section(side=40)
    smooth = np.sin(positions * 0.2) @ np.random.default_rng(5).normal(size=(2, 12))
    plan = transport_plan(smooth, smooth + 1.0, positions, positions, most=120)
    assert plan.shape == (1600, 1600)
    assert plan.sum() == pytest.approx(0.7)
    assert map_error(plan, positions, positions) < 3.0  # cells have a side of some 4 patches
    without = transport_plan(features, features, None, None, most=120)
    assert np.count_nonzero(without.sum(axis=1)) <= 120


def test_blur_spreads_partners_over_neighbours_of_both_sides():
    features, positions = section(side=7)
    other = other_stain(features)
    sharp = transport_plan(features, other, positions, positions, blur=0.0).toarray()
    blurred = transport_plan(features, other, positions, positions, blur=0.8).toarray()
    near = cdist(positions, positions)
    nearest = np.median(np.sort(near, axis=1)[:, 1])
    weights = np.exp(-np.square(near / (0.8 * nearest)) / 2) * (near <= 1.6 * nearest)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(blurred, weights.T @ sharp @ weights, atol=1e-12)
    assert blurred.sum() == pytest.approx(0.7)


def test_degenerate_sections_have_finite_plans():
    one = transport_plan(np.ones((1, 3)), np.ones((4, 3)), np.zeros((1, 2)), np.zeros((4, 2)))
    assert one.sum() == pytest.approx(0.7)
    assert np.isfinite(one.data).all()

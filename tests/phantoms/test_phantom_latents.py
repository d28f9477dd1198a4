from dataclasses import replace

import numpy as np
import pytest

from madeleine_bench.phantoms.world import BREAST, WORLDS
from madeleine_bench.seeds import rng_for

CASES = 8000


@pytest.mark.parametrize("organ", WORLDS)
def test_latents_are_standard_normal_with_the_stated_correlations(organ):
    world = WORLDS[organ]
    rng = rng_for("test-latents", organ)
    drawn = np.array([list(world.draw_latents(rng).values()) for _ in range(CASES)])
    names = world.latents
    stated = np.array([[world.correlations[a, b] for b in names] for a in names])
    np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=5 / np.sqrt(CASES))
    np.testing.assert_allclose(np.cov(drawn.T), stated, atol=6 / np.sqrt(CASES))


def test_correlations_have_the_sign_the_clinic_knows():
    known = BREAST.correlations
    assert known["er", "pr"] > 0.5
    assert known["er", "grade"] < 0 < known["ki67", "grade"]
    assert known["subtype", "grade"] < 0
    assert known["er", "her2"] < 0
    assert known["hazard", "aln"] > 0


def test_the_covariance_solves_the_structural_equations():
    world, names = BREAST, BREAST.latents
    weights = np.array([[BREAST.causes[a].get(b, 0.0) for b in names] for a in names])
    residual = np.diag([world.residuals[name] ** 2 for name in names])
    inverse = np.linalg.inv(np.eye(len(names)) - weights)
    stated = [[world.correlations[a, b] for b in names] for a in names]
    np.testing.assert_allclose(inverse @ residual @ inverse.T, stated, atol=1e-12)


def test_causes_that_explain_too_much_are_refused():
    world = replace(BREAST, causes={"er": {}, "pr": {"er": 1.1}})
    with pytest.raises(ValueError, match=r"'pr' explain 1\.21"):
        world.draw_latents(rng_for("x"))

import numpy as np
import pytest

from madeleine_bench.phantoms.world import (
    DIM,
    NUISANCE_DIMS,
    WORLDS,
    direction_names,
    draw_directions,
)


@pytest.mark.parametrize("organ", WORLDS)
def test_directions_are_orthonormal_and_spread(organ):
    names = direction_names(WORLDS[organ], NUISANCE_DIMS)
    rows = np.stack(list(draw_directions(organ, names).values()))
    assert len(set(names)) == len(names) == len(rows)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    np.testing.assert_allclose(np.abs(rows), 1 / np.sqrt(DIM), rtol=1e-12)


def test_more_directions_than_dimensions_are_refused():
    with pytest.raises(ValueError, match="do not fit into 512"):
        draw_directions("breast", map(str, range(DIM + 1)))


@pytest.mark.parametrize("organ", WORLDS)
def test_a_world_names_only_what_it_has(organ):
    world = WORLDS[organ]
    assert set(world.morphology) == set(world.latents)
    for name, parents in world.causes.items():
        before = world.latents[: world.latents.index(name)]
        assert set(parents) <= set(before)
    signs = [*world.morphology.items()]
    signs += [item for marker in world.markers.values() for item in marker.items()]
    for latent, sign in signs:
        assert latent in world.latents
        assert sign.tissue in world.tissues
        assert 0 < sign.fidelity <= 1
    for latent, (tissue, _) in world.composition.items():
        assert latent in world.latents
        assert tissue in world.tissues
    assert sum(world.tissues.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("organ", WORLDS)
def test_what_a_stain_is_for_shows_more_strongly_in_it_than_in_h_and_e(organ):
    world = WORLDS[organ]
    for stain, marker in world.markers.items():
        for latent, sign in marker.items():
            plain = sign.strength * sign.fidelity
            faint = world.morphology[latent].strength * world.morphology[latent].fidelity
            assert plain > 1.3 * faint, (stain, latent)

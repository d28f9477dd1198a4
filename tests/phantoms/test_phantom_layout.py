import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.phantoms.layout import (
    FIELD_WAVES,
    PATCH_PX0,
    cut_section,
    deform,
    draw_tissue,
    field_values,
    outline,
)
from madeleine_bench.seeds import rng_for

BIAS = np.log(np.array([0.5, 0.3, 0.2]))


def places(section):
    """Cells about the middle of the section, as its block saw them."""
    cells = section.coords / PATCH_PX0
    return np.rint(cells - cells.mean(axis=0)).astype(int)


def agreement(first, second):
    other = {tuple(place): kind for place, kind in zip(places(second), second.tissue, strict=True)}
    same = [
        other[tuple(place)] == kind
        for place, kind in zip(places(first), first.tissue, strict=True)
        if tuple(place) in other
    ]
    return np.mean(same)


@given(count=st.integers(1, 500), aspect=st.floats(1.0, 3.0))
@settings(max_examples=40, deadline=None)
def test_an_outline_is_the_nearest_cells_row_by_row(count, aspect):
    cells = outline(count, aspect)
    assert len(np.unique(cells, axis=0)) == len(cells) == count
    order = np.lexsort((cells[:, 0], cells[:, 1]))
    np.testing.assert_array_equal(order, np.arange(count))
    inside = {tuple(cell) for cell in cells}
    far = max(x * x / aspect + y * y * aspect for x, y in inside)
    reach = int(math.sqrt(far * aspect)) + 2
    nearer = [
        (x, y)
        for x in range(-reach, reach + 1)
        for y in range(-reach, reach + 1)
        if x * x / aspect + y * y * aspect < far * (1 - 1e-9)
    ]
    assert inside.issuperset(nearer)


def test_fields_equal_a_plain_sum_of_waves():
    rng = rng_for("test-field")
    waves, where = rng.standard_normal((3, FIELD_WAVES, 3)), rng.standard_normal((5, 2))
    plain = [
        [
            math.sqrt(2 / FIELD_WAVES) * sum(math.cos(kx * x + ky * y + p) for kx, ky, p in field)
            for field in waves
        ]
        for x, y in where
    ]
    np.testing.assert_allclose(field_values(waves, where), plain, atol=1e-12)


def test_fields_have_mean_zero_and_variance_one_over_cases():
    origin = np.zeros((1, 2))
    rng = rng_for("test-field-variance")
    blocks = [draw_tissue(rng, BIAS, (30, 60)) for _ in range(1500)]
    values = np.concatenate([field_values(block.waves, origin) for block in blocks])
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert values.var() == pytest.approx(1.0, abs=0.08)


@given(seed=st.integers(0, 10_000), low=st.integers(1, 80), extra=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_a_section_has_as_many_patches_as_allowed_on_a_grid(seed, low, extra):
    patches = (low, low + extra)
    block = draw_tissue(rng_for("test-block", seed), BIAS, patches)
    section = cut_section(block, rng_for("test-cut", seed), patches)
    count = len(section.tissue)
    assert low <= count <= low + extra
    assert section.coords.shape == (count, 2)
    assert section.heterogeneity.shape == (count,)
    assert section.coords.min() == 0
    assert (section.coords % PATCH_PX0 == 0).all()
    assert len(np.unique(section.coords, axis=0)) == count


def test_sections_of_a_case_share_their_layout_and_those_of_others_do_not():
    rng = rng_for("test-shared")
    blocks = [draw_tissue(rng, BIAS, (150, 250)) for _ in range(30)]
    pairs = [[cut_section(block, rng, (150, 250)) for _ in range(2)] for block in blocks]
    own = np.mean([agreement(first, second) for first, second in pairs])
    other = np.mean([agreement(pairs[i][0], pairs[i - 1][1]) for i in range(30)])
    assert own > 0.65
    assert other < own - 0.2
    assert not any(np.array_equal(first.tissue, second.tissue) for first, second in pairs)


def test_deformation_is_small_and_differs_between_sections():
    where = outline(200, 1.0)
    moved = [deform(where, rng_for("test-deform", i)) for i in range(50)]
    steps = np.linalg.norm(np.array(moved) - where, axis=2)
    assert 0.5 < steps.mean() < 2.5
    assert not np.allclose(moved[0], moved[1])

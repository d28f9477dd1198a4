"""The grid of patches and the tissue in each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.patches import PatchSettings, grid_coords, tissue_share
from madeleine_bench.slides.reader import Slide


def test_whole_patches_of_the_real_slide_at_224(aperio):
    with Slide(aperio) as slide:
        coords = grid_coords(slide, slide.plan(224, 0.5), 0)
    assert len(coords) == 9 * 13  # the figure of the data's README
    assert coords[1].tolist() == [224, 0]  # row by row


def test_patches_lie_wholly_in_the_slide(slide_file):
    with Slide(slide_file) as slide:
        plan = slide.plan(128, 1.0)
        coords = grid_coords(slide, plan, 0)
        assert coords.max(axis=0).tolist() == [512, 256]
        assert (coords + plan.size_px0 <= (1000, 700)).all()


def test_overlap_shortens_the_step(slide_file):
    with Slide(slide_file) as slide:
        coords = grid_coords(slide, slide.plan(128, 1.0), 64)
    assert np.unique(coords[:, 0]).tolist() == [0, 128, 256, 384, 512, 640]


def test_a_slide_smaller_than_a_patch_has_none(slide_file):
    with Slide(slide_file) as slide:
        assert grid_coords(slide, slide.plan(2048, 0.5), 0).shape == (0, 2)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 40),
    scale=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_tissue_share_counts_level_0_pixels(seed, size, scale):
    rng = rng_for("tests", "share", seed)
    mask = rng.random((17, 23)) < 0.4
    full = np.kron(mask, np.ones((scale[1], scale[0]), dtype=bool))
    coords = np.column_stack(
        [rng.integers(0, full.shape[1], 5), rng.integers(0, full.shape[0], 5)]
    ).astype(np.int32)
    share = tissue_share(mask, coords, size, (float(scale[0]), float(scale[1])))
    expected = [full[y : y + size, x : x + size].sum() / size**2 for x, y in coords]
    assert share == pytest.approx(expected, abs=1e-8)


def test_tissue_share_of_all_and_of_nothing():
    coords = np.array([[0, 0], [3, 3]], dtype=np.int32)
    assert tissue_share(np.ones((10, 10), bool), coords, 5, (1.0, 1.0)).tolist() == [1, 1]
    assert tissue_share(np.zeros((10, 10), bool), coords, 5, (1.0, 1.0)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"patch_px": 0}, "--patch-px"),
        ({"mpp": 0.0}, "--patch-mpp"),
        ({"mpp": float("nan")}, "--patch-mpp"),
        ({"overlap_px": 256}, "--overlap-px"),
        ({"overlap_px": -1}, "--overlap-px"),
        ({"min_tissue": 1.5}, "--min-tissue"),
        ({"min_tissue": float("nan")}, "--min-tissue"),
    ],
)
def test_settings_out_of_range_name_the_option(values, option):
    with pytest.raises(InputError, match=option):
        PatchSettings(**values)


@pytest.mark.parametrize(
    ("settings_", "name"),
    [
        (PatchSettings(mpp=0.5), "20x_256px_0px_overlap"),
        (PatchSettings(patch_px=64, mpp=3.48, overlap_px=8), "2.874x_64px_8px_overlap"),
    ],
)
def test_the_folder_is_named_as_trident_names_it(settings_, name):
    assert settings_.folder_name == name

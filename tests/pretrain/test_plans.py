"""Plans of pairs of slides: made once, kept, read back, and the regions drawn by them."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.errors import InputError
from madeleine_bench.pretrain.batches import HostSource, RegionSource, draw_batch
from madeleine_bench.pretrain.cases import build_cases, slides_of
from madeleine_bench.pretrain.plans import Plans, pairs_of, plan_quality, prepare_plans
from madeleine_bench.types import Bag, Silence

SIDE, DIM = 12, 5
GRID = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1).astype(np.float64)


class Said(Silence):
    """Progress that keeps what is said and how many jobs a phase has."""

    def __init__(self):
        self.lines, self.jobs = [], 0

    def phase(self, name, total):
        self.jobs += total

    def say(self, line):
        self.lines.append(line)


class MadeUp:
    """Two cases of one tissue each, H&E and ER; the ER section is turned by a quarter."""

    cohort_id, source, variant, no_bag = "toy", "local", "", frozenset()

    def __init__(self, with_coords=lambda slide: True, size=None):
        self.with_coords, self.size = with_coords, size
        rows = [(f"{c}-{s}", c, s) for c in ("c1", "c2") for s in ("H&E", "ER")]
        self.slides = pd.DataFrame(sorted(rows), columns=["slide_id", "case_id", "stain"])

    def content_key(self, slide):
        return f"{slide}{self.size}"

    def read_bag(self, slide):
        case, stain = slide.split("-")
        waves = np.random.default_rng(ord(case[1])).normal(size=(DIM, 2))
        features = np.sin(GRID @ waves.T)
        cells = GRID if stain == "H&E" else np.stack([-GRID[:, 1], GRID[:, 0]], axis=1) + SIDE
        kept = slice(None if stain == "H&E" else self.size)
        coords = (cells * 512).astype(np.int32)[kept] if self.with_coords(slide) else None
        return Bag(slide, case, features.astype(np.float32)[kept], stain, coords)


def packed(folder, data=None):
    store = pack_cohort(data or MadeUp(), folder)
    table = build_cases(store, min_patches=2, unusable="refuse", encoder="madeleine")
    return store, table


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store, table = packed(tmp_path_factory.mktemp("store"))
    plans, said = Plans(store, 600), Said()
    prepare_plans(table, plans, said)
    return store, table, plans, said


def test_the_plan_of_a_turned_section_finds_the_same_patches(made):
    _, table, plans, said = made
    (pair,) = pairs_of(table.slides[0])
    plan = plans.read(pair).toarray()
    matched = plan.sum(axis=1) > 0.5 / len(GRID)
    assert matched.mean() > 0.6
    assert (plan.argmax(axis=1) == np.arange(len(GRID)))[matched].mean() > 0.85
    (line,) = said.lines
    assert re.match(r"2 plans: \d+\.\d partners a patch, map error 0\.\d", line)


def test_plans_are_made_once_and_again_where_they_are_gone(made):
    store, table, plans, _ = made
    again = Said()
    prepare_plans(table, plans, again)
    assert again.jobs == 0
    (pair,) = pairs_of(table.slides[1])
    path = plans.path(pair)
    whole = path.read_bytes()
    path.unlink()
    prepare_plans(table, plans, again)
    assert (again.jobs, path.read_bytes()) == (1, whole)
    path.write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"damaged.* Remove it; mbench pretrain computes it again"):
        Plans(store, 600).read(pair)
    path.write_bytes(whole)


def test_the_file_of_a_plan_is_named_by_both_bags_and_the_settings(made):
    store, table, plans, _ = made
    (pair,) = pairs_of(table.slides[0])
    slides = list(store.slides)
    slides[pair[1]] = slides[pair[1]]._replace(sha256="other")
    other = Plans(replace(store, slides=slides), 600)
    paths = {
        plans.path(pair),
        Plans(store, 128).path(pair),
        other.path(pair),
        plans.path(pair[::-1]),
    }
    assert len(paths) == 4


def test_slides_without_coordinates_are_named(tmp_path):
    store, table = packed(tmp_path, MadeUp(with_coords=lambda slide: slide != "c1-ER"))
    assert [store.positions_um(i) is None for i in range(4)] == [True, False, False, False]
    said = Said()
    prepare_plans(table, Plans(store, 600), said)
    assert "warning: 1 slides have no coordinates in level-0 pixels (c1-ER)" in said.lines[1]
    assert "alpha 0" in said.lines[1]


def test_positions_are_in_micrometres(made):
    store = made[0]
    expected = GRID * 512 * 0.25
    np.testing.assert_array_equal(store.positions_um(1), expected)
    # 256 pixels at 20x are 128 micrometres.
    stated = store.slides[1]._replace(magnification=20.0, patch_size=256, patch_size_level0=512)
    slides = [store.slides[0], stated, *store.slides[2:]]
    np.testing.assert_array_equal(replace(store, slides=slides).positions_um(1), expected)
    slides[1] = stated._replace(patch_size_level0=256)
    np.testing.assert_array_equal(replace(store, slides=slides).positions_um(1), 2 * expected)


def test_quality_of_plans_that_are_known():
    grid = GRID * 7.0
    identity = csr_array(np.eye(len(grid)) / len(grid))
    assert plan_quality(identity, grid, grid[:, ::-1]) == pytest.approx((1.0, 0.0), abs=1e-9)
    half = csr_array((np.eye(len(grid)) + np.eye(len(grid), k=1)) / 2)
    assert plan_quality(half, None, grid)[0] == pytest.approx(2.0, rel=0.01)
    order = np.random.default_rng(0).permutation(len(grid))
    assert plan_quality(csr_array(np.eye(len(grid))[order]), grid, grid)[1] > 2
    assert np.isnan(plan_quality(csr_array((4, 4)), grid[:4], grid[:4])).all()


def draw(made, positions, tokens=9, epoch=0):
    store, table, plans, _ = made
    source = RegionSource(plans, tokens, slides_of(table))
    return draw_batch(
        HostSource(store), table, positions, patches=20, seed=0, epoch=epoch, regions=source
    )


def test_partners_meet_in_the_regions(made):
    batch = draw(made, [0, 1])
    regions = batch.regions
    assert regions.patches.shape == (4, 9, DIM)
    assert regions.partners.shape == (4, 9, 9)
    for number in (0, 2):
        assert not regions.partners[number].any()
        # The H&E region is compact, and most of its matched patches find their own features.
        spread = regions.places[number] - regions.places[number].mean(dim=0)
        assert spread.norm(dim=1).max() < 3.2
        plan = regions.partners[number + 1]
        matched = plan.sum(dim=1) > 0.3  # of its mass is in the region
        assert matched.sum() >= 4
        reached = regions.patches[number + 1][plan.argmax(dim=1)]
        same = (reached - regions.patches[number]).norm(dim=1) < 1e-3
        assert same[matched].float().mean() > 0.6  # the plan leads others to a neighbour
    store = made[0]
    means = np.stack([store.bag(i).astype(np.float64).mean(axis=0) for i in (1, 0, 3, 2)])
    np.testing.assert_allclose(regions.means, means, rtol=1e-5, atol=1e-6)


def test_regions_depend_on_nothing_but_case_epoch_and_seed(made):
    together, alone = draw(made, [0, 1]), draw(made, [1])
    assert torch.equal(together.regions.patches[2:], alone.regions.patches)
    assert not torch.equal(alone.regions.patches, draw(made, [1], epoch=1).regions.patches)
    # The sample of the whole slides is that of the other presets.
    plain = draw_batch(HostSource(made[0]), made[1], [1], patches=20, seed=0, epoch=0)
    assert torch.equal(plain.patches, alone.patches)


def test_small_slides_repeat_their_patches_and_slides_without_positions_are_drawn_at_random(
    tmp_path,
):
    store, table = packed(tmp_path, MadeUp(with_coords=lambda slide: False, size=6))
    plans = Plans(store, 600)
    prepare_plans(table, plans, Silence())
    regions = draw((store, table, plans, None), [0]).regions
    assert len(regions.patches[0].unique(dim=0)) == 9
    assert len(regions.patches[1].unique(dim=0)) == 6
    assert torch.isnan(regions.places).all()

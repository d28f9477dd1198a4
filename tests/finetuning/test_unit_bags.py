"""Bags of units: whole, sampled and scaled."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.errors import InputError
from madeleine_bench.finetuning.unit_bags import UnitBags
from madeleine_bench.protocols.scaling import Scaler
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Units
from tests.finetuning.conftest import make_store


def case_of_two_slides(first: int = 5, second: int = 3) -> UnitBags:
    """Return one unit of two slides; the patch number is its first feature."""
    patches = np.zeros((first + second + 2, 4))
    patches[:, 0] = np.arange(len(patches))
    bags = [patches[:first], patches[first : first + 2], patches[first + 2 :]]
    store = make_store(bags, ["a", "other", "b"])
    table = pd.DataFrame({"unit_id": ["case"], "case_id": ["case"], "site": [""]})
    return UnitBags(store, Units(table, {"case": ("a", "b")}, {}, ""))


def test_a_case_is_the_patches_of_its_slides_and_no_others():
    bags = case_of_two_slides()
    assert bags.lengths.tolist() == [8]
    assert bags.whole(0)[:, 0].tolist() == [0, 1, 2, 3, 4, 7, 8, 9]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 14), st.integers(0, 99))
def test_a_sample_is_a_part_of_the_bag_in_its_order(first, second, wanted, seed):
    bags = case_of_two_slides(first, second)
    whole = bags.whole(0)[:, 0].tolist()
    drawn = bags.sample(0, wanted, rng_for("sample", seed))[:, 0].tolist()
    assert len(drawn) == min(wanted, len(whole))
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(whole)


def test_every_patch_is_drawn_as_often_as_any_other():
    bags = case_of_two_slides()
    rng = rng_for("often")
    drawn = np.concatenate([bags.sample(0, 2, rng)[:, 0] for _ in range(2000)])
    _, count = np.unique(drawn, return_counts=True)
    assert len(count) == 8
    assert (abs(count - 500) < 100).all()  # 5 standard deviations


def test_a_scale_weighs_units_the_same_and_mutes_what_is_constant():
    small, large = np.full((2, 3), 1.0), np.full((50, 3), 3.0)
    small[:, 1] += [-1, 1]
    large[:, 2] = 1.0
    store = make_store([small, large], ["a", "b"])
    table = pd.DataFrame({"unit_id": ["a", "b"], "case_id": ["a", "b"], "site": ["", ""]})
    bags = UnitBags(store, Units(table, {"a": ("a",), "b": ("b",)}, {}, ""))
    scale = bags.scale([0, 1])
    assert scale.centre == pytest.approx([2.0, 2.0, 1.0])
    assert scale.factor == pytest.approx([1.0, (1.5) ** -0.5, 0.0])
    assert not scale.apply(np.full((2, 3), 9.0))[:, 2].any()


def test_the_identity_leaves_patches_as_they_are():
    patches = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert np.array_equal(Scaler(np.zeros(3), np.ones(3)).apply(patches), patches)


def test_a_store_without_a_slide_is_named():
    store = make_store([np.zeros((2, 3))], ["a"])
    table = pd.DataFrame({"unit_id": ["a"], "case_id": ["a"], "site": [""]})
    with pytest.raises(InputError, match=r"store: slide 'gone' is not in the packed store"):
        UnitBags(store, Units(table, {"a": ("a", "gone")}, {}, ""))

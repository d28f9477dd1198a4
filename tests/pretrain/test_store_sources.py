"""Batches from stores of several files and of either number type."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from madeleine_bench.pretrain.batches import DeviceSource, HostSource, choose_source
from madeleine_bench.seeds import rng_for
from tests.pretrain.stores import make_breast

STORE = make_breast(12)
SLIDES = [3, 0, 17, 29]


def in_files(store, count):
    """Return a store whose rows lie in several files, as packing would cut them."""
    ends = store.offsets[np.linspace(0, len(store), count + 1).astype(int)]
    return replace(
        store,
        shards=tuple(store.shards[0][a:b] for a, b in pairwise(ends)),
    )


@pytest.mark.parametrize("count", [1, 2, 5, len(STORE)])
def test_files_make_no_difference(count):
    store = STORE
    cut = in_files(store, count)
    assert (cut.dim, cut.patches, cut.nbytes) == (store.dim, store.patches, store.nbytes)
    for slide in range(len(store)):
        np.testing.assert_array_equal(cut.bag(slide), store.shards[0][store.rows(slide)])
    rng = rng_for("rows")
    rows = [rng.choice(int(store.lengths[slide]), 5, replace=False) for slide in SLIDES]
    expected = HostSource(store).gather(SLIDES, rows)
    assert torch.equal(HostSource(cut).gather(SLIDES, rows), expected)
    resident = DeviceSource(cut, "cpu").patches
    begins = [int(store.offsets[slide]) for slide in SLIDES]
    where = np.concatenate([begin + chosen for begin, chosen in zip(begins, rows, strict=True)])
    assert torch.equal(resident[torch.from_numpy(where)].float(), expected)


def test_batches_have_the_number_type_of_the_store():
    assert DeviceSource(STORE, "cpu").patches.dtype == torch.float16
    assert HostSource(STORE).gather([0], [np.array([1])]).dtype == torch.float32
    assert choose_source(STORE, "meta", 0).dtype == torch.float16

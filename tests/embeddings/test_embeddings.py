"""Embeddings: the cache on disk, the contract at the door, and the mean over a unit's slides."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from madeleine_bench.embeddings.compute import (
    attention_checked,
    embed_slides,
    encode_checked,
    unit_embeddings,
)
from madeleine_bench.embeddings.store import (
    Embeddings,
    EmbeddingStore,
    EncodingCost,
    read_embeddings,
)
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.types import Bag, Units

MEAN = load_encoder(find_encoder("mean-pool"))


def test_a_matrix_is_read_back_with_its_ids(tmp_path):
    store = EmbeddingStore(tmp_path)
    path = store.path("phantom", "mean-pool", "bcnb", "k" * 64)
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    content = store.write(path, ["a", "b", "c"], matrix)
    found = read_embeddings(path)
    assert found.ids == ("a", "b", "c")
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.hash == content == store.content_hash(path)


def test_shards_join_in_order_and_leave_nothing(tmp_path):
    store = EmbeddingStore(tmp_path)
    path = store.path("phantom", "e", "c", "k" * 64)
    for shard, ids in enumerate((["a", "b"], ["c"])):
        store.write(store.part(path, shard), ids, np.full((len(ids), 2), shard, np.float32))
    store.join(path, 2)
    assert read_embeddings(path).ids == ("a", "b", "c")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert store.join(path, 2) == store.content_hash(path)


def test_what_shards_cost_adds_up_beside_the_matrix(tmp_path):
    store = EmbeddingStore(tmp_path)
    path = store.path("phantom", "e", "c", "k" * 64)
    for shard, ids in enumerate((["a", "b"], ["c"])):
        part = store.part(path, shard)
        store.write(part, ids, np.zeros((len(ids), 2), np.float32))
        store.write_cost(part, EncodingCost(len(ids), 0.5, 7))
    store.join(path, 2)
    assert store.cost(path) == EncodingCost(3, 1.0, 7)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"slides": 1}', '{"slides": 1, "other": 2}'])
def test_an_unreadable_cost_is_an_unknown_one(tmp_path, text):
    path = tmp_path / "c.key.safetensors"
    path.with_suffix(".json").write_text(text)
    assert EmbeddingStore(tmp_path).cost(path) is None


def test_encoders_say_how_large_their_network_is():
    madeleine = load_encoder(find_encoder("madeleine"))
    largest = max(
        sum(parameter.numel() for parameter in model.parameters())
        for _, model in madeleine._models.values()
    )
    assert madeleine.n_parameters == largest > 0
    assert MEAN.n_parameters == 0
    untrained = load_encoder(find_encoder("untrained"))
    assert untrained.n_parameters is None
    untrained.encode(Bag("s", "c", np.zeros((2, 8), np.float32)))
    assert untrained.n_parameters > 0


def test_shards_of_different_widths_are_refused(tmp_path):
    store = EmbeddingStore(tmp_path)
    path = store.path("phantom", "e", "c", "k" * 64)
    for shard in range(2):
        store.write(store.part(path, shard), ["a"], np.zeros((1, 2 + shard), np.float32))
    with pytest.raises(CheckFailed, match="different widths"):
        store.join(path, 2)


@pytest.mark.parametrize("cut", [0, 5, 40, -3])
def test_a_damaged_file_is_named_and_counts_as_absent(tmp_path, cut):
    store = EmbeddingStore(tmp_path)
    path = tmp_path / "x.safetensors"
    store.write(path, ["a"], np.ones((1, 4), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(InputError, match=r"x\.safetensors: not readable"):
        read_embeddings(path)
    flipped = bytearray(content)
    flipped[-2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(InputError, match="does not match its hash"):
        read_embeddings(path)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (4, 3), elements=st.floats(-1e3, 1e3, width=32)))
def test_a_unit_is_the_mean_of_its_slides(matrix):
    embeddings = Embeddings(("a", "b", "c", "d"), matrix, "h")
    table = pd.DataFrame({"unit_id": ["u", "v"]})
    units = Units(table, {"u": ("c", "a"), "v": ("d",)}, {}, "h")
    got = unit_embeddings(embeddings, units)
    np.testing.assert_allclose(got[0], matrix[[0, 2]].astype(np.float64).mean(0), atol=1e-9)
    np.testing.assert_array_equal(got[1], matrix[3].astype(np.float64))


def test_a_slide_without_an_embedding_is_named():
    embeddings = Embeddings(("a",), np.ones((1, 2), np.float32), "h")
    units = Units(pd.DataFrame({"unit_id": ["u"]}), {"u": ("a", "zz")}, {}, "h")
    with pytest.raises(InputError, match="zz"):
        unit_embeddings(embeddings, units)


def test_an_encoder_gets_float32_whatever_the_file_holds():
    seen = []

    class Spy:
        card = MEAN.card

        def encode(self, bag):
            seen.append(bag.features.dtype)
            return bag.features.mean(axis=0)

    for dtype in (np.float16, np.float32):
        encode_checked(Spy(), Bag("s", "c", np.ones((3, 2), dtype)))
    assert seen == [np.float32, np.float32]


def test_one_failing_encoder_does_not_stop_the_others():
    class Data:
        def read_bag(self, slide_id):
            return Bag(slide_id, "c", np.ones((3, 2), np.float32))

    class Fails:
        card = MEAN.card

        def encode(self, bag):
            raise RuntimeError("boom")

    done, _, failed, _ = embed_slides({"good": MEAN, "bad": Fails()}, Data(), ["s1", "s2"])
    assert done["good"].shape == (2, 2)
    assert "bad" not in done
    assert isinstance(failed["bad"], CheckFailed)
    assert "s1" in str(failed["bad"])
    assert "boom" in str(failed["bad"])


def test_overflow_to_float32_is_refused():
    class Huge:
        card = MEAN.card

        def encode(self, bag):
            return np.array([1e300])

    with pytest.raises(CheckFailed, match="component 0"):
        encode_checked(Huge(), Bag("s", "c", np.ones((3, 2), np.float32)))


@pytest.mark.parametrize(
    "weights", [np.ones(3), np.ones((2, 4)), np.full((3, 4), np.nan), np.full((3, 4), np.inf)]
)
def test_attention_of_the_wrong_shape_or_not_finite_is_refused(weights):
    odd = SimpleNamespace(card=MEAN.card, encode=MEAN.encode, attention=lambda bag: weights)
    with pytest.raises(InputError, match="attention must return"):
        attention_checked(odd, Bag("s", "c", np.ones((3, 5), np.float32)))


def test_attention_is_refused_of_an_encoder_that_has_none():
    with pytest.raises(InputError, match=r"mean-pool has no method attention"):
        attention_checked(MEAN, Bag("s", "c", np.ones((3, 5), np.float32)))

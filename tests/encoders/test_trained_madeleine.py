"""Madeleine as an encoder: the right model, the right stain, and the same bytes every time."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from madeleine_bench.data.local import LocalCohort
from madeleine_bench.encoders.contract import check_contract, example_bag
from madeleine_bench.encoders.madeleine import TrainedMadeleine
from madeleine_bench.encoders.registry import find_encoder, fingerprint, load_encoder
from madeleine_bench.encoders.weights import ModelDescription, write_weights
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import load_config

torch = pytest.importorskip("torch")

from madeleine_bench.models.madeleine import Madeleine, initialise  # noqa: E402

STAINS = ("H&E", "ER", "PR")
CARD = """
name: tiny
revision: "1"
title: A small Madeleine
implementation: madeleine_bench.encoders.madeleine:TrainedMadeleine
weights: {{path: tiny.safetensors, sha256: {sha256}}}
input_dim: 7
dim: 8
training_cohorts: [acrobat]
licence: Apache-2.0
description: For the tests.
"""


def tiny(seed, *, stain_encoding=False):
    model = Madeleine(7, 8, 2, stains=len(STAINS) * stain_encoding).eval()
    initialise(model, seed)
    description = ModelDescription(
        input_dim=7, width=8, heads=2, stains=STAINS, stain_encoding=stain_encoding,
        cohort="acrobat",
    )  # fmt: skip
    return description, model


def write_card(folder, **models):
    weights = folder / "tiny.safetensors"
    write_weights(weights, {key: (d, m.state_dict()) for key, (d, m) in models.items()})
    card = folder / "tiny.yaml"
    card.write_text(CARD.format(sha256=hash_file(weights)))
    return str(card)


def encoder(folder, **models):
    return load_encoder(find_encoder(write_card(folder, **models)))


def by_hand(model, bag, stain=None):
    with torch.inference_mode():
        return model.encode(torch.tensor(bag.features), stain).numpy()


def test_it_keeps_the_contract(tmp_path):
    for name, models in {
        "one": {"any": tiny(0)},
        "two": {"breast": tiny(0), "kidney": tiny(1)},
        "stains": {"breast": tiny(0, stain_encoding=True)},
    }.items():
        (tmp_path / name).mkdir()
        checks = check_contract(encoder(tmp_path / name, **models))
        assert [c for c in checks if c.verdict == "fail"] == []


def test_it_is_the_model_of_its_weights(tmp_path):
    bag, model = example_bag(7, 9), tiny(0)
    embedding = encoder(tmp_path, breast=model).encode(bag)
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, by_hand(model[1], bag))


def test_a_bag_goes_to_the_model_of_its_organ(tmp_path):
    bag, models = example_bag(7, 9), {"breast": tiny(0), "kidney": tiny(1)}
    both = encoder(tmp_path, **models)
    for organ, (_, model) in models.items():
        np.testing.assert_array_equal(both.encode(replace(bag, organ=organ)), by_hand(model, bag))
    for organ, words in ((None, "unknown organ"), ("lung", "organ 'lung'")):
        with pytest.raises(InputError, match=f"{words}; the weights have models for: breast, kid"):
            both.encode(replace(bag, organ=organ))


def test_one_model_takes_every_organ(tmp_path):
    one, bag = encoder(tmp_path, breast=tiny(0)), example_bag(7, 9)
    for organ in (None, "kidney"):
        np.testing.assert_array_equal(one.encode(replace(bag, organ=organ)), one.encode(bag))


def test_the_stain_counts_only_with_encodings(tmp_path):
    bag, model = example_bag(7, 9), tiny(0, stain_encoding=True)
    with_stains = encoder(tmp_path, breast=model)
    for index, stain in enumerate(STAINS):
        found = with_stains.encode(replace(bag, stain=stain))
        np.testing.assert_array_equal(found, by_hand(model[1], bag, index))
    with pytest.raises(InputError, match=r"of stain PAS; .*: H&E, ER, PR"):
        with_stains.encode(replace(bag, stain="PAS"))
    without = encoder(tmp_path, breast=tiny(0))
    np.testing.assert_array_equal(without.encode(replace(bag, stain="PAS")), without.encode(bag))


def test_neighbours_and_repetition_change_nothing(tmp_path):
    made = encoder(tmp_path, breast=tiny(0))
    bags = [example_bag(7, patches) for patches in (3, 11, 1)]
    alone = [made.encode(bag) for bag in bags]
    torch.manual_seed(5)
    for bag, embedding in list(zip(bags, alone, strict=True))[::-1]:
        np.testing.assert_array_equal(made.encode(bag), embedding)


def test_where_the_features_lie_in_memory_does_not_count(tmp_path):
    made, bag = encoder(tmp_path, breast=tiny(0)), example_bag(7, 9)
    expected = made.encode(bag)
    buffer = np.empty(bag.features.size + 16, dtype=np.float32)
    for start in range(16):
        moved = buffer[start : start + bag.features.size].reshape(bag.features.shape)
        moved[:] = bag.features
        np.testing.assert_array_equal(made.encode(replace(bag, features=moved)), expected)
    backwards = np.asfortranarray(bag.features)
    np.testing.assert_array_equal(made.encode(replace(bag, features=backwards)), expected)


@pytest.mark.parametrize("name", ["untrained", "tiny"])
def test_global_random_state_is_left_alone(tmp_path, name):
    path = name if name == "untrained" else write_card(tmp_path, breast=tiny(0))
    before = torch.random.get_rng_state()
    load_encoder(find_encoder(path)).encode(example_bag(7, 4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_attention_is_what_the_embedding_is_pooled_with(tmp_path):
    bag, (description, model) = example_bag(7, 9), tiny(3)
    weights = encoder(tmp_path, any=(description, model)).attention(bag)
    assert weights.shape == (9, 2)
    assert weights.sum(axis=0) == pytest.approx(1.0)
    with torch.inference_mode():
        tokens, _ = model.embed_patches(torch.tensor(bag.features))
        pooled = torch.einsum("phw,ph->wh", tokens, torch.tensor(weights))
        by_attention = model.projector(pooled.flatten()).numpy()
    assert by_attention == pytest.approx(by_hand(model, bag), abs=1e-6)


def test_attention_follows_its_patches_and_depends_on_the_stain(tmp_path):
    taught = encoder(tmp_path, any=tiny(0, stain_encoding=True))
    bag = example_bag(7, 9)
    turned = replace(bag, features=bag.features[::-1].copy())
    assert taught.attention(turned)[::-1] == pytest.approx(taught.attention(bag), abs=1e-6)
    other = taught.attention(replace(bag, stain="ER"))
    assert np.abs(other - taught.attention(bag)).max() > 1e-6


def test_wrong_features_and_absent_weights_are_named(tmp_path):
    made = encoder(tmp_path, breast=tiny(0))
    with pytest.raises(InputError, match="width 7, the bag has 6"):
        made.encode(example_bag(6, 4))
    with pytest.raises(InputError, match="the card of tiny has no 'weights'"):
        TrainedMadeleine(made.card)


def test_other_weights_give_another_fingerprint(tmp_path):
    first = fingerprint(find_encoder(write_card(tmp_path, breast=tiny(0))))
    assert fingerprint(find_encoder(write_card(tmp_path, breast=tiny(1)))) != first


def test_damaged_weights_stop_at_the_door(tmp_path):
    path = write_card(tmp_path, breast=tiny(0))
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match="the card says"):
        load_encoder(find_encoder(path))
    (tmp_path / "tiny.yaml").write_text(CARD.format(sha256=hash_file(weights)))
    with pytest.raises(InputError, match="is damaged"):
        load_encoder(find_encoder(path))


@pytest.mark.parametrize(("cohort_id", "organ"), [("aidpath", "breast"), ("bwh-kidney", "kidney")])
def test_a_phantom_slide_knows_its_organ(cohort_id, organ):
    data = PhantomCohort(load_catalogue().cohorts[cohort_id], [])
    assert data.read_bag(data.slides["slide_id"][0]).organ == organ


def test_a_local_slide_knows_its_organ(bcnb):
    entry = load_config(bcnb.config).cohorts["bcnb"]
    data = LocalCohort(load_catalogue().cohorts["bcnb"], entry, bcnb.folder / "cache")
    assert data.read_bag("1").organ == "breast"


def test_a_card_without_torch_is_read_fast():
    code = (
        "import sys\nimport madeleine_bench.encoders.madeleine, madeleine_bench.encoders.weights\n"
        "import madeleine_bench.encoders.official\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""Cards, the registry, strangers' encoders and the contract."""

import textwrap

import numpy as np
import pytest

from madeleine_bench.encoders.contract import check_contract, example_bag
from madeleine_bench.encoders.registry import (
    find_encoder,
    fingerprint,
    load_encoder,
    shipped_encoders,
)
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file
from madeleine_bench.specs.card import card_text

SHIPPED = shipped_encoders()
CARD = """
name: stranger
revision: "1"
title: A stranger's encoder
implementation: {implementation}
training_cohorts: null
licence: MIT
description: For the tests.
"""
GOOD = """
import numpy as np

class Median:
    def __init__(self, card, weights, scale=1.0):
        self.card, self.scale = card, scale

    def encode(self, bag):
        return np.median(bag.features, axis=0) * self.scale
"""

NO_ENCODE = "class Median:\n    def __init__(self, card, weights): ..."


def write_stranger(folder, code=GOOD, implementation="encoder.py:Median", extra=""):
    (folder / "encoder.py").write_text(textwrap.dedent(code))
    path = folder / "card.yaml"
    path.write_text(CARD.format(implementation=implementation) + extra)
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_encoder_keeps_the_contract(name):
    checks = check_contract(load_encoder(SHIPPED[name]))
    assert [c for c in checks if c.verdict == "fail"] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_card_says_what_it_was_trained_on(name):
    assert SHIPPED[name].card.training_cohorts is not None
    assert SHIPPED[name].path.stem == name


def test_pooling_equals_its_definition():
    bag = example_bag(5, 9)
    for name, expected in (("mean-pool", bag.features.mean(0)), ("max-pool", bag.features.max(0))):
        got = load_encoder(SHIPPED[name]).encode(bag)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_controls_see_what_they_say_and_nothing_else():
    one, two = example_bag(5, 9), example_bag(6, 9)
    for name in ("patch-count", "site-only", "case-id"):
        encoder = load_encoder(SHIPPED[name])
        np.testing.assert_array_equal(encoder.encode(one), encoder.encode(two))
    assert load_encoder(SHIPPED["patch-count"]).encode(one)[0] == np.log(9)


def test_oracle_refuses_a_real_slide():
    bag = example_bag(5, 9)
    real = type(bag)(bag.slide_id, bag.case_id, bag.features)
    with pytest.raises(InputError, match="real"):
        load_encoder(SHIPPED["oracle"]).encode(real)


def test_a_stranger_is_found_by_the_path_of_its_card(tmp_path):
    entry = find_encoder(write_stranger(tmp_path, extra="parameters: {scale: 2.0}\n"))
    bag = example_bag(5, 9)
    got = load_encoder(entry).encode(bag)
    np.testing.assert_allclose(got, 2 * np.median(bag.features, axis=0))


def test_the_fingerprint_follows_code_and_card(tmp_path):
    path = write_stranger(tmp_path)
    before = fingerprint(find_encoder(path))
    assert fingerprint(find_encoder(path)) == before
    write_stranger(tmp_path, code=GOOD + "\n# a comment\n")
    assert fingerprint(find_encoder(path)) == before, "before: a comment changed it"
    write_stranger(tmp_path, code=GOOD + "\nx = 1\n")
    assert fingerprint(find_encoder(path)) != before


def test_an_entry_point_leads_to_a_card(tmp_path, monkeypatch):
    write_stranger(tmp_path)
    package = tmp_path / "site"
    (package / "stranger_pkg-1.dist-info").mkdir(parents=True)
    (package / "stranger_pkg-1.dist-info" / "METADATA").write_text(
        "Name: stranger-pkg\nVersion: 1\n"
    )
    (package / "stranger_pkg-1.dist-info" / "entry_points.txt").write_text(
        "[madeleine_bench.encoders]\nstranger = stranger_pkg:CARD\nbroken = stranger_pkg:NOPE\n"
    )
    (package / "stranger_pkg.py").write_text(
        f"from pathlib import Path\nCARD = Path({str(tmp_path / 'card.yaml')!r})\n"
    )
    monkeypatch.syspath_prepend(package)
    assert find_encoder("stranger").origin == "stranger_pkg:CARD"
    assert load_encoder(find_encoder("stranger")).encode(example_bag(5, 9)).shape == (5,)
    with pytest.raises(InputError, match="cannot be imported"):
        find_encoder("broken")


@pytest.mark.parametrize(
    ("code", "implementation", "message"),
    [
        (GOOD, "encoder.py:Medain", "did you mean 'Median'"),
        (GOOD, "other.py:Median", "does not exist"),
        (GOOD, "no_such_module_here:Median", "no module"),
        ("raise RuntimeError('boom')", "encoder.py:Median", "RuntimeError: boom"),
        ("class Median:\n    def __init__(self, card): ...", "encoder.py:Median", "TypeError"),
        (NO_ENCODE, "encoder.py:Median", "no SlideEncoder"),
    ],
)  # fmt: skip
def test_a_broken_stranger_is_named(tmp_path, code, implementation, message):
    path = write_stranger(tmp_path, code, implementation)
    entry = find_encoder(path)
    with pytest.raises(InputError, match=message):
        (fingerprint(entry), load_encoder(entry))


def test_weights_must_be_those_of_the_card(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"abc")
    extra = f"weights: {{path: w.safetensors, sha256: {hash_file(weights)}}}\n"
    entry = find_encoder(write_stranger(tmp_path, extra=extra))
    assert fingerprint(entry)
    weights.write_bytes(b"abd")
    with pytest.raises(InputError, match="the card says"):
        fingerprint(entry)
    weights.unlink()
    with pytest.raises(InputError, match="does not exist"):
        fingerprint(entry)


def test_unknown_names_and_broken_cards(tmp_path):
    with pytest.raises(InputError, match="did you mean 'mean-pool'"):
        find_encoder("meanpool")
    with pytest.raises(InputError, match=r"cannot read .*absent.yaml"):
        find_encoder(str(tmp_path / "absent.yaml"))
    path = write_stranger(tmp_path, extra="colour: red\n")
    with pytest.raises(InputError, match="unknown key 'colour'"):
        find_encoder(path)


def test_contract_checks_catch_each_fault(tmp_path):
    faults = {
        "order": "return bag.features[0].astype(float)",
        "finite": "return np.full(3, np.nan)",
        "one patch": "return bag.features.sum(axis=0) / (len(bag.features) - 1)",
        "as it was": "bag.features[:] = 0; return np.zeros(3)",
        "twice": "self.n = getattr(self, 'n', 0) + 1.0; return np.array([self.n])",
    }  # fmt: skip
    for word, body in faults.items():
        folder = tmp_path / word.replace(" ", "-")
        folder.mkdir()
        code = GOOD.replace("return np.median(bag.features, axis=0) * self.scale", body)
        with np.errstate(all="ignore"):
            checks = check_contract(load_encoder(find_encoder(write_stranger(folder, code))))
        assert any(word in c.check for c in checks if c.verdict == "fail"), word


def test_a_card_written_is_the_card_read(tmp_path):
    for entry in shipped_encoders().values():
        path = tmp_path / f"{entry.card.name}.yaml"
        path.write_text(card_text(entry.card))
        assert find_encoder(str(path)).card == entry.card

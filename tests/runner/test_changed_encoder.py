"""An encoder that changes under its name and revision: said, or its older records replaced."""

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.embedding import _loaded_by_path
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence

CODE = """from madeleine_bench.encoders import BaseEncoder
class E(BaseEncoder):
    def encode(self, bag):
        return bag.features[:, :3].{}(axis=0)
"""
CARD = """name: mine
revision: "1"
title: Mine
implementation: e.py:E
training_cohorts: []
licence: MIT
description: d
"""


@pytest.fixture
def mine(bcnb, tmp_path):
    """Run the encoder `mine`, with what its card and its code say now."""
    card, code = tmp_path / "card.yaml", tmp_path / "e.py"
    card.write_text(CARD)
    code.write_text(CODE.format("mean"))

    def call(tasks=("bcnb-er", "bcnb-pr"), **more):
        _loaded_by_path.cache_clear()  # each call stands for a process of its own
        more = {"encoders": (str(card),), "resume": "only-missing", **more}
        return run(
            Request(
                tasks=tasks, protocols=("linear-probe",),
                workspace=Workspace(tmp_path / "r", "local", bcnb.config), **more,
            ),
            Silence(),
        )  # fmt: skip

    call.card, call.code, call.bcnb = card, code, bcnb
    call.store = ResultStore(tmp_path / "r")
    return call


def tasks_of(store):
    return sorted(record.task.id for record in store.records())


def test_a_change_of_the_embeddings_needs_a_new_revision(mine):
    """Before: both stood under one name, and the newest record of each task won."""
    assert mine().computed == 2
    before = list(mine.store.records())
    mine.code.write_text(CODE.format("max"))
    report = mine(("bcnb-er",), encoders=(str(mine.card), "mean-pool"))
    assert report.computed == 1  # of mean-pool: the others are not held up
    ((name, why),) = report.failures
    assert name == "mine"
    assert why.is_user_error
    for part in ("differs in embeddings of bcnb", "and 1 more records", "revision", "retired"):
        assert part in why.reason
    assert [r for r in mine.store.records() if r.encoder.name == "mine"] == before
    mine.card.write_text(CARD.replace('"1"', '"2"'))
    report = mine(("bcnb-er",))
    assert (report.computed, report.failures) == (1, [])


def test_never_replaces_the_older_records_and_keeps_their_files(mine):
    mine()
    old = {path.name for path, _ in mine.store.located("mine")}
    mine.code.write_text(CODE.format("max"))
    assert mine(("bcnb-er",), resume="never").failures == []
    assert tasks_of(mine.store) == ["bcnb-er"]
    retired = list((mine.store.folder / "retired").rglob("*.json"))
    assert {path.name for path in retired} == old
    assert mine().failures == []
    assert tasks_of(mine.store) == ["bcnb-er", "bcnb-pr"]


@pytest.mark.parametrize(("edit", "fingerprints"), [('"""A docstring."""\n', 1), ("x = 1\n", 2)])
def test_an_edit_that_moves_no_embedding_is_none(mine, edit, fingerprints):
    """Before: a docstring gave a second fingerprint, and so other embeddings and records."""
    mine()
    prints = {r.encoder.fingerprint for r in mine.store.records()}
    mine.code.write_text(edit + CODE.format("mean"))
    report = mine()
    assert (report.computed, report.reused, report.failures) == (0, 2, [])
    assert mine(resume="never").failures == []
    assert len(prints | {r.encoder.fingerprint for r in mine.store.records()}) == fingerprints
    assert not (mine.store.folder / "retired").exists()


def test_rounding_is_no_change(mine):
    """Another processor or library adds in another order: a row moves by 1e-7 of its length."""
    mine()
    mine.code.write_text(CODE.format("mean").rstrip() + " * (1 + 1e-6)\n")
    assert mine().failures == []
    mine.code.write_text(CODE.format("mean").rstrip() + " * (1 + 1e-2)\n")
    assert len(mine().failures) == 1


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("title: Mine", "title: Yours", "title"),
        ("training_cohorts: []", "training_cohorts: [bcnb]", "training_cohorts"),
        ("title: Mine", "title: Mine\nkind: control", "kind"),
    ],
)
def test_another_card_is_said_before_anything_is_computed(mine, old, new, word):
    """Before: the record of a task showed the old card, that of the next one the new."""
    mine(("bcnb-er",))
    made = set(mine.store.folder.rglob("*.safetensors"))
    mine.card.write_text(CARD.replace(old, new))
    with pytest.raises(InputError, match=f"encoder mine: .* differs in {word} from .*json"):
        mine(("bcnb-pr",))
    assert set(mine.store.folder.rglob("*.safetensors")) == made
    assert mine(("bcnb-pr",), resume="never").failures == []
    assert tasks_of(mine.store) == ["bcnb-pr"]


def test_other_bags_are_other_features_and_no_change_of_the_encoder(mine):
    mine(("bcnb-er",))
    mine.bcnb.bag(3).unlink()
    assert mine(("bcnb-er",)).failures == []
    one, two = mine.store.records()
    assert one.features.content != two.features.content


def test_a_corrected_site_is_no_change_of_the_encoder(mine):
    """Encoders may read stain, site and case of a slide; these belong to what they were given."""
    table, config = mine.bcnb.labels.read_text().splitlines(), mine.bcnb.config.read_text()
    mine.bcnb.config.write_text(config + 'columns = { site = "hospital" }\n')
    for hospitals in ("ab", "cdef"):
        rows = [f"{row},{hospitals[k % len(hospitals)]}" for k, row in enumerate(table[1:])]
        mine.bcnb.labels.write_text("\n".join([f"{table[0]},hospital", *rows]) + "\n")
        assert mine(("bcnb-er",), encoders=("site-only",)).failures == []
    one, two = mine.store.records()
    assert one.inputs.embeddings != two.inputs.embeddings
    assert one.features.content != two.features.content

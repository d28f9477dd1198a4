"""Whose name it is: no submission takes the place of an encoder that is known already.

Before, the newer record won and the stored card was overwritten: a submission with the card of
mean-pool moved mean-pool from .546 to .005 on the board, "verified V1, to look at (0)".
"""

import json

import pytest

from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.hashing import hash_json
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.record import record_id
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.claims import check_claims
from tests.submissions.conftest import altered_embeddings, members_of, with_manifest, zipped

PROTOCOL = ["--protocol", "linear-probe"]


def other_rows(ids, matrix):
    """Return other embeddings for which the claimed scores are true: the columns turned round."""
    return ids, matrix[:, ::-1].copy()


@pytest.fixture
def forged(first, tmp_path):
    """Pack the honest embeddings, or others, with another card or other claimed features."""

    def make(rows=None, features=None, **card):
        found = read_bundle(first.bundle).card
        found = card.pop("card", found).model_copy(update=card)
        members = members_of(first.bundle)
        members |= altered_embeddings(first.bundle, rows) if rows else {}
        members["card.yaml"] = card_text(found).encode()
        manifest = json.loads(members["submission.json"])
        manifest["encoder"] = {"name": found.name, "revision": found.revision}
        members["submission.json"] = json.dumps(manifest).encode()
        for name in [name for name in members if name.startswith("records/")]:
            record = json.loads(members[name])
            old = record["encoder"]["name"]
            known = found.model_dump(mode="json", include=set(record["encoder"]))
            record["encoder"] |= known
            path = record["predictions"]["path"]
            record["predictions"]["path"] = path.replace(f"/{old}/", f"/{found.name}/")
            record["features"] = features or record["features"]
            record["record_id"] = record_id(record)
            members[name] = json.dumps(record).encode()
        path = tmp_path / "forged.zip"
        path.write_bytes(zipped(with_manifest(members)))
        return path

    return make


@pytest.fixture
def add(first, mbench, tmp_path):
    def call(bundle, folder="board"):
        options = ["--config", first.cohort.config, "--results", tmp_path / folder, "--jobs", "1"]
        return mbench("leaderboard", "add", bundle, *options)

    call.folder = tmp_path
    return call


def snapshot(results):
    return {p: p.read_bytes() for p in sorted(results.rglob("*.yaml"))} | {
        p: p.read_bytes() for p in sorted((results / "records").rglob("*")) if p.is_file()
    }


def show(mbench, folder, *names):
    folders = [part for name in names for part in ("--results", folder / name)]
    return mbench("leaderboard", "show", *folders, *PROTOCOL, "--format", "csv")


@pytest.mark.parametrize("rows", [None, other_rows])
def test_the_name_of_an_encoder_that_ships_is_reserved(rows, forged, add, first, mbench):
    path = forged(rows, card=shipped_encoders()["mean-pool"].card)
    said = mbench("submit", "verify", path, *first.options)
    assert said.code == 0, said.err
    assert "look at: taken name: mean-pool: the name 'mean-pool' is reserved" in said.out
    said = add(path)
    assert said.code == 2
    assert "'mean-pool' is reserved" in said.err
    assert "choose another name" in said.err
    assert not (add.folder / "board" / "records").exists()


CARDS = {
    "title": {"title": "Another title"},
    "kind": {"kind": "control"},
    "training_cohorts": {"training_cohorts": None},
    "the card": {"description": "Another story"},
}


@pytest.mark.parametrize("word", CARDS)
def test_another_card_under_a_known_name_and_revision_is_refused(word, first, forged, add, mbench):
    """The same embeddings, with a card of one's own: the newer record won, the card was lost."""
    assert add(first.bundle).code == 0
    before = snapshot(add.folder / "board")
    path = forged(**CARDS[word])
    said = mbench("submit", "verify", path, "--config", first.cohort.config, "--jobs", "1",
                  "--results", add.folder / "board")  # fmt: skip
    assert "look at: taken name: stranger" in said.out
    said = add(path)
    assert said.code == 2
    assert f"differs in {word}" in said.err
    assert "new revision" in said.err
    assert snapshot(add.folder / "board") == before
    assert add(first.bundle).code == 0  # the first owner may add it again


@pytest.mark.parametrize("claimed", [None, {"patch_encoder": "uni", "content": hash_json("x")}])
def test_other_embeddings_under_a_known_name_are_refused(claimed, first, forged, add):
    """Whatever features they claim to be made from."""
    assert add(first.bundle).code == 0
    said = add(forged(other_rows, features=claimed))
    assert said.code == 2
    assert "differs in embeddings of bcnb" in said.err


@pytest.mark.parametrize(
    ("forgery", "word"), [({"rows": other_rows}, "embeddings of bcnb"), (CARDS["kind"], "kind")]
)
def test_over_two_folders_the_board_stops(forgery, word, first, forged, add, mbench):
    """Each folder alone knows one content; before, the newer record won on the board of both."""
    assert add(first.bundle, "ours").code == 0
    assert add(forged(**forgery), "theirs").code == 0
    for name in ("ours", "theirs"):
        assert show(mbench, add.folder, name).code == 0
    for order in (("ours", "theirs"), ("theirs", "ours")):
        said = show(mbench, add.folder, *order)
        assert said.code == 2
        assert f"stands for two contents: {add.folder / order[0]}" in said.err
        assert f"{add.folder / order[1]}" in said.err
        assert f"differ in {word}" in said.err
        assert "new revision" in said.err
    said = mbench("leaderboard", "build", "--results", add.folder / "ours", "--results",
                  add.folder / "theirs", "--out", add.folder / "site")  # fmt: skip
    assert said.code == 2


def test_claimed_features_give_a_row_of_its_own_and_move_no_other(first, forged, add, mbench):
    claimed = {"patch_encoder": "uni", "content": hash_json("x")}
    assert add(first.bundle, "ours").code == 0
    assert add(forged(other_rows, features=claimed), "theirs").code == 0
    alone = rows_of(show(mbench, add.folder, "ours").out)
    both = rows_of(show(mbench, add.folder, "ours", "theirs").out)
    (own,) = {label for label, _ in both} - {"stranger · uni"}
    assert own.startswith("stranger · features ")
    for (_, task), record in alone.items():
        assert both[own, task] == record
        assert both["stranger · uni", task] != record


def rows_of(table):
    """Return the record of each label and task of a board as CSV."""
    lines = [line.split(",") for line in table.splitlines()[1:]]
    return {(line[2], line[5]): line[-1] for line in lines}


def test_the_same_encoder_in_two_folders_is_one(first, add, mbench):
    assert add(first.bundle, "ours").code == 0
    assert add(first.bundle, "theirs").code == 0
    said = show(mbench, add.folder, "ours", "theirs")
    assert said.code == 0, said.err
    assert {label for label, _ in rows_of(said.out)} == {"stranger"}


def test_a_recomputed_record_keeps_the_claimed_features(first, add):
    assert add(first.bundle).code == 0
    claims = {c.record.task.id: c.record.features for c in read_bundle(first.bundle).claims}
    for record in ResultStore(add.folder / "board").records():
        assert record.features is not None
        assert record.features == claims[record.task.id]


def test_a_bundle_from_before_there_were_features_is_still_verified(first, altered, mbench):
    def without(name):
        record = json.loads(members_of(first.bundle)[name])
        del record["features"]
        return json.dumps({**record, "record_id": record_id(record)}).encode()

    names = [name for name in members_of(first.bundle) if name.startswith("records/")]
    said = mbench("submit", "verify", altered({n: without(n) for n in names}), *first.options)
    assert said.code == 0, said.err
    assert "2 equal to the last bit" in said.out


def test_the_records_of_a_cohort_claim_one_set_of_features(first, altered, catalogue):
    name = next(name for name in members_of(first.bundle) if name.startswith("records/"))
    record = json.loads(members_of(first.bundle)[name])
    record["features"]["content"] = hash_json("x")
    record["record_id"] = record_id(record)
    bundle = read_bundle(altered({name: json.dumps(record).encode()}))
    found = {finding.field for finding in check_claims(bundle, catalogue)}
    assert found == {"features of the cohort"}

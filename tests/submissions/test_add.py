"""Adding: what is stored was recomputed, or says that it was not."""

import json

import pytest

from madeleine_bench.results.store import ResultStore
from tests.submissions.conftest import (
    altered_embeddings,
    altered_record,
    members_of,
    snapshot,
)

RECORD = "records/bcnb-er.linear-probe-v2.json"


@pytest.fixture
def add(first, mbench, tmp_path):
    """Add to an empty results folder."""
    results = tmp_path / "board"

    def call(bundle, *more):
        options = ["--config", first.cohort.config, "--results", results, "--jobs", "1"]
        return mbench("leaderboard", "add", bundle, *options, *more)

    call.results = results
    return call


def stored(results):
    return {record.task.id: record for record in ResultStore(results).records()}


def test_recomputed_records_are_stored_with_predictions_once(first, add):
    said = add(first.bundle)
    assert said.code == 0, said.err
    assert "2 records added as V1, 0 there already" in said.out
    records = stored(add.results)
    made = {r.task.id: r for r in ResultStore(first.results).records() if "str" in r.encoder.name}
    for task, record in records.items():
        assert record.verification == "V1"
        assert record.record_id == made[task].record_id
        assert "submission" in record.provenance
        assert len(ResultStore(add.results).read_predictions(record)) == record.predictions.rows
    before = snapshot(add.results / "records", add.results / "predictions")
    assert "0 records added as V1, 2 there already" in add(first.bundle).out
    assert snapshot(add.results / "records", add.results / "predictions") == before


def test_a_claim_within_the_tolerance_is_stored_as_recomputed(first, altered, add):
    def change(record):
        record["scores"]["main"]["value"] -= 4e-7
        record["provenance"] = {"created": "9999-01-01", "cpu": "a lie"}

    assert add(altered({RECORD: altered_record(first.bundle, RECORD, change)})).code == 0
    honest = json.loads(members_of(first.bundle)[RECORD])
    record = stored(add.results)["bcnb-er"]
    assert record.scores.main.value == honest["scores"]["main"]["value"]
    assert "lie" not in record.model_dump_json()
    assert record.provenance["created"] < "9999"


def test_a_false_submission_writes_nothing(first, altered, add):
    def change(record):
        record["scores"]["main"]["value"] -= 0.1

    said = add(altered({RECORD: altered_record(first.bundle, RECORD, change)}))
    assert said.code == 1
    assert "auroc: claimed" in said.err
    for folder in ("records", "predictions", "embeddings", "cards"):
        assert not (add.results / folder).exists()


def test_reported_scores_are_stored_as_the_submitters_word(first, altered, add, mbench):
    def change(record):
        record["scores"]["main"]["value"] = 0.999
        record["provenance"] = {"created": "9999-01-01"}

    path = altered({RECORD: altered_record(first.bundle, RECORD, change)})
    said = add(path, "--level", "V0")
    assert said.code == 0, said.err
    record = stored(add.results)["bcnb-er"]
    assert (record.verification, record.scores.main.value) == ("V0", 0.999)
    assert record.provenance["created"] < "9999"
    assert not (add.results / "predictions").exists()
    assert not (add.results / "embeddings").exists()
    assert add(first.bundle).code == 0
    assert {r.verification for r in ResultStore(add.results).records()} == {"V0", "V1"}


def test_a_verified_record_takes_the_place_of_the_same_reported_one(first, add):
    assert add(first.bundle, "--level", "V0").code == 0
    assert add(first.bundle).code == 0
    records = list(ResultStore(add.results).records())
    assert [record.verification for record in records] == ["V1", "V1"]
    said = add(first.bundle, "--level", "V0")
    assert "0 records added as V0, 2 there already" in said.out


def test_a_name_and_revision_stand_for_one_set_of_embeddings(first, altered, add):
    def change(ids, matrix):
        return ids[::-1], matrix[::-1].copy()

    assert add(first.bundle).code == 0
    said = add(altered(altered_embeddings(first.bundle, change)))
    assert said.code == 2, said.err
    assert "holds revision 1 of stranger already" in said.err
    assert "new revision" in said.err


def test_a_record_made_here_is_left_as_it_is(submitted, mbench):
    before = snapshot(submitted.results / "records")
    said = mbench("leaderboard", "add", submitted.bundle, *submitted.options)
    assert "0 records added as V1, 2 there already" in said.out
    assert snapshot(submitted.results / "records") == before


def test_what_was_added_stands_on_the_board(first, add, mbench):
    assert add(first.bundle).code == 0
    said = mbench("leaderboard", "show", "--results", add.results)
    assert said.code == 0, said.err
    assert "stranger" in said.out

"""The ladder: the untouched submission passes, and each altered one says what differs.

Each attacker fixes the manifest's hashes, and the thorough ones also the ids and hashes of the
records, so that nothing but recomputing can tell.
"""

import json
import re

import numpy as np
import pytest

from madeleine_bench.specs.record import Record
from madeleine_bench.submissions.bundle import read_bundle
from madeleine_bench.submissions.claims import Finding, check_claims, compare_records, level_reached
from tests.submissions.conftest import (
    altered_embeddings,
    altered_record,
    embeddings_file,
    members_of,
)

RECORD = "records/bcnb-er.linear-probe-v2.json"
EMBEDDINGS = "embeddings/bcnb.safetensors"


@pytest.fixture
def verify(first, mbench):
    def call(path, *more):
        return mbench("submit", "verify", path, *first.options, *more)

    return call


def test_the_untouched_submission_is_verified(first, verify, tmp_path):
    report = tmp_path / "report.json"
    said = verify(first.bundle, "--json", report)
    assert said.code == 0, said.err
    assert "2 of 2 records recomputed, 2 equal to the last bit" in said.out
    content = json.loads(report.read_text())
    assert content["verified"] is True
    assert content["reached"] == "V1"
    assert content["findings"] == []


def test_one_score_altered(first, altered, verify):
    members = members_of(first.bundle)
    record = json.loads(members[RECORD])
    honest = record["scores"]["main"]["value"]
    record["scores"]["main"]["value"] = round(honest - 0.01, 6)
    said = verify(altered({RECORD: json.dumps(record).encode()}))
    assert said.code == 1
    assert f"{RECORD}: record_id" in said.err
    assert f"auroc: claimed {honest - 0.01:.6g}" in said.err
    assert f"found {honest:.9g}" in said.err
    assert "bcnb-pr" not in said.err


def test_one_score_altered_and_the_record_signed_anew(first, altered, verify):
    def change(record):
        record["folds"][2]["value"] -= 0.125
        record["scores"]["secondary"]["brier"] = 0.01

    said = verify(altered({RECORD: altered_record(first.bundle, RECORD, change)}))
    assert said.code == 1
    assert "record_id" not in said.err
    assert re.search(r"fold fold 2 repeat 0: claimed \S+, found", said.err)
    assert "brier: claimed 0.01, found" in said.err
    assert "2 claims are false" in said.err


def test_differences_below_the_tolerance_are_no_finding(first, altered, verify, tmp_path):
    def change(record):
        record["scores"]["main"]["value"] -= 4e-7

    path = altered({RECORD: altered_record(first.bundle, RECORD, change)})
    said = verify(path)
    assert said.code == 0, said.err
    assert "1 equal to the last bit" in said.out
    assert "4.0e-07" in said.out


def test_one_embedding_value_altered(first, altered, verify):
    """The file's own hash fits again; the records still name the embeddings they were made of."""
    found = read_bundle(first.bundle).embeddings["bcnb"]
    matrix = found.matrix.copy()
    matrix[3, 0] += 5.0
    said = verify(altered({EMBEDDINGS: embeddings_file(list(found.ids), matrix)}))
    assert said.code == 1
    assert said.err.count("embeddings it was scored from: claimed") == 2
    assert found.hash in said.err


def test_one_embedding_value_altered_without_its_hash(first, altered, verify):
    data = bytearray(members_of(first.bundle)[EMBEDDINGS])
    data[-4:] = np.float32(1.5).tobytes()
    said = verify(altered({EMBEDDINGS: bytes(data)}))
    assert said.code == 1
    assert f"{EMBEDDINGS}: hash of ids and matrix: claimed" in said.err
    assert "altered after the file was made" in said.err


def test_one_embedding_value_altered_and_every_record_signed_anew(first, altered, verify):
    def change(ids, matrix):
        matrix[3, 0] += 5.0
        return ids, matrix

    said = verify(altered(altered_embeddings(first.bundle, change)))
    assert said.code == 1
    assert "embeddings it was scored from" not in said.err
    assert re.search(rf"{RECORD}: \S.*: claimed \S+, found \S+", said.err)
    assert "record_id" not in said.err


def test_one_id_altered(first, altered, verify):
    def change(ids, matrix):
        return ["17x" if name == "17" else name for name in ids], matrix

    said = verify(altered(altered_embeddings(first.bundle, change)))
    assert said.code == 1
    assert "1 that are not of bcnb: '17x'" in said.err
    assert "did you mean '17'?" in said.err
    assert "no embedding of 1 slide(s), found slides with features here: '17'" in said.err
    assert "unit 17: no embedding of slide 17" in said.err


def test_one_slide_left_out(first, altered, verify):
    said = verify(altered(altered_embeddings(first.bundle, lambda i, m: (i[1:], m[1:].copy()))))
    assert said.code == 1
    assert "no embedding of 1 slide(s)" in said.err
    assert "that are not of" not in said.err


def test_one_label_differs(submitted, mbench):
    """The verifier's table says otherwise of one slide, in one column."""
    text = submitted.cohort.labels.read_text()
    submitted.cohort.labels.write_text(text.replace("\n7,0,", "\n7,1,"))
    said = mbench(*submitted.verify, submitted.bundle)
    assert said.code == 1
    assert f"{RECORD}: bcnb-er: labels of cohort bcnb: claimed" in said.err
    assert "They scored 40 units, here are 40" in said.err
    assert re.search(r"claimed score is \d\.\d+, with our data it is \d\.\d+", said.err)
    assert "mbench data status bcnb" in said.err
    assert "bcnb-pr" not in said.err


def test_one_label_is_missing(submitted, mbench):
    text = submitted.cohort.labels.read_text()
    submitted.cohort.labels.write_text(text.replace("\n7,0,", "\n7,,"))
    said = mbench(*submitted.verify, submitted.bundle)
    assert said.code == 1
    assert "They scored 40 units, here are 39. The label tables differ" in said.err


def test_other_splits_are_named(submitted, mbench):
    ids = [str(number) for number in range(1, 41)]
    rows = [f"0,{place % 5},{unit}" for place, unit in enumerate(ids)]
    splits = submitted.cohort.folder / "splits.csv"
    splits.write_text("repeat,fold,unit_id\n" + "\n".join(rows) + "\n")
    config = submitted.cohort.config
    config.write_text(config.read_text() + '[cohorts.bcnb.tasks.bcnb-er]\nsplits = "splits.csv"\n')
    said = mbench(*submitted.verify, submitted.bundle)
    assert said.code == 1
    assert "bcnb-er: splits: claimed" in said.err
    assert "Labels agree" in said.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["task"].update(id="bcnb-err"), "no such task; did you mean 'bcnb-er'"),
        (lambda r: r.update(protocol="linear-prob/v1"), "did you mean 'linear-probe/v1'"),
        (lambda r: r.update(protocol="cox/v2"), "scores survival labels"),
        (lambda r: r["task"].update(cohort="bcn"), "cohort: claimed bcn, found bcnb"),
        (lambda r: r["scores"]["main"].update(chance=-9.0), "chance: claimed -9.0, found 0.5"),
        (lambda r: r["encoder"].update(kind="baseline"), "encoder kind: claimed baseline"),
        (lambda r: r["encoder"].update(fingerprint="x"), "not 64 hex digits"),
        (lambda r: r["predictions"].update(path="../x"), "predictions path: claimed ../x"),
        (lambda r: r["inputs"].update(missing={"x" * 401: []}), "longer than 400"),
        (lambda r: r.update(source="phantom"), "board: claimed phantom, found local"),
        (lambda r: r.update(resume_key="0" * 64), "resume_key: claimed 0000"),
    ],
)
def test_a_false_claim_is_named(first, altered, catalogue, change, message):
    path = altered({RECORD: altered_record(first.bundle, RECORD, change)})
    findings = check_claims(read_bundle(path), catalogue)
    assert message in "\n".join(finding.line for finding in findings)
    assert all(finding.level == "V0" for finding in findings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["task"].update(version=2), "task version: claimed 2, found 1"),
        (lambda r: r.update(scoring_version=99), "scoring version: claimed 99, found"),
        (lambda r: r["task"].update(task_hash="0" * 64), "task hash: claimed 0000000000000000"),
        (lambda r: r["folds"].pop(), "no value, found"),
        (lambda r: r["folds"][0].update(n_train=1), "size of fold 0"),
        (lambda r: r["inputs"].update(n=41), "units: claimed 41, found 40"),
        (lambda r: r["scores"]["secondary"].pop("brier"), "brier: claimed no value"),
        (lambda r: r["scores"]["main"].update(ci95=[0.1, 1.0]), "lower end of the interval"),
    ],
)
def test_what_differs_from_the_recomputed_record_is_named(first, change, message):
    honest = next(c for c in read_bundle(first.bundle).claims if c.member == RECORD).record
    claimed = Record.model_validate_json(altered_record(first.bundle, RECORD, change))
    assert compare_records(RECORD, honest, honest) == []
    findings = compare_records(RECORD, claimed, honest)
    assert message in "\n".join(finding.line for finding in findings)


def test_another_board_cannot_be_verified_by_this_data(first, altered, mbench, verify):
    said = verify(first.bundle, "--source", "phantom")
    assert said.code == 2
    assert "is of board 'local', and cohort bcnb is of board 'phantom' here" in said.err
    said = mbench("submit", "verify", first.bundle, "--results", first.results)
    assert said.code == 2
    assert "cohort bcnb is not configured" in said.err


def test_v0_needs_no_data(first, mbench):
    said = mbench("submit", "verify", first.bundle, "--level", "V0")
    assert said.code == 0, said.err
    assert "V0 reported" in said.out


def test_the_ladder_stops_at_the_first_broken_rung():
    broken = [Finding("V0", "a", "b", "c", "d")]
    assert level_reached("V3", broken) is None
    assert level_reached("V2", []) == "V2"
    assert level_reached("V3", [Finding("V3", "a", "b", "c", "d")]) == "V2"

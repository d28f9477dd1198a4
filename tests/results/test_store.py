"""The results folder: what it keeps, and what it refuses to read."""

import json

import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.resources import resource_folder
from madeleine_bench.results.store import ResultStore, read_record
from madeleine_bench.specs.record import RecordFeatures
from tests.leaderboard.test_aggregate import CORE, make_record

CELL = ("phantom", "a", f"{CORE[0].id}@1", "linear-probe/v2", "k" * 64)


def kept(folder, value=0.7):
    """A store with one record and its predictions."""
    store = ResultStore(folder)
    predictions = store.write_predictions(CELL, pd.DataFrame({"unit_id": ["u"], "risk": [value]}))
    content = make_record("a", CORE[0], value).model_dump(mode="json")
    content.pop("record_id")
    content |= {"predictions": predictions, "resume_key": "k" * 64, "protocol": "linear-probe/v2"}
    return store, store.write_record(content)


def test_what_is_written_is_read_back(tmp_path):
    store, record = kept(tmp_path)
    assert list(store.records()) == [record]
    assert store.read_predictions(record)["risk"].tolist() == [0.7]
    path = store.find(CELL, None)
    assert path is not None
    assert read_record(path) == record


def test_the_same_content_is_one_file_and_other_content_another(tmp_path):
    store, _ = kept(tmp_path)
    kept(tmp_path)
    assert len(list(store.records())) == 1
    kept(tmp_path, 0.8)
    assert len(list(store.records())) == 2


def test_a_record_without_its_predictions_does_not_count_as_done(tmp_path):
    store, record = kept(tmp_path)
    (tmp_path / record.predictions.path).unlink()
    assert store.find(CELL, None) is None
    with pytest.raises(InputError, match="are gone"):
        store.read_predictions(record)


def test_altered_predictions_are_refused(tmp_path):
    store, record = kept(tmp_path)
    pd.DataFrame({"unit_id": ["u"], "risk": [0.9]}).to_parquet(tmp_path / record.predictions.path)
    with pytest.raises(InputError, match="altered since"):
        store.read_predictions(record)


def test_predictions_outside_the_folder_are_refused(tmp_path):
    store, record = kept(tmp_path / "results")
    (tmp_path / "secret.parquet").write_bytes(b"x")
    outside = record.predictions.model_copy(update={"path": "../secret.parquet"})
    with pytest.raises(InputError, match="are gone"):
        store.read_predictions(record.model_copy(update={"predictions": outside}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "not a readable record"),
        (lambda text: "[]", "expected an object"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 7'), "newer"),
        (lambda text: text.replace('"value": 0.7', '"value": 0.9'), "altered"),
        (lambda text: text.replace('"value": 0.7', '"value": NaN'), "NaN"),
        (lambda text: text.replace('"resume_key"', '"resume_kee"'), "resume_kee"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, damage, message):
    store, _ = kept(tmp_path)
    path = store.find(CELL, None)
    assert path is not None
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        list(store.records())
    assert path.name in str(caught.value)


def test_a_score_out_of_range_is_not_kept(tmp_path):
    store, record = kept(tmp_path)
    content = record.model_dump(mode="json")
    content.pop("record_id")
    content["scores"]["main"]["value"] = 1.5
    with pytest.raises(InputError, match="outside"):
        store.write_record(content)
    assert len(list(store.records())) == 1


def test_json_on_disk_is_plain(tmp_path):
    store, record = kept(tmp_path)
    path = store.find(CELL, None)
    assert path is not None
    assert json.loads(path.read_text())["record_id"] == record.record_id


def test_a_record_from_before_there_were_features_keeps_its_id(tmp_path):
    folder = resource_folder("leaderboard") / "regression" / "baseline" / "records"
    old = next(path for path in sorted(folder.rglob("*.json")))
    text = json.loads(old.read_text())
    text.pop("features", None)
    text["scores"]["main"].pop("rare_cases", None)
    # As records of 0.1.0 had their id: the hash of all else that they held.
    text["record_id"] = hash_json(
        {k: v for k, v in text.items() if k not in ("record_id", "provenance", "verification")}
    )
    path = tmp_path / "old.json"
    path.write_text(json.dumps(text))
    record = read_record(path)
    assert record.features is None
    assert record.scores.main.rare_cases is None
    assert record.record_id == text["record_id"]
    path.write_text(json.dumps({**text, "features": {"patch_encoder": None, "content": "0" * 64}}))
    with pytest.raises(InputError, match="altered"):
        read_record(path)


def test_features_are_part_of_what_is_found(tmp_path):
    store, record = kept(tmp_path)
    assert store.find(CELL, RecordFeatures(patch_encoder=None, content="0" * 64)) is None
    (found,) = store.located("a")
    assert found == (store.find(CELL, None), record)
    store.retire(found[0])
    assert (list(store.records()), list(store.located("a"))) == ([], [])
    assert store.read_predictions(record)["risk"].tolist() == [0.7]

"""leaderboard.json and the draws behind it, from records that were really made."""

import json
import shutil

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import compare
from madeleine_bench.leaderboard.document import leaderboard_document
from madeleine_bench.leaderboard.export import slug_of
from madeleine_bench.leaderboard.pairwise import compare_encoders
from madeleine_bench.leaderboard.sources import RESAMPLES, Sources
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.specs.card import card_text
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence
from tests.leaderboard.records import CATALOGUE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two encoders and a control on two small phantom tasks."""
    folder = tmp_path_factory.mktemp("results")
    names = ("mean-pool", "max-pool", "patch-count")
    workspace = Workspace(folder, "phantom")
    report = run(Request(names, ("aidpath-*",), ("linear-probe",), workspace), Silence())
    assert not report.failures
    return folder


@pytest.fixture
def copy(results, tmp_path):
    return Sources([shutil.copytree(results, tmp_path / "results")], CATALOGUE)


def document_of(sources):
    boards = build_boards(sources.records, CATALOGUE)
    return leaderboard_document(
        [(board, compare(board, sources.draws)) for board in boards], sources
    )


def test_draws_are_kept_and_made_again_where_the_cache_is_broken(copy):
    record = copy.records[0]
    first = copy.draws(record)
    (path,) = (copy.stores[record.record_id].folder / "cache" / "board").iterdir()
    assert first.shape == (RESAMPLES,)
    assert np.mean(first) == pytest.approx(record.scores.main.value, abs=0.2)
    assert np.std(first) > 0
    for broken in (b"", b"\x93NUMPY", path.read_bytes()[:-8]):
        path.write_bytes(broken)
        np.testing.assert_array_equal(copy.draws(record), first)
    kept = path.stat().st_mtime_ns
    copy.draws(record)
    assert path.stat().st_mtime_ns == kept


def test_altered_or_absent_predictions_are_refused_by_file(copy):
    record = copy.records[0]
    path = copy.stores[record.record_id].folder / record.predictions.path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="altered since"):
        copy.draws(record)
    path.unlink()
    with pytest.raises(InputError, match="are gone"):
        copy.draws(record)


def test_the_document_is_equal_for_equal_records_and_is_plain_json(copy):
    found = document_of(copy)
    text = json.dumps(found, allow_nan=False, sort_keys=True)
    assert json.dumps(document_of(copy), allow_nan=False, sort_keys=True) == text
    assert json.loads(text) == found
    (board,) = found["boards"]
    assert (board["name"], board["phantom"], board["core"]) == ("phantom", True, 21)
    assert {e["label"] for e in board["encoders"]} == {"mean-pool", "max-pool", "patch-count"}
    assert len(found["published"]) == 72


def test_the_comparisons_are_those_of_the_command_for_two_encoders(copy):
    (board,) = document_of(copy)["boards"]
    assert len(board["comparisons"]) == 3
    for pair in board["comparisons"]:
        (alone,) = compare_encoders(copy.folders, CATALOGUE, pair["first"], pair["second"])
        assert pair["conclusions"] == alone.conclusions
        assert {
            each.task: (each.difference, each.p_value, each.p_holm, alone.higher(each))
            for each in alone.tasks
        } == {
            task: (row["difference"], row["p_value"], row["p_holm"], row["higher"])
            for task, row in pair["tasks"].items()
        }


def test_a_task_says_its_classes_patients_and_dataset(copy):
    (board,) = document_of(copy)["boards"]
    task = next(t for t in board["tasks"] if t["id"] == "aidpath-her2")
    assert task["counts"] == CATALOGUE.tasks["aidpath-her2"].expected.classes
    assert task["patients"] == 25
    assert task["url"] == CATALOGUE.cohorts["aidpath"].access.url


def test_an_encoder_says_what_it_costs_and_where_it_comes_from(copy):
    (board,) = document_of(copy)["boards"]
    encoder = next(e for e in board["encoders"] if e["label"] == "mean-pool")
    assert encoder["parameters"] == 0
    assert encoder["seconds_per_slide"] > 0
    assert encoder["licence"]
    assert encoder["training_cohorts"] == []
    cell = encoder["cells"]["aidpath-her2"]
    record = next(r for r in copy.records if r.record_id == cell["record_id"])
    assert cell["value"] == record.scores.main.value
    assert cell["hashes"]["predictions"] == record.predictions.hash
    assert [f["value"] for f in cell["folds"]] == [f.value for f in record.folds]
    assert "incomplete: 2 of 21" in encoder["unranked"]


def test_an_encoder_says_which_features_it_was_given(copy):
    (board,) = document_of(copy)["boards"]
    record = copy.records[0]
    assert record.features.patch_encoder == "phantom-512"
    for encoder in board["encoders"]:
        assert encoder["features"] == {"aidpath": record.features.model_dump()}
        assert encoder["baseline"] is None  # nobody is complete


def test_the_card_of_a_submission_says_what_ours_would(copy):
    record = next(r for r in copy.records if r.encoder.name == "mean-pool")
    shipped = copy.card(record)
    folder = copy.stores[record.record_id].folder / "cards" / "phantom"
    folder.mkdir(parents=True)
    submitted = shipped.model_copy(update={"licence": "CC0-1.0"})
    (folder / f"mean-pool@{shipped.revision}.yaml").write_text(card_text(submitted))
    assert copy.card(record).licence == "CC0-1.0"
    stranger = record.model_copy(
        update={"encoder": record.encoder.model_copy(update={"revision": "99"})}
    )
    assert copy.card(stranger) is None


def test_a_folder_named_twice_counts_once_and_an_absent_one_is_named(results, tmp_path):
    assert len(Sources([results, results], CATALOGUE).records) == len(
        Sources([results], CATALOGUE).records
    )
    with pytest.raises(InputError, match="nowhere"):
        Sources([tmp_path / "nowhere"], CATALOGUE)


@pytest.mark.parametrize("label", ["a", "A@1", "../x", ".hid", "x/y", "<b>", "..", "é", "x" * 300])
def test_slugs_are_safe_file_names(label):
    slug = slug_of(label)
    assert 0 < len(slug) <= 100
    assert not set(slug) - set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not slug.startswith(".")

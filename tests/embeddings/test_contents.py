"""One name and revision, one content: what contradicts, and what does not."""

import numpy as np
import pytest

from madeleine_bench.embeddings.contents import content_of, require_one_content
from madeleine_bench.embeddings.store import EmbeddingStore
from madeleine_bench.errors import InputError
from tests.leaderboard.records import CATALOGUE, features, make_record

A, B = features("A"), features("B")
KIDNEY = CATALOGUE.tasks["bwh-kidney-amr"], CATALOGUE.tasks["bwh-kidney-amr-he"]
ER, PR = CATALOGUE.tasks["bcnb-er"], CATALOGUE.tasks["bcnb-pr"]


def check(*records, folders=None):
    folders = folders or [None] * len(records)
    require_one_content(
        content_of(record, f"record-{k}", folder, CATALOGUE)
        for k, (record, folder) in enumerate(zip(records, folders, strict=True))
    )


def record(task=ER, embeddings="x", **more):
    return make_record("a", task, 0.7, embeddings=embeddings, **{"features": A, **more})


def test_two_sets_of_embeddings_of_one_cohort_contradict_on_whatever_tasks(tmp_path):
    with pytest.raises(InputError, match="record-0 and record-1 differ in embeddings of bcnb"):
        check(record(), record(PR, "y"), folders=[tmp_path, tmp_path])


@pytest.mark.parametrize(
    "more",
    [
        {"features": B},
        {"revision": "2"},
        {"variant": "signal-0"},
        {"task": CATALOGUE.tasks["tcga-breast-er"]},
        {"protocol": "finetune/v1"},  # of networks, the hash of their inputs is kept
        {"protocol": "unknown/v9"},
        {"features": None},
    ],
)
def test_other_inputs_have_other_embeddings(more, tmp_path):
    other = record(**{"embeddings": "y", **more})
    check(record(), other, folders=[tmp_path, tmp_path])


def test_cases_of_other_stains_have_other_embeddings_and_cases_of_the_same_do_not(tmp_path):
    early = {"protocol": "linear-probe-early/v1"}
    several, one = (record(task, word, **early) for task, word in zip(KIDNEY, "xy", strict=True))
    check(several, one, folders=[tmp_path, tmp_path])
    with pytest.raises(InputError, match="embeddings of bwh-kidney-cases"):
        check(one, record(KIDNEY[1], "z", **early), folders=[tmp_path, tmp_path])


def test_records_that_name_no_features_are_of_the_same_ones(tmp_path):
    sent = [record(features=None, embeddings=word, verification="V1") for word in "xy"]
    with pytest.raises(InputError, match="two contents"):
        check(*sent, folders=[tmp_path, tmp_path])


@pytest.mark.parametrize(("shift", "same"), [(1e-6, True), (1e-2, False)])
def test_rows_that_rounding_moved_are_the_same(shift, same, tmp_path):
    rows = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)
    folders = [tmp_path / "one", tmp_path / "two"]
    found = []
    for folder, matrix in zip(folders, (rows, rows * np.float32(1 + shift)), strict=True):
        store = EmbeddingStore(folder)
        found.append(store.write(store.path("phantom", "a", "bcnb", "k" * 64), "abcd", matrix))
    assert found[0] != found[1]
    records = [record(embeddings=content) for content in found]
    if same:
        check(*records, folders=folders)
    else:
        with pytest.raises(InputError, match="embeddings of bcnb"):
            check(*records, folders=folders)

"""`mbench sensitivity`: it scores what is missing, reads what is there, and says what it found."""

import json

import pytest

from madeleine_bench.results.store import ResultStore
from tests.leaderboard.records import CATALOGUE, make_record
from tests.stranger import write_stranger

# The glob matches three Cox protocols too, which fit none of the tasks.
PROTOCOLS = ("--protocol", "retrieval", "--protocol", "patho-bench-[cl]*")


@pytest.fixture
def stranger(tmp_path):
    body = "return bag.features.astype(np.float32).std(axis=0)"
    return write_stranger(tmp_path, body, trained="[]")


@pytest.fixture
def results(tmp_path):
    """Records of three encoders, and of one that lacks a protocol."""
    store = ResultStore(tmp_path / "made")
    tasks = CATALOGUE.select(["bcnb-*", "aidpath-*"])
    for place, name in enumerate(("a-one", "b-two", "c-three", "d-four")):
        for protocol in ("linear-probe/v1", "few-shot/v1")[: 1 if name == "d-four" else 2]:
            for n, task in enumerate(tasks):
                level = 0.6 + 0.05 * place * (1 if protocol.startswith("linear") else -1)
                record = make_record(name, task, level + 0.003 * n * place, protocol=protocol)
                content = record.model_dump(mode="json", exclude={"record_id", "schema_version"})
                store.write_record(content)
    return store.folder


def test_missing_scores_are_made_and_the_second_time_read(mbench, stranger, tmp_path):
    asked = (
        "sensitivity", "--encoder", "mean-pool", "--encoder", "max-pool", "--encoder", stranger,
        "--task", "aidpath-her2", *PROTOCOLS, "--source", "phantom", "--jobs", "1",
        "--results", tmp_path / "r", "--format", "json",
    )  # fmt: skip
    said = mbench(*asked)
    assert said.code == 0, said.err
    (board,) = json.loads(said.out)["boards"]
    assert board["ranked"] == ["max-pool", "mean-pool", "stranger"]
    (pair,) = board["pairs"]
    assert (pair["tasks"], pair["tau_ci95"]) == (["aidpath-her2"], None)
    assert board["records"]["count"] == 6
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "records").rglob("*.json")}
    assert mbench(*asked).out == said.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "records").rglob("*.json")} == before


def test_the_table_names_ranks_taus_swaps_and_who_is_left_out(mbench, results):
    said = mbench("sensitivity", "--no-run", "--results", results)
    assert said.code == 0, said.err
    for words in (
        "Board 'phantom' (PHANTOM)", "Kendall's tau", "Swaps, of 1 pairs of protocols",
        "a-one and b-two", "d-four is left out: no score under few-shot/v1",
        "PHANTOM: synthetic data",
    ):  # fmt: skip
        assert words in said.out


def test_the_folder_holds_the_json_and_the_figure(mbench, results, tmp_path):
    out = tmp_path / "out"
    said = mbench("sensitivity", "--no-run", "--results", results, "--out", out, "--format", "json")
    assert said.out == (out / "sensitivity.json").read_text()
    assert (out / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "sensitivity.svg").read_text()
    for words in ("PHANTOM", "a-one", "linear-probe/v1 (5)"):
        assert words in svg
    (board,) = json.loads(said.out)["boards"]
    (pair,) = board["pairs"]
    # The two tasks of aidpath have too few cases; five are too few for an interval of tau.
    assert len(pair["tasks"]) == 5
    assert pair["tau_ci95"] is None
    assert -1 <= pair["tau"] <= 1
    assert len(pair["swaps"]) == 3


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--encoder", "a-on"), "did you mean 'a-one'"),
        (("--task", "bcnb-err"), "did you mean 'bcnb-er'"),
        (("--protocol", "few-shots"), "did you mean 'few-shot"),
        (("--protocol", "few-shot/v1"), "needs two with records, found few-shot/v1"),
        (("--encoder", "a-one", "--encoder", "b-two"), "not informative"),
        (("--source", "local"), "no records for this"),
    ],
)
def test_wrong_requests_are_refused(mbench, results, more, says):
    said = mbench("sensitivity", "--no-run", "--results", results, *more)
    assert (said.code, says in said.err) == (2, True), said.err
    assert "Traceback" not in said.err


THREE = ("--encoder", "mean-pool", "--encoder", "max-pool", "--encoder", "intra-ssl")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "no encoder given"),
        (("--encoder", "mean-pol"), "did you mean 'mean-pool'"),
        ((*THREE, "--task", "bcnb-er", "--protocol", "cox"), "fits none of the"),
    ],
)
def test_wrong_runs_are_refused_before_anything_is_made(mbench, tmp_path, more, says):
    folder = tmp_path / "r"
    said = mbench("sensitivity", "--source", "phantom", "--results", folder, *more)
    assert (said.code, says in said.err) == (2, True), said.err
    assert not (folder / "records").exists()


def test_two_encoders_are_refused_before_anything_is_scored(mbench, tmp_path):
    said = mbench(
        "sensitivity", "--encoder", "mean-pool", "--encoder", "max-pool", "--encoder", "case-id",
        "--task", "aidpath-*", "--results", tmp_path / "r",
    )  # fmt: skip
    assert said.code == 2
    assert "not informative; to be ranked are mean-pool, max-pool; name more" in said.err
    assert not (tmp_path / "r").exists()

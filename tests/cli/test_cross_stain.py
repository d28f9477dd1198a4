"""`mbench cross-stain`: the table, the file, PHANTOM said, and who was trained on the slides."""

import json
import shutil

import pytest

from madeleine_bench.resources import resource_folder
from tests.stranger import write_stranger


@pytest.fixture
def catalogue(tmp_path):
    """A catalogue of two cohorts: a bwh-kidney of 31 slides and 8 cases, one without Jones."""
    folder = tmp_path / "tasks"
    shutil.copytree(resource_folder("tasks"), folder)
    for declared in folder.rglob("*.yaml"):
        if declared.stem not in ("bcnb", "bwh-kidney"):
            declared.unlink()
    path = folder / "cohorts" / "bwh-kidney.yaml"
    text = path.read_text().replace("slides: 1852\ncases: 210", "slides: 31\ncases: 8")
    text = text.replace("{H&E: 463, PAS: 463, Jones: 463, trichrome: 463}",
                        "{H&E: 8, PAS: 8, Jones: 7, trichrome: 8}")  # fmt: skip
    path.write_text(text.replace("cases: 210", "cases: 8"))
    return folder


@pytest.fixture
def call(mbench, catalogue, tmp_path):
    def run(*more, cohort="bwh-kidney", encoder="mean-pool"):
        return mbench(
            "cross-stain", "--encoder", encoder, "--cohort", cohort, "--catalogue", catalogue,
            "--results", tmp_path / "r", "--source", "phantom", "--jobs", "1", *more,
        )  # fmt: skip

    return run


def stranger(folder, mean="bag.features.mean()", **card):
    body = f"return np.float32([len(bag.features), 1.0, {mean}])"
    return str(write_stranger(folder, body, **card))


def test_the_table_says_phantom_chance_and_who_is_left_out(call, tmp_path):
    said = call()
    assert said.code == 0, said.err
    assert "bwh-kidney (PHANTOM)" in said.out
    assert "PHANTOM: synthetic data" in said.out
    assert "1 cases have no Jones slide and are left out" in said.out
    for word in ("mean-pool", "chance", "PAS", "Jones", "trichrome", "mean", "0.125"):
        assert word in said.out
    assert "clean" in said.out


def test_json_is_what_is_kept(call, tmp_path):
    said = call("--format", "json")
    kept = (tmp_path / "r" / "cross_stain" / "phantom" / "bwh-kidney.json").read_text()
    assert said.out == kept
    found = json.loads(kept)
    assert (found["phantom"], found["query"], found["main"]) == (True, "H&E", "centred")
    assert {"commit", "packages", "cpu"} <= set(found["provenance"])
    (encoder,) = found["encoders"]
    assert [s["stain"] for s in encoder["stains"]] == ["PAS", "Jones", "trichrome", "mean"]
    pas = encoder["stains"][0]
    assert (pas["queries"], pas["gallery"], pas["cases_without_stain"]) == (8, 8, 0)
    for centring in ("centred", "raw"):
        for measure in pas[centring].values():
            low, high = measure["ci95"]
            assert 0.0 <= low <= measure["value"] <= high <= 1.0
        assert pas[centring]["recall@1"]["chance"] == pytest.approx(1 / 8)


def test_the_same_request_gives_the_same_numbers(call):
    first, second = (json.loads(call("--format", "json").out) for _ in range(2))
    for one in (first, second):
        one.pop("provenance")
    assert first == second


def test_another_stain_may_ask(call):
    found = json.loads(call("--format", "json", "--query", "PAS").out)
    assert [s["stain"] for s in found["encoders"][0]["stains"]] == [
        "H&E", "Jones", "trichrome", "mean"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("trained", "word"), [("[bwh-kidney]", "contaminated"), ("null", "unknown")]
)
def test_who_saw_the_slides_is_said(call, tmp_path, trained, word):
    said = call(encoder=stranger(tmp_path, trained=trained))
    assert said.code == 0, said.err
    assert word in said.out


def test_wrong_requests_are_refused(call, tmp_path):
    for more, says in [
        (("--query", "Jone"), "did you mean 'Jones'"),
        (("--query", "ER"), "it has H&E, Jones, PAS, trichrome"),
        (("--format", "csv"), "csv"),
    ]:
        said = call(*more)
        assert (said.code, says in said.err) == (2, True), said.err
        assert "Traceback" not in said.err
    assert "did you mean 'bwh-kidney" in call(cohort="bwh-kidny").err
    assert "no embedding of its own" in call(encoder=stranger(tmp_path, kind="supervised")).err
    assert call(cohort="bcnb").code == 2  # one stain


def test_an_encoder_that_fails_is_named_and_the_others_are_kept(call, tmp_path):
    bad = stranger(tmp_path, mean="float('nan')")
    said = call("--encoder", bad)
    assert said.code == 1
    assert "stranger: " in said.err
    assert "mean-pool" in said.out

"""The scripts behind the figures of docs/slides.md, and that the page quotes their results."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import convert_memory, extraction_speed, lung_landmarks, real_pictures
from madeleine_bench.seeds import rng_for

ROOT = Path(__file__).resolve().parents[2]
LUNG = ROOT.parent / "shared" / "data" / "multistain_lung"
PAGE = (ROOT / "docs" / "slides.md").read_text()


def committed(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "script"),
    [("lung_landmarks", lung_landmarks), ("extraction_speed", extraction_speed)],
)
def test_the_page_quotes_the_committed_results(name, script):
    for line in script.markdown_rows(committed(name)["rows"]):
        assert line in PAGE


def test_the_page_on_formats_quotes_the_committed_results():
    page = (ROOT / "docs" / "slide-formats.md").read_text()
    lines = convert_memory.markdown_rows(committed("convert_memory")["rows"])
    for line in lines + real_pictures.markdown_rows(committed("real_pictures")):
        assert line in page


def test_memory_stays_below_a_gigabyte_at_20_000_px():
    rows = {(row["work"], row["side_px"]): row for row in committed("convert_memory")["rows"]}
    for work in ("convert", "choose"):
        assert rows[work, 20_000]["streamed_mb"] < 500
        assert rows[work, 20_000]["memory_ratio"] < 0.3


def test_real_pictures_are_scored_as_well_as_the_trial():
    results = committed("real_pictures")
    assert results["ucsb"]["auroc"] >= 0.95
    assert results["ucsb"]["plain_auroc"] >= 0.95
    assert {row["stain"] for row in results["kidney"]} == {"HE", "JMS", "MT", "PAS"}
    formats = {row["format"]: row for row in results["formats"]}
    assert all(row["same_places"] for row in formats.values())
    assert formats["DICOM"]["mean_pixel_difference"] == 0


def test_a_conversion_is_measured_both_ways(tmp_path):
    row = convert_memory.measure("convert", 600, tmp_path, repeats=1)
    assert row["side_px"] == 600
    assert row["time_ratio"] > 0


def test_landmarks_are_found_well_below_chance_in_all_four_stains():
    rows = [row for row in committed("lung_landmarks")["rows"] if "lite0" in row["encoder"]]
    assert {row["stain"] for row in rows} == {"Ki67", "CD31", "proSPC", "CC10"}
    for row in rows:
        assert row["mean_normalised_rank"] < 0.25
        assert row["landmarks"] == 80
        assert row["mean_normalised_rank"] == pytest.approx(np.mean(row["ranks"]), abs=1e-3)


def test_ranks_are_those_of_a_plain_loop():
    rng = rng_for("tests", "ranks")
    queries, gallery = rng.standard_normal((2, 12, 5))
    found = lung_landmarks.normalised_ranks(queries, gallery)
    for i, rank in enumerate(found):
        query = queries[i] - queries.mean(axis=0)
        keys = gallery - gallery.mean(axis=0)
        cosine = [query @ k / np.linalg.norm(query) / np.linalg.norm(k) for k in keys]
        assert rank == pytest.approx(sorted(cosine, reverse=True).index(cosine[i]) / 11)


def test_equal_patches_rank_in_the_middle_and_the_same_patches_first():
    assert lung_landmarks.normalised_ranks(np.eye(4), np.eye(4)).tolist() == [0, 0, 0, 0]
    pairs = np.repeat(np.eye(3), 2, axis=0)
    assert lung_landmarks.normalised_ranks(pairs, pairs) == pytest.approx(np.full(6, 0.1))


@pytest.mark.slow
def test_the_landmark_script_gives_what_is_committed(tmp_path, monkeypatch):
    if not LUNG.is_dir():
        pytest.skip(f"the real pictures are not there: {LUNG}")
    arguments = ["x", "--data", LUNG, "--results", tmp_path, "--docs", tmp_path]
    monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
    lung_landmarks.main()
    again = json.loads((tmp_path / "lung_landmarks.json").read_text())
    before = committed("lung_landmarks")
    assert again["extraction"] == before["extraction"]
    for one, other in zip(again["rows"], before["rows"], strict=True):
        assert one["mean_normalised_rank"] == pytest.approx(
            other["mean_normalised_rank"], abs=0.005
        )

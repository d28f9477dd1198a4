"""docs/retrieval.md quotes the committed results, and the script's own arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import patch_retrieval

ROOT = Path(__file__).resolve().parents[2]
SERIAL = ROOT.parent / "shared" / "data" / "serial_ihc"
PAGE = (ROOT / "docs" / "retrieval.md").read_text()


def committed(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "board"),
    [("cross_stain_phantom", "phantom"), ("cross_stain_null_phantom", "phantom-signal-0")],
)
def test_the_page_quotes_the_cross_stain_results(name, board):
    found = committed(name)
    assert found["phantom"]
    assert found["board"] == board
    lines = [encoder_row(encoder) for encoder in found["encoders"]]
    mean = found["encoders"][0]["stains"][-1]["centred"]
    chances = [f"{mean[measure]['chance']:.3f}" for measure in (*mean, "recall@1")]
    for line in (*lines, f"| chance | {' | '.join(chances)} |"):
        assert line in PAGE


def encoder_row(encoder):
    """The means over stains with their intervals, and recall@1 without centring."""
    mean = encoder["stains"][-1]
    cells = [
        "{value:.3f} ({ci95[0]:.3f}-{ci95[1]:.3f})".format(**measure)
        for measure in mean["centred"].values()
    ]
    return (
        f"| {' | '.join([encoder['encoder'], *cells])} | {mean['raw']['recall@1']['value']:.3f} |"
    )


def test_the_page_quotes_the_patch_results():
    for line in patch_retrieval.markdown_rows(committed("patch_retrieval")["rows"]):
        assert line in PAGE
    assert patch_retrieval.collapse_sentence(committed("patch_retrieval")["rows"]) in PAGE


def test_the_results_are_of_the_settings_in_the_script():
    found = committed("patch_retrieval")
    settings = {"steps": patch_retrieval.RECIPE.epochs, "tokens": patch_retrieval.TOKENS}
    settings |= {"seeds": list(patch_retrieval.SEEDS), "patch_encoder": patch_retrieval.ENCODER}
    assert {name: found[name] for name in settings} == settings
    for row in found["rows"]:
        if row["method"] == "trained" and row["stain"] != "mean":
            assert row["stain"] not in row["trained_on"]
            assert len(row["trained_on"]) == 4


def test_a_mean_over_stains_is_the_mean_of_the_stains_and_a_gap_is_a_difference():
    rows = {
        (r["sections"], r["stain"], r["method"]): r for r in committed("patch_retrieval")["rows"]
    }
    for (sections, stain, method), row in rows.items():
        plain = rows[sections, stain, "plain"]["mean_normalised_rank"]
        if method != "plain":
            gap = row["mean_normalised_rank"] - plain
            assert row["less_plain"] == pytest.approx(gap, abs=2e-4)
        if stain == "mean":
            each = [
                r["mean_normalised_rank"]
                for (s, name, m), r in rows.items()
                if (s, m) == (sections, method) and name != "mean"
            ]
            assert row["mean_normalised_rank"] == pytest.approx(np.mean(each), abs=2e-4)


def test_a_row_keeps_the_paired_difference():
    class Sections:
        title = "toy"

    plain = np.linspace(0.0, 0.4, 50)
    ranks = {("x", "plain"): plain, ("x", "trained"): plain + 0.1}
    row = patch_retrieval.row_of(Sections, "x", "trained", ranks)
    assert row["less_plain"] == 0.1
    assert row["less_plain_ci95"] == [0.1, 0.1]
    low, high = row["ci95"]
    assert low < row["mean_normalised_rank"] == 0.3 < high


def test_the_grid_is_cut_row_by_row():
    picture = np.arange(70 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 100, 3)
    cut = patch_retrieval._cut(picture)
    assert cut.shape == (2 * 3, 32, 32, 3)
    assert (cut[1] == picture[:32, 32:64]).all()
    assert (cut[3] == picture[32:64, :32]).all()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_moves_the_model_and_the_same_seed_repeats_it(monkeypatch, one_thread):
    short = patch_retrieval.RECIPE.model_copy(update={"epochs": 6})
    size = short.model.model_copy(update={"width": 8, "heads": 2})
    monkeypatch.setattr(patch_retrieval, "RECIPE", short.model_copy(update={"model": size}))
    rng = np.random.default_rng(0)
    patches = {name: rng.normal(size=(20, 12)).astype(np.float32) for name in "abc"}
    before = patch_retrieval.untrained(12, 0).state_dict()
    state = torch.random.get_rng_state()
    one, losses = patch_retrieval.train(patches, 0)
    two, again = patch_retrieval.train(patches, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert losses == again
    assert len(losses) == 6
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert any(not torch.equal(value, before[name]) for name, value in one.state_dict().items())


@pytest.mark.slow
def test_serial_sections_share_their_places():
    if not SERIAL.is_dir():
        pytest.skip(f"the real pictures are not there: {SERIAL}")
    sections = patch_retrieval.serial_sections(SERIAL)
    assert list(sections.places) == [f"section {n}" for n in (2, 0, 1, 3, 4)]
    assert {len(rows) for rows in sections.places.values()} == {
        committed("patch_retrieval")["patches"][sections.title]["section 2"]
    }

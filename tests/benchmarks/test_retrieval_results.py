"""docs/retrieval.md quotes the committed results, and the script's own arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import patch_retrieval, real_sections

ROOT = Path(__file__).resolve().parents[2]
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
    found = committed("patch_retrieval")
    for line in (
        *patch_retrieval.markdown_rows(found["rows"]),
        *patch_retrieval.plan_lines(found["plans"]),
    ):
        assert line in PAGE


def test_the_results_are_of_the_settings_in_the_script():
    found = committed("patch_retrieval")
    settings = {"steps": patch_retrieval.RECIPE.epochs, "tokens": patch_retrieval.TOKENS}
    settings |= {"seeds": list(patch_retrieval.SEEDS), "patch_encoder": patch_retrieval.ENCODER}
    settings |= {"width": patch_retrieval.WIDTH}
    assert {name: found[name] for name in settings} == settings


def test_the_aligned_objective_holds_what_it_promises():
    found = committed("patch_retrieval")
    rows = {(r["block"], r["stain"], r["method"]): r for r in found["rows"]}
    assert rows["all", "mean", "start"]["less_plain"][0] <= 0.005
    assert rows["all", "mean", "aligned"]["less_plain"][2] < 0.0
    assert rows["all", "mean", "shuffled"]["less_plain"][0] > 0.0
    for (_, stain, method), row in rows.items():
        if method == "aligned" and stain == "mean":
            assert row["token_cosine"] <= 0.5
            assert row["less_plain"][0] <= 0.01
            assert row["wide_less_contrast"][0] <= 0.002
    for plan in found["plans"]:
        assert plan["whole"] <= 1.0
        assert min(plan["patches"]) >= 200


def test_a_mean_over_stains_is_the_mean_of_the_stains_and_a_gap_is_a_difference():
    rows = {(r["block"], r["stain"], r["method"]): r for r in committed("patch_retrieval")["rows"]}
    for (block, stain, method), row in rows.items():
        if method != "plain":
            gap = row["rank"][0] - rows[block, stain, "plain"]["rank"][0]
            assert row["less_plain"][0] == pytest.approx(gap, abs=2e-4)
        if stain == "mean" and block != "all":
            each = [
                r["rank"][0]
                for (b, name, m), r in rows.items()
                if (b, m) == (block, method) and name != "mean"
            ]
            assert row["rank"][0] == pytest.approx(np.mean(each), abs=2e-4)


def test_an_interval_resamples_landmarks_within_blocks():
    narrow, wide = np.full(40, 0.2), np.linspace(0.0, 0.4, 50)
    assert patch_retrieval.interval([narrow], "toy") == [0.2, 0.2, 0.2]
    middle, low, high = patch_retrieval.interval([narrow, wide], "toy")
    assert low < middle == 0.2 < high
    alone = patch_retrieval.interval([wide], "toy")
    assert high - low < 0.6 * (alone[2] - alone[1])


def block():
    """Three sections of the same toy tissue, whose stains add noise."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(7)), axis=-1).reshape(-1, 2)
    positions = 0.5 * grid + 0.05 * rng.random(grid.shape)
    clean = np.sin(positions @ rng.normal(size=(2, 12)))
    sections = {}
    for name in "abc":
        features = (clean + 0.3 * rng.normal(size=clean.shape)).astype(np.float32)
        sections[name] = real_sections.Section(features, positions, features[::3], positions[::3])
    return real_sections.Block("toy", "Toy", sections)


def test_patches_are_cut_around_the_edge_too():
    picture = np.arange(70 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 100, 3)
    patches = real_sections.cut(picture, np.array([[32, 0], [-8, 40]]), 32)
    assert (patches[0] == picture[:32, 32:64]).all()
    assert (patches[1][:30, 8:] == picture[40:70, :24]).all()


def test_partners_of_equal_sections_are_where_the_landmarks_say():
    row = real_sections.plan_row(block(), "b")
    assert row["patches"] == [56, 56]
    assert row["whole"] < 0.6


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_runs_repeat_and_leave_random_state_alone(monkeypatch, one_thread):
    short = patch_retrieval.RECIPE.model_copy(update={"epochs": 6})
    monkeypatch.setattr(patch_retrieval, "RECIPE", short)
    for name, value in {"WIDTH": 8, "TOKENS": 40, "TRANSPORTED": 20, "REGIONS": 3}.items():
        monkeypatch.setattr(patch_retrieval, name, value)
    toy = block()
    state = torch.random.get_rng_state()
    found = {}
    for method in patch_retrieval.METHODS[1:]:
        found[method] = patch_retrieval.run(toy, "b", method, 0)
        assert len(found[method]["ranks"]) == len(found[method]["wide_ranks"]) == 19
        assert len(found[method]["curve"]) == 2 * (method in patch_retrieval.TRAINED)
    assert patch_retrieval.run(toy, "b", "aligned", 0) == found["aligned"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_shuffled_plan_has_the_same_rows_and_a_step_draws_each_patch_once():
    toy = block()
    pairs = patch_retrieval.Pairs(toy, "b", shuffled=True, seed=0)
    straight = real_sections.training_plan(toy, "c")
    assert sorted(map(tuple, pairs.plans["c"])) == sorted(map(tuple, straight))
    assert not np.array_equal(pairs.plans["c"], straight)
    rows, regions = pairs.draw()
    assert all((np.diff(region) >= 0).all() for region in regions.values())
    assert all(len(set(drawn)) == len(drawn) for drawn in rows.values())

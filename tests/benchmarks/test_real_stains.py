"""docs/pretraining.md quotes the results on real stains, and the script's registration is right."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from benchmarks import real_stains
from madeleine_bench.seeds import rng_for

ROOT = Path(__file__).resolve().parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "real_stains.json").read_text())
PAGE = (ROOT / "docs" / "pretraining.md").read_text()


def test_the_page_quotes_the_results():
    assert "\n".join(real_stains.markdown_rows(RESULTS["rows"])) in PAGE
    clear = [pair["shift_um"] for pair in RESULTS["registrations"] if pair["clear"]]
    near, far = sorted(clear)
    total = len(RESULTS["registrations"])
    assert f"Only {len(clear)} of {total} pairs of fields can be registered" in PAGE
    assert f"are {near:.0f} and {far:.0f} micrometres" in PAGE
    fewest, most = min(RESULTS["patches"].values()), max(RESULTS["patches"].values())
    assert f"{fewest} to {most} patches per slide" in PAGE


def test_the_page_says_how_alike_tokens_become():
    ends = {
        method: [
            (min(values), max(values))
            for key in ("token_cosine", "token_rank")
            for values in [[run[key] for run in RESULTS["runs"] if run["method"] == method]]
        ]
        for method in ("corrected", "aligned")
    }
    (cosine, rank), (aligned_cosine, aligned_rank) = ends["corrected"], ends["aligned"]
    assert " to ".join(f"{c:.3f}"[1:] for c in cosine) + " with `corrected`" in PAGE
    assert " to ".join(f"{c:.2f}"[1:] for c in aligned_cosine) + " with `aligned`" in PAGE
    ranks = " and ".join("{:.0f} to {:.0f}".format(*pair) for pair in (rank, aligned_rank))
    assert f"an effective rank of {ranks}" in PAGE


def test_the_results_are_of_the_recipe_in_the_script():
    assert RESULTS["recipe"] == real_stains.RECIPE
    assert {row["method"] for row in RESULTS["rows"]} == set(real_stains.METHODS)


@pytest.mark.parametrize(("angle", "shift"), [(0.0, (0, 0)), (8.0, (6, -10)), (-12.0, (-4, 7))])
def test_a_rotation_and_a_shift_are_found(angle, shift):
    """The second picture is cut out of the first by the map that `moved` states."""
    texture = gaussian_filter(rng_for("real-stains").standard_normal((120, 110)), 2.0)
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = (np.array(texture.shape) - 1) / 2
    second = affine_transform(texture, matrix, centre - matrix @ (centre + shift), order=1)
    lead, found, moved_by = real_stains.register(texture, second)
    assert lead > real_stains.CLEAR
    assert found == angle
    np.testing.assert_allclose(moved_by, shift, atol=1.0)

    size = np.array(texture.shape[::-1], float) * real_stains.REDUCE
    pixel = np.array([62, 37])  # row, column; its centre is half a pixel further
    ((x, y),) = real_stains.moved((pixel[::-1][None] + 0.5) * 8, (size, size), found, moved_by)
    value = map_coordinates(second, [[y / 8 - 0.5], [x / 8 - 0.5]], order=1)
    assert value == pytest.approx(texture[tuple(pixel)], abs=0.05)


def test_partners_are_nearest_to_each_other():
    first = np.array([[0.0, 0.0], [10.0, 0.0], [50.0, 0.0]])
    second = np.array([[11.0, 0.0], [1.0, 0.0], [14.0, 0.0], [90.0, 0.0]])
    rows, others = real_stains.match_places(first, second, 20.0)
    assert rows.tolist() == [0, 1]
    assert others.tolist() == [1, 0]


def test_cases_are_resampled_with_all_their_stains():
    values = {("case01", "PAS"): np.zeros(9), ("case01", "MT"): np.zeros(4)}
    values |= {("case02", "PAS"): np.ones(5)}
    means = np.unique(real_stains.resampled_means("cases", values))
    np.testing.assert_allclose(means, [0.0, 1 / 3, 1.0])

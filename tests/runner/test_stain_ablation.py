"""Stains of a case: subsets against a brute force, fusions, smooth loss, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.case_bags import slide_groups
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.metrics.classification import auroc
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.runner.plan import Assessment
from madeleine_bench.runner.stain_ablation import (
    curve,
    score_fusions,
    score_stain_subsets,
    stain_ablation,
)
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import Silence, Split, Splits, Units

CATALOGUE = load_catalogue()
TASK = CATALOGUE.tasks["bwh-kidney-amr"]
STAINS = TASK.stains


def made_up(n=60, lacking=()):
    """Return cases with one slide of each stain; every stain adds its own noisy view of the label.

    `lacking` are pairs of case number and stain that have no slide.
    """
    rng = rng_for("multistain", n)
    positive = np.arange(n) % 2
    slides, rows, stain_of = {}, {}, {}
    for case in range(n):
        own = []
        for stain in STAINS:
            view = rng.normal(size=6)
            view[0] += 1.2 * positive[case]
            if (case, stain) not in lacking:
                slide = f"s{case:02d}-{stain}"
                own.append(slide)
                rows[slide], stain_of[slide] = view, stain
        slides[f"c{case:02d}"] = tuple(own)
    ids = sorted(slides)
    label = np.array(TASK.labels.classes, dtype=object)[positive]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", "label": label})
    units = Units(table, slides, {}, "")
    fold = np.arange(n) // 2 % 3
    splits = Splits(
        ("repeat", "fold"),
        [Split((0, f), np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)],
        "splits",
    )
    matrix = np.array([rows[slide] for slide in sorted(rows)], dtype=np.float32)
    return units, splits, Embeddings(tuple(sorted(rows)), matrix, ""), stain_of


def assessment(units, splits, stain_of, fusion="late"):
    # Version 1 chooses nothing, so that it can be followed by hand.
    name = "linear-probe/v1" if fusion == "late" else f"linear-probe-{fusion}/v1"
    groups = slide_groups(units, fusion, stain_of)
    return Assessment(TASK, CATALOGUE.protocol(name), units, splits, "hash", groups)


def mean_over(embeddings, slides):
    row = {slide: i for i, slide in enumerate(embeddings.ids)}
    return np.array([embeddings.matrix[[row[s] for s in own]].mean(axis=0) for own in slides])


def probed(units, splits, train, test):
    """Score by hand: fit on rows of one matrix, predict rows of another."""
    scores = []
    for split in splits:
        both = np.concatenate([train[split.train], test[split.test]]).astype(np.float64)
        rows = np.concatenate([split.train, split.test])
        table = units.table.iloc[rows].assign(unit_id=[f"{i:03d}" for i in range(len(rows))])
        n = len(split.train)
        one = Splits(("repeat", "fold"), [Split((0, 0), np.arange(n), np.arange(n, len(rows)))], "")
        unit = Units(table.reset_index(drop=True), {}, {}, "")
        found = evaluate(TASK, CATALOGUE.protocol("linear-probe/v1"), both, unit, one).predictions
        names = list(TASK.labels.classes)
        label = found["label"].map(names.index).to_numpy()
        scores.append(auroc(label, found[[f"prob_{c}" for c in names]].to_numpy()))
    return float(np.mean(scores))


def test_subsets_score_as_by_hand():
    units, splits, embeddings, stain_of = made_up()
    found = score_stain_subsets(assessment(units, splits, stain_of), embeddings, stain_of)
    assert len(found) == 1 + 2 * 14
    whole = mean_over(embeddings, units.slides.values())
    assert found[0]["stains"] == STAINS
    assert found[0]["value"] == pytest.approx(probed(units, splits, whole, whole))
    assert found[0]["difference"] is None
    some = ("H&E", "Jones")
    kept = [tuple(s for s in own if stain_of[s] in some) for own in units.slides.values()]
    reduced = mean_over(embeddings, kept)
    by_way = {score["way"]: score for score in found if score["stains"] == some}
    assert by_way["alike"]["value"] == pytest.approx(probed(units, splits, reduced, reduced))
    assert by_way["dropped"]["value"] == pytest.approx(probed(units, splits, whole, reduced))
    for score in by_way.values():
        assert score["difference"] == pytest.approx(score["value"] - found[0]["value"])
        low, high = score["ci95"]
        assert low <= score["difference"] <= high
        assert (score["cases"], score["lacking"]) == (60, 0)


def test_more_stains_are_better_and_the_loss_is_smooth():
    units, splits, embeddings, stain_of = made_up(n=120)
    found = score_stain_subsets(assessment(units, splits, stain_of), embeddings, stain_of)
    for way in ("alike", "dropped"):
        points = curve(found, way)
        assert [point["stains"] for point in points] == [4, 3, 2, 1]
        means = [point["mean"] for point in points]
        assert means == sorted(means, reverse=True)
        steps = -np.diff(means)
        assert steps.max() < 0.75 * (means[0] - means[-1])
        assert all(p["lowest"] <= p["mean"] <= p["highest"] for p in points)


def test_cases_that_lack_a_stain_are_scored_from_the_others_and_counted():
    gone = ((0, "H&E"), (1, "H&E"), (2, "PAS"))
    units, splits, embeddings, stain_of = made_up(lacking=gone)
    found = score_stain_subsets(assessment(units, splits, stain_of), embeddings, stain_of)
    by_stains = {(score["stains"], score["way"]): score for score in found}
    assert found[0]["cases"] == 60
    for way in ("alike", "dropped"):
        alone = by_stains[("H&E",), way]
        assert (alone["cases"], alone["lacking"]) == (58, 2)
        assert alone["difference"] is not None
        both = by_stains[("H&E", "PAS"), way]
        assert (both["cases"], both["lacking"]) == (60, 0)


def test_fusions_are_held_against_one_stain_alone():
    units, splits, embeddings, stain_of = made_up()
    of = {f: assessment(units, splits, stain_of, f) for f in ("late", "early", "per-stain")}
    cases = Embeddings(tuple(units.slides), mean_over(embeddings, units.slides.values()), "")
    by_fusion = {"late": embeddings, "early": cases, "per-stain": embeddings}
    found = score_fusions(of, by_fusion, "H&E", stain_of)
    shown = [(score["fusion"], score["stains"]) for score in found]
    assert shown == [
        ("late", ("H&E",)), ("late", STAINS), ("early", STAINS), ("per-stain", STAINS),
    ]  # fmt: skip
    assert found[0]["difference"] is None
    # One slide a stain: per-stain is late, and these cases' bags were made to embed alike.
    values = [score["value"] for score in found]
    assert values[1:] == pytest.approx([values[1]] * 3)
    assert found[1]["difference"] == pytest.approx(values[1] - values[0])
    assert found[1]["difference"] > 0


def test_the_order_of_slides_does_not_matter():
    units, splits, embeddings, stain_of = made_up()
    order = rng_for("order").permutation(len(embeddings.ids))
    mixed = Embeddings(tuple(embeddings.ids[i] for i in order), embeddings.matrix[order], "")
    turned = replace(units, slides={k: v[::-1] for k, v in units.slides.items()})
    first = score_stain_subsets(assessment(units, splits, stain_of), embeddings, stain_of)
    second = score_stain_subsets(assessment(turned, splits, stain_of), mixed, stain_of)
    assert [s["value"] for s in first] == pytest.approx([s["value"] for s in second], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ("bcnb-er",)}, "bcnb-er is not a task by case on several stains"),
        ({"tasks": ("bwh-kidney-amr-he",)}, "is not a task by case on several stains"),
        ({"alone": "HER2"}, "--alone 'HER2': bwh-kidney-amr has stains H&E, PAS"),
        ({"protocol": "finetune"}, "name one that starts from embeddings and fuses late"),
        ({"protocol": "linear-probe-early"}, "fuses late"),
        ({"encoders": ("abmil",)}, "abmil is supervised"),
        ({"encoders": ("nobody",)}, "no encoder is called 'nobody'"),
    ],
)
def test_what_cannot_be_asked_is_said(changes, words, tmp_path):
    usual = {"encoders": ("mean-pool",), "tasks": ("bwh-kidney-amr",)}
    asked = {**usual, **changes, "workspace": Workspace(tmp_path), "progress": Silence()}
    with pytest.raises(InputError, match=words):
        stain_ablation(**asked)


@pytest.mark.slow
def test_the_command_keeps_numbers_and_a_figure(tmp_path, mbench):
    arguments = [
        "stains", "--encoder", "patch-count", "--task", "bwh-kidney-amr", "--source", "phantom",
        "--results", tmp_path, "--jobs", "1",
    ]  # fmt: skip
    said = mbench(*arguments)
    assert said.code == 0, said.err
    assert "PHANTOM" in said.out
    assert "4 stains" in said.out
    folder = tmp_path / "stains" / "phantom"
    content = json.loads((folder / "bwh-kidney.json").read_text())
    (task,) = content["tasks"]
    assert len(task["subsets"]) == 29
    assert (folder / "bwh-kidney.svg").read_text().startswith("<svg")
    assert (folder / "bwh-kidney.png").read_bytes().startswith(b"\x89PNG")
    assert "PHANTOM" in (folder / "bwh-kidney.svg").read_text()
    again = mbench(*arguments, "--format", "json")
    assert json.loads(again.out)["tasks"] == content["tasks"]

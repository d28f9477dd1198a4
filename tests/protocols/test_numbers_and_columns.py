"""Ridge regression and several labels: against scikit-learn, and what a fold cannot judge."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from madeleine_bench.data.splits import frozen_splits
from madeleine_bench.errors import InputError
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.protocols.scoring import score, scored_units
from madeleine_bench.specs.catalogue import load_catalogue, misfit
from madeleine_bench.specs.task import SplitScheme, TaskSpec
from madeleine_bench.types import Split, Splits, Units

N, DIM = 60, 9
PROTOCOLS = load_catalogue().protocols


def made_task(labels: dict[str, Any], **more: Any) -> TaskSpec:
    keys = {"id": "own", "cohort": "mine", "stains": ["H&E"], "labels": labels}
    return TaskSpec.model_validate({**keys, **more})


def numbers(**more: Any) -> TaskSpec:
    return made_task({"type": "continuous", "column": "score"}, **more)


def units_of(**columns: Sequence[Any]) -> Units:
    ids = [f"u{i:03d}" for i in range(N)]
    table = pd.DataFrame({"unit_id": ids, "case_id": ids, "site": "", **columns})
    return Units(table, {}, {}, "made")


def five_folds(val: bool = False) -> Splits:
    rows, splits = np.arange(N), []
    for k in range(5):
        test, judged = rows[k::5], rows[(k + 1) % 5 :: 5] if val else rows[:0]
        train = np.setdiff1d(rows, np.concatenate([test, judged]))
        splits.append(Split((0, k), train, test, judged))
    return Splits(("repeat", "fold"), splits, "made")


@pytest.fixture
def world() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(N, DIM)) * np.arange(1, DIM + 1) + 5.0
    return rows, 100.0 + rows[:, 2] - 0.5 * rows[:, 4] + rng.normal(size=N)


RIDGE = PROTOCOLS["ridge-regression/v1"]


def test_a_fit_is_scikit_learns_at_the_chosen_penalty(world: Any) -> None:
    rows, value = world
    splits = five_folds()
    found = evaluate(numbers(), RIDGE, rows, units_of(value=value), splits)
    table = found.predictions
    assert list(table)[4:] == ["value", "prediction", "baseline"]
    for split, report in zip(splits, found.fits, strict=True):
        mine = table[table["fold"] == split.key[1]]
        scaler = fit_scaler(rows[split.train], "relative")
        fit = Ridge(alpha=report.diagnostics["alpha"], solver="svd")
        fit.fit(scaler.apply(rows[split.train]), value[split.train])
        expected = fit.predict(scaler.apply(rows[split.test]))
        assert mine["prediction"].to_numpy() == pytest.approx(expected, abs=1e-9)
        assert mine["baseline"].to_numpy() == pytest.approx(value[split.train].mean())
        assert report.converged


def test_scores_are_of_the_training_mean_and_have_an_interval(world: Any) -> None:
    rows, value = world
    task = numbers(secondary=["pearson", "spearman", "mae"])
    found = evaluate(task, RIDGE, rows, units_of(value=value), five_folds())
    scores, folds = score(task, RIDGE, found.predictions, found.fits, DIM)
    table = found.predictions
    expected = [
        1 - ((f["value"] - f["prediction"]) ** 2).sum() / ((f["value"] - f["baseline"]) ** 2).sum()
        for _, f in table.groupby("fold")
    ]
    main = scores.main
    assert [fold.value for fold in folds] == pytest.approx(expected)
    assert main.value == pytest.approx(np.mean(expected))
    assert (main.chance, main.rare_cases) == (0.0, 30)
    assert main.ci95 is not None
    assert main.ci95[0] < main.value < main.ci95[1] <= 1.0
    assert "halves of the label" in main.method
    assert scores.secondary["pearson"] > 0.5  # type: ignore[operator]
    assert scores.secondary["mae"] > 0.0  # type: ignore[operator]
    units = scored_units(task, RIDGE, table, "", "made", DIM)
    assert units.score == pytest.approx(main.value, abs=1e-6)


def test_scale_and_unit_of_the_label_do_not_matter(world: Any) -> None:
    rows, value = world
    first, second = (
        evaluate(numbers(), RIDGE, x, units_of(value=y), five_folds())
        for x, y in ((rows, value), (7.0 * rows - 1.0, 1000.0 * value))
    )
    assert [f.diagnostics["alpha"] for f in first.fits] == [
        f.diagnostics["alpha"] for f in second.fits
    ]
    assert second.predictions["prediction"].to_numpy() == pytest.approx(
        1000.0 * first.predictions["prediction"].to_numpy(), rel=1e-9
    )


def test_validation_units_choose_and_a_refit_takes_them_too(world: Any) -> None:
    rows, value = world
    scheme = {"scheme": "case-stratified", "validation": True}
    for refit, n_train in (("train", 36), ("train+val", 48)):
        splits = SplitScheme.model_validate({**scheme, "refit": refit})
        task = numbers().model_copy(update={"splits": splits})
        found = evaluate(task, RIDGE, rows, units_of(value=value), five_folds(val=True))
        assert [report.n_train for report in found.fits] == [n_train] * 5
        assert all("left_out_mse" in report.diagnostics for report in found.fits)


def test_constant_embeddings_predict_the_training_mean(world: Any) -> None:
    task = numbers()
    found = evaluate(task, RIDGE, np.ones((N, 3)), units_of(value=world[1]), five_folds())
    assert (found.predictions["prediction"] == found.predictions["baseline"]).all()
    scores, folds = score(task, RIDGE, found.predictions, found.fits, 3)
    assert scores.main.value == 0.0
    assert {fold.flag for fold in folds} == {"constant predictions"}
    assert {report.reason for report in found.fits} == {
        "the embeddings are constant on the training rows"
    }


def test_noise_scores_about_nothing() -> None:
    rng = np.random.default_rng(0)
    task = numbers()
    found = evaluate(task, RIDGE, rng.normal(size=(N, 40)), units_of(value=rng.normal(size=N)),
                     five_folds())  # fmt: skip
    scores, _ = score(task, RIDGE, found.predictions, found.fits, 40)
    assert -0.3 < scores.main.value < 0.1


LABELS = {"type": "multilabel", "columns": ["a", "b"]}


def two_columns(world: Any) -> Units:
    rows, value = world
    first = np.where(value > np.median(value), "positive", "negative").astype(object)
    second = np.where(rows[:, 0] > 5, "positive", "negative").astype(object)
    second[::4] = ""
    return units_of(label_a=first, label_b=second)


def test_each_column_is_a_probe_of_its_own(world: Any) -> None:
    task, units, protocol = made_task(LABELS), two_columns(world), PROTOCOLS["linear-probe/v2"]
    found = evaluate(task, protocol, world[0], units, five_folds())
    table = found.predictions
    scores, _ = score(task, protocol, table, found.fits, DIM)
    assert set(scores.secondary) == {"auroc@a", "auroc@b"}
    means = [scores.secondary["auroc@a"], scores.secondary["auroc@b"]]
    assert scores.main.value == pytest.approx(np.mean(means))  # every fold defines both
    assert scores.main.ci95 is not None
    assert scored_units(task, protocol, table, "", "made", DIM).score == pytest.approx(
        scores.main.value
    )
    # Column b is what a binary task on the units with a label gives, on the same splits.
    alone = made_task({"type": "binary", "column": "b", "classes": ["negative", "positive"]})
    known = np.flatnonzero(units.table["label_b"] != "")
    place = {row: i for i, row in enumerate(known)}
    splits = [
        Split(s.key, *(np.array([place[r] for r in part if r in place], dtype=np.intp)
                       for part in (s.train, s.test)))
        for s in five_folds()
    ]  # fmt: skip
    some = units.table.iloc[known].rename(columns={"label_b": "label"})
    one = evaluate(alone, protocol, world[0][known], Units(some, {}, {}, "made"),
                   Splits(("repeat", "fold"), splits, "made"))  # fmt: skip
    expected, _ = score(alone, protocol, one.predictions, one.fits, DIM)
    assert scores.secondary["auroc@b"] == pytest.approx(expected.main.value, abs=1e-9)


def test_a_column_of_one_class_in_a_fold_is_left_out_of_its_mean(world: Any) -> None:
    task, protocol = made_task(LABELS), PROTOCOLS["linear-probe/v2"]
    units = two_columns(world)
    table = units.table.copy()
    table.loc[0::5, "label_b"] = "positive"  # all that fold 0 tests
    found = evaluate(task, protocol, world[0], Units(table, {}, {}, "made"), five_folds())
    scores, folds = score(task, protocol, found.predictions, found.fits, DIM)
    assert folds[0].flag == "one class in test of b"
    assert scores.secondary["auroc@b"] is not None


def test_other_protocols_refuse_by_name() -> None:
    task = numbers()
    for name in ("linear-probe/v2", "few-shot/v2", "retrieval/v1", "cox/v2", "finetune/v1"):
        assert misfit(task, PROTOCOLS[name]) is not None
        with pytest.raises(InputError, match=r"scores .* labels"):
            evaluate(task, PROTOCOLS[name], np.ones((N, 2)), units_of(value=np.arange(N)),
                     five_folds())  # fmt: skip


BINARY = {"type": "binary", "column": "x", "classes": ["no", "yes"]}


@pytest.mark.parametrize(
    ("metric", "expected", "chance"),
    [
        ("balanced-accuracy", None, 0.5),
        ("average-precision", None, 0.25),
        ("average-precision", {"n": 40, "classes": {"no": 28, "yes": 12}}, 0.3),
    ],
)
def test_chance_is_what_the_labels_say(
    world: Any, metric: str, expected: Any, chance: float
) -> None:
    label = np.where(np.arange(N) % 4 == 1, "yes", "no")
    task = made_task(BINARY, metric={"name": metric}, expected=expected)
    protocol = PROTOCOLS["linear-probe/v2"]
    found = evaluate(task, protocol, world[0], units_of(label=label), five_folds())
    scores, _ = score(task, protocol, found.predictions, found.fits, DIM)
    assert scores.main.chance == chance
    assert scores.main.metric == metric
    units = scored_units(task, protocol, found.predictions, "", "made", DIM)
    assert units.score == pytest.approx(scores.main.value)


def test_a_chance_of_ones_own_is_refused() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        made_task(BINARY, metric={"name": "balanced-accuracy", "chance": 0.1})
    with pytest.raises(ValueError, match="those that do: r2, pearson, spearman"):
        numbers(metric={"name": "auroc"})


def test_folds_of_numbers_are_balanced_by_fifths(tmp_path: Any) -> None:
    value = np.random.default_rng(1).exponential(size=N)
    units = units_of(value=value)
    splits = frozen_splits(tmp_path, numbers(), RIDGE, units)
    fifth = np.argsort(np.argsort(value)) // (N // 5)
    for split in splits:
        counts = np.bincount(fifth[split.test], minlength=5)
        assert counts.min() >= 2
        assert counts.max() <= 3

"""The Python face: scores of embeddings in memory, runs, results, comparisons, and wrong inputs."""

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import madeleine_bench as mb


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 60)
    embeddings = rng.normal(size=(120, 16)) + 0.6 * label[:, None] * (np.arange(16) < 4)
    patient = np.repeat(np.arange(60), 2)
    return embeddings, label, patient


def test_a_score_has_value_interval_and_out_of_sample_predictions(problem):
    embeddings, label, patient = problem
    score = mb.evaluate(embeddings, label, groups=patient)
    table = score.predictions
    assert sorted(table["unit_id"].astype(int)) == list(range(120))
    each = [
        roc_auc_score(fold["label"] == "1", fold["prob_1"]) for _, fold in table.groupby("fold")
    ]
    assert score.value == pytest.approx(np.mean(each), abs=1e-12)
    assert score.ci95[0] < score.value < score.ci95[1]
    assert score.folds["value"].tolist() == pytest.approx(each)
    assert set(score.secondary) == {"balanced-accuracy", "average-precision"}
    assert table.groupby("case_id")["fold"].nunique().max() == 1
    assert repr(score).startswith(f"auroc {score.value:.3f} (95% CI ")
    assert "120 units of 60 cases" in repr(score)


def test_the_same_input_gives_the_same_bytes_and_global_seeds_do_not_matter(problem):
    embeddings, label, patient = problem
    np.random.seed(1)  # noqa: NPY002
    first = mb.evaluate(embeddings, label, groups=patient)
    np.random.seed(2)  # noqa: NPY002
    second = mb.evaluate(embeddings, label, groups=patient)
    assert first.predictions.equals(second.predictions)
    assert (first.value, first.ci95) == (second.value, second.ci95)


def test_the_order_of_a_data_frame_does_not_matter(problem):
    embeddings, label, patient = problem
    frame = pd.DataFrame(embeddings, index=[f"slide-{i:03d}" for i in range(120)])
    order = np.random.default_rng(1).permutation(120)
    first = mb.evaluate(frame, label, groups=patient)
    second = mb.evaluate(frame.iloc[order], label[order], groups=patient[order])
    assert first.predictions.equals(second.predictions)


def test_labels_and_groups_with_ids_are_matched_by_id(problem):
    embeddings, label, patient = problem
    frame = pd.DataFrame(embeddings, index=[f"slide-{i:03d}" for i in range(120)])
    table = pd.DataFrame({"label": label, "patient": patient}, index=frame.index)
    table.loc["not embedded"] = [1, 99]
    mixed = table.sample(frac=1.0, random_state=0)
    first = mb.evaluate(frame, label, groups=patient)
    second = mb.evaluate(frame, mixed["label"], groups=mixed["patient"])
    counted = mb.evaluate(frame, pd.Series(label), groups=patient)
    assert first.predictions.equals(second.predictions)
    assert first.predictions.equals(counted.predictions)
    for broken, words in (
        (table["label"][1:], r"labels: 'slide-000' of the embeddings is not in the index"),
        (pd.concat([table["label"]] * 2), r"labels: 'slide-000' occurs twice in the index"),
    ):
        with pytest.raises(mb.InputError, match=words):
            mb.evaluate(frame, broken)


def test_given_splits_are_used_and_a_shared_patient_is_refused(problem):
    embeddings, label, patient = problem
    test = np.flatnonzero(patient % 4 == 0)
    train = np.flatnonzero(patient % 4 > 1)
    val = np.flatnonzero(patient % 4 == 1)
    score = mb.evaluate(embeddings, label, groups=patient, splits=[(train, val, test)])
    assert score.predictions["unit_id"].astype(int).tolist() == test.tolist()
    assert score.folds["n_train"].tolist() == [len(train)]
    with pytest.raises(mb.InputError, match="case '0' is in train"):
        mb.evaluate(embeddings, label, groups=patient, splits=[([1, *train], test)])


def test_survival_and_another_metric_and_classes(problem):
    embeddings, label, _ = problem
    rng = np.random.default_rng(3)
    time = np.ceil(rng.exponential(500, 120) * np.exp(-embeddings[:, 0]))
    survival = mb.Survival(time.astype(np.float64), rng.random(120) < 0.7)
    assert mb.evaluate(embeddings, survival).metric == "harrell-c"
    words = np.where(label == 1, "high", "low")
    kappa = mb.evaluate(embeddings, words, metric="quadratic-kappa", classes=["low", "high"])
    assert kappa.metric == "quadratic-kappa"
    straight = mb.evaluate(embeddings, words, classes=["low", "high"])
    mirrored = mb.evaluate(embeddings, words, classes=["high", "low"])
    assert straight.value == pytest.approx(mirrored.value, abs=1e-9)


def test_two_scores_are_compared_on_the_same_patients(problem):
    embeddings, label, patient = problem
    good = mb.evaluate(embeddings, label, groups=patient)
    blind = mb.evaluate(np.random.default_rng(9).normal(size=(120, 16)), label, groups=patient)
    difference = mb.compare(good, blind)
    assert difference.difference == pytest.approx(good.value - blind.value)
    assert difference.ci95[0] < difference.difference < difference.ci95[1]
    assert difference.p_value < 0.01
    assert repr(difference).endswith("\nThe first scores significantly higher.")
    assert repr(mb.compare(good, good)) == (
        "+0.000 (no interval), p = 1\nThe difference is not significant: the cases cannot tell the "
        "two apart, which does not show that they are equal."
    )
    with pytest.raises(mb.InputError, match=r"two scores of mb.evaluate, or two names"):
        mb.compare(good, "mean-pool")
    other = mb.evaluate(embeddings, label, groups=patient, folds=4)
    with pytest.raises(mb.InputError, match="different units, labels, patients or splits"):
        mb.compare(good, other)


BAD = {
    "one class": (lambda e, y, g: (e, y * 0, {}), "labels are of one class only: 0"),
    "NaN": (lambda e, y, g: (np.where(e > 2, np.nan, e), y, {}), "hold NaN or infinity"),
    "flat": (lambda e, y, g: (e[:, 0], y, {}), r"expected unit x dim, numbers"),
    "text": (lambda e, y, g: (e.astype(str), y, {}), "expected unit x dim, numbers"),
    "too few labels": (lambda e, y, g: (e, y[:-1], {}), "120 embeddings and 119 labels"),
    "too few groups": (lambda e, y, g: (e, y, {"groups": g[1:]}), "120 embeddings and 119 groups"),
    "no label": (
        lambda e, y, g: (e, np.where(g == 5, None, y), {}), "labels: row 10 is empty; leave such",
    ),
    "no group": (
        lambda e, y, g: (e, y, {"groups": np.where(g == 5, np.nan, g)}), "groups: row 10 is empty",
    ),
    "unknown class": (
        lambda e, y, g: (e, y, {"classes": ["0", "2"]}), "labels: row 60 is '1', which is none of",
    ),
    "unknown protocol": (lambda e, y, g: (e, y, {"protocol": "linear"}), "no protocol is called"),
    "misfit": (lambda e, y, g: (e, y, {"protocol": "cox"}), "scores survival labels"),
    "position": (lambda e, y, g: (e, y, {"splits": [([0, 1], [500])]}), "not positions from 0 to"),
    "id twice": (
        lambda e, y, g: (pd.DataFrame(e, index=["a"] * 120), y, {}), "'a' occurs twice",
    ),
    "metric": (lambda e, y, g: (e, y, {"metric": "accuracy"}), "mb.evaluate: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_inputs_have_one_clear_message(name, problem):
    make, words = BAD[name]
    embeddings, label, more = make(*problem)
    with pytest.raises(mb.InputError, match=words):
        mb.evaluate(embeddings, label, **more)


def test_a_run_its_results_and_a_comparison_by_name(tmp_path):
    logged = []
    report = mb.run(
        ["mean-pool", "max-pool"], ["aidpath-her2"], protocols="linear-probe", source="phantom",
        results=tmp_path, on_record=logged.append,
    )  # fmt: skip
    assert (report.computed, report.failures) == (2, [])
    assert repr(report) == "RunReport(boards=['phantom'], computed=2, reused=0, failures=[])"
    assert sorted(record.encoder.name for record in logged) == ["max-pool", "mean-pool"]
    results = mb.load_results(tmp_path)
    table = results.to_dataframe()
    assert table["encoder"].tolist() == ["max-pool", "mean-pool"]
    assert repr(results) == "2 records: 2 encoders (max-pool, mean-pool) on 1 tasks"
    (compared,) = mb.compare("mean-pool", "max-pool", results=tmp_path)
    assert compared.tasks[0].task == "aidpath-her2"
    title, row, *_ = repr(compared).splitlines()
    assert title.startswith("mean-pool against max-pool, board phantom")
    assert row.startswith("aidpath-her2: quadratic-kappa ")
    with pytest.raises(mb.InputError, match=r"no folder .*absent"):
        mb.load_results(tmp_path / "absent")


def test_bags_and_embeddings_of_a_folder(tmp_path):
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    for name in ("s1", "s2"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = features
    bags = list(mb.load_bags(tmp_path))
    assert [bag.slide_id for bag in bags] == ["s1", "s2"]
    table = mb.embed("mean-pool", bags)
    assert table.index.tolist() == ["s1", "s2"]
    assert table.loc["s1"].tolist() == features.mean(axis=0).tolist()
    with pytest.raises(mb.InputError, match="no feature files"):
        list(mb.load_bags(tmp_path / "absent"))
    spent = mb.load_bags(tmp_path)
    mb.embed("mean-pool", spent)
    with pytest.raises(mb.InputError, match=r"no bags; mb\.load_bags yields each bag once"):
        mb.embed("max-pool", spent)


def test_the_table_of_tasks():
    table = mb.tasks()
    assert (table["status"] == "core").sum() == 21
    assert {"id", "cohort", "metric", "labels"} <= set(table.columns)


def test_numbers_are_scored_by_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5))
    value = rows[:, 0] + 0.3 * rng.normal(size=60)
    result = mb.evaluate(rows, value, metric="r2")
    assert (result.protocol, result.chance) == ("ridge-regression/v1", 0.0)
    assert result.value > 0.7
    for broken in (np.where(value > 0, value, np.nan), np.ones(60), ["high"] * 60):
        with pytest.raises(mb.InputError, match="labels: "):
            mb.evaluate(rows, broken, metric="spearman")

"""Scores as a function of stored predictions: means, intervals, seeds, refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.results import FitReport
from madeleine_bench.protocols.scorers import mean_of_defined, mean_of_groups
from madeleine_bench.protocols.scoring import SCORING_VERSION, score
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.bootstrap import case_weights

LEVELS = ("zero", "one", "two", "three")


def scored(problem: Any, table: pd.DataFrame) -> Any:
    return problem.score_of(table, problem.evaluate().fits)


def test_the_version_is_known() -> None:
    assert SCORING_VERSION == 5


def test_a_linear_probe_is_the_mean_over_folds(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    table, scores = problem.evaluate().predictions, problem.score()
    by_hand = [
        roc_auc_score(fold["label"] == "positive", fold["prob_positive"])
        for _, fold in table.groupby("fold")
    ]
    assert [fold.value for fold in scores.folds] == pytest.approx(by_hand)
    assert scores.value == pytest.approx(np.mean(by_hand))


def test_few_shot_is_the_mean_over_shots_of_the_mean_over_draws(
    classes_of: Callable[..., Any],
) -> None:
    problem = classes_of("few-shot/v1")
    table, scores = problem.evaluate().predictions, problem.score()
    by_hand = {
        key: roc_auc_score(fold["label"] == "positive", fold["prob_positive"])
        for key, fold in table.groupby(["shots", "draw"])
    }
    at = {k: np.mean([v for key, v in by_hand.items() if key[0] == k]) for k in (1, 5)}
    assert scores.secondary["auroc@k=1"] == pytest.approx(at[1])
    assert scores.secondary["auroc@k=5"] == pytest.approx(at[5])
    assert scores.value == pytest.approx((at[1] + at[5]) / 2)
    assert [tuple(fold.key.values()) for fold in scores.folds] == sorted(by_hand)


@pytest.mark.parametrize("name", ["linear-probe/v1", "few-shot/v1"])
def test_the_interval_equals_a_loop_over_resamples(
    classes_of: Callable[..., Any], name: str
) -> None:
    problem = classes_of(name, n_units=60)
    dim = problem.embeddings.shape[1]
    evaluation, scores = problem.evaluate(), problem.score()
    table = evaluation.predictions
    scores = problem.score_of(table, evaluation.fits, dim)
    units = table.drop_duplicates("unit_id")
    rng = rng_for(problem.task.name, problem.protocol.name, "bootstrap")
    weights = case_weights(units["case_id"].tolist(), units["label"].tolist(), 1000, rng)
    weight_of = dict(zip(units["unit_id"], weights.astype(int), strict=True))
    keys = list(table.columns[:2])
    folds = [fold for _, fold in table.groupby(keys)]
    means = []
    for resample in range(1000):
        values: dict[int, list[float]] = {}
        for fold in folds:
            again = np.repeat(
                np.arange(len(fold)), [weight_of[u][resample] for u in fold["unit_id"]]
            )
            positive = (fold["label"].to_numpy() == "positive")[again]
            group = int(fold[keys[0]].iloc[0])
            if 0 < positive.sum() < len(positive):
                area = pairs_auc(positive, fold["prob_positive"].to_numpy()[again])
                values.setdefault(group, []).append(area)
        means.append(np.mean([np.mean(v) for v in values.values()]))
    # The correction by hand: cases of the rarest class in all and in a test set, training share.
    labels = units["label"].value_counts()
    rare = labels.index[-1] if labels.iloc[-1] < labels.iloc[0] else min(labels.index)
    per_test = np.mean([fold.loc[fold["label"] == rare, "case_id"].nunique() for fold in folds])
    total = units.loc[units["label"] == rare, "case_id"].nunique()
    shares, cases = [], units["case_id"].nunique()
    for fold in folds:
        n_test = fold["case_id"].nunique()
        n_rare = total - fold.loc[fold["label"] == rare, "case_id"].nunique()
        rest = cases - n_test - n_rare
        tau = dim * (1 / n_rare + 1 / rest) if n_rare > 0 and rest > 0 else np.inf
        noise = 1 / (1 + 0.64 / tau)
        share = (
            1.25 if name.startswith("few-shot") else total / per_test * n_test / (cases - n_test)
        )
        shares.append(noise * share)
    variance = np.var(means, ddof=1) * (1 + np.mean(shares)) * per_test / (per_test - 1)
    if name.startswith("few-shot"):
        draws = pd.DataFrame([(f.key["draw"], f.value) for f in scores.folds]).groupby(0)[1].mean()
        variance += (1 + np.mean(shares)) * draws.var(ddof=1) / len(draws)
    df = total * (1 - 1 / per_test)
    half = student.ppf(0.975, df) * np.sqrt(variance)
    expected = (max(0, scores.value - half), min(1, scores.value + half))
    assert scores.ci95 == pytest.approx(expected, abs=1e-9)


def pairs_auc(positive: Any, value: Any) -> float:
    difference = value[positive][:, None] - value[~positive][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_scores_are_a_pure_function_of_predictions(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    table = problem.evaluate().predictions
    shuffled = table.sample(frac=1.0, random_state=3)
    assert scored(problem, shuffled) == scored(problem, table) == scored(problem, table)


def test_ordered_classes_are_scored_by_the_likeliest_class(classes_of: Callable[..., Any]) -> None:
    from sklearn.metrics import cohen_kappa_score

    problem = classes_of(classes=LEVELS, kind="ordered", signal=1.5)
    table, scores = problem.evaluate().predictions, problem.score()
    columns = [f"prob_{c}" for c in LEVELS]
    by_hand = [
        cohen_kappa_score(
            [LEVELS.index(word) for word in fold["label"]],
            fold[columns].to_numpy().argmax(axis=1),
            labels=range(4),
            weights="quadratic",
        )
        for _, fold in table.groupby("fold")
    ]
    assert scores.value == pytest.approx(np.mean(by_hand))
    assert scores.ci95[0] < scores.value < scores.ci95[1]


@pytest.mark.parametrize(("kind", "chance"), [("binary", 0.5), ("ordered", 0.0)])
def test_a_test_fold_of_one_class_is_at_chance_flagged_and_kept(
    classes_of: Callable[..., Any], kind: str, chance: float
) -> None:
    problem = classes_of(kind=kind, signal=4.0)
    table = problem.units.table.copy()
    table.loc[problem.splits.splits[1].test, "label"] = "negative"
    scores = problem.with_table(table).score()
    fold = scores.folds[1]
    assert (fold.value, fold.flag, len(scores.folds)) == (chance, "1 of 2 classes in test", 5)
    assert scores.value == pytest.approx(np.mean([f.value for f in scores.folds]))
    assert scores.ci95 is None or scores.ci95[0] < scores.value  # it stays at chance


def test_perfect_inverted_and_constant_predictions(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    table = problem.evaluate().predictions
    truth = (table["label"] == "positive").astype(float)
    for probability, value in ((truth, 1.0), (1 - truth, 0.0), (0 * truth + 0.5, 0.5)):
        changed = table.assign(prob_positive=probability, prob_negative=1 - probability)
        scores = scored(problem, changed)
        assert (scores.value, scores.ci95) == (value, None)
        assert scores.method == "no interval: the score is the same in every resample"


def test_more_cases_give_a_narrower_interval(classes_of: Callable[..., Any]) -> None:
    width = {n: np.subtract(*classes_of(n_units=n).score().ci95[::-1]) for n in (80, 800)}
    assert width[800] < width[80] / 2


def test_secondary_metrics_are_named_by_the_task_and_never_nan(
    classes_of: Callable[..., Any], survival_of: Callable[..., Any]
) -> None:
    for problem in (classes_of(), classes_of("few-shot/v1"), survival_of()):
        secondary = problem.score().secondary
        assert set(problem.task.secondary) <= set(secondary)
        assert all(value is not None and np.isfinite(value) for value in secondary.values())


def test_what_is_missing_from_stored_predictions_is_named(
    classes_of: Callable[..., Any], survival_of: Callable[..., Any]
) -> None:
    problem = classes_of()
    table = problem.evaluate().predictions
    with pytest.raises(InputError, match="no column \\['prob_positive'\\]"):
        scored(problem, table.drop(columns="prob_positive"))
    with pytest.raises(InputError, match="no column \\['fold'\\]"):
        scored(problem, table.drop(columns="fold"))
    with pytest.raises(InputError, match="no rows"):
        scored(problem, table.iloc[:0])
    with pytest.raises(InputError, match="'prob_positive' is empty or NaN in row 3"):
        scored(problem, table.assign(prob_positive=table["prob_positive"].where(table.index != 3)))
    with pytest.raises(InputError, match="has the label 'maybe'"):
        scored(problem, table.assign(label="maybe"))
    with pytest.raises(InputError, match="5 splits were predicted and 1 fits reported"):
        score(problem.task, problem.protocol, table, [FitReport((0, 0), 1, 1, True)])
    survival = survival_of()
    with pytest.raises(InputError, match="no column \\['risk'\\]"):
        scored(survival, survival.evaluate().predictions.drop(columns="risk"))


def test_the_mean_of_groups_by_hand() -> None:
    values = np.array([[1.0, np.nan], [0.0, np.nan], [0.25, 1.0], [np.nan, 0.0]])
    assert mean_of_groups(values, [1, 1, 5, 5], 0.5).tolist() == [0.375, 0.5]
    assert mean_of_defined([None, 1.0, 0.0, 0.5], [0, 0, 0, 1]) == 0.5
    assert mean_of_defined([None, None], [0, 1]) is None


def test_repeats_of_cross_validation_share_their_training_units_by_repeat(
    survival_of: Callable[..., Any],
) -> None:
    from madeleine_bench.types import Split, Splits

    problem = survival_of()
    again = [Split((1, s.key[1]), s.train, s.test) for s in problem.splits]
    doubled = Splits(("repeat", "fold"), [*problem.splits.splits, *again], "toy")
    once, twice = problem.score(), problem.but(splits=doubled).score()
    assert twice.value == pytest.approx(once.value, abs=1e-12)
    assert twice.ci95 == pytest.approx(once.ci95, abs=1e-12)
    assert twice.secondary == pytest.approx(once.secondary, abs=1e-12)

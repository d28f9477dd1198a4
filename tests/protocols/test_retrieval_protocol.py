"""Retrieval: neighbours by plain loops, votes and their ties, and what is like nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.retrieval import TIE_BREAK, vote_shares
from madeleine_bench.protocols.scoring import score
from madeleine_bench.specs.protocol import FineTune
from madeleine_bench.types import Split, Splits

NAME = "retrieval/v1"
GRADES = ("low", "middle", "high")
SCORES = ["top-1-accuracy", "top-3-accuracy", "top-5-accuracy", "vote-accuracy"]


def by_hand(problem: Any) -> pd.DataFrame:
    """Return the predictions, by one loop over queries."""
    label = problem.units.table["label"].to_numpy()
    classes = problem.task.labels.classes
    rows = []
    for split in problem.splits:
        train = problem.embeddings[split.train]
        z = (problem.embeddings - train.mean(axis=0)) / train.std(axis=0)
        for unit in split.test:
            cosine = [z[unit] @ z[t] / np.linalg.norm(z[unit]) / np.linalg.norm(z[t])
                      for t in split.train]  # fmt: skip
            found = [str(label[split.train[i]]) for i in np.argsort(-np.array(cosine))]
            same = [name == label[unit] for name in found]
            hits = {f"hit@{k}": float(any(same[:k])) for k in (1, 3, 5)}
            precision = [sum(same[: r + 1]) / (r + 1) for r in range(len(same)) if same[r]]
            share = {f"prob_{c}": found[:5].count(c) / 5 for c in classes}
            rows.append({**share, **hits, "average_precision": np.mean(precision)})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("classes", [("negative", "positive"), GRADES])
def test_predictions_equal_a_loop_over_queries(
    classes_of: Callable[..., Any], classes: tuple[str, ...]
) -> None:
    kind = "binary" if len(classes) == 2 else "ordered"
    problem = classes_of(NAME, classes=classes, kind=kind, n_units=60)
    slow = by_hand(problem)
    table = problem.evaluate().predictions
    assert list(table.columns) == ["repeat", "fold", "unit_id", "case_id", "label", *slow.columns]
    assert table[slow.columns].to_numpy() == pytest.approx(slow.to_numpy(), abs=2 * TIE_BREAK)


def test_scores_are_means_over_folds_of_means_over_units(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME, classes=GRADES, kind="multiclass")
    table, scores = problem.evaluate().predictions, problem.score()
    folds = [fold for _, fold in table.groupby("fold")]
    for k in (1, 3, 5):
        mean = np.mean([fold[f"hit@{k}"].mean() for fold in folds])
        assert scores.secondary[f"top-{k}-accuracy"] == pytest.approx(mean)
    mean = np.mean([fold["average_precision"].mean() for fold in folds])
    assert scores.secondary["mean-average-precision"] == pytest.approx(mean)
    columns = [f"prob_{c}" for c in GRADES]
    right = [
        [GRADES[i] for i in fold[columns].to_numpy().argmax(axis=1)] == fold["label"]
        for fold in folds
    ]
    assert scores.secondary["vote-accuracy"] == pytest.approx(np.mean([r.mean() for r in right]))
    assert set(problem.task.secondary) <= set(scores.secondary)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [([0, 1, 2, 1, 2], 1), ([2, 2, 1, 1, 0], 2), ([1, 0, 0, 1], 1), ([0, 1], 0), ([2], 2)],
)
def test_the_likeliest_class_is_the_voted_one(votes: list[int], winner: int) -> None:
    share = vote_shares(np.array([votes]), 3)
    assert share.argmax(axis=1).tolist() == [winner]
    assert share.sum() == pytest.approx(1.0, abs=1e-15)
    assert share[0] == pytest.approx([votes.count(c) / len(votes) for c in range(3)], abs=1e-9)


def test_shares_without_a_tie_are_whole_fifths() -> None:
    assert vote_shares(np.array([[1, 0, 1, 1, 2]]), 3).tolist() == [[0.2, 0.6, 0.2]]


def test_separate_classes_are_found_and_noise_is_not(classes_of: Callable[..., Any]) -> None:
    apart = classes_of(NAME, signal=30.0, dim=1).score()
    assert apart.value == pytest.approx(1.0)
    assert [apart.secondary[name] for name in SCORES] == [1.0] * 4
    assert apart.secondary["mean-average-precision"] > 0.99
    noise = classes_of(NAME, signal=0.0, n_units=400).score()
    assert abs(noise.value - 0.5) < 0.08
    assert abs(noise.secondary["top-1-accuracy"] - 0.5) < 0.08


def test_constant_embeddings_are_at_chance_and_say_so(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME)
    problem = problem.but(embeddings=np.full_like(problem.embeddings, 0.1))
    evaluation, scores = problem.evaluate(), problem.score()
    for fit in evaluation.fits:
        assert (fit.converged, fit.reason) == (
            True, "the embeddings are constant on the training rows"
        )  # fmt: skip
    assert scores.value == 0.5
    assert all(fold.flag == "constant predictions" for fold in scores.folds)


def test_a_unit_at_the_mean_is_like_nothing_and_is_counted(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME, n_units=20)
    split = Split((0, 0), np.arange(10), np.arange(10, 20))
    embeddings = np.round(problem.embeddings)
    embeddings[10] = embeddings[:10].mean(axis=0)
    problem = problem.but(embeddings=embeddings, splits=Splits(("repeat", "fold"), [split], "toy"))
    evaluation = problem.evaluate()
    assert evaluation.fits[0].reason == "zero once scaled, and so like nothing: 1 units"
    first_five = problem.units.table["label"][:5]
    expected = (first_five == "positive").mean()
    assert evaluation.predictions["prob_positive"][0] == pytest.approx(expected, abs=1e-9)


def test_fewer_training_units_than_neighbours_are_all_taken(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME, n_units=20)
    label = problem.units.table["label"]
    train = np.array([*label.index[label == "negative"][:2], label.index[label == "positive"][0]])
    test = np.setdiff1d(np.arange(20), train)
    split = Splits(("repeat", "fold"), [Split((0, 0), np.sort(train), test)], "toy")
    table = problem.but(splits=split).evaluate().predictions
    assert set(table["prob_positive"].round(6)) == {round(1 / 3, 6)}
    assert (table["hit@5"] == 1.0).all()
    assert (table["hit@3"] == 1.0).all()
    assert not (table["hit@1"] == 1.0).all()


def test_a_class_absent_from_train_is_never_found(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME, n_units=40)
    label = problem.units.table["label"].to_numpy()
    train = np.flatnonzero(label == "negative")[:12]
    split = Split((0, 0), train, np.setdiff1d(np.arange(40), train))
    problem = problem.but(splits=Splits(("repeat", "fold"), [split], "toy"))
    evaluation = problem.evaluate()
    table = evaluation.predictions[evaluation.predictions["label"] == "positive"]
    assert evaluation.fits[0].reason == "absent from train: positive"
    assert (table[["prob_positive", "hit@5", "average_precision"]] == 0.0).all(axis=None)


def test_missing_columns_are_named(classes_of: Callable[..., Any]) -> None:
    problem = classes_of(NAME)
    evaluation = problem.evaluate()
    for column in ("hit@3", "average_precision"):
        table = evaluation.predictions.drop(columns=column)
        with pytest.raises(InputError, match=rf"no column \['{column}'\]"):
            score(problem.task, problem.protocol, table, evaluation.fits)


def test_a_protocol_that_trains_networks_is_refused(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    method = FineTune.model_construct(kind="finetune")
    protocol = problem.protocol.model_copy(update={"method": method})
    with pytest.raises(InputError, match="does not start from embeddings"):
        problem.but(protocol=protocol).evaluate()


@pytest.mark.parametrize("classes", [("negative", "positive"), GRADES])
def test_patho_bench_counts_ties_as_hits_and_divides_precision_by_k(
    classes_of: Callable[..., Any], classes: tuple[str, ...]
) -> None:
    """retrieval/v1 ranks by cosine, gives a tie to the nearest, and ranks the whole gallery."""
    kind = "binary" if len(classes) == 2 else "multiclass"
    problem = classes_of("patho-bench-retrieval/v1", classes=classes, kind=kind, n_units=70, dim=3)
    secondary = problem.score().secondary
    label = problem.units.table["label"].to_numpy()
    means: dict[str, list[float]] = {}
    ties = 0
    for split in problem.splits:
        scores: dict[str, list[float]] = {}
        for unit in split.test:
            away = problem.embeddings[split.train] - problem.embeddings[unit]
            names = label[split.train][np.argsort(np.linalg.norm(away, axis=1))]
            for k in (1, 5, 10):
                first, same = list(names[:k]), list(names[:k] == label[unit])
                votes = [first.count(name) for name in classes]
                ties += votes.count(max(votes)) > 1
                precision = sum(sum(same[: r + 1]) / (r + 1) for r in range(k) if same[r]) / k
                scores.setdefault(f"top-{k}-accuracy", []).append(any(same))
                scores.setdefault(f"vote-accuracy@k={k}", []).append(sum(same) == max(votes))
                scores.setdefault(f"mean-average-precision@k={k}", []).append(precision)
        for name, values in scores.items():
            means.setdefault(name, []).append(float(np.mean(values)))
    retrieved = {name: value for name, value in secondary.items() if name in means}
    assert retrieved == pytest.approx({name: np.mean(values) for name, values in means.items()})
    assert not {"vote-accuracy", "mean-average-precision"} & set(secondary)
    ones = {secondary[f"{name}@k=1"] for name in ("vote-accuracy", "mean-average-precision")}
    assert ones == {secondary["top-1-accuracy"]}
    assert ties > 0


def test_by_distance_a_row_of_zeros_is_a_place_like_any_other(
    classes_of: Callable[..., Any],
) -> None:
    problem = classes_of("patho-bench-retrieval/v1")
    problem.embeddings[7] = 0.0
    assert {fit.reason for fit in problem.evaluate().fits} == {None}

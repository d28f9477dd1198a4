"""Logistic-regression probes: equal to scikit-learn, blind to scale, and failing in the open."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression as Estimator
from sklearn.preprocessing import StandardScaler

from madeleine_bench.protocols.logistic import ClassFit, Multinomial, fit_and_predict
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.specs.protocol import LogisticRegression
from madeleine_bench.types import Split, Splits

GRADES = ("low", "middle", "high")


def model(**changes: Any) -> LogisticRegression:
    settings_ = {"scale": "z-score", "C": 1.0, "tol": 1e-8, "max_iter": 10_000}
    return LogisticRegression.model_validate({**settings_, **changes})


def fitted(
    spec: LogisticRegression,
    train: NDArray[np.float64],
    label: NDArray[np.intp],
    test: NDArray[np.float64],
    classes: tuple[str, ...],
) -> ClassFit:
    rows = np.concatenate([train, test])
    labels = np.concatenate([label, np.zeros(len(test), dtype=np.intp)])
    split = Split((0, 0), np.arange(len(train)), np.arange(len(train), len(rows)))
    (fit,) = fit_and_predict(spec, rows, labels, classes, [split])
    return fit


def data(n_classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(80) % n_classes).astype(np.intp)
    return rng.normal(size=(80, 6)) * [1, 2, 3, 0.1, 5, 1] + label[:, None], label


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("scale", ["z-score", "none"])
def test_probabilities_equal_scikit_learns(
    n_classes: int, class_weight: str | None, scale: str
) -> None:
    rows, label = data(n_classes)
    label[:20] = 0
    fit = fitted(
        model(scale=scale, class_weight=class_weight, C=0.5),
        rows[:60],
        label[:60],
        rows[60:],
        GRADES[:n_classes],
    )
    scaler = StandardScaler().fit(rows[:60])
    inputs = scaler.transform(rows) if scale == "z-score" else rows
    theirs = Estimator(C=0.5, class_weight=class_weight, tol=1e-8, max_iter=10_000)
    theirs.fit(inputs[:60], label[:60])
    assert fit.probability == pytest.approx(theirs.predict_proba(inputs[60:]), abs=1e-6)
    assert fit.converged
    assert fit.diagnostics["residual"] < 1e-6


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_loss_has_the_derivatives_it_says(n_classes: int) -> None:
    """By differences: the slope of the loss, and the change of the slope."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, n_classes, 30)
    hot = np.eye(n_classes)[label].T
    loss = Multinomial((hot[1:] if n_classes == 2 else hot)[None], rng.uniform(0, 2, (2, 1, 30)))
    margin = rng.normal(size=(2, loss.target.shape[1], 30))
    change = 1e-6 * rng.normal(size=margin.shape)
    here = loss.expand(margin)
    rise = loss.value(margin + change) - loss.value(margin - change)
    assert rise == pytest.approx(2 * (here.slope * change).sum(axis=(1, 2)), rel=1e-6)
    bent = loss.expand(margin + change).slope - loss.expand(margin - change).slope
    assert bent == pytest.approx(2 * here.bend(change), abs=1e-14)
    ones = np.ones((2, loss.target.shape[1], 30))
    each = [here.bend(ones * np.eye(len(ones[0]))[v][:, None]).sum(axis=2)
            for v in range(len(ones[0]))]  # fmt: skip
    assert here.curvature == pytest.approx(np.stack(each, axis=2), abs=1e-12)


@pytest.mark.parametrize("factor", [10.0, 1e-4])
def test_a_linear_probe_does_not_see_the_scale(
    classes_of: Callable[..., Any], factor: float
) -> None:
    problem = classes_of("linear-probe/v1")
    shifted = problem.embeddings * factor + 3.0 * factor
    straight, scaled = problem.score(), problem.but(embeddings=shifted).score()
    assert scaled.value == pytest.approx(straight.value, abs=1e-9)
    assert scaled.ci95 == pytest.approx(straight.ci95, abs=1e-9)


def test_a_constant_dimension_counts_for_nothing_even_where_it_moves_in_test() -> None:
    rows, label = data(2)
    extra = np.hstack([rows, np.full((80, 1), 0.1 + 0.2)])
    extra[60:, -1] = 1e9
    straight = fitted(model(), rows[:60], label[:60], rows[60:], GRADES[:2])
    padded = fitted(model(), extra[:60], label[:60], extra[60:], GRADES[:2])
    assert padded.probability == pytest.approx(straight.probability, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3), constant=st.floats(-1e6, 1e6))
def test_z_scores_have_mean_zero_deviation_one_and_no_nan(
    scale: float, shift: float, constant: float
) -> None:
    train = np.random.default_rng(0).normal(size=(50, 3)) * scale + shift * scale
    train[:, 2] = constant
    scaled = fit_scaler(train, "z-score").apply(train)
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert scaled.std(axis=0) == pytest.approx([1, 1, 0], abs=1e-9)


def test_one_class_in_train_is_scored_at_chance_with_its_reason(
    classes_of: Callable[..., Any],
) -> None:
    problem = classes_of(signal=5.0)
    label = problem.units.table["label"].to_numpy()
    whole = np.arange(len(label))
    train = np.flatnonzero(label == "negative")[:20]
    lonely = Split((0, 9), train, np.setdiff1d(whole, train))
    splits = Splits(("repeat", "fold"), [*problem.splits.splits, lonely], "toy")
    scores = problem.but(splits=splits).score()
    failed = scores.folds[-1]
    assert (failed.converged, failed.value) == (False, 0.5)
    assert failed.reason == "one class in train: 'negative'"
    assert failed.flag == "constant predictions"
    assert len(scores.folds) == 6
    sound = [fold.value for fold in scores.folds[:-1]]
    assert scores.value == pytest.approx((sum(sound) + 0.5) / 6)


def test_a_class_absent_from_train_has_probability_zero() -> None:
    rows, label = data(3)
    kept = np.flatnonzero(label != 1)
    fit = fitted(model(), rows[kept], label[kept], rows, GRADES)
    assert fit.converged
    assert fit.reason == "absent from train: middle"
    assert (fit.probability[:, 1] == 0).all()
    assert fit.probability.sum(axis=1) == pytest.approx(1)


def test_reaching_max_iter_is_a_failure_at_chance() -> None:
    rows, label = data(3)
    fit = fitted(model(max_iter=2), rows[:60], label[:60], rows[60:], GRADES)
    assert not fit.converged
    assert "iteration" in str(fit.reason)
    assert (fit.probability == 1 / 3).all()
    assert fit.n_iter == 2


@pytest.mark.parametrize("name", ["linear-probe/v1", "few-shot/v1"])
def test_constant_embeddings_are_at_chance_and_flagged(
    classes_of: Callable[..., Any], name: str
) -> None:
    problem = classes_of(name)
    scores = problem.but(embeddings=np.full_like(problem.embeddings, 0.7)).score()
    assert scores.value == 0.5
    assert scores.ci95 is None
    assert {fold.flag for fold in scores.folds} == {"constant predictions"}
    assert {fold.reason for fold in scores.folds} == {
        "the embeddings are constant on the training rows"
    }


@pytest.mark.parametrize(
    ("name", "kind", "classes", "chance"),
    [
        ("linear-probe/v1", "binary", GRADES[:2], 0.5),
        ("linear-probe/v1", "ordered", GRADES, 0.0),
        ("few-shot/v1", "binary", GRADES[:2], 0.5),
        ("few-shot/v1", "multiclass", GRADES, 0.5),
        ("madeleine-fewshot/v2", "binary", GRADES[:2], 0.5),
        ("patho-bench-linprobe/v1", "multiclass", GRADES, 0.5),
    ],
)
def test_noise_scores_chance_and_signal_does_not(
    classes_of: Callable[..., Any], name: str, kind: str, classes: tuple[str, ...], chance: float
) -> None:
    noise = [
        classes_of(name, classes, kind, n_units=160, signal=0.0, seed=seed).score().value
        for seed in range(2)
    ]
    assert np.mean(noise) == pytest.approx(chance, abs=0.1)
    strong = classes_of(name, classes, kind, n_units=160, signal=12.0).score()
    assert strong.value > chance + 0.35
    assert strong.ci95 is None or strong.ci95[0] > chance  # None: perfect in every resample


def test_renaming_the_classes_mirrors_the_predictions(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    table = problem.units.table.copy()
    table["label"] = np.where(table["label"] == "positive", "negative", "positive")
    straight = problem.evaluate().predictions
    mirrored = problem.with_table(table).evaluate().predictions
    assert mirrored["prob_negative"].to_numpy() == pytest.approx(
        straight["prob_positive"].to_numpy(), abs=1e-6
    )
    assert problem.with_table(table).score().value == pytest.approx(problem.score().value, abs=1e-9)


@pytest.mark.parametrize("C", [1e12, 1e300])
def test_separated_classes_converge_however_weak_the_penalty(C: float) -> None:
    """Their probabilities go to 0 and 1, where they stay on any processor."""
    rows = 10.5 - np.arange(1.0, 21.0)[:, None]
    label = (rows[:, 0] > 0).astype(np.intp)
    fit = fitted(model(C=C), rows, label, rows, ("low", "high"))
    assert fit.converged
    assert fit.probability[:, 1] == pytest.approx(label, abs=1e-7)


@pytest.mark.parametrize("C", [0.0, np.inf, np.nan])
def test_logistic_regression_without_a_penalty_is_refused(C: float) -> None:
    with pytest.raises(ValidationError, match="C"):
        model(C=C)

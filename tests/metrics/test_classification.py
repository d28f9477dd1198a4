"""Classification metrics against plain loops, closed forms and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from madeleine_bench.metrics.classification import (
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    log_loss,
    macro_f1,
    quadratic_kappa,
)

ALL = [auroc, average_precision, balanced_accuracy, macro_f1, log_loss, brier]


def sample(
    seed: int, n_classes: int, n_units: int = 41, ties: bool = True
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(n_units) % n_classes).astype(np.intp)
    logits = rng.normal(size=(n_units, n_classes))
    if ties:
        logits = np.round(logits)
    weights = np.exp(logits)
    return label, weights / weights.sum(axis=1, keepdims=True)


def pairwise_auc(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in score[positive] for n in score[~positive]
    ]
    return float(np.mean(wins))


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_the_share_of_ordered_pairs(seed: int, n_classes: int) -> None:
    label, probability = sample(seed, n_classes)
    classes = [1] if n_classes == 2 else range(n_classes)
    slow = np.mean([pairwise_auc(label == c, probability[:, c]) for c in classes])
    assert auroc(label, probability) == pytest.approx(slow, abs=1e-12)


def test_average_precision_is_the_mean_precision_at_each_positive() -> None:
    label, probability = sample(3, 2, ties=False)
    order = np.argsort(-probability[:, 1])
    hits = label[order] == 1
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    assert average_precision(label, probability) == pytest.approx(precision[hits].mean())


@pytest.mark.parametrize("n_classes", [2, 4])
def test_recall_f1_loss_and_brier_equal_plain_sums(n_classes: int) -> None:
    label, probability = sample(5, n_classes, n_units=60)
    predicted = [int(np.argmax(row)) for row in probability]
    recalls, f1s = [], []
    for c in range(n_classes):
        true = sum(t == c and p == c for t, p in zip(label, predicted, strict=True))
        missed = sum(t == c and p != c for t, p in zip(label, predicted, strict=True))
        wrong = sum(t != c and p == c for t, p in zip(label, predicted, strict=True))
        recalls.append(true / (true + missed))
        f1s.append(2 * true / (2 * true + missed + wrong))
    assert balanced_accuracy(label, probability) == pytest.approx(np.mean(recalls))
    assert macro_f1(label, probability) == pytest.approx(np.mean(f1s))
    rows = list(zip(label, probability, strict=True))
    assert log_loss(label, probability) == pytest.approx(np.mean([-np.log(p[t]) for t, p in rows]))
    squares = [sum((p[c] - (t == c)) ** 2 for c in range(n_classes)) / 2 for t, p in rows]
    assert brier(label, probability) == pytest.approx(np.mean(squares))


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_a_perfect_and_a_blind_predictor_have_known_scores(n_classes: int) -> None:
    label = np.arange(6 * n_classes) % n_classes
    perfect = np.eye(n_classes)[label]
    blind = np.full((len(label), n_classes), 1.0 / n_classes)
    assert [metric(label, perfect) for metric in ALL] == pytest.approx([1, 1, 1, 1, 0, 0])
    assert auroc(label, blind) == 0.5
    assert balanced_accuracy(label, blind) == pytest.approx(1 / n_classes)
    assert log_loss(label, blind) == pytest.approx(np.log(n_classes))
    assert brier(label, blind) == pytest.approx((1 - 1 / n_classes) / 2)


def test_an_inverted_binary_predictor_scores_one_minus_auc() -> None:
    # Without ties: a tie of p need not be one of 1 - p in floating point.
    label, probability = sample(7, 2, ties=False)
    straight, inverted = auroc(label, probability), auroc(label, probability[:, ::-1])
    assert straight is not None
    assert inverted == pytest.approx(1 - straight)


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    label = np.array([0, 1])
    assert log_loss(label, np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(36.04, abs=0.01)


@pytest.mark.parametrize("metric", ALL)
def test_a_missing_class_is_undefined(metric: object) -> None:
    label, probability = sample(1, 3)
    kept = label != 2
    assert metric(label[kept], probability[kept]) is None  # type: ignore[operator]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 4))
def test_metrics_do_not_depend_on_the_order_of_units(seed: int, n_classes: int) -> None:
    label, probability = sample(seed, n_classes, n_units=20)
    order = np.random.default_rng(seed).permutation(20)
    for metric in ALL:
        assert metric(label[order], probability[order]) == pytest.approx(metric(label, probability))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_symmetric_metrics_do_not_depend_on_the_names_of_classes(seed: int) -> None:
    # Ties in argmax go to the first class, so this holds without ties only.
    label, probability = sample(seed, 3, n_units=20, ties=False)
    names = np.random.default_rng(seed).permutation(3)
    for metric in ALL:
        renamed = metric(names[label], probability[:, np.argsort(names)])
        assert renamed == pytest.approx(metric(label, probability))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.floats(0.2, 5))
def test_auroc_knows_ranks_only(seed: int, power: float) -> None:
    label, probability = sample(seed, 2, n_units=20, ties=False)
    bent = probability**power
    assert auroc(label, bent) == pytest.approx(auroc(label, probability), abs=1e-12)


def slow_kappa(label: NDArray[np.intp], predicted: NDArray[np.intp]) -> float:
    observed = np.mean([(a - b) ** 2 for a, b in zip(label, predicted, strict=True)])
    expected = np.mean([(a - b) ** 2 for a in label for b in predicted])
    return float(1 - observed / expected)


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30).filter(
        lambda pairs: len({a for a, _ in pairs}) > 1
    )
)
def test_kappa_is_one_minus_observed_over_expected_distance(pairs: list[tuple[int, int]]) -> None:
    label, predicted = np.array(pairs, dtype=np.intp).T
    kappa = quadratic_kappa(label, predicted, 6)
    assert kappa == pytest.approx(slow_kappa(label, predicted), abs=1e-12)
    assert quadratic_kappa(5 - label, 5 - predicted, 6) == pytest.approx(kappa, abs=1e-12)


def test_kappa_of_perfect_inverted_and_constant_predictions() -> None:
    label = np.array([0, 1, 2, 0, 1, 2])
    assert quadratic_kappa(label, label, 3) == 1.0
    assert quadratic_kappa(label, 2 - label, 3) == -1.0  # rounding would give -1.0000000000000004
    assert quadratic_kappa(label, np.ones(6, dtype=np.intp), 3) == 0.0
    assert quadratic_kappa(np.ones(6, dtype=np.intp), label, 3) is None

"""Predictions of many fits at once: equal to a plain product, and equal rows to the last bit."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from madeleine_bench.protocols import probabilities
from madeleine_bench.protocols.logistic import fit_and_predict
from madeleine_bench.protocols.probabilities import class_probabilities, first_equal
from madeleine_bench.specs.protocol import LogisticRegression
from madeleine_bench.types import Split

Array = NDArray[np.float64]


def test_the_first_of_equal_rows_is_found() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 20))
    rows[[7, 21, 39]] = rows[3]
    rows[30] = rows[29]
    rows[31] = rows[29]
    rows[31, -1] += 1.0  # agrees in all but the last number
    expected = np.arange(40)
    expected[[7, 21, 39]], expected[30] = 3, 29
    assert first_equal(rows).tolist() == expected.tolist()
    assert first_equal(rows.astype(np.float32)).tolist() == expected.tolist()


@pytest.mark.parametrize("column", [0, 19])
def test_zero_equals_negative_zero(column: int) -> None:
    rows = np.ones((2, 20))
    rows[:, column] = [0.0, -0.0]
    assert first_equal(rows).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_margins_are_those_of_each_fit_and_its_centre(dtype: type) -> None:
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(300, 9)) + 1000.0).astype(dtype)
    coefficients, intercepts = rng.normal(size=(4, 3, 9)), rng.normal(size=(4, 3))
    centres = 1000.0 + rng.normal(size=(4, 9))
    tests = [rng.permutation(300)[: 50 + i] for i in range(4)]
    found = class_probabilities(rows, first_equal(rows), coefficients, intercepts, centres, tests)
    for which, (probability, test) in enumerate(zip(found, tests, strict=True)):
        margin = (rows[test].astype(np.float64) - centres[which]) @ coefficients[which].T
        plain = softmax(margin + intercepts[which], axis=1)
        assert probability == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_equal_rows_at_the_edge_of_a_block_get_equal_bits(n_classes: int) -> None:
    edge = probabilities._ROWS_AT_ONCE
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(2 * edge + 5, 33))
    equal = np.array([0, edge - 1, edge, edge + 1, 2 * edge - 1, 2 * edge, 2 * edge + 4])
    rows[equal] = rows[edge - 1]
    coefficients = rng.normal(size=(2, n_classes if n_classes > 2 else 1, 33))
    shown = class_probabilities(
        rows,
        first_equal(rows),
        coefficients,
        np.zeros(coefficients.shape[:2]),
        np.zeros((2, 33)),
        [equal, np.append(equal, 4)],
    )
    for probability in shown:
        assert len(np.unique(probability[: len(equal)], axis=0)) == 1


@pytest.mark.parametrize("tol", [1e-8, 1e-4])
def test_what_a_fit_predicts_does_not_depend_on_the_others(tol: float) -> None:
    rng = np.random.default_rng(3)
    rows, label = rng.normal(size=(150, 40)), np.arange(150) % 3
    orders = [rng.permutation(150) for _ in range(50)]
    splits = [Split((0, i), order[:30], order[30:]) for i, order in enumerate(orders)]
    spec = LogisticRegression(scale="z-score", C=1.0, tol=tol, max_iter=10_000)
    together = list(fit_and_predict(spec, rows, label, ("a", "b", "c"), splits))
    again = list(fit_and_predict(spec, rows, label, ("a", "b", "c"), splits))
    for which in (0, 31, 49):
        (alone,) = fit_and_predict(spec, rows, label, ("a", "b", "c"), [splits[which]])
        assert alone.probability.tobytes() == together[which].probability.tobytes()
        assert again[which].probability.tobytes() == together[which].probability.tobytes()

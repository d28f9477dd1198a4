"""Newton's method in the dual: the optimum of scikit-learn's objective, in batches or alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Estimator

from madeleine_bench.protocols import logistic
from madeleine_bench.protocols.dual_newton import DualFits, fit_in_dual
from madeleine_bench.specs.protocol import LogisticRegression
from madeleine_bench.types import Split


def shots(
    n_classes: int, per_class: int, dim: int, fits: int, seed: int, spread: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    label = np.stack([rng.permutation(np.arange(n_classes * per_class) % n_classes)] * fits)
    label = rng.permuted(label, axis=1)
    centres = rng.normal(size=(n_classes, dim))
    return spread * (rng.normal(size=(*label.shape, dim)) + centres[label] + 3.0), label


def solve(
    train: NDArray[np.float64], label: NDArray[np.intp], n_classes: int, **changes: Any
) -> DualFits:
    weight = changes.pop("weight", np.ones(label.shape))
    options = {"C": 1.0, "tol": 1e-8, "max_iter": 1000, **changes}
    return fit_in_dual(train, label, weight, n_classes=n_classes, **options)


def probabilities(fits: DualFits, rows: NDArray[np.float64], which: int) -> NDArray[np.float64]:
    margin = rows @ fits.coefficients[which].T + fits.intercepts[which]
    if margin.shape[1] == 1:
        return np.hstack([expit(-margin), expit(margin)])
    found: NDArray[np.float64] = softmax(margin, axis=1)
    return found


@settings(max_examples=25, deadline=None)
@given(
    n_classes=st.integers(2, 5),
    per_class=st.integers(1, 6),
    dim=st.sampled_from([1, 3, 40]),
    C=st.sampled_from([0.01, 0.5, 1.0, 5.0]),
    spread=st.sampled_from([1e-3, 1.0, 5.0]),
    seed=st.integers(0, 2**16),
)
def test_it_finds_scikit_learns_optimum(
    n_classes: int, per_class: int, dim: int, C: float, spread: float, seed: int
) -> None:
    train, label = shots(n_classes, per_class, dim, 3, seed, spread)
    fits = solve(train, label, n_classes, C=C)
    test = spread * np.random.default_rng(seed + 1).normal(size=(20, dim)) + 3.0 * spread
    for which in range(3):
        # Its second-order solver gets to the optimum; L-BFGS stops some 1e-5 away from it.
        theirs = Estimator(C=C, tol=1e-10, max_iter=1000, solver="newton-cholesky")
        try:
            theirs.fit(train[which], label[which])
        except ConvergenceWarning:  # it gave up where rounding hides the last steps
            assert fits.residual[which] < 1e-7
            continue
        assert probabilities(fits, test, which) == pytest.approx(
            theirs.predict_proba(test), abs=3e-6
        )
        assert fits.residual[which] < 1e-7


@pytest.mark.parametrize("n_classes", [2, 4])
def test_l_bfgs_at_a_tight_tolerance_stops_further_from_the_optimum(n_classes: int) -> None:
    # It also stops where the loss falls by less than 64 epsilon, whatever its tolerance.
    train, label = shots(n_classes, 10, 200, 1, seed=5)
    fits = solve(train, label, n_classes)
    theirs = Estimator(tol=1e-10, max_iter=100_000).fit(train[0], label[0])
    spec = LogisticRegression(scale="none", C=1.0, tol=1e-10, max_iter=100_000)
    probability = theirs.predict_proba(train[0])
    residual = logistic._residual(spec, train[0], label[0], probability, theirs.coef_)
    assert fits.residual[0] < 0.01 * residual
    test = np.random.default_rng(1).normal(size=(50, 200))
    mine = probabilities(fits, test, 0)
    assert mine == pytest.approx(theirs.predict_proba(test), abs=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_are_those_of_scikit_learn(n_classes: int) -> None:
    train, label = shots(n_classes, 5, 30, 1, seed=2)
    weight = np.random.default_rng(3).uniform(0.1, 4.0, size=label.shape)
    fits = solve(train, label, n_classes, weight=weight, C=0.3)
    theirs = Estimator(C=0.3, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    theirs.fit(train[0], label[0], sample_weight=weight[0])
    mine = probabilities(fits, train[0], 0)
    assert mine == pytest.approx(theirs.predict_proba(train[0]), abs=1e-7)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fit_does_not_depend_on_the_others_of_its_batch(n_classes: int) -> None:
    train, label = shots(n_classes, 4, 25, 5, seed=8)
    train[1] *= 1e-3  # takes another number of steps
    together = solve(train, label, n_classes)
    for which in range(5):
        alone = solve(train[which : which + 1], label[which : which + 1], n_classes)
        assert alone.coefficients[0].tobytes() == together.coefficients[which].tobytes()
        assert alone.intercepts[0].tobytes() == together.intercepts[which].tobytes()
    assert len(set(together.n_iter.tolist())) > 1


def test_shifted_rows_move_the_intercept_alone() -> None:
    train, label = shots(3, 4, 6, 2, seed=4)
    straight, shifted = solve(train, label, 3), solve(train + 50.0, label, 3)
    assert shifted.coefficients == pytest.approx(straight.coefficients, abs=1e-9)
    for which in range(2):
        mine = probabilities(shifted, train[which] + 50.0, which)
        assert mine == pytest.approx(probabilities(straight, train[which], which), abs=1e-9)


def test_equal_rows_teach_the_shares_of_the_classes() -> None:
    label = np.array([[0, 1, 1, 1]])
    fits = solve(np.full((1, 4, 3), 2.0), label, 2)
    assert not fits.coefficients.any()
    assert expit(fits.intercepts[0, 0]) == pytest.approx(0.75, abs=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_too_few_steps_are_told_by_the_residual(n_classes: int) -> None:
    train, label = shots(n_classes, 4, 25, 2, seed=8)
    fits = solve(train, label, n_classes, max_iter=1)
    assert (fits.n_iter == 1).all()
    assert (fits.residual > 1e-6).all()


def test_numbers_that_overflow_are_told_by_the_residual() -> None:
    train, label = shots(2, 3, 4, 2, seed=1)
    train[0] *= 1e200
    fits = solve(train, label, 2)
    assert np.isinf(fits.residual[0])
    assert fits.residual[1] < 1e-8


@pytest.mark.parametrize(("tol", "dual"), [(1e-8, True), (1e-4, False)])
def test_a_loose_tolerance_keeps_the_published_solver(
    monkeypatch: pytest.MonkeyPatch, tol: float, dual: bool
) -> None:
    asked: list[int] = []

    def spy(train: NDArray[np.float64], *args: Any, **options: Any) -> DualFits:
        asked.append(len(train))
        return fit_in_dual(train, *args, **options)

    monkeypatch.setattr(logistic, "fit_in_dual", spy)
    rows = np.random.default_rng(0).normal(size=(240, 5))
    label = np.arange(240) % 2
    splits = [Split((0, i), np.arange(i, i + 20), np.arange(200, 240)) for i in range(3)]
    splits.append(Split((1, 0), np.arange(200), np.arange(200, 240)))  # too large for the dual
    spec = LogisticRegression(scale="none", C=1.0, tol=tol, max_iter=10_000)
    fits = list(logistic.fit_and_predict(spec, rows, label, ("a", "b"), splits))
    assert asked == ([3] if dual else [])
    assert all(fit.converged for fit in fits)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_the_units_of_a_task_with_many_classes_go_through_the_dual(n_classes: int) -> None:
    rng = np.random.default_rng(6)
    label = np.arange(170) % n_classes
    rows = rng.normal(size=(170, 130)) + 0.3 * rng.normal(size=(n_classes, 130))[label]
    split = Split((0, 0), np.arange(120), np.arange(120, 170))
    spec = LogisticRegression(scale="none", C=1.0, tol=1e-8, max_iter=10_000)
    classes = tuple("abcdef"[:n_classes])
    (fit,) = logistic.fit_and_predict(spec, rows, label, classes, [split])
    theirs = Estimator(tol=1e-10, max_iter=1000, solver="newton-cholesky")
    theirs.fit(rows[:120], label[:120])
    assert fit.probability == pytest.approx(theirs.predict_proba(rows[120:]), abs=1e-7)
    assert fit.n_iter is not None
    assert fit.n_iter <= 12  # Newton steps: L-BFGS takes some dozens
    assert fit.residual is not None
    assert fit.residual < 1e-9


@pytest.mark.parametrize("dim", [1, 3])
def test_more_units_than_dimensions_are_fitted_too(dim: int) -> None:
    train, label = shots(3, 4, dim, 3, seed=0, spread=5.0)
    fits = solve(train, label, 3, C=5.0)
    assert (fits.residual < 1e-8).all()
    assert (fits.n_iter < 30).all()


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_embeddings_of_any_size_are_fitted_to_the_optimum(n_classes: int, factor: float) -> None:
    train, label = shots(n_classes, 15, 80, 2, seed=11)
    fits = solve(factor * train, label, n_classes)
    assert (fits.residual < 1e-8).all()
    assert (fits.n_iter < 20).all()


def test_where_the_dual_fails_l_bfgs_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(train: NDArray[np.float64], *args: Any, **options: Any) -> DualFits:
        found = fit_in_dual(train, *args, **options)
        return DualFits(
            np.full_like(found.coefficients, np.nan),
            found.intercepts,
            np.full(len(train), np.inf),
            found.n_iter,
        )

    rows = np.random.default_rng(0).normal(size=(40, 5))
    label = np.arange(40) % 2
    split = Split((0, 0), np.arange(20), np.arange(20, 40))
    spec = LogisticRegression(scale="z-score", C=1.0, tol=1e-8, max_iter=10_000)
    (sound,) = logistic.fit_and_predict(spec, rows, label, ("a", "b"), [split])
    monkeypatch.setattr(logistic, "fit_in_dual", fails)
    (rescued,) = logistic.fit_and_predict(spec, rows, label, ("a", "b"), [split])
    assert rescued.converged
    assert rescued.probability == pytest.approx(sound.probability, abs=1e-6)

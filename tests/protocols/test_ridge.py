"""The solver of ridge fits: scikit-learn's optimum, in batches or alone; and the chosen penalty."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Estimator

from madeleine_bench.metrics.cox import RiskSets, fit_ridge_cox
from madeleine_bench.protocols import ridge
from madeleine_bench.protocols.cox import PartialLikelihood, _choice
from madeleine_bench.protocols.logistic import ClassFit, fit_and_predict
from madeleine_bench.protocols.ridge import inner_folds, minimise, principal_axes
from madeleine_bench.specs.protocol import Grid, LogisticRegression
from madeleine_bench.types import Split, Survival

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
LETTERS = tuple("abcdef")


def shots(
    n_classes: int, per_class: int, dim: int, fits: int, seed: int, spread: float = 1.0
) -> tuple[Floats, Positions, list[Split]]:
    """Return rows of several training sets and 20 test rows, their labels, and the splits."""
    rng = np.random.default_rng(seed)
    n_train = n_classes * per_class
    label = np.concatenate(
        [*(rng.permutation(np.arange(n_train) % n_classes) for _ in range(fits)),
         np.arange(20) % n_classes]
    )  # fmt: skip
    centres = rng.normal(size=(n_classes, dim))
    rows = spread * (rng.normal(size=(len(label), dim)) + centres[label] + 3.0)
    test = np.arange(fits * n_train, len(label))
    splits = [Split((0, f), np.arange(f * n_train, (f + 1) * n_train), test) for f in range(fits)]
    return rows, label, splits


def model(**changes: Any) -> LogisticRegression:
    return LogisticRegression.model_validate(
        {"scale": "none", "C": 1.0, "tol": 1e-8, "max_iter": 100, **changes}
    )


def solve(rows: Floats, label: Positions, splits: list[Split], **changes: Any) -> list[ClassFit]:
    classes = LETTERS[: label.max() + 1]
    return list(fit_and_predict(model(**changes), rows, label, classes, splits))


def theirs(rows: Floats, label: Positions, split: Split, C: float, **changes: Any) -> Floats | None:
    """Return the probabilities of scikit-learn's second-order solver; None where it gave up."""
    estimator = Estimator(C=C, tol=1e-10, max_iter=1000, solver="newton-cholesky", **changes)
    try:
        estimator.fit(rows[split.train], label[split.train])
    except ConvergenceWarning:
        return None
    found: Floats = estimator.predict_proba(rows[split.test])
    return found


@settings(max_examples=40, deadline=None)
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
    rows, label, splits = shots(n_classes, per_class, dim, 3, seed, spread)
    for split, fit in zip(splits, solve(rows, label, splits, C=C), strict=True):
        assert fit.converged, fit.reason
        assert fit.diagnostics["residual"] <= 1e-8
        known = theirs(rows, label, split, C)
        if known is not None:
            assert fit.probability == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_many_units_and_classes_take_few_steps(n_classes: int) -> None:
    rows, label, splits = shots(n_classes, 120 // n_classes, 130, 1, seed=6)
    (fit,) = solve(rows, label, splits)
    assert fit.probability == pytest.approx(theirs(rows, label, splits[0], 1.0), abs=1e-7)
    assert fit.n_iter is not None
    assert fit.n_iter <= 15  # Newton steps; L-BFGS takes some dozens


@pytest.mark.parametrize("n_classes", [2, 3])
def test_balanced_weights_are_scikit_learns(n_classes: int) -> None:
    rows, label, splits = shots(n_classes, 8, 30, 1, seed=2)
    label[:6] = 0
    (fit,) = solve(rows, label, splits, C=0.3, class_weight="balanced")
    known = theirs(rows, label, splits[0], 0.3, class_weight="balanced")
    assert fit.probability == pytest.approx(known, abs=1e-7)


@pytest.mark.parametrize("tol", [1e-8, 1e-4])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fit_does_not_depend_on_the_others_of_its_batch(n_classes: int, tol: float) -> None:
    rows, label, splits = shots(n_classes, 4, 25, 40, seed=8)
    rows[splits[1].train] *= 1e-3  # takes another number of steps
    together = solve(rows, label, splits, tol=tol)
    for which in (0, 1, 31, 39):
        (alone,) = solve(rows, label, [splits[which]], tol=tol)
        assert alone.probability.tobytes() == together[which].probability.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rows_far_apart_get_equal_bits(dtype: type) -> None:
    """A matrix product may round a row by where it stands in a block."""
    rows, label, splits = shots(3, 10, 33, 1, seed=3)
    test = np.arange(len(rows), len(rows) + 1200)
    rows = np.concatenate([rows, np.random.default_rng(0).normal(size=(1200, 33))]).astype(dtype)
    equal = test[[0, 1, 511, 512, 513, 1023, 1024, 1199]]
    rows[equal] = rows[test[5]]
    label = np.concatenate([label, np.zeros(1200, dtype=np.intp)])
    (fit,) = solve(rows, label, [Split((0, 0), splits[0].train, test)])
    assert len(np.unique(fit.probability[equal - test[0]], axis=0)) == 1


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_embeddings_of_any_size_are_fitted_to_the_optimum(n_classes: int, factor: float) -> None:
    rows, label, splits = shots(n_classes, 15, 80, 2, seed=11)
    for fit in solve(factor * rows, label, splits):
        assert fit.converged
        assert fit.diagnostics["residual"] <= 1e-8


def test_numbers_that_overflow_fail_alone() -> None:
    rows, label, splits = shots(2, 3, 4, 2, seed=1)
    rows[splits[0].train] *= 1e200
    broken, sound = solve(rows, label, splits)
    assert (broken.converged, sound.converged) == (False, True)
    assert (broken.probability == 0.5).all()


def test_the_axes_hold_the_rows() -> None:
    rng = np.random.default_rng(0)
    for shape in ((9, 4), (4, 9), (3, 5, 12), (3, 12, 5)):
        rows = rng.normal(size=shape)
        rows -= rows.mean(axis=-2, keepdims=True)
        axes = principal_axes(rows, intercept=False)
        assert axes.rows @ axes.back.mT == pytest.approx(rows, abs=1e-12)
        gram = axes.rows.mT @ axes.rows
        assert gram == pytest.approx(np.eye(gram.shape[-1]) * axes.square[..., None], abs=1e-12)


def survival(seed: int, rows: Floats) -> Survival:
    rng = np.random.default_rng(seed)
    death = rng.exponential(300 * np.exp(-rows[:, 0]))
    leave = rng.uniform(50, 900, len(rows))
    return Survival(np.ceil(np.minimum(death, leave) / 20) * 20, death < leave)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n_units=st.integers(8, 60),
    dim=st.sampled_from([1, 3, 70]),
    alpha=st.sampled_from([0.05, 1.0, 30.0]),
)
def test_the_cox_loss_has_the_minimum_of_the_other_solver(
    seed: int, n_units: int, dim: int, alpha: float
) -> None:
    """Two ways to one optimum: conjugate gradients, and a factorised Hessian."""
    rows = np.random.default_rng(seed).normal(size=(n_units, dim))
    rows -= rows.mean(axis=0)
    y = survival(seed, rows)
    if not y.event.any():
        return
    kept = np.random.default_rng(seed + 1).random(n_units) < 0.7
    kept[np.flatnonzero(y.event)[0]] = True
    sets = RiskSets.of(y)
    loss = PartialLikelihood.of(sets, kept[sets.order][None].astype(float))
    axes = principal_axes(rows[sets.order], intercept=False)
    start = np.zeros((1, 1, axes.rows.shape[1]))
    fit = minimise(axes, loss, np.array([alpha]), start, tol=1e-10, max_iter=100)
    mine = axes.back @ fit.coefficients[0, 0]
    part = Survival(y.time_days[kept], y.event[kept])
    other = fit_ridge_cox(rows[kept], part, alpha=alpha, tol=1e-12, max_iter=100)
    # Units that are at risk at no event have no part in either.
    assert rows @ mine == pytest.approx(rows @ other.coefficients, abs=1e-6)


@pytest.mark.parametrize("validated", [False, True])
def test_the_chosen_cox_penalty_is_that_of_plain_refitting(validated: bool) -> None:
    """By inner folds; or by validation units alone, which are fold 0 while the others are none."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(120, 30)) / np.sqrt(30)
    y = survival(3, 3.0 * rows)
    fold = rng.permutation(120) % 5
    if validated:
        fold = np.where(fold < 2, 0, -1)
    grid = Grid(lowest=1e-2, highest=1e3, count=11)
    choice = _choice(grid, rows, y, fold)

    def log_likelihood(risk: Floats, part: NDArray[np.bool_]) -> float:
        """Return the log partial likelihood of some units, term by term."""
        time, event, own = y.time_days[part], y.event[part], risk[part]
        return sum(
            own[i] - np.log(np.exp(own[time >= time[i]]).sum()) for i in np.flatnonzero(event)
        )

    plain = {}
    for alpha in (None, *grid.values):
        total = 0.0
        for k in range(fold.max() + 1):
            inside, everybody = fold != k, np.ones(120, dtype=bool)
            part = Survival(y.time_days[inside], y.event[inside])
            w = np.zeros(30)
            if alpha is not None:
                w = fit_ridge_cox(
                    rows[inside], part, alpha=alpha, tol=1e-10, max_iter=100
                ).coefficients
            total += log_likelihood(rows @ w, everybody) - log_likelihood(rows @ w, inside)
        plain[0.0 if alpha is None else 1.0 / alpha] = -total / y.event[fold >= 0].sum()
    assert choice.value == min(plain, key=lambda value: plain[value])
    tried = {k.removeprefix("loss@C="): v for k, v in choice.diagnostics.items() if "loss" in k}
    assert len(tried) > 5
    for text, loss in tried.items():
        (known,) = [plain[v] for v in plain if f"{v:.6g}" == text]
        assert loss == pytest.approx(known, abs=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_the_chosen_c_is_that_of_plain_refitting(n_classes: int, signal: float) -> None:
    """With scikit-learn's optimum in each inner fold at each C, none of them left out."""
    rng = np.random.default_rng(n_classes)
    label = rng.integers(0, n_classes, 150)
    rows = rng.normal(size=(150, 20))
    rows[:, :3] += signal * np.eye(3)[label]
    split = Split((0, 0), np.arange(120), np.arange(120, 150))
    fold = rng.permutation(120) % 5
    spec = model(
        scale="relative",
        C={"lowest": 1e-3, "highest": 1e3, "count": 13},
        choice="cross-validation",
        inner_folds=5,
    )
    (fit,) = fit_and_predict(spec, rows, label, LETTERS[:n_classes], [split], lambda _: fold)
    train = rows[:120]
    z = (rows - train.mean(axis=0)) / train.std(axis=0) / np.sqrt(20)
    plain = {}
    for value in spec.C.values:  # type: ignore[union-attr]
        lost = 0.0
        for k in range(5):
            own = Split((0, k), np.flatnonzero(fold != k), np.flatnonzero(fold == k))
            probability = theirs(z, label, own, value)
            assert probability is not None
            lost -= np.log(probability[np.arange(len(own.test)), label[own.test]]).sum()
        plain[value] = lost / 120
    chosen = min(plain, key=lambda value: plain[value])
    assert fit.diagnostics["C"] == pytest.approx(chosen)
    assert fit.diagnostics["at_edge"] == (chosen in (1e-3, 1e3))
    for key, loss in fit.diagnostics.items():
        if key.startswith("loss@C="):
            (known,) = [p for v, p in plain.items() if f"{v:.6g}" == key.removeprefix("loss@C=")]
            assert loss == pytest.approx(known, abs=1e-5)
    assert fit.probability == pytest.approx(theirs(z, label, split, chosen), abs=1e-6)


def test_validation_units_choose_and_are_not_trained_on() -> None:
    rng = np.random.default_rng(1)
    label = np.arange(160) % 2
    rows = rng.normal(size=(160, 30)) + label[:, None]
    train, val, test = np.arange(60), np.arange(60, 100), np.arange(100, 160)
    grid = {"lowest": 1e-3, "highest": 1e3, "count": 7}
    spec = model(scale="relative", C=grid, choice="cross-validation", inner_folds=5)
    (fit,) = fit_and_predict(spec, rows, label, ("a", "b"), [Split((0, 0), train, test, val)])
    z = (rows - rows[train].mean(axis=0)) / rows[train].std(axis=0) / np.sqrt(30)
    losses = {}
    for value in spec.C.values:  # type: ignore[union-attr]
        probability = theirs(z, label, Split((0, 0), train, val), value)
        assert probability is not None
        losses[value] = -np.log(probability[np.arange(40), label[val]]).mean()
    chosen = min(losses, key=lambda value: losses[value])
    assert fit.diagnostics["C"] == pytest.approx(chosen)
    known = theirs(z, label, Split((0, 0), train, test), chosen)
    assert fit.probability == pytest.approx(known, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    n_cases=st.integers(2, 60),
    n_classes=st.integers(1, 4),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**16),
)
def test_inner_folds_keep_cases_whole_and_spread_the_classes(
    n_cases: int, n_classes: int, folds: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    class_of = rng.integers(0, n_classes, n_cases)
    case = rng.permutation(np.repeat(np.arange(n_cases), rng.integers(1, 4, n_cases)))
    names = np.array([f"case-{c}" for c in case])
    fold = inner_folds(names, class_of[case], folds, np.random.default_rng(seed))
    of_case = {c: set(fold[case == c]) for c in range(n_cases)}
    assert all(len(own) == 1 for own in of_case.values())
    assert set(fold) == set(range(min(folds, n_cases)))
    first = np.array([min(of_case[c]) for c in range(n_cases)])
    for c in range(n_classes):
        counts = np.bincount(first[class_of == c], minlength=folds)[:folds]
        assert counts.max() - counts.min() <= 1


def test_too_few_cases_to_choose_take_c_of_1_and_say_so() -> None:
    rows, label, splits = shots(2, 1, 6, 1, seed=0)
    grid = {"lowest": 1e-3, "highest": 1e3, "count": 13}
    spec = model(scale="relative", C=grid, choice="cross-validation", inner_folds=5)
    (fit,) = fit_and_predict(spec, rows, label, ("a", "b"), splits, lambda _: np.array([0, 1]))
    assert fit.converged
    assert fit.reason == "too few cases of each class to choose C"
    assert fit.diagnostics["C"] == 1.0


def test_the_walk_along_the_grid_stops_where_it_is_hopeless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it leaves out would not have been chosen."""
    rng = np.random.default_rng(4)
    label = np.arange(150) % 2
    rows = rng.normal(size=(150, 40)) + 0.4 * label[:, None]
    split = Split((0, 0), np.arange(120), np.arange(120, 150))
    grid = {"lowest": 1e-3, "highest": 1e3, "count": 13}
    spec = model(scale="relative", C=grid, choice="cross-validation", inner_folds=5)

    def fitted() -> ClassFit:
        fold = np.arange(120) % 5
        (fit,) = fit_and_predict(spec, rows, label, ("a", "b"), [split], lambda _: fold)
        return fit

    short = fitted()
    monkeypatch.setattr(ridge, "_PAST_BEST", np.inf)
    whole = fitted()
    assert len(short.diagnostics) < len(whole.diagnostics) == 13 + 3
    assert short.diagnostics["C"] == whole.diagnostics["C"]
    assert short.probability == pytest.approx(whole.probability, abs=1e-8)

"""The Cox protocols: invariances, the ladder of penalties, and folds that cannot be judged."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from madeleine_bench.metrics.cox import fit_ridge_cox
from madeleine_bench.protocols.cox import evaluation_days, fit_at_penalty
from madeleine_bench.specs.protocol import Cox
from madeleine_bench.types import Split, Splits, Survival


def l2_normalised(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("prepare", [np.asarray, l2_normalised])
def test_cox_does_not_see_the_scale(survival_of: Callable[..., Any], prepare: Any) -> None:
    problem = survival_of()
    embeddings = prepare(problem.embeddings)
    straight = problem.but(embeddings=embeddings).score()
    scaled = problem.but(embeddings=10.0 * embeddings).score()
    assert scaled.value == pytest.approx(straight.value, abs=1e-9)
    assert scaled.ci95 == pytest.approx(straight.ci95, abs=1e-9)
    for name, value in straight.secondary.items():
        assert scaled.secondary[name] == pytest.approx(value, abs=1e-9), name
    assert straight.value > 0.55


@pytest.mark.parametrize(("n_units", "dim"), [(40, 90), (90, 12)])
def test_the_row_space_holds_the_whole_ridge_solution(
    survival_of: Callable[..., Any], n_units: int, dim: int
) -> None:
    problem = survival_of(n_units=n_units, dim=dim)
    rows = problem.embeddings - problem.embeddings.mean(axis=0)
    rows[:, -1] = 2 * rows[:, 0]  # a dimension that repeats another
    table = problem.units.table
    survival = Survival(table["time_days"].to_numpy(), table["event"].to_numpy())
    reduced = fit_at_penalty(problem.protocol.method, rows, survival, 30.0)
    whole = fit_ridge_cox(rows, survival, alpha=30.0, tol=1e-9, max_iter=100)
    assert reduced.coefficients == pytest.approx(whole.coefficients, abs=1e-7)
    assert reduced.hazard == pytest.approx(whole.hazard, abs=1e-7)


@pytest.mark.parametrize(("n_units", "dim"), [(30, 60), (60, 30)])
def test_the_risk_of_test_units_is_scikit_survivals_at_every_rung(
    survival_of: Callable[..., Any], n_units: int, dim: int
) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    problem = survival_of(n_units=n_units, dim=dim)
    method, split = problem.protocol.method, problem.splits.splits[0]
    rows, table = problem.embeddings, problem.units.table
    z = (rows - rows[split.train].mean(axis=0)) / rows[split.train].std(axis=0)
    train = table.iloc[split.train]
    target = Surv.from_arrays(train["event"], train["time_days"])
    for alpha in method.alphas:
        protocol = problem.protocol.model_copy(
            update={"method": method.model_copy(update={"alphas": (alpha,)})}
        )
        alone = problem.but(protocol=protocol, splits=Splits(("repeat", "fold"), [split], "toy"))
        evaluation = alone.evaluate()
        model = CoxPHSurvivalAnalysis(alpha, tol=1e-14).fit(z[split.train], target)
        assert evaluation.predictions["risk"].to_numpy() == pytest.approx(
            model.predict(z[split.test]), abs=1e-10
        )
        (fit,) = evaluation.fits
        assert fit.n_iter is not None
        assert fit.diagnostics["residual"] <= method.tol


def test_a_fold_without_events_is_half_flagged_and_stays(survival_of: Callable[..., Any]) -> None:
    problem = survival_of()
    table = problem.units.table.copy()
    quiet = problem.splits.splits[2].test
    table.loc[quiet, "event"] = False
    scores = problem.with_table(table).score()
    assert len(scores.folds) == 5
    assert (scores.folds[2].value, scores.folds[2].flag) == (0.5, "no events in test")
    assert scores.folds[2].converged
    assert scores.value == pytest.approx(np.mean([fold.value for fold in scores.folds]))
    assert scores.ci95[0] < scores.value < scores.ci95[1]
    assert scores.method.endswith("few cases, and folds at chance")
    assert problem.score().method.endswith("few cases")
    assert all(value is not None for value in scores.secondary.values())


@pytest.mark.parametrize("name", ["cox/v1", "patho-bench-coxnet-007/v1"])
@pytest.mark.parametrize("events", [1, 9])
def test_events_in_one_fold_alone_are_scored_at_chance(
    survival_of: Callable[..., Any], name: str, events: int
) -> None:
    """It was a bare ValueError of scikit-survival: all samples are censored."""
    problem = survival_of(name)
    table = problem.units.table.copy()
    table["event"] = np.isin(table.index, problem.splits.splits[2].test[:events])
    scores = problem.with_table(table).score()
    assert (scores.value, scores.ci95) == (0.5, None)
    flags = ["no events in test"] * 5
    flags[2] = "constant predictions"  # as nobody in its training folds has an event
    assert [fold.flag for fold in scores.folds] == flags
    assert [fold.converged for fold in scores.folds] == [True, True, False, True, True]
    for undefined in ("uno-c", "td-auc", "integrated-brier"):
        assert scores.secondary[undefined] is None


def test_no_comparable_pair_is_flagged(survival_of: Callable[..., Any]) -> None:
    problem = survival_of()
    table = problem.units.table.copy()
    test = problem.splits.splits[0].test
    table.loc[test, "event"] = False
    last = table.loc[test, "time_days"].idxmax()
    table.loc[last, "event"] = True
    fold = problem.with_table(table).score().folds[0]
    assert (fold.value, fold.flag) == (0.5, "no comparable pairs in test")


def test_no_events_in_train_is_a_failed_fit_at_chance(survival_of: Callable[..., Any]) -> None:
    problem = survival_of()
    event = problem.units.table["event"].to_numpy()
    train = np.flatnonzero(~event)[:20]
    split = Split((0, 0), train, np.setdiff1d(np.arange(len(event)), train))
    alone = problem.but(splits=Splits(("repeat", "fold"), [split], "toy"))
    evaluation = alone.evaluate()
    assert not evaluation.fits[0].converged
    assert evaluation.fits[0].reason == "no events in train"
    assert (evaluation.predictions["risk"] == 0).all()
    assert not evaluation.predictions["high_risk"].any()
    fold = alone.score().folds[0]
    assert (fold.value, fold.converged, fold.flag) == (0.5, False, "constant predictions")


def test_the_ladder_climbs_to_a_penalty_that_converges(survival_of: Callable[..., Any]) -> None:
    problem = survival_of(n_units=60)
    method = problem.protocol.method

    def with_method(**changes: Any) -> Any:
        changed = method.model_copy(update=changes)
        protocol = problem.protocol.model_copy(update={"method": changed})
        return problem.but(protocol=protocol).evaluate()

    # In three steps from zero a weak ridge is not there yet and a very strong one is.
    climbed = with_method(alphas=(0.01, 1e3), max_iter=3, tol=1e-6)
    assert all(fit.converged for fit in climbed.fits)
    assert {fit.diagnostics["alpha"] for fit in climbed.fits} == {1e3}
    assert {fit.diagnostics["rung"] for fit in climbed.fits} == {1.0}
    why = "alpha 0.01: no convergence in 3 iterations"
    assert all(why in str(fit.reason) for fit in climbed.fits)
    fallen = with_method(alphas=(0.01, 0.02), max_iter=1)
    assert not any(fit.converged for fit in fallen.fits)
    assert (fallen.predictions["risk"] == 0).all()
    assert all(f"alpha {a}" in str(fit.reason) for fit in fallen.fits for a in (0.01, 0.02))
    surv = [c for c in fallen.predictions if c.startswith("surv@")]
    assert (fallen.predictions.groupby("fold")[surv].nunique() == 1).all().all()


def test_the_ladder_leaves_a_rung_without_a_maximum(survival_of: Callable[..., Any]) -> None:
    """More dimensions than units order any events, so no fit without a penalty is the best."""
    problem = survival_of(n_units=30, dim=60)
    method = problem.protocol.method.model_copy(update={"alphas": (0.0, 1e3)})
    protocol = problem.protocol.model_copy(update={"method": method})
    fits = problem.but(protocol=protocol).evaluate().fits
    assert {fit.diagnostics["alpha"] for fit in fits} == {1e3}
    assert all("alpha 0: the penalty is too small" in str(fit.reason) for fit in fits)


@pytest.mark.parametrize("alpha", [-1.0, np.inf, np.nan])
def test_a_penalty_is_a_finite_number_of_at_least_zero(alpha: float) -> None:
    settings = {"kind": "cox", "model": "ridge", "scale": "none", "tol": 1e-9, "max_iter": 9}
    assert Cox.model_validate({**settings, "alphas": [0.0]}).alphas == (0.0,)
    with pytest.raises(ValidationError, match="alphas"):
        Cox.model_validate({**settings, "alphas": [alpha]})


@pytest.mark.parametrize("name", ["cox/v1", "patho-bench-coxnet-007/v1"])
def test_constant_embeddings_are_at_chance_and_flagged(
    survival_of: Callable[..., Any], name: str
) -> None:
    problem = survival_of(name)
    scores = problem.but(embeddings=np.full_like(problem.embeddings, 0.7)).score()
    assert scores.value == 0.5
    assert scores.secondary["logrank-p"] is None
    assert {fold.flag for fold in scores.folds} == {"constant predictions"}
    assert {fold.converged for fold in scores.folds} == {True}


def test_coxnet_on_small_embeddings_has_constant_risk_and_says_so(
    survival_of: Callable[..., Any],
) -> None:
    problem = survival_of("patho-bench-coxnet-007/v1")
    small = problem.but(embeddings=problem.embeddings * 1e-3)
    assert {fit.reason for fit in small.evaluate().fits} == {
        "all coefficients are zero: the risk is constant"
    }
    assert small.score().value == 0.5
    assert problem.score().value > 0.6


@pytest.mark.parametrize("name", ["cox/v1", "patho-bench-coxnet-007/v1"])
def test_noise_scores_chance_and_signal_does_not(
    survival_of: Callable[..., Any], name: str
) -> None:
    noise = [survival_of(name, signal=0.0, seed=s).score().value for s in range(3)]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.08)
    strong = survival_of(name, signal=2.0).score()
    assert strong.value > 0.7
    assert strong.secondary["logrank-p"] is not None
    assert strong.secondary["logrank-p"] < 1e-3
    other = survival_of(name, signal=2.0)
    blind = other.but(embeddings=other.embeddings[::-1]).score()
    assert strong.secondary["integrated-brier"] < blind.secondary["integrated-brier"]


def test_high_risk_is_above_the_train_median(survival_of: Callable[..., Any]) -> None:
    problem = survival_of(signal=2.0)
    table = problem.evaluate().predictions
    for _, fold in table.groupby("fold"):
        assert (
            fold.loc[fold["high_risk"], "risk"].min() > fold.loc[~fold["high_risk"], "risk"].max()
        )
    assert 0.3 < table["high_risk"].mean() < 0.7


def test_evaluation_days_are_deciles_of_the_event_times() -> None:
    time = np.arange(1.0, 101.0)
    survival = Survival(time, np.ones(100, dtype=bool))
    assert evaluation_days(survival) == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    assert evaluation_days(Survival(time, time < 3)) == (1, 2)
    assert evaluation_days(Survival(time, time < 0)) == ()
    assert evaluation_days(Survival(np.array([0.0, 5.0]), np.array([True, False]))) == (1,)


def test_the_surv_columns_fall_with_time(survival_of: Callable[..., Any]) -> None:
    table = survival_of().evaluate().predictions
    names = [c for c in table if c.startswith("surv@")]
    assert len(names) == 9
    assert (np.diff(table[names].to_numpy(), axis=1) <= 0).all()
    assert table[names].to_numpy().min() > 0
    assert table[names].to_numpy().max() < 1

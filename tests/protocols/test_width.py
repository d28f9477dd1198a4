"""Version 2 judges the embedding and not its width, norm, shift or scale; nor does it leak."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madeleine_bench.types import Splits

PROTOCOLS = ("linear-probe/v2", "few-shot/v2", "nearest-mean/v1", "cox/v2")
# One scale for all columns is what lets few-shot/v2 work with one case a class.
BY_COLUMN = ("linear-probe/v2", "cox/v2")


@pytest.fixture(params=PROTOCOLS)
def problem(request: Any, classes_of: Callable[..., Any], survival_of: Callable[..., Any]) -> Any:
    make = survival_of if request.param == "cox/v2" else classes_of
    return make(request.param, n_units=120, dim=12)


def changed(rows: Any, how: str, number: float) -> Any:
    rng = np.random.default_rng(7)
    if how == "multiplied":
        return rows * number
    if how == "shifted":
        return rows + np.log(number) * rng.normal(size=rows.shape[1])
    if how == "columns permuted":
        return rows[:, rng.permutation(rows.shape[1])]
    if how == "each column scaled":
        return rows * number ** rng.uniform(-1, 1, rows.shape[1])
    if how == "every column doubled":
        return np.hstack([rows, rows])
    assert how == "constant column added"
    return np.hstack([rows, np.full((len(rows), 1), number)])


HOW = ("multiplied", "shifted", "columns permuted", "each column scaled", "every column doubled",
       "constant column added")  # fmt: skip


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(number=st.floats(1e-3, 1e3))
@pytest.mark.parametrize("how", HOW)
def test_the_score_does_not_see_how_embeddings_are_written(
    problem: Any, how: str, number: float
) -> None:
    """Under few-shot/v1 the factor alone moved a score; under linear-probe/v1 the doubling did."""
    if how == "each column scaled" and problem.protocol.name not in BY_COLUMN:
        pytest.skip("columns share one scale there")
    straight = problem.evaluate()
    other = problem.but(embeddings=changed(problem.embeddings, how, number))
    moved = other.evaluate()
    names = [c for c in straight.predictions if c.startswith("prob_") or c == "risk"]
    assert moved.predictions[names].to_numpy() == pytest.approx(
        straight.predictions[names].to_numpy(), abs=1e-6
    )
    assert other.score().value == pytest.approx(problem.score().value, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_of_the_embeddings_moves_a_score_by_little(
    classes_of: Callable[..., Any], seed: int
) -> None:
    """z-scores depend on the axes, so a turn is no identity; it is for few-shot/v2."""
    linear = classes_of("linear-probe/v2", n_units=400, dim=40)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(40, 40)))[0]
    turned = linear.but(embeddings=linear.embeddings @ turn)
    assert turned.score().value == pytest.approx(linear.score().value, abs=0.005)
    few = classes_of("few-shot/v2", n_units=120, dim=40)
    turned = few.but(embeddings=few.embeddings @ turn)
    assert turned.score().value == pytest.approx(few.score().value, abs=1e-6)


def test_the_norm_moves_version_1_of_few_shot_and_the_width_that_of_the_probe(
    classes_of: Callable[..., Any],
) -> None:
    """What version 2 mends; without this the tests above could pass for any protocol."""
    for name, rows in (("few-shot/v1", lambda x: 30.0 * x), ("linear-probe/v1", doubled)):
        problem = classes_of(name, n_units=120, dim=12)
        other = problem.but(embeddings=rows(problem.embeddings))
        moved = other.evaluate().predictions["prob_positive"]
        assert np.abs(moved - problem.evaluate().predictions["prob_positive"]).max() > 1e-3


def doubled(rows: Any) -> Any:
    return np.hstack([rows, rows])


def test_no_test_row_reaches_a_fit_or_its_choice(problem: Any) -> None:
    """Test rows are poisoned: made huge, and their labels turned; no fit and no choice moves."""
    split = problem.splits.splits[0]
    alone = problem.but(splits=Splits(problem.splits.key_names, [split], "toy"))
    rows = problem.embeddings.copy()
    rows[split.test] = 1e6 * rows[split.test] + 1e7
    table = problem.units.table.copy()
    outcome = "event" if "event" in table else "label"
    # Turned in place, so that every outcome is still there.
    table.loc[split.test, outcome] = table.loc[split.test[::-1], outcome].to_numpy()
    poisoned = alone.but(embeddings=rows).with_table(table)
    (straight,), (other,) = alone.evaluate().fits, poisoned.evaluate().fits
    assert other.diagnostics == straight.diagnostics
    assert other.reason == straight.reason
    if problem.protocol.name in BY_COLUMN:
        assert "C" in straight.diagnostics
        # And a poisoned training row does move the choice's losses: they are looked at.
        rows = problem.embeddings.copy()
        rows[split.train[0]] += 50.0
        (moved,) = alone.but(embeddings=rows).evaluate().fits
        assert moved.diagnostics != straight.diagnostics


@pytest.mark.parametrize("name", ["linear-probe/v2", "few-shot/v2", "nearest-mean/v1"])
def test_nothing_to_learn_scores_chance(classes_of: Callable[..., Any], name: str) -> None:
    found = [classes_of(name, n_units=200, dim=30, signal=0.0, seed=s).score().value
             for s in range(12)]  # fmt: skip
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_without_an_effect_cox_chooses_none(survival_of: Callable[..., Any]) -> None:
    folds = [
        fold for s in range(6) for fold in survival_of("cox/v2", signal=0.0, seed=s).score().folds
    ]
    none = [fold for fold in folds if fold.reason == "chose the model without effect"]
    assert len(none) >= len(folds) / 3
    assert all((fold.value, fold.flag) == (0.5, "constant predictions") for fold in none)


def test_an_end_of_the_grid_is_flagged(classes_of: Callable[..., Any]) -> None:
    problems = [classes_of("linear-probe/v2", signal=0.0, dim=60, seed=s) for s in range(8)]
    fits = [fit for problem in problems for fit in problem.evaluate().fits]
    edged = [fit for fit in fits if fit.diagnostics["at_edge"]]
    assert edged
    assert {fit.reason for fit in edged} == {"chose the strongest penalty of its grid"}
    assert {fit.reason for fit in fits if not fit.diagnostics["at_edge"]} == {None}

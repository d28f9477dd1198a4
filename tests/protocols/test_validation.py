"""Validation units choose a penalty and are not trained on, unless a task asks to fit again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from madeleine_bench.protocols.scoring import design_of
from madeleine_bench.specs.task import SplitScheme
from madeleine_bench.stats.intervals import fit_noise
from madeleine_bench.types import Split, Splits


def with_validation(problem: Any, refit: str = "train") -> Any:
    """The first split of a problem, a third of whose training units validate."""
    split = problem.splits.splits[0]
    val = split.train[::3]
    roles = Split(split.key, np.setdiff1d(split.train, val), split.test, val)
    scheme = SplitScheme(scheme="case-stratified", folds=5, repeats=1, refit=refit)
    task = problem.task.model_copy(update={"splits": scheme})
    return problem.but(task=task, splits=Splits(problem.splits.key_names, [roles], "toy"))


def shown(evaluation: Any) -> Any:
    names = [n for n in evaluation.predictions if n.startswith(("prob_", "risk", "surv@"))]
    return evaluation.predictions[names].to_numpy(dtype=float)


@pytest.mark.parametrize("name", ["linear-probe/v2", "cox/v2"])
@pytest.mark.parametrize("refit", ["train", "train+val"])
def test_the_fit_is_that_of_the_chosen_penalty_on_the_declared_units(
    name: str, refit: str, classes_of: Callable[..., Any], survival_of: Callable[..., Any]
) -> None:
    problem = with_validation((survival_of if name == "cox/v2" else classes_of)(name), refit)
    evaluation = problem.evaluate()
    (report,) = evaluation.fits
    (split,) = problem.splits.splits
    trained = split.train if refit == "train" else np.union1d(split.train, split.val)
    assert report.n_train == len(trained)
    method = problem.protocol.method
    if name == "cox/v2":
        fixed = {"alphas": (report.diagnostics["alpha"],), "inner_folds": None}
        method = method.model_copy(update=fixed)
    else:
        fixed = {"C": report.diagnostics["C"], "choice": None, "inner_folds": None}
        method = method.model_copy(update={"model": method.model.model_copy(update=fixed)})
    plain = problem.but(
        protocol=problem.protocol.model_copy(update={"method": method}),
        splits=Splits(problem.splits.key_names, [Split(split.key, trained, split.test)], "toy"),
    )
    assert shown(evaluation) == pytest.approx(shown(plain.evaluate()), abs=1e-6)


def test_labels_of_validation_units_move_nothing_but_the_choice(
    classes_of: Callable[..., Any],
) -> None:
    problem = with_validation(classes_of("linear-probe/v2"))
    (split,) = problem.splits.splits
    table = problem.units.table.copy()
    table.loc[split.val, "label"] = table.loc[split.val[::-1], "label"].to_numpy()
    before, after = problem.evaluate(), problem.with_table(table).evaluate()
    if before.fits[0].diagnostics["C"] == after.fits[0].diagnostics["C"]:
        assert np.array_equal(shown(before), shown(after))
    else:
        assert not np.array_equal(shown(before), shown(after))


def test_the_design_of_a_hold_out_counts_its_own_training_units() -> None:
    """100 tested cases, 30 of them rare, after training on 400: a fifth is tested, once."""
    case = np.arange(100)
    stratum = np.where(case < 30, "P", "N")
    design = design_of(case, stratum, [case], 64, "auroc", trained=[400])
    assert (design.rare_cases, design.rare_per_test) == (30, 30)
    assert design.training_share == pytest.approx(fit_noise(64, 120, 280, "auroc") * 100 / 400)
    folds = [np.arange(k, 100, 5) for k in range(5)]
    usual = design_of(case, stratum, folds, 64, "auroc")
    assert usual == design_of(case, stratum, folds, 64, "auroc", trained=[80] * 5)

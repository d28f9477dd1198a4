"""What makes folds doubtful without being wrong: few units of a class, and classes that drift."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, fisher_exact

from madeleine_bench.data.audit import AuditFinding, fold_name, outcome_of
from madeleine_bench.types import Splits, Units

FEW_UNITS = 5
FEW_EVENTS = 10
DRIFT = 0.05


def audit_balance(splits: Splits, units: Units) -> list[AuditFinding]:
    """Return which classes folds test few units of, and which folds differ from the others.

    Both compare the test units of folds; few-shot draws are unequal by design and have no finding.

    A fold's class counts are held against those of all other units, by Fisher's exact test for two
    classes and a chi-square test for more, with Holm's correction over the folds. Units are taken
    as independent, which slides of one case are not: a warning, never an error.

    References:
        Fisher, The logic of inductive inference, J. Roy. Statist. Soc. 98 (1935).
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    if splits.key_names[0] == "shots":
        return []
    names, codes = np.unique(outcome_of(units), return_inverse=True)
    tested = np.stack([np.bincount(codes[s.test], minlength=len(names)) for s in splits])
    places = [fold_name(splits, split) for split in splits]
    of_class = "label" in units.table
    return [
        *_few(tested, [str(name) for name in names], places, of_class=of_class),
        *_drift(tested, np.bincount(codes), [str(n) for n in names], places, of_class=of_class),
    ]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted for their number by Holm's step-down, in the order given.

    Examples:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _few(
    tested: NDArray[np.intp], names: list[str], places: list[str], *, of_class: bool
) -> list[AuditFinding]:
    findings = []
    for name, counts in zip(names, tested.T, strict=True):
        least = FEW_UNITS if of_class else FEW_EVENTS
        # None at all is a finding of its own; those without an event are never few.
        few = (counts > 0) & (counts < least)
        if not few.any() or (name == "False" and not of_class):
            continue
        fewest = int(np.flatnonzero(few)[counts[few].argmin()])
        what = f"class '{name}'" if of_class else "events"
        unit = "unit" if of_class else "event"
        findings.append(
            AuditFinding(
                "note",
                "few-units",
                f"{what}: fewer than {least} to test on in {int(few.sum())} of {len(places)} "
                f"folds, fewest in {places[fewest]} ({counts[fewest]} {unit}(s))",
                "read a single fold's score with care; fewer folds test on more",
                places[fewest],
            )
        )
    return findings


def _drift(
    tested: NDArray[np.intp],
    cohort: NDArray[np.intp],
    names: list[str],
    places: list[str],
    *,
    of_class: bool,
) -> list[AuditFinding]:
    if len(names) < 2:
        return []
    others = cohort - tested
    p_values = holm(np.array([_p_value(*pair) for pair in zip(tested, others, strict=True)]))
    findings = []
    for fold in np.flatnonzero(p_values < DRIFT):
        here = tested[fold] / tested[fold].sum()
        there = others[fold] / others[fold].sum()
        most = 1 if len(names) == 2 else int(np.abs(here - there).argmax())
        what = f"of class '{names[most]}'" if of_class else "events"
        test = "Fisher's exact test" if len(names) == 2 else "chi-square test"
        findings.append(
            AuditFinding(
                "warning",
                "prevalence",
                f"{places[fold]}: {tested[fold, most]} of {tested[fold].sum()} test units are "
                f"{what} ({here[most]:.1%}), of all others {there[most]:.1%} ({test}, "
                f"p = {p_values[fold]:.2g} after Holm's correction for {len(places)} folds)",
                "use folds stratified by class; where sites are kept whole, mbench data split",
                places[fold],
            )
        )
    return findings


def _p_value(tested: NDArray[np.intp], others: NDArray[np.intp]) -> float:
    """Return the p-value of equal class shares among the tested units and all others."""
    if not tested.sum() or not others.sum():
        return 1.0
    table = np.stack([tested, others])
    if len(tested) == 2:
        return float(fisher_exact(table)[1])
    return float(chi2_contingency(table)[1])

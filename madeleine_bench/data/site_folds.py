"""Folds that keep sites and cases whole, with each class as near to proportional as can be.

With K folds, n_fc units of class c in fold f and N_c in the cohort, the largest |n_fc - N_c / K|
is minimised first, then the sum. Whole groups are dealt out: sites, and sites that share a case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from madeleine_bench.data.fold_program import Proof, prove, simple_bounds
from madeleine_bench.data.fold_search import search
from madeleine_bench.errors import InputError

NEAR = 2.0
_SHOWN_SITES = 4


@dataclass(frozen=True)
class Groups:
    """What folds may not cut.

    Attributes:
        of_unit: the group of each unit, counted from 0.
        names: the name of each group: its site, its sites with " + " between, or its case.
        what: "site" or "case".
    """

    of_unit: NDArray[np.intp]
    names: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Oversized:
    """A group that alone has more units of a class than a fold should."""

    group: str
    label: str
    units: int


@dataclass(frozen=True)
class FoldReport:
    """How balanced folds are, and how balanced they could be at best.

    Attributes:
        what: what the folds keep whole: "site" or "case".
        labels: the classes.
        counts: fold x class, the units of each class in each fold.
        groups: how many groups each fold has.
        deviation: the largest |n_fc - N_c / K|, in units; 0 is proportional.
        bound: what no folds can be below in that.
        total: the sum of |n_fc - N_c / K| over folds and classes.
        total_bound: what no folds of that largest deviation can be below in the sum.
        effort: how the folds and the bounds were found.
        oversized: groups that are larger than a fold should be, largest first.
    """

    what: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]
    deviation: float
    bound: float
    total: float
    total_bound: float
    effort: str
    oversized: tuple[Oversized, ...]

    @property
    def optimal(self) -> bool:
        """Whether no folds have a smaller largest deviation; this is proved, not hoped."""
        return self.deviation <= self.bound

    @property
    def verdict(self) -> str:
        """How near to proportional the folds are, against what is possible, in a sentence."""
        reached = f"every class is within {self.deviation:.1f} units of proportional"
        if not self.optimal:
            return f"{reached}; below {self.bound:.1f} is proved impossible, between is not known"
        if self.deviation <= NEAR:
            return f"{reached}; no folds are nearer (proved)"
        return (
            f"{reached}; no folds that keep each {self.what} whole are nearer (proved), so "
            f"within {NEAR:g} cannot be had"
        )

    @property
    def large(self) -> tuple[str, ...]:
        """What to know of groups larger than a fold should be, a line each."""
        sums = {label: sum(c[i] for c in self.counts) for i, label in enumerate(self.labels)}
        folds = len(self.counts)
        return tuple(
            f"{self.what} '{each.group}' has {each.units} of the {sums[each.label]} units of "
            f"{_named(each.label)}; a fold should have {sums[each.label] / folds:.1f}"
            for each in self.oversized
        )


def linked_groups(
    cases: NDArray[Any], sites: NDArray[Any] | None, units: NDArray[Any] | None = None
) -> Groups:
    """Return what folds may not cut: cases, or sites; sites that share a case are one group.

    Args:
        cases: the case of each row.
        sites: the site of each row; None keeps only cases whole.
        units: the unit of each row, where a unit has several rows; the groups are then those of
            the units in sorted order.
    """
    case_names, case = np.unique(cases.astype(str), return_inverse=True)
    if sites is None:
        names, code = tuple(map(str, case_names)), case
    else:
        site_names, site = np.unique(sites.astype(str), return_inverse=True)
        links = csr_array(
            (np.ones(len(case)), (case, site + len(case_names))),
            shape=(len(case_names) + len(site_names),) * 2,
        )
        _, parts = connected_components(links, directed=False)
        used, code = np.unique(parts[case], return_inverse=True)
        of_site = np.searchsorted(used, parts[len(case_names) :])
        members = [site_names[of_site == group] for group in range(len(used))]
        names = tuple(_joined([str(name) for name in group]) for group in members)
    if units is not None:
        code = code[np.unique(units.astype(str), return_index=True)[1]]
    return Groups(code.astype(np.intp), names, "case" if sites is None else "site")


def balanced_folds(
    outcome: NDArray[Any], groups: Groups, ids: NDArray[Any], folds: int
) -> tuple[NDArray[np.intp], FoldReport]:
    """Return the fold of each unit, counted from 0, and how balanced the folds are.

    The same units give the same folds in whatever order they come. Fold 0 has the first unit.

    Args:
        outcome: class of each unit, or whether its event was seen, as text.
        groups: what folds may not cut.
        ids: id of each unit.
        folds: how many folds.

    Raises:
        InputError: there are fewer groups than folds, or fewer units of a class.
    """
    order = np.argsort(ids.astype(str), kind="stable")
    labels, label = np.unique(outcome.astype(str)[order], return_inverse=True)
    # Groups by their first unit, so that names of sites do not matter.
    first, group = np.unique(groups.of_unit[order], return_index=True, return_inverse=True)[1:]
    group = np.argsort(np.argsort(first))[group]
    table = np.zeros((len(first), len(labels)), dtype=np.int64)
    np.add.at(table, (group, label), 1)
    _check_enough(table, labels, groups.what, folds)
    kinds, kind, many = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    start = search(kinds, many, folds, simple_bounds(kinds, many, folds))
    proof = prove(kinds, many, start)
    fold_of_group = np.empty(len(first), dtype=np.intp)
    for number, dealt in enumerate(proof.deal.groups):
        fold_of_group[np.flatnonzero(kind == number)] = np.repeat(np.arange(folds), dealt)
    fold = _in_order(fold_of_group)[group]
    found = np.empty(len(order), dtype=np.intp)
    found[order] = fold
    return found, _report(found, outcome, groups, folds, proof)


def fold_deviation(
    outcome: NDArray[Any], fold: NDArray[np.intp], folds: int
) -> tuple[float, float]:
    """Return the largest |n_fc - N_c / K| of given folds and the sum, in units."""
    labels, label = np.unique(outcome.astype(str), return_inverse=True)
    counts = np.zeros((folds, len(labels)), dtype=np.int64)
    np.add.at(counts, (fold, label), 1)
    apart = np.abs(folds * counts - counts.sum(axis=0))
    return int(apart.max()) / folds, int(apart.sum()) / folds


def _named(label: str) -> str:
    return {"True": "the event", "False": "no event"}.get(label, f"'{label}'")


def _joined(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_SITES
    return " + ".join(names[:_SHOWN_SITES]) + (f" + {more} more" if more > 0 else "")


def _check_enough(table: NDArray[np.int64], labels: NDArray[Any], what: str, folds: int) -> None:
    if len(table) < folds:
        raise InputError(
            f"{len(table)} {what}(s) cannot fill {folds} folds; ask for fewer folds, or add slides"
            + (f" ({what}s that share a case are one)" if what == "site" else "")
        )
    for label, count in zip(labels, table.sum(axis=0), strict=True):
        if count < folds:
            raise InputError(
                f"{count} unit(s) of {_named(str(label))} cannot fill {folds} folds; ask for fewer "
                "folds, or add slides"
            )


def _in_order(fold: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return folds numbered by their first group."""
    names, first, code = np.unique(fold, return_index=True, return_inverse=True)
    number = np.empty(len(names), dtype=np.intp)
    number[np.argsort(first)] = np.arange(len(names))
    return number[code]


def _report(
    fold: NDArray[np.intp], outcome: NDArray[Any], groups: Groups, folds: int, proof: Proof
) -> FoldReport:
    labels, label = np.unique(outcome.astype(str), return_inverse=True)
    counts = np.zeros((folds, len(labels)), dtype=np.int64)
    np.add.at(counts, (fold, label), 1)
    table = np.zeros((len(groups.names), len(labels)), dtype=np.int64)
    np.add.at(table, (groups.of_unit, label), 1)
    large = [
        Oversized(groups.names[group], str(labels[name]), int(table[group, name]))
        for group, name in zip(*np.nonzero(folds * table > counts.sum(axis=0)), strict=True)
    ]
    return FoldReport(
        what=groups.what,
        labels=tuple(map(str, labels)),
        counts=tuple(tuple(map(int, row)) for row in counts),
        groups=tuple(len(set(groups.of_unit[fold == number])) for number in range(folds)),
        deviation=proof.deal.largest / folds,
        bound=proof.largest / folds,
        total=proof.deal.total / folds,
        total_bound=proof.total / folds,
        effort=proof.effort,
        oversized=tuple(sorted(large, key=lambda each: (-each.units, each.group, each.label))),
    )

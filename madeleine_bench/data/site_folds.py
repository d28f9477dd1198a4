"""Folds that keep sites and cases whole, with each class as near to proportional as can be.

With K folds, n_fc units of class c in fold f and N_c in the cohort, the largest |n_fc - N_c / K|
is minimised first, then the sum. Whole groups are dealt out: sites, and sites that share a case.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from madeleine_bench.errors import InputError

NEAR = 2.0
_SHOWN_SITES = 4
# Nodes and not seconds end the program, so that a slow machine makes the same folds. Above this
# many whole numbers a proof may take hours, so that fewer nodes are tried.
_PROVABLE_CELLS, _NODES, _FEW_NODES = 200, 2000, 200
# Above this many whole numbers even a node takes too long.
_CELLS = 800


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
        large: a line for each group that alone has more of a class than a fold should have.
    """

    what: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]
    deviation: float
    bound: float
    total: float
    total_bound: float
    large: tuple[str, ...]

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
    labels, label = np.unique(outcome.astype(str), return_inverse=True)
    # Groups by their first unit, so that names of sites do not matter.
    names, first = np.unique(groups.of_unit[order], return_index=True)
    names = names[np.argsort(first)]
    table = _counts(groups.of_unit, label, len(groups.names))
    check_foldable(table[names], labels, groups.what, folds)
    kinds, kind, many = np.unique(table[names], axis=0, return_inverse=True, return_counts=True)
    dealt, least, least_total = deal_groups(kinds, many, folds)
    if dealt is None:
        fold_of_group = _stratified(label[order], groups.of_unit[order], folds)
    else:
        fold_of_group = np.zeros(len(table), dtype=np.intp)
        for number, row in enumerate(dealt):
            fold_of_group[names[kind == number]] = np.repeat(np.arange(folds), row)
    # Folds are numbered by their first unit.
    first = np.unique(fold_of_group[names], return_index=True)[1]
    fold_of_group = np.argsort(np.argsort(first))[fold_of_group]
    fold = fold_of_group[groups.of_unit]
    deviation, total = fold_deviation(outcome, fold, folds)
    report = FoldReport(
        what=groups.what,
        labels=tuple(map(str, labels)),
        counts=tuple(tuple(row) for row in _counts(fold, label, folds).tolist()),
        groups=tuple(map(int, np.bincount(fold_of_group[names], minlength=folds))),
        deviation=deviation,
        bound=least / folds,
        total=total,
        total_bound=least_total / folds,
        large=_large(table, labels, groups, folds),
    )
    return fold, report


def fold_deviation(
    outcome: NDArray[Any], fold: NDArray[np.intp], folds: int
) -> tuple[float, float]:
    """Return the largest |n_fc - N_c / K| of given folds and the sum, in units."""
    counts = _counts(fold, np.unique(outcome.astype(str), return_inverse=True)[1], folds)
    apart = np.abs(folds * counts - counts.sum(axis=0))
    return int(apart.max()) / folds, int(apart.sum()) / folds


def deal_groups(
    kinds: NDArray[np.int64], many: NDArray[np.int64], folds: int
) -> tuple[NDArray[np.int64] | None, int, int]:
    """Return how many groups of each kind go to each fold, and two bounds.

    An integer program makes the largest deviation least, then the sum among the deals that reach
    it. Nothing is below the bounds, which are times the number of folds, so that all numbers are
    whole. Where the program is too large, or finds none in the nodes it has, there is no deal.

    Args:
        kinds: kind x class, the units of each class in one group of the kind.
        many: how many groups there are of each kind.
        folds: how many folds.

    References:
        Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming
        Computation 10 (2018), for HiGHS, which scipy.optimize.milp calls.
    """
    wanted = many @ kinds
    # A class of N units leaves N mod K folds with one unit more; the largest group fills its fold.
    rest, excess = wanted % folds, folds * kinds.max(axis=0) - wanted
    uneven = np.where(rest > 0, np.maximum(rest, folds - rest), 0)
    least = max(int(uneven.max()), int(excess.max()), 0)
    least_total = int((2 * np.maximum(rest * (folds - rest), excess)).sum())
    cells, apart = len(kinds) * folds, len(wanted) * folds
    nodes = _NODES if cells <= _PROVABLE_CELLS else _FEW_NODES
    if cells > _CELLS:
        return None, least, least_total

    # Columns: groups of each kind in each fold; then the deviation, one of all or one of each class
    # in each fold.
    each_group = np.kron(np.eye(len(kinds)), np.ones(folds))
    each_fold = np.tile(np.eye(folds), len(kinds))
    counts, share = folds * np.kron(kinds.T, np.eye(folds)), np.repeat(wanted, folds)
    bounds, most = [least, least_total], np.inf
    dealt: NDArray[np.int64] | None = None
    for stage, spread in enumerate((np.ones((apart, 1)), np.eye(apart))):
        width = spread.shape[1]
        rules = [
            ([each_group, np.zeros((len(kinds), width))], many, many),
            ([each_fold, np.zeros((folds, width))], 1, np.inf),
            ([counts, -spread], -np.inf, share),
            ([counts, spread], share, np.inf),
            ([np.zeros((1, cells)), np.ones((1, width))], bounds[stage], np.inf),
        ]
        high = np.concatenate([np.repeat(many, folds), np.full(width, most)])
        solved = _solve(np.repeat([0.0, 1.0], [cells, width]), Bounds(0, high), rules, nodes)
        if solved.x is None:
            break
        dealt = np.rint(solved.x[:cells]).astype(np.int64).reshape(-1, folds)
        deviation = np.abs(folds * (dealt.T @ kinds) - wanted)
        most = int(deviation.max())
        # HiGHS may leave the bound behind where it has proved that nothing is better.
        proved = solved.fun if solved.status == 0 else solved.mip_dual_bound
        bounds[stage] = max(bounds[stage], int(np.ceil(proved - 1e-6)))
        # What a class has too many in some folds it lacks in others, so that the sum is even.
        bounds[1] += bounds[1] % 2
    return dealt, bounds[0], bounds[1]


def _solve(
    aim: NDArray[np.float64], bounds: Bounds, rules: Sequence[tuple[Any, Any, Any]], nodes: int
) -> Any:
    options: Any = {"node_limit": nodes, "mip_rel_gap": 0.0, "parallel": False}
    lines = [LinearConstraint(csr_array(np.hstack(m)), low, high) for m, low, high in rules]
    whole = np.ones(len(aim), dtype=np.intp)
    with warnings.catch_warnings():
        # scipy passes on "parallel" and says that it does not know it.
        warnings.filterwarnings("ignore", message="Unrecognized options detected")
        return milp(aim, integrality=whole, bounds=bounds, constraints=lines, options=options)


def _stratified(label: NDArray[np.intp], group: NDArray[np.intp], folds: int) -> NDArray[np.intp]:
    """Return the fold of each group as scikit-learn deals them, one by one."""
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.zeros(group.max() + 1, dtype=np.intp)
    for number, (_, test) in enumerate(StratifiedGroupKFold(folds).split(label, label, group)):
        fold[group[test]] = number
    return fold


def _joined(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_SITES
    return " + ".join(names[:_SHOWN_SITES]) + (f" + {more} more" if more > 0 else "")


def _large(
    table: NDArray[np.int64], labels: NDArray[Any], groups: Groups, folds: int
) -> tuple[str, ...]:
    """Return a line for each group with more of a class than a fold should have, largest first."""
    total = table.sum(axis=0)
    rows, columns = np.nonzero(folds * table > total)
    large = sorted(
        (-int(table[row, column]), groups.names[row], str(labels[column]), int(total[column]))
        for row, column in zip(rows, columns, strict=True)
    )
    return tuple(
        f"{groups.what} '{group}' has {-units} of the {count} units of "
        f"{_named(name).removeprefix('class ')}; a fold should have {count / folds:.1f}"
        for units, group, name, count in large
    )


def check_foldable(
    table: NDArray[np.int64],
    labels: Iterable[Any],
    what: str,
    folds: int,
    *,
    class_optional: bool = False,
) -> None:
    """Check that there are enough groups, and enough of each class, for a number of folds.

    Sites are too few and too unequal to ask that each class be in as many as there are folds: the
    audit reports the folds that lack one. Of cases it is asked.

    Args:
        table: group x class, the units of each class in each group.
        labels: the classes.
        what: "site" or "case".
        folds: how many folds.
        class_optional: whether a task may leave a class out, which the message then says.

    Raises:
        InputError: there are too few.
    """
    advice = "add slides, or ask for fewer folds ('splits' of a task, --folds)"
    if len(table) < folds:
        shared = " (sites that share a case are one)" if what == "site" else ""
        raise InputError(f"{len(table)} {what}(s) cannot fill {folds} folds; {advice}{shared}")
    unit, enough = ("unit", table) if what == "site" else ("case", table > 0)
    for label, count in zip(labels, enough.sum(axis=0), strict=True):
        if count < folds:
            leave = f', or leave the class out (without = ["{label}"] in mbench.toml)'
            raise InputError(
                f"{count} {unit}(s) of {_named(str(label))} cannot fill {folds} folds; {advice}"
                f"{leave * class_optional}"
            )


def _counts(row: NDArray[np.intp], label: NDArray[np.intp], rows: int) -> NDArray[np.int64]:
    """Return row x class, how many units of each class there are in each row."""
    counts = np.zeros((rows, label.max() + 1), dtype=np.int64)
    np.add.at(counts, (row, label), 1)
    return counts


def _named(label: str) -> str:
    return {"True": "the event", "False": "no event"}.get(label, f"class '{label}'")

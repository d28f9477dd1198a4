"""The integer program of balanced folds: what no folds can be below, and often the folds."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from madeleine_bench.data.fold_search import Counts, Deal, deal_of

# Nodes and not seconds end the search, so that a slow machine finds the same folds.
_NODES = 5000
# Above this many whole numbers the sum is not proved: its tree takes hours, not seconds.
_SUM_CELLS = 200
_CELLS = 4000


@dataclass(frozen=True)
class Proof:
    """The best deal known, and what no deal can be below.

    Attributes:
        deal: the deal.
        largest: bound of the largest deviation, times the number of folds.
        total: bound of the sum among deals of the smallest largest deviation.
        effort: what was done, for the reader of a report.
    """

    deal: Deal
    largest: int
    total: int
    effort: str


def simple_bounds(kinds: Counts, many: Counts, folds: int) -> tuple[int, int]:
    """Return largest and total deviation, times `folds`, that plain counting shows to be least.

    A class of N units leaves N mod K folds with one unit more than the others; and the fold of the
    largest group has at least that group.
    """
    wanted = many @ kinds
    rest = wanted % folds
    uneven = np.where(rest > 0, np.maximum(rest, folds - rest), 0)
    excess = folds * kinds.max(axis=0) - wanted
    largest = max(int(uneven.max()), int(excess.max()), 0)
    each = 2 * np.maximum(rest * (folds - rest), excess)
    return largest, int(each.sum())


def prove(kinds: Counts, many: Counts, start: Deal) -> Proof:
    """Return bounds, and a better deal than `start` where the program finds one.

    First the largest deviation is minimised, then the sum among the deals that reach it.

    Args:
        kinds: kind x class, the units of each class in one group of the kind.
        many: how many groups there are of each kind.
        start: a deal, which stands where the program finds none that is better.

    References:
        Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming
        Computation 10 (2018), for HiGHS, which scipy.optimize.milp calls.
    """
    folds = start.groups.shape[1]
    least_largest, least_total = simple_bounds(kinds, many, folds)
    if start.cost == (least_largest, least_total):
        return Proof(start, least_largest, least_total, "optimum, by counting")
    if start.groups.size > _CELLS:
        return Proof(start, least_largest, least_total, "searched; too many sites for a proof")
    program = _Program(kinds, many, folds, least_largest, least_total)
    best, steps = start, []
    if start.largest > least_largest:
        found, bound = program.least(_Program.LARGEST)
        least_largest = max(least_largest, bound)
        if found is not None and found.cost < best.cost:
            best = found
    steps.append("largest " + ("proved" if best.largest == least_largest else "not proved"))
    if best.largest == least_largest and start.groups.size <= _SUM_CELLS:
        found, bound = program.least(_Program.TOTAL, best.largest)
        # What a class has too many in some folds it lacks in others, so that the sum is even.
        least_total = max(least_total, bound + bound % 2)
        if found is not None and found.cost < best.cost:
            best = found
    steps.append("sum " + ("proved" if best.total == least_total else "not proved"))
    return Proof(best, least_largest, least_total, f"integer program: {', '.join(steps)}")


class _Program:
    """The program in whole numbers: groups of each kind in each fold, deviations, the largest."""

    LARGEST = "largest"
    TOTAL = "total"

    def __init__(
        self, kinds: Counts, many: Counts, folds: int, least_largest: int, least_total: int
    ) -> None:
        self.kinds, self.many, self.folds = kinds, many, folds
        self.least_largest = least_largest
        self.cells = len(kinds) * folds
        self.apart = folds * kinds.shape[1]
        self.size = self.cells + self.apart + 1
        wanted = many @ kinds
        entries: list[tuple[int, int, float]] = []
        low: list[float] = []
        high: list[float] = []

        def row(cells: list[tuple[int, float]], least: float, most: float) -> None:
            entries.extend((len(low), column, value) for column, value in cells)
            low.append(least)
            high.append(most)

        for kind, count in enumerate(many):
            row([(kind * folds + f, 1.0) for f in range(folds)], count, count)
        for fold in range(folds):
            row([(kind * folds + fold, 1.0) for kind in range(len(kinds))], 1, np.inf)
            for name, total in enumerate(wanted):
                apart = self.cells + fold * len(wanted) + name
                for sign in (1, -1):
                    own = [
                        (kind * folds + fold, float(sign * folds * units))
                        for kind, units in enumerate(kinds[:, name])
                        if units
                    ]
                    row([*own, (apart, -1.0)], -np.inf, sign * total)
                row([(apart, 1.0), (self.size - 1, -1.0)], -np.inf, 0)
        row([(self.cells + i, 1.0) for i in range(self.apart)], least_total, np.inf)
        rows, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(low), self.size))
        self.constraints = LinearConstraint(matrix, low, high)

    def least(self, what: str, most: int | None = None) -> tuple[Deal | None, int]:
        """Return the deal that makes the largest deviation or the total least, and its bound.

        Args:
            what: `LARGEST` or `TOTAL`.
            most: what the largest deviation may be at most; None for anything.
        """
        low = np.zeros(self.size)
        high = np.full(self.size, np.inf)
        high[: self.cells] = np.repeat(self.many, self.folds)
        low[-1] = self.least_largest
        high[-1] = np.inf if most is None else most
        aim = np.zeros(self.size)
        aim[-1 if what == self.LARGEST else slice(self.cells, -1)] = 1.0
        solved = self._solve(aim, Bounds(low, high))
        bound = getattr(solved, "mip_dual_bound", None)
        least = 0 if bound is None else int(np.ceil(bound - 1e-6))
        if solved.x is None:
            return None, least
        groups: NDArray[np.int64] = np.rint(solved.x[: self.cells]).astype(np.int64)
        return deal_of(self.kinds, groups.reshape(-1, self.folds)), least

    def _solve(self, aim: NDArray[np.float64], bounds: Bounds) -> Any:
        options: Any = {"node_limit": _NODES, "mip_rel_gap": 0.0, "parallel": False}
        with warnings.catch_warnings():
            # scipy passes on "parallel" and says that it does not know it.
            warnings.filterwarnings("ignore", message="Unrecognized options detected")
            return milp(
                aim,
                integrality=np.ones(self.size),
                bounds=bounds,
                constraints=self.constraints,
                options=options,
            )

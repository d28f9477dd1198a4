"""A search for balanced folds: sites dealt out one by one, then moved and swapped while it helps.

All numbers are whole, so the same sites give the same folds on any machine.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.seeds import rng_for

_STARTS = 60
_STARTS_OF_MANY = 4
_MANY = 1000

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Deal:
    """How groups are dealt out to folds, and how far the folds are from proportional.

    Deviations are times the number of folds K, which makes them whole: |K n - N|, where n is a
    fold's count of a class and N the cohort's.

    Attributes:
        groups: kind x fold, how many groups of each kind a fold has.
        largest: the largest deviation over folds and classes.
        total: the sum of the deviations.
    """

    groups: Counts
    largest: int
    total: int

    @property
    def cost(self) -> tuple[int, int]:
        """What is minimised, in this order."""
        return self.largest, self.total


def deal_of(kinds: Counts, groups: Counts) -> Deal:
    """Return a deal with its deviations.

    Args:
        kinds: kind x class, the units of each class in one group of the kind.
        groups: kind x fold.
    """
    folds = groups.shape[1]
    apart = np.abs(folds * (groups.T @ kinds) - groups.sum(axis=1) @ kinds)
    return Deal(groups, int(apart.max()), int(apart.sum()))


def search(kinds: Counts, many: Counts, folds: int, floor: tuple[int, int]) -> Deal:
    """Return the best deal of several starts; it ends early where `floor` is reached.

    Args:
        kinds: kind x class, the units of each class in one group of the kind.
        many: how many groups there are of each kind.
        folds: how many folds, at most as many as groups.
        floor: largest and total deviation that no deal can be below.
    """
    best: Deal | None = None
    for start in range(_STARTS if len(kinds) * folds <= _MANY else _STARTS_OF_MANY):
        rng = rng_for("balanced folds", start)
        # The large groups first, as the small ones can even out what these leave.
        weight = rng.uniform(0.5, 1.5, len(kinds)) if start else np.ones(len(kinds))
        order = np.argsort(-kinds.sum(axis=1) * weight, kind="stable")
        deal = _improved(kinds, _dealt(kinds, many, folds, order))
        if best is None or deal.cost < best.cost:
            best = deal
        if best.cost <= floor:
            break
    assert best is not None
    return best


def _dealt(kinds: Counts, many: Counts, folds: int, order: NDArray[np.intp]) -> Counts:
    """Return groups given one by one to the fold that they fill least above its share."""
    groups = np.zeros((len(kinds), folds), dtype=np.int64)
    counts = np.zeros((folds, kinds.shape[1]), dtype=np.int64)
    wanted = many @ kinds
    for kind in order:
        # Whole rounds of equal groups need no choice; the rest is dealt one by one.
        rounds, rest = divmod(int(many[kind]), folds)
        groups[kind] += rounds
        counts += rounds * kinds[kind]
        for _ in range(rest):
            over = (folds * (counts + kinds[kind]) - wanted).max(axis=1)
            fold = np.lexsort((np.arange(folds), counts.sum(axis=1), over))[0]
            groups[kind, fold] += 1
            counts[fold] += kinds[kind]
    return _none_empty(groups)


def _none_empty(groups: Counts) -> Counts:
    """Return the deal with a group of the fullest fold in each fold that has none."""
    for fold in np.flatnonzero(groups.sum(axis=0) == 0):
        giver = int(groups.sum(axis=0).argmax())
        kind = int(np.flatnonzero(groups[:, giver])[0])
        groups[kind, giver] -= 1
        groups[kind, fold] += 1
    return groups


def _improved(kinds: Counts, groups: Counts) -> Deal:
    """Return a deal that no move of a group and no swap of two makes better."""
    deal = deal_of(kinds, groups)
    while True:
        step = _best_step(kinds, deal)
        if step is None:
            return deal
        deal = step


def _best_step(kinds: Counts, deal: Deal) -> Deal | None:
    """Return the best deal that one move or swap makes of another; None where none is better."""
    groups, folds = deal.groups, deal.groups.shape[1]
    wanted = groups.sum(axis=1) @ kinds
    counts = groups.T @ kinds
    apart = np.abs(folds * counts - wanted)
    nothing = np.zeros((1, kinds.shape[1]), dtype=np.int64)  # a move is a swap with nothing
    scale = deal.total + 1
    best = deal.largest * scale + deal.total
    found: tuple[int, int, int, int] | None = None
    for giver, taker in permutations(range(folds), 2):
        given = np.flatnonzero(groups[:, giver])
        taken = np.flatnonzero(groups[:, taker])
        goods = np.vstack([kinds[taken], nothing])
        if groups[:, giver].sum() == 1:
            goods = goods[:-1]  # no fold is left empty
        change = goods[None] - kinds[given][:, None]
        after = [
            np.abs(folds * (counts[fold] + sign * change) - wanted)
            for fold, sign in ((giver, 1), (taker, -1))
        ]
        others = np.delete(apart.max(axis=1), [giver, taker]).max(initial=0)
        largest = np.maximum(np.maximum(after[0].max(2), after[1].max(2)), others)
        total = deal.total - apart[[giver, taker]].sum() + after[0].sum(2) + after[1].sum(2)
        # A larger total than now is worth it where the largest deviation falls.
        cost = largest * scale + np.minimum(total, scale - 1)
        place = int(cost.argmin())
        if cost.flat[place] < best:
            best = int(cost.flat[place])
            row, column = divmod(place, cost.shape[1])
            back = int(taken[column]) if column < len(taken) else -1
            found = giver, taker, int(given[row]), back
    if found is None:
        return None
    giver, taker, one, other = found
    moved = groups.copy()
    moved[one, giver] -= 1
    moved[one, taker] += 1
    if other >= 0:
        moved[other, taker] -= 1
        moved[other, giver] += 1
    return deal_of(kinds, moved)

"""Weight of concordant and of comparable pairs, without a matrix of all pairs.

Units stand in the order of their follow-up, so a pair is comparable where the first of the two has
the event and both do not stand in the same place. The order is halved again and again. Of the pairs
that a cut parts, all whose first unit has the event are comparable, and the weight of the later
units below a risk is looked up in a cumulative sum: time grows with n log n and memory with n.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.types import Survival

Floats = NDArray[np.floating[Any]]
# Up to so many units a matrix of pairs is faster than to go on halving.
_FEW = 256


@dataclass(frozen=True)
class _Queue:
    """Units in the order of their follow-up.

    Attributes:
        place: (unit,) ascending; units of equal place are not comparable.
        event: (unit,) whether the unit has the event.
        risk: (unit,) higher means an earlier event.
        weights: unit x resample.
    """

    place: NDArray[np.intp]
    event: NDArray[np.bool_]
    risk: NDArray[np.float64]
    weights: Floats

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, part: slice) -> "_Queue":
        return _Queue(self.place[part], self.event[part], self.risk[part], self.weights[part])


def concordance_sums(
    survival: Survival, risk: NDArray[np.float64], weights: Floats
) -> tuple[Floats, Floats]:
    """Return for each resample twice the weight of concordant pairs, and that of all pairs.

    A pair weighs the product of its units' weights; of equal risks it counts half as concordant. It
    is comparable where the earlier time is an event, or both are equal and exactly one is an event.
    Twice, so that all sums of whole weights are whole: exact, in any order, where they fit.

    Args:
        survival: follow-up of the units.
        risk: (unit,) higher means an earlier event.
        weights: unit x resample.
    """
    _, day = np.unique(survival.time_days, return_inverse=True)
    place = 2 * day + ~survival.event  # an event comes before those censored on its day
    order = np.argsort(place, kind="stable")
    return _sums(_Queue(place[order], survival.event[order], risk[order], weights[order]))


def _sums(units: _Queue) -> tuple[Floats, Floats]:
    cut = _cut(units.place)
    if cut is None:  # all in one place, or nobody
        nothing = np.zeros(units.weights.shape[1])
        return nothing, nothing
    if len(units) <= _FEW:
        return _pair_by_pair(units)
    early, late = units[:cut], units[cut:]
    found = np.array([_sums(early), _sums(late), _across(early, late)], dtype=np.float64)
    twice, pairs = found.sum(axis=0)
    return twice, pairs


def _cut(place: NDArray[np.intp]) -> int | None:
    """Return the cut nearest the middle that parts no equal places, None where there is none."""
    middle = len(place) // 2
    group = place[middle : middle + 1]  # empty where there is nobody
    left, right = (np.searchsorted(place, group, side=side) for side in ("left", "right"))
    inside = [int(cut) for cut in (*left, *right) if 0 < cut < len(place)]
    return min(inside, key=lambda cut: abs(cut - middle), default=None)


def _across(early: _Queue, late: _Queue) -> tuple[Floats, Floats]:
    """Return the sums over pairs of an early and a late unit."""
    order = np.argsort(late.risk, kind="stable")
    risk = late.risk[order]
    below = np.zeros((len(late) + 1, late.weights.shape[1]), dtype=late.weights.dtype)
    np.cumsum(late.weights[order], axis=0, out=below[1:])
    first = np.flatnonzero(early.event)
    beaten = below[np.searchsorted(risk, early.risk[first], side="left")]
    beaten += below[np.searchsorted(risk, early.risk[first], side="right")]
    weights = early.weights[first]
    return np.einsum("ur,ur->r", weights, beaten), weights.sum(axis=0) * below[-1]


def _pair_by_pair(units: _Queue) -> tuple[Floats, Floats]:
    """Return the sums over all pairs of few units."""
    first = np.flatnonzero(units.event)
    weights, dtype = units.weights[first], units.weights.dtype
    pairs = (units.place[first, None] < units.place).astype(dtype)
    twice = pairs * (1 + np.sign(units.risk[first, None] - units.risk)).astype(dtype)
    return (
        np.einsum("ur,ur->r", weights, twice @ units.weights),
        np.einsum("ur,ur->r", weights, pairs @ units.weights),
    )

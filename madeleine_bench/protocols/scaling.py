"""Centring and scaling learned on the training rows alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# A dimension whose deviation is below this share of its size varies by rounding only.
_ROUNDING = 1e-12
_AT_ONCE = 16


@dataclass(frozen=True)
class Scaler:
    """Centre and factor of each dimension; a dimension constant on the training rows has factor 0.

    Attributes:
        centre: (dim,) mean of the training rows.
        factor: (dim,) what the centred rows are multiplied by.
    """

    centre: NDArray[np.float64]
    factor: NDArray[np.float64]

    @property
    def constant(self) -> bool:
        """Whether no dimension varies over the training rows."""
        return not self.factor.any()

    def apply(
        self, rows: NDArray[np.float64], out: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the rows, centred and scaled; in `out`, which may be the rows themselves."""
        scaled: NDArray[np.float64] = np.subtract(rows, self.centre, out=out)
        scaled *= self.factor
        return scaled


def _columns(rows: NDArray[np.float64]) -> Iterator[slice]:
    """Yield a few dimensions at a time: the deviation takes a copy of what it looks at."""
    yield from (slice(first, first + _AT_ONCE) for first in range(0, rows.shape[1], _AT_ONCE))


def is_constant(train: NDArray[np.float64]) -> bool:
    """Return whether no dimension of the rows (unit x dim) varies by more than rounding."""
    return not any(_varies(train[:, part])[1].any() for part in _columns(train))


def _varies(
    train: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the deviation of each dimension, and whether it is more than rounding, (dim,)."""
    deviation = train.std(axis=0)
    return deviation, deviation > _ROUNDING * np.maximum(train.max(axis=0), -train.min(axis=0))


def fit_scaler(train: NDArray[np.float64], scale: Literal["z-score", "none"]) -> Scaler:
    """Return the scaler of the training rows (unit x dim).

    "z-score" divides by the deviation (of n, not n - 1); "none" only centres. Either way a
    dimension that is constant on the training rows becomes 0 everywhere, never NaN: nothing can
    be learned from it, so what it does on the test rows must not count.
    """
    centre = train.mean(axis=0)
    parts = [_varies(train[:, part]) for part in _columns(train)]
    deviation = np.concatenate([part[0] for part in parts])
    varies = np.concatenate([part[1] for part in parts])
    factor = np.zeros_like(deviation)
    np.divide(1.0, deviation, out=factor, where=varies)
    return Scaler(centre, factor if scale == "z-score" else varies.astype(np.float64))

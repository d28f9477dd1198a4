"""Centring and scaling learned on the training rows alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.specs.protocol import Scale

# A dimension whose deviation is below this share of its size varies by rounding only.
_ROUNDING = 1e-12

Rows = NDArray[Any]  # of floats


@dataclass(frozen=True)
class Scaler:
    """Centre and factor of each dimension; a dimension constant on the training rows has factor 0.

    Attributes:
        centre: (dim,) mean of the training rows.
        factor: (dim,) what the centred rows are multiplied by.
    """

    centre: Rows
    factor: Rows

    @property
    def constant(self) -> bool:
        """Whether no dimension varies over the training rows."""
        return not self.factor.any()

    def apply(self, rows: Rows, out: Rows | None = None) -> Rows:
        """Return the rows, centred and scaled; in `out`, which may be the rows themselves."""
        scaled: Rows = np.subtract(rows, self.centre, out=out)
        scaled *= self.factor
        return scaled


def fit_scaler(train: NDArray[np.float64], scale: Scale) -> Scaler:
    """Return the scaler of the training rows (unit x dim); "none" only centres.

    A deviation is that of n, not n - 1. A dimension that is constant on the training rows becomes
    0 everywhere, never NaN: nothing can be learned from it, so what it does on the test rows must
    not count. Nor does it count as a dimension.
    """
    centre = train.mean(axis=0)
    deviation = train.std(axis=0)
    varies = deviation > _ROUNDING * np.maximum(train.max(axis=0), -train.min(axis=0))
    if not varies.any():
        return Scaler(centre, np.zeros_like(deviation))
    if scale in ("none", "common"):
        # Of deviations over the largest, whose squares neither overflow nor vanish.
        largest = deviation[varies].max()
        norm = largest * np.sqrt(np.square(deviation[varies] / largest).sum())
        return Scaler(centre, varies / (norm if scale == "common" else 1.0))
    factor = np.zeros_like(deviation)
    np.divide(1.0, deviation, out=factor, where=varies)
    return Scaler(centre, factor / (np.sqrt(varies.sum()) if scale == "relative" else 1.0))

"""Metrics of predicted numbers; chance is 0 for all but the mean absolute error.

Every function takes `value`, the label of each unit, and `predicted`. A metric returns None where
it is undefined: where the labels, or for a correlation the predictions, are all equal.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def r2(value: Floats, predicted: Floats, baseline: Floats) -> float | None:
    """Return the share of the squared error that the predictions save, or None; 1 is perfect.

    One minus the squared error over that of the baseline, the mean label of the training units.
    Below 0 the predictions are worse than that mean. Against the mean of the test units, which no
    model could know, every score would be lower.

    References:
        Campbell and Thompson, Review of Financial Studies 21 (2008) 1509-1531: out-of-sample R2.
    """
    from_baseline = np.square(value - baseline).sum()
    if np.ptp(value) == 0.0 or from_baseline == 0.0:
        return None
    return float(1.0 - np.square(value - predicted).sum() / from_baseline)


def pearson(value: Floats, predicted: Floats) -> float | None:
    """Return Pearson's correlation in [-1, 1], or None; higher is better, 0 is chance."""
    if np.ptp(value) == 0.0 or np.ptp(predicted) == 0.0:
        return None
    return float(np.clip(np.corrcoef(value, predicted)[0, 1], -1.0, 1.0))


def spearman(value: Floats, predicted: Floats) -> float | None:
    """Return Spearman's correlation, that of the ranks, or None; equal numbers share their rank."""
    return pearson(rankdata(value), rankdata(predicted))


def mean_absolute_error(value: Floats, predicted: Floats) -> float:
    """Return the mean absolute error in the unit of the label; lower is better."""
    return float(np.abs(value - predicted).mean())

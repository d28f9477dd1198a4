"""Is a change of one encoder more than noise: the paired bootstrap, guarded for the gate.

Two guards (docs/regression.md):

- TRAINING_WIDENING (`stats.bootstrap`). The bootstrap resamples test cases and keeps the fits, so
  it is too narrow: differences of encoders that differ by their seed alone deviated up to 1.56
  times as far as it says. Each resampled difference is moved that much farther from the difference
  itself before interval and p-value are read off.
- SMALLEST. Two nearly equal sets of predictions have a nearly empty interval, so a difference of
  no consequence can be significant. Below .005 a change counts as noise whatever its p-value.
"""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from madeleine_bench.errors import InputError
from madeleine_bench.stats.bootstrap import (
    TRAINING_WIDENING,
    case_weights,
    percentile_interval,
)
from madeleine_bench.stats.paired import ScoredUnits, two_sided_p

SMALLEST = 0.005
ALPHA = 0.05
_FEWEST_RESAMPLES = 1000
_RESAMPLES_A_CELL = 200


@dataclass(frozen=True)
class Change:
    """How far a score moved: current less baseline, widened 95% interval and p-value."""

    difference: float
    ci95: tuple[float, float]
    p_value: float


def resamples_for(n_cells: int) -> int:
    """Return how many resamples let the smallest p-value survive Holm over `n_cells` tests.

    The smallest is 2 / (resamples + 1), and Holm multiplies it by the number of tests.

    Examples:
        >>> [resamples_for(n) for n in (1, 5, 40)]
        [1000, 1000, 8000]
    """
    return max(_FEWEST_RESAMPLES, _RESAMPLES_A_CELL * n_cells)


def change(
    current: ScoredUnits, baseline: ScoredUnits, n_resamples: int, rng: np.random.Generator
) -> Change:
    """Return the change of the score with its widened interval.

    With d the difference and d_r those of the resampled cases (`stats.paired.paired_difference`),
    interval and p-value are those of d + TRAINING_WIDENING (d_r - d).

    Raises:
        InputError: the two are not of the same units.
    """
    ours, theirs = ((s.unit, s.case, s.stratum) for s in (current, baseline))
    if ours != theirs:
        raise InputError(
            "two records of one cell hold other units, cases or labels though their hashes agree; "
            "run the suite again, or renew the baseline: mbench regress --update"
        )
    with threadpool_limits(1):
        weights = case_weights(current.case, current.stratum, n_resamples, rng)
        resampled = current.scores(weights) - baseline.scores(weights)
    difference = current.score - baseline.score
    wide = difference + TRAINING_WIDENING * (resampled - difference)
    return Change(difference, percentile_interval(wide), two_sided_p(wide))

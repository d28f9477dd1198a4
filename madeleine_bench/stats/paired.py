"""Is one encoder better: on one task by a paired bootstrap, over tasks by signed ranks.

On one task both encoders are scored on the same resampled cases, so what makes a resample hard for
both cancels. Over tasks each task is one observation; how its score was estimated plays no part.

A caution about the first. The bootstrap resamples test cases and holds the fits fixed. The folds of
a cross-validation share most of their training cases, so its score varies more than that; pairing
removes the part that both encoders share and no more. Over shuffled labels of phantom cohorts,
differences deviate from 0 up to 1.3 times as far as the bootstrap says, and p falls below .05 up to
twice too often (docs/comparison.md). The test over tasks does not suffer from it.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8, 13 and 16.
    Davison and Hinkley, Bootstrap Methods and their Application (1997), section 4.2: (count + 1) /
    (n + 1).
    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), 3.1.
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from madeleine_bench.errors import InputError
from madeleine_bench.stats.bootstrap import Weights, case_weights, percentile_interval


@dataclass(frozen=True)
class ScoredUnits:
    """The units of one task, and how the stored predictions of one encoder score them.

    Attributes:
        unit: (unit,) ids.
        case: (unit,) the case of each unit; cases are resampled whole.
        stratum: (unit,) what resampling stays within, such as the class.
        splits: hash of the splits that the predictions are of.
        scores: takes weights, unit x resample, and returns the score of each resample, (resample,),
            higher is better. All weights one is the data as it is.
    """

    unit: tuple[str, ...]
    case: tuple[str, ...]
    stratum: tuple[str, ...]
    splits: str
    scores: Callable[[Weights], NDArray[np.float64]]

    def __post_init__(self) -> None:
        """Check that the columns belong together.

        Raises:
            ValueError: there is no unit, or the columns differ in length.
        """
        if not self.unit or not len(self.unit) == len(self.case) == len(self.stratum):
            raise ValueError("unit, case and stratum must be of one length and not empty")

    @property
    def score(self) -> float:
        """The score of the units as they are: the main score of their record."""
        return float(self.scores(np.ones((len(self.unit), 1), dtype=np.float32))[0])


@dataclass(frozen=True)
class PairedDifference:
    """How far one encoder scores above another on one task.

    Attributes:
        difference: score of the first less score of the second; above 0 the first is better.
        ci95: lower and upper end of its 95% percentile interval.
        p_value: two-sided; at least 2 / (resamples + 1).
        resamples: number of resamples of the cases.
    """

    difference: float
    ci95: tuple[float, float]
    p_value: float
    resamples: int


@dataclass(frozen=True)
class AcrossTasks:
    """How one encoder compares with another over tasks.

    Attributes:
        mean: mean difference.
        wins: tasks on which the first scores higher; `ties` and `losses` accordingly.
        p_value: of the two-sided Wilcoxon signed-rank test.
    """

    mean: float
    wins: int
    ties: int
    losses: int
    p_value: float


def paired_difference(
    first: ScoredUnits,
    second: ScoredUnits,
    n_resamples: int,
    rng: np.random.Generator,
    widening: float = 1.0,
) -> PairedDifference:
    """Return the difference of two encoders on one task with its paired-bootstrap interval.

    With s(w) the score under weights w, and w_r the r-th resample of the cases within strata, the
    same for both encoders:

        difference = s_1(1) - s_2(1),     d_r = s_1(w_r) - s_2(w_r)
        ci95 = 2.5% and 97.5% quantile of d_r
        p = min(1, 2 (min(#{d_r <= 0}, #{d_r >= 0}) + 1) / (n_resamples + 1))

    so equal predictions have difference 0 and p = 1. The interval covers the choice of test cases,
    not that of training cases (see the top of the module); with `widening` the d_r are spread about
    the difference by that factor, as `bootstrap.TRAINING_WIDENING` does for training cases.

    Raises:
        InputError: the two are not of the same units, outcomes and splits.
        ValueError: there is no resample, or a score is not finite.
    """
    _check_same(first, second)
    if n_resamples < 1:
        raise ValueError(f"at least one resample is needed, found {n_resamples}")
    weights = case_weights(first.case, first.stratum, n_resamples, rng)
    differences = first.scores(weights) - second.scores(weights)
    difference = first.score - second.score
    if differences.shape != (n_resamples,) or not np.isfinite([difference, *differences]).all():
        raise ValueError("the scores of the resamples must be one finite number each")
    differences = difference + widening * (differences - difference)
    return PairedDifference(
        difference, percentile_interval(differences), two_sided_p(differences), n_resamples
    )


def two_sided_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided bootstrap p-value of resampled differences, (resample,).

    Twice the share of resamples on the rarer side of 0, 0 counting for both sides, with 1 added to
    count and number so that it is never 0.

    Examples:
        >>> two_sided_p(np.array([0.1] * 98 + [-0.1]))
        0.04
        >>> two_sided_p(np.zeros(99))
        1.0
    """
    rarer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def across_tasks(differences: Sequence[float]) -> AcrossTasks:
    """Return mean, wins, ties, losses and Wilcoxon's p-value of the differences, one a task.

    Give differences that can be compared in size: of chance-corrected scores where the metrics
    differ. The test ranks them by size and asks whether the ranks of wins outweigh those of losses;
    ranks of ties are split between both (Demsar 2006, section 3.1.3). Up to 50 tasks without ties
    it is exact. Five tasks or fewer cannot reach .05: the smallest p is 2 / 2^tasks. Tasks on one
    cohort share their slides, so they are not independent, as the test takes them to be.

    Raises:
        ValueError: there is no difference, or one is not finite.

    Examples:
        >>> across_tasks([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p_value
        0.03125
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("differences must be finite, and at least one")
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    p_value = 1.0  # without a win or a loss there is nothing to rank
    if wins or losses:
        p_value = float(wilcoxon(values, zero_method="zsplit").pvalue)
    return AcrossTasks(fmean(values.tolist()), wins, values.size - wins - losses, losses, p_value)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p-values adjusted for their number by Holm's step-down, in the order given.

    With p_(1) <= ... <= p_(m), the adjusted p_(i) is max over j <= i of min(1, (m - j + 1) p_(j)).
    Those below alpha hold all together with an error of at most alpha, however they depend on each
    other.

    Raises:
        ValueError: a p-value is not in [0, 1].

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1], found {list(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(stepped)
    return tuple(adjusted.tolist())


def _check_same(first: ScoredUnits, second: ScoredUnits) -> None:
    again = "score both encoders on the same data with the same version of the task"
    if first.splits != second.splits:
        raise InputError(
            f"a paired comparison needs the same splits, found {first.splits[:12]} and "
            f"{second.splits[:12]}; {again}"
        )
    if len(first.unit) != len(second.unit):
        raise InputError(
            f"a paired comparison needs the same units, found {len(first.unit)} and "
            f"{len(second.unit)}; {again}"
        )
    ours, theirs = _rows(first), _rows(second)
    for one, other in zip(ours, theirs, strict=True):
        if one != other:
            raise InputError(
                f"a paired comparison needs the same units in the same order, found unit, case and "
                f"class {one} and {other}; {again}"
            )


def _rows(scored: ScoredUnits) -> list[tuple[str, str, str]]:
    return list(zip(scored.unit, scored.case, scored.stratum, strict=True))

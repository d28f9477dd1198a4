"""Is one encoder better: on one task by a paired bootstrap, over tasks by signed ranks.

On one task both encoders are scored on the same resampled cases, so what makes a resample hard for
both cancels. Over tasks each task is one observation; how its score was estimated plays no part.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 16.
    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), 3.1.
    Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1 (1945) 80-83.
    Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, JASA 54 (1959).
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from madeleine_bench.errors import InputError
from madeleine_bench.stats.bootstrap import Weights, case_weights
from madeleine_bench.stats.intervals import ScoreDesign, standard_error, t_interval, t_test

# Differences of scores that agree to this many decimals are equal: the rest is rounding.
_DIGITS = 12
ALPHA = 0.05  # level of significance
NOT_SIGNIFICANT = "the cases cannot tell the two apart, which does not show that they are equal"


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
        design: how the score was estimated, on which its error depends.
        draw_scores: the score of each draw of training cases, mean over shots; empty for folds.
    """

    unit: tuple[str, ...]
    case: tuple[str, ...]
    stratum: tuple[str, ...]
    splits: str
    scores: Callable[[Weights], NDArray[np.float64]]
    design: ScoreDesign = field(default_factory=ScoreDesign)
    draw_scores: tuple[float, ...] = ()

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


@dataclass(frozen=True, repr=False)
class PairedDifference:
    """How far one encoder scores above another on one task.

    Attributes:
        difference: score of the first less score of the second; above 0 the first is better.
        ci95: its 95% confidence interval; None where there are too few cases for one, or where
            nothing varies.
        p_value: two-sided, of no difference.
    """

    difference: float
    ci95: tuple[float, float] | None
    p_value: float

    def __repr__(self) -> str:
        """Return the difference and what it shows, in two lines."""
        interval = "95% CI {:+.3f} to {:+.3f}".format(*self.ci95) if self.ci95 else "no interval"
        better = "first" if self.difference > 0 else "second"
        shown = f"The {better} scores significantly higher."
        if self.p_value >= ALPHA:
            shown = f"The difference is not significant: {NOT_SIGNIFICANT}."
        return f"{self.difference:+.3f} ({interval}), p = {self.p_value:.2g}\n{shown}"


@dataclass(frozen=True)
class AcrossTasks:
    """How one encoder compares with another over tasks.

    Attributes:
        mean: mean difference.
        wins: tasks on which the first scores higher; `ties` and `losses` accordingly.
        p_greater: one-sided p-value of the signed-rank test that the first is better.
        p_less: one-sided p-value that it is worse.
    """

    mean: float
    wins: int
    ties: int
    losses: int
    p_greater: float
    p_less: float

    @property
    def p_value(self) -> float:
        """The two-sided p-value: twice the smaller one-sided one, at most 1."""
        return min(1.0, 2.0 * min(self.p_greater, self.p_less))

    def p_in_direction(self, value: float) -> float:
        """Return twice the one-sided p-value in the direction of a value, at most 1.

        A two-sided p-value does not say who is better. Where a mean over tasks and the signed
        ranks point in opposite directions, the ranks are no evidence for the sign of the mean.
        """
        return min(1.0, 2.0 * (self.p_greater if value > 0 else self.p_less))


def paired_difference(
    first: ScoredUnits, second: ScoredUnits, n_resamples: int, rng: np.random.Generator
) -> PairedDifference:
    """Return the difference of two encoders on one task, with its interval and p-value.

    With s(w) the score under weights w, and w_r the r-th resample of the cases within strata, the
    same for both encoders:

        difference = s_1(1) - s_2(1),     d_r = f_1 s_1(w_r) - f_2 s_2(w_r)

    where f are the factors of `intervals` for the training cases of each encoder; the standard
    error is the standard deviation of d_r, with the variance between draws of a few-shot protocol.
    Interval and p-value are those of Student's t.

    Raises:
        InputError: the two are not of the same units, outcomes and splits.
        ValueError: there are fewer than two resamples, or a score is not finite.
    """
    if n_resamples < 2:
        raise ValueError(f"at least two resamples are needed, found {n_resamples}")
    check_same_units(first, second)
    weights = case_weights(first.case, first.stratum, n_resamples, rng)
    return difference_of(resample(first, weights), resample(second, weights))


@dataclass(frozen=True)
class ResampledScore:
    """A score and how far it moves when the cases are resampled.

    Attributes:
        units: the scored units.
        score: their score.
        moves: (resample,) the score of each resample less the score, times the factor for the
            training cases.
    """

    units: ScoredUnits
    score: float
    moves: NDArray[np.float64]


def resample(scored: ScoredUnits, weights: Weights) -> ResampledScore:
    """Return the score of units and its resamples under weights, unit x resample.

    Raises:
        ValueError: a score is not finite.
    """
    score = scored.score
    # Less the score, so that what never varies is exactly 0.
    moves = scored.design.factor * (scored.scores(weights) - score)
    if moves.shape != (weights.shape[1],) or not np.isfinite([score, *moves]).all():
        raise ValueError("the scores of the resamples must be one finite number each")
    return ResampledScore(scored, score, moves)


def difference_of(first: ResampledScore, second: ResampledScore) -> PairedDifference:
    """Return the paired difference of two scores that were resampled under the same weights."""
    designs = first.units.design, second.units.design
    difference = first.score - second.score
    factors = [design.training_factor for design in designs]
    draws = [
        factors[0] * a - factors[1] * b
        for a, b in zip(first.units.draw_scores, second.units.draw_scores, strict=True)
    ]
    spread = float((first.moves - second.moves).std(ddof=1))
    error = standard_error(spread, ScoreDesign(), draws)
    df = min(design.degrees_of_freedom for design in designs)
    covers = all(design.covers for design in designs)
    return PairedDifference(
        difference,
        t_interval(difference, error, df) if covers else None,
        t_test(difference, error, df),
    )


def across_tasks(differences: Sequence[float]) -> AcrossTasks:
    """Return mean, wins, ties, losses and the signed-rank test of differences, one for each task.

    Give differences that can be compared in size: of chance-corrected scores where the metrics
    differ. With r_i the rank of |d_i| (equal sizes share their mean rank, differences of 0 are
    ranked too), the test compares the sum of r_i over the wins with its distribution over all
    2^n signs of the n differences that are not 0 (Wilcoxon 1945; zeros and ties as in Pratt 1959).
    It is exact for every number of tasks, with and without ties. Five tasks or fewer cannot reach
    .05: the smallest two-sided p-value is 2 / 2^tasks. Tasks on one cohort share their slides, so
    they are not independent, as the test assumes.

    Examples:
        >>> across_tasks([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).p_value
        0.03125
    """
    values = np.round(np.asarray(differences, dtype=np.float64), _DIGITS)
    wins, losses = int((values > 0).sum()), int((values < 0).sum())
    # Twice the ranks are whole numbers, so that sums of them index an array.
    twice = np.rint(2.0 * rankdata(np.abs(values))).astype(np.intp)
    share = np.ones(1)  # of the signs, by twice the rank sum of the wins
    for rank in twice[values != 0]:
        share = 0.5 * (np.pad(share, (0, rank)) + np.pad(share, (rank, 0)))
    won = int(twice[values > 0].sum())
    return AcrossTasks(
        fmean(differences),
        wins,
        values.size - wins - losses,
        losses,
        p_greater=min(1.0, float(share[won:].sum())),
        p_less=min(1.0, float(share[: won + 1].sum())),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p-values adjusted for their number by Holm's step-down, in the order given.

    With p_(1) <= ... <= p_(m), the adjusted p_(i) is max over j <= i of min(1, (m - j + 1) p_(j)).
    Those below alpha hold all together with an error of at most alpha, however they depend on each
    other.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(stepped)
    return tuple(adjusted.tolist())


def check_same_units(first: ScoredUnits, second: ScoredUnits) -> None:
    """Raise InputError unless two encoders are scored on the same units, outcomes and splits."""
    same = [(each.splits, each.unit, each.case, each.stratum) for each in (first, second)]
    if same[0] == same[1]:
        return
    ours, theirs = (
        list(zip(scored.unit, scored.case, scored.stratum, strict=True))
        for scored in (first, second)
    )
    needs: list[tuple[str, object, object]] = [
        ("splits", first.splits[:12], second.splits[:12]),
        ("units", len(ours), len(theirs)),
    ]
    needs += [("units in the same order", a, b) for a, b in zip(ours, theirs, strict=False)]
    for what, one, other in needs:
        if one != other:
            raise InputError(
                f"a paired comparison needs the same {what}, found {one} and {other}; score both "
                "encoders on the same data with the same version of the task"
            )

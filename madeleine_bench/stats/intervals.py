"""How sure a cross-validated score is: its standard error, its 95% interval, and a p-value.

The bootstrap of test cases keeps the fits, and with few cases of a class it is too narrow. With s
the standard deviation over resamples, J the number of disjoint test sets and m the cases of the
rarest class in one of them:

    error^2 = (1 + J n_test / n_train  h) (s^2 / q  m / (m - 1)  +  v / draws)

The first factor is for the training cases, which the folds share. Nadeau and Bengio (2003) have
h = 1, which for five folds widens an interval by 1.5. This holds where the noise of the fit rules,
as with wide embeddings and few cases; with many cases it is far too much. The share h is that of a
linear discriminant of `dim` dimensions, fitted on n_1 and n_0 cases of two classes whose means lie
d standard deviations apart:

    tau = dim (1 / n_1 + 1 / n_0),     h = tau / (tau + d^2)

with d = .8, an AUROC of .71, in the middle of the tasks; for survival d = .4, a c of .61, as
prognosis is harder. A number counts as two classes of equal size, below and above the median, which
gives the share of least squares at a correlation r with r^2 / (1 - r^2) = d^2 / 4; d = .5, a
correlation of .24, as measured. Kappa compares classes, which move less with the fit than an order
of cases does: half of h, as measured. A penalty chosen within the training fold shrinks a wide
embedding, whose scores then move less than h says, while the choice adds some noise. The same h
covers both.

q is the share of the folds that move with the test cases. A fold of constant predictions, as of a
model without effect, or with an undefined metric is at chance in every resample, and so lends
nothing to s^2. With other training cases it would have moved as the others do, and s^2 / q is the
variance of J such folds.

The second factor makes the variance of m drawn cases unbiased. The last term is for few-shot
protocols alone: the variance v of the score between draws of training cases. There J n_test /
n_train means nothing, and the value of five folds is taken. The quantiles are those of Student's t
with the degrees of freedom that the cases of the rarest class leave. Measured coverage and power:
docs/statistics.md, made by `benchmarks/interval_calibration.py`.

References:
    Nadeau and Bengio, Inference for the generalization error, Machine Learning 52 (2003) 239-281.
    Raudys and Jain, Small sample size effects in statistical pattern recognition, IEEE PAMI 13
    (1991) 252-264: the noise of a discriminant grows by tau.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 5 and 12.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import variance

from scipy.stats import t as student

Interval = tuple[float, float]
# Distinct test cases of the rarest class (or with an event), and such cases in a test set. Below
# either no interval is printed, as none would cover; below the first a task takes no part in ranks.
LEAST_RARE_CASES = 18
LEAST_PER_TEST = 3.0
# By metric: how many standard deviations lie between two class means, and what part of h counts.
_SEPARATION = {"harrell-c": 0.4, "r2": 0.5, "pearson": 0.5, "spearman": 0.5}
_USUAL_SEPARATION = 0.8
_PART = {"quadratic-kappa": 0.5}
# J n_test / n_train of five folds, which few-shot scores take as well.
FIVE_FOLDS = 1.25
# The factor for the variance of m cases is bounded, so that one case a fold still has an error.
_FEWEST = 1.25


@dataclass(frozen=True)
class ScoreDesign:
    """How a score was estimated, as far as its error depends on it. The default corrects nothing.

    Attributes:
        rare_cases: distinct test cases of the rarest class, or with an event.
        rare_per_test: such cases in a test set, mean over fits.
        training_share: J n_test / n_train  h, mean over fits.
        moving: share of the fits that are not at chance in every resample.
    """

    rare_cases: float = math.inf
    rare_per_test: float = math.inf
    training_share: float = 0.0
    moving: float = 1.0

    @property
    def covers(self) -> bool:
        """Whether there are enough cases for an interval that covers."""
        enough = self.rare_cases >= LEAST_RARE_CASES
        return enough and self.rare_per_test >= LEAST_PER_TEST

    @property
    def training_factor(self) -> float:
        """The part of the factor that is for the training cases."""
        return math.sqrt(1.0 + self.training_share)

    @property
    def factor(self) -> float:
        """By how much the error exceeds the standard deviation over resamples of test cases."""
        return self._factor / math.sqrt(1.0 - 1.0 / self._m)

    @property
    def bayesian_factor(self) -> float:
        """The same for the Bayesian bootstrap, whose variance of m cases is (m - 1) / (m + 1)."""
        return self._factor * math.sqrt(1.0 + 2.0 / (self._m - 1.0))

    @property
    def degrees_of_freedom(self) -> float:
        """The degrees of freedom of the error: the rare cases less one for each test set."""
        return max(1.0, self.rare_cases * (1.0 - 1.0 / self._m))

    @property
    def _factor(self) -> float:
        return self.training_factor / math.sqrt(self.moving or 1.0)

    @property
    def _m(self) -> float:
        return max(self.rare_per_test, _FEWEST)


def fit_noise(dim: int | None, n_first: float, n_second: float, metric: str = "auroc") -> float:
    """Return the share h of the noise of a fit in a score, 0 to 1.

    Args:
        dim: dimensions of the embedding; None where no linear model is fitted to it.
        n_first: training cases of one class.
        n_second: training cases of the other.
        metric: what is scored.

    Examples:
        >>> round(fit_noise(512, 40, 760), 2), round(fit_noise(32, 400, 400), 2)
        (0.95, 0.2)
    """
    part = _PART.get(metric, 1.0)
    if dim is None or n_first <= 0 or n_second <= 0:
        return part
    tau = dim * (1.0 / n_first + 1.0 / n_second)
    return part * tau / (tau + _SEPARATION.get(metric, _USUAL_SEPARATION) ** 2)


def standard_error(
    deviation: float, design: ScoreDesign, draw_scores: Sequence[float] = ()
) -> float:
    """Return the standard error of a score, or of a difference of two.

    Args:
        deviation: standard deviation of the score over resamples of the test cases.
        design: how the score was estimated.
        draw_scores: the score of each draw of training cases, of a few-shot protocol.
    """
    between = variance(draw_scores) / len(draw_scores) if len(draw_scores) > 1 else 0.0
    return math.sqrt((design.factor * deviation) ** 2 + design.training_factor**2 * between)


def t_interval(
    value: float, error: float, df: float, low: float = -math.inf, high: float = math.inf
) -> Interval | None:
    """Return the 95% confidence interval of a score; None where nothing varies.

    Args:
        value: the score.
        error: its standard error.
        df: degrees of freedom of the error.
        low: least possible value; the interval is cut there.
        high: largest possible value.
    """
    if not error > 0:
        return None
    half = float(student.ppf(0.975, df)) * error
    return max(low, value - half), min(high, value + half)


def t_test(value: float, error: float, df: float) -> float:
    """Return the two-sided p-value of a difference; 1 for no difference, 0 for one without error.

    Examples:
        >>> t_test(0.0, 0.0, 5.0), round(t_test(1.96, 1.0, 1e9), 3)
        (1.0, 0.05)
    """
    return float(2.0 * student.sf(abs(value) / error, df)) if error > 0 else float(value == 0.0)

"""Does predicted survival come true: groups, slope, observed over expected.

All of it is judged at one day, on predictions of units that the model was not fitted on.
D-calibration (Haider et al. 2020) is not here: it needs each unit's whole predicted curve, and
stored predictions hold nine days of it.

References:
    Royston and Altman, BMC Medical Research Methodology 13 (2013) 33.
    Austin, Harrell and van Klaveren, Statistics in Medicine 39 (2020) 2714-2742.
    McLernon et al., Annals of Internal Medicine 176 (2023) 105-114.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.metrics.cox import separated
from madeleine_bench.metrics.survival import logrank_p
from madeleine_bench.types import Survival

MOST_GROUPS = 5
# Fewer units in a group would give it an interval that says nothing.
LEAST_IN_GROUP = 20
# Predictions of exactly 0 or 1 have no log-log; nobody is that sure.
_LEAST, _MOST = 1e-300, 1.0 - 1e-10
Interval = tuple[float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationGroup:
    """Units of alike predicted survival.

    Attributes:
        n: units; `events` of them had the event until the day.
        predicted: mean predicted probability to live beyond the day.
        observed: Kaplan-Meier probability; None where follow-up ends before the day.
        ci95: its 95% interval (log-log); None where nobody or everybody had the event.
    """

    n: int
    events: int
    predicted: float
    observed: float | None
    ci95: Interval | None


@dataclass(frozen=True)
class Calibration:
    """How predicted survival compares with what happened.

    Attributes:
        day: the day it is judged at.
        groups: from the lowest predicted survival to the highest; one where all are equal.
        slope: of a Cox regression on log(-log predicted survival): 1 is right, below 1 the
            predictions are too extreme, above 1 too timid, 0 they say nothing. None where it is
            undefined, as where the predictions order every event (`separated`).
        slope_ci95: its 95% interval (Wald).
        observed_over_expected: share with the event until the day (Kaplan-Meier) over the mean
            predicted share: 1 is right, above 1 more happens than predicted.
        observed_over_expected_ci95: its 95% interval, the predictions taken as they are.
    """

    day: int
    groups: tuple[CalibrationGroup, ...]
    slope: float | None
    slope_ci95: Interval | None
    observed_over_expected: float | None
    observed_over_expected_ci95: Interval | None


def calibration(survival: Survival, alive: Floats, day: int) -> Calibration:
    """Return the calibration of predicted survival at a day.

    The slope is that of Royston and Altman's regression on the prognostic index, with log(-log S)
    as the index: it holds the baseline of each fold, so that units of several folds stand on one
    scale. The whole follow-up counts.

    Args:
        survival: follow-up of the units.
        alive: (unit,) predicted probability to live beyond the day, in [0, 1].
        day: the day, above 0.

    Raises:
        ValueError: a probability is outside [0, 1].
    """
    if not ((alive >= 0) & (alive <= 1)).all():
        raise ValueError("predicted probabilities lie in [0, 1]")
    index: Floats = np.log(-np.log(np.clip(alive, _LEAST, _MOST)))
    slope, slope_ci95 = _effect(survival, index, "coef")
    ratio, ratio_ci95 = _observed_over_expected(survival, alive, day)
    return Calibration(
        day=day,
        groups=_groups(survival, alive, day),
        slope=slope,
        slope_ci95=slope_ci95,
        observed_over_expected=ratio,
        observed_over_expected_ci95=ratio_ci95,
    )


def _groups(survival: Survival, alive: Floats, day: int) -> tuple[CalibrationGroup, ...]:
    """Return groups between the quantiles of the predictions; equal predictions stay together."""
    wanted = min(MOST_GROUPS, max(1, len(alive) // LEAST_IN_GROUP))
    ends = np.quantile(alive, np.arange(1, wanted) / wanted, method="inverted_cdf")
    place = np.searchsorted(np.unique(ends), alive, side="left")
    found = []
    for group in np.unique(place):
        rows = np.flatnonzero(place == group)
        own = survival.take(rows)
        observed, ends_of = _observed(own, day)
        events = int((own.event & (own.time_days <= day)).sum())
        mean = float(alive[rows].mean())
        found.append(CalibrationGroup(len(rows), events, mean, observed, ends_of))
    return tuple(found)


def _observed(survival: Survival, day: int) -> tuple[float | None, Interval | None]:
    """Return the Kaplan-Meier probability to live beyond a day and its log-log interval."""
    from sksurv.nonparametric import kaplan_meier_estimator

    times, alive, ends = kaplan_meier_estimator(
        survival.event, survival.time_days, conf_type="log-log"
    )
    place = int(np.searchsorted(times, day, side="right")) - 1
    if place < 0:
        return 1.0, None
    observed = float(alive[place])
    if times[-1] < day and observed > 0:
        return None, None
    low, high = float(ends[0][place]), float(ends[1][place])
    sure = not (np.isfinite([low, high]).all() and 0.0 < observed < 1.0)
    return observed, None if sure else (low, high)


def _effect(survival: Survival, column: Floats, name: str) -> tuple[float | None, Interval | None]:
    """Return what a Cox fit to one column says of it, such as "coef", and its 95% interval.

    None where nothing fits best or the fit does not converge.
    """
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    columns = column[:, None]
    if not survival.event.any() or np.ptp(column) < 1e-9 or separated(columns, survival):
        return None, None
    table = pd.DataFrame({"x": column, "days": survival.time_days, "event": survival.event})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a poor fit is judged by what it gives
            row = CoxPHFitter().fit(table.astype(np.float64), "days", "event").summary.iloc[0]
    except (ConvergenceError, np.linalg.LinAlgError):
        return None, None
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", " lower 95%", " upper 95%"))
    return (value, (low, high)) if np.isfinite([value, low, high]).all() else (None, None)


def _observed_over_expected(
    survival: Survival, alive: Floats, day: int
) -> tuple[float | None, Interval | None]:
    observed, ends = _observed(survival, day)
    expected = float(np.mean(1.0 - alive))
    if observed is None or expected <= 0:
        return None, None
    interval = ((1.0 - ends[1]) / expected, (1.0 - ends[0]) / expected) if ends else None
    return (1.0 - observed) / expected, interval


@dataclass(frozen=True)
class Curve:
    """A Kaplan-Meier curve as a step function, from (0, 1) through each event.

    Attributes:
        time_days: (step,) where it steps, and its end.
        alive: (step,) the probability to live beyond.
        lower: (step,) lower end of its pointwise 95% interval (log-log); `upper` accordingly.
        n: units; `events` of them had the event.
    """

    time_days: tuple[float, ...]
    alive: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    n: int
    events: int


@dataclass(frozen=True)
class RiskGroups:
    """The curves of two groups and how they differ.

    Attributes:
        low: curve of the units of low risk; `high` accordingly; None where a group is empty.
        logrank_p: p-value of the log-rank test; None where undefined.
        hazard_ratio: of high over low, above 1 where high risk fares worse; None where undefined.
        hazard_ratio_ci95: its 95% interval (Wald); None where undefined.
    """

    low: Curve | None
    high: Curve | None
    logrank_p: float | None
    hazard_ratio: float | None
    hazard_ratio_ci95: tuple[float, float] | None


def risk_groups(survival: Survival, high_risk: NDArray[np.bool_]) -> RiskGroups:
    """Return the curves of high and low risk, with log-rank test and hazard ratio.

    References:
        Kaplan and Meier, JASA 53 (1958) 457-481; Cox, JRSS B 34 (1972) 187-220.
    """
    groups = [np.flatnonzero(high_risk == side) for side in (False, True)]
    low, high = (_curve(survival.take(rows)) if len(rows) else None for rows in groups)
    return RiskGroups(
        low, high, logrank_p(survival, high_risk), *_hazard_ratio(survival, high_risk)
    )


def _curve(survival: Survival) -> Curve:
    from sksurv.nonparametric import kaplan_meier_estimator

    times, alive, band = kaplan_meier_estimator(
        survival.event, survival.time_days, conf_type="log-log"
    )
    steps = np.flatnonzero(np.isin(times, survival.time_days[survival.event]))
    kept = np.unique(np.append(steps, len(times) - 1))
    # The band has no end where everybody is alive or dead: there it is the curve itself.
    lower, upper = (np.where(np.isfinite(end), end, alive) for end in band)

    def column(first: float, values: NDArray[np.float64]) -> tuple[float, ...]:
        return (first, *(float(value) for value in values[kept]))

    return Curve(
        column(0.0, times),
        column(1.0, alive),
        column(1.0, lower),
        column(1.0, upper),
        len(survival.time_days),
        int(survival.event.sum()),
    )


def _hazard_ratio(
    survival: Survival, high_risk: NDArray[np.bool_]
) -> tuple[float | None, Interval | None]:
    """Return hazard ratio and interval; None unless both groups have an event.

    None, too, where one group has its last event before the other has its first and nobody of it
    is then left: the ratio that fits best is infinite or 0.
    """
    if not all(survival.event[high_risk == side].any() for side in (False, True)):
        return None, None
    return _effect(survival, high_risk.astype(np.float64), "exp(coef)")

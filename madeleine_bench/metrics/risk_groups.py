"""Do patients called high risk fare worse: Kaplan-Meier curves, hazard ratio, log-rank.

The groups come with the predictions: above or below the median risk of the training cases.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.metrics.cox_newton import separated
from madeleine_bench.metrics.survival import logrank_p
from madeleine_bench.types import Survival


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
    ratio = _hazard_ratio(survival, high_risk)
    return RiskGroups(
        low,
        high,
        logrank_p(survival, high_risk),
        ratio[0] if ratio else None,
        (ratio[1], ratio[2]) if ratio else None,
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
) -> tuple[float, float, float] | None:
    """Return hazard ratio, lower and upper end; None unless both groups have an event.

    None, too, where one group has its last event before the other has its first and nobody of it
    is then left: the ratio that fits best is infinite or 0.
    """
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    if not all(survival.event[high_risk == side].any() for side in (False, True)):
        return None
    group = high_risk.astype(np.float64)
    if separated(group[:, None], survival):
        return None
    table = pd.DataFrame(
        {
            "days": survival.time_days,
            "event": survival.event.astype(np.int64),
            "high": group,
        }
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a poor fit is judged by what it gives
            fit = CoxPHFitter().fit(table, "days", "event")
    except ConvergenceError:
        return None
    row = fit.summary.loc["high"]
    found = tuple(
        float(row[name]) for name in ("exp(coef)", "exp(coef) lower 95%", "exp(coef) upper 95%")
    )
    return (found[0], found[1], found[2]) if np.isfinite(found).all() else None

"""Metrics of predicted risk and predicted survival under right censoring.

`risk` is any number that grows with the hazard: a higher risk should mean an earlier event. A
metric that is undefined on its data (no events, no comparable pair, follow-up too short) returns
None.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.types import Survival

# Censoring weights beyond 1 / 0.05 would let a handful of late units decide the score.
_LEAST_UNCENSORED = 0.05


def harrell_c(survival: Survival, risk: NDArray[np.float64]) -> float | None:
    """Return Harrell's concordance index in [0, 1], or None; higher is better, 0.5 is chance.

    The share of comparable pairs in which the unit of higher risk has its event first; equal risks
    count half. A pair is comparable where the earlier time is an event, or both times are equal
    and exactly one is an event. The index leans on the censoring of the cohort; Uno's does not.
    None where no pair is comparable.

    References:
        Harrell et al., Statistics in Medicine 15 (1996) 361-387.
    """
    from sksurv.metrics import concordance_index_censored

    if not _has_pair(survival):
        return None
    # Risks are exact ties or they are not: a tolerance would tie small risks, not large ones.
    found = concordance_index_censored(survival.event, survival.time_days, risk, tied_tol=0.0)
    return float(found[0])


def uno_c(
    train: Survival, test: Survival, risk: NDArray[np.float64], horizon_days: float
) -> float | None:
    """Return Uno's concordance index of the test units, or None; higher is better.

    Pairs are weighted by the inverse squared probability of being uncensored, estimated on `train`
    by Kaplan-Meier, and events at or after `horizon_days` are left out; so the index does not
    depend on the censoring of the cohort. In [0, 1]; 0.5 is chance.

    References:
        Uno et al., Statistics in Medicine 30 (2011) 1105-1117.
    """
    from sksurv.metrics import concordance_index_ipcw

    horizon = min(horizon_days, _weighable_days(train))
    early = test.event & (test.time_days < horizon)
    if not early.any() or not _has_pair(test):
        return None
    found = concordance_index_ipcw(
        _structured(train), _structured(test), risk, tau=horizon, tied_tol=0.0
    )
    return float(found[0])


def time_dependent_auc(
    train: Survival, test: Survival, risk: NDArray[np.float64], days: Sequence[float]
) -> float | None:
    """Return the mean cumulative/dynamic AUC over `days`, or None; higher is better.

    At each day: the chance that a unit with an event until then has a higher risk than a unit
    still at risk, with censoring weights from `train`; the mean weights each day by the drop of
    the test Kaplan-Meier curve. Days outside the follow-up are left out. In [0, 1]; 0.5 is chance.

    References:
        Uno et al., JASA 102 (2007) 527-537; Lambert and Chevret, SMMR 25 (2016) 2088-2102.
    """
    from sksurv.metrics import cumulative_dynamic_auc

    usable = _usable_days(train, test, days)
    if not len(usable):
        return None
    _, mean = cumulative_dynamic_auc(
        _structured(train), _structured(_capped(train, test)), risk, usable, tied_tol=0.0
    )
    return float(mean) if np.isfinite(mean) else None


def integrated_brier(
    train: Survival, test: Survival, alive: NDArray[np.float64], days: Sequence[float]
) -> float | None:
    """Return the integrated Brier score in [0, 1], or None; lower is better.

    The censoring-weighted squared error of the predicted survival, integrated over `days` by the
    trapezoid rule and divided by their range. `alive` is unit x day: predicted probability to live
    beyond each day. A constant 0.5 scores 0.25. Needs two days inside the follow-up.

    References:
        Graf et al., Statistics in Medicine 18 (1999) 2529-2545.
    """
    from sksurv.metrics import integrated_brier_score

    usable = _usable_days(train, test, days)
    if len(usable) < 2:
        return None
    columns = np.isin(np.asarray(days, dtype=np.float64), usable)
    found = integrated_brier_score(
        _structured(train), _structured(_capped(train, test)), alive[:, columns], usable
    )
    return float(found) if np.isfinite(found) else None


def logrank_p(survival: Survival, high_risk: NDArray[np.bool_]) -> float | None:
    """Return the p-value of the log-rank test between two groups, or None; in [0, 1].

    Small means that the survival curves of the groups differ; it does not say which is worse.
    None where a group is empty or nobody has an event.

    References:
        Peto and Peto, JRSS A 135 (1972) 185-207.
    """
    from sksurv.compare import compare_survival

    if not survival.event.any() or high_risk.all() or not high_risk.any():
        return None
    try:
        _, p_value = compare_survival(_structured(survival), high_risk.astype(np.int64))
    except np.linalg.LinAlgError:  # every event falls where one group alone is left
        return None
    return float(p_value) if np.isfinite(p_value) else None


def kaplan_meier_at(survival: Survival, days: Sequence[float]) -> NDArray[np.float64]:
    """Return the Kaplan-Meier probability to live beyond each day; 1 before the first event."""
    from sksurv.nonparametric import kaplan_meier_estimator

    times, alive = kaplan_meier_estimator(survival.event, survival.time_days)
    position = np.searchsorted(times, np.asarray(days, dtype=np.float64), side="right")
    found: NDArray[np.float64] = np.concatenate([[1.0], alive])[position]
    return found


def _has_pair(survival: Survival) -> bool:
    """Return whether any unit outlives the earliest event, which makes one comparable pair."""
    if not survival.event.any():
        return False
    first = survival.time_days[survival.event].min()
    tied = (survival.time_days == first) & ~survival.event
    return bool(((survival.time_days > first) | tied).any())


def _structured(survival: Survival) -> Any:
    from sksurv.util import Surv

    return Surv.from_arrays(event=survival.event, time=survival.time_days)


def _weighable_days(train: Survival) -> float:
    """Return the day until which the training units give trustworthy censoring weights.

    0 where none of them has an event: scikit-survival makes no weights of such units.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    if not train.event.any():
        return 0.0
    if train.event.all():
        return float(train.time_days.max(initial=0.0))
    # As the weights themselves are made: at equal times events come before censoring.
    times, uncensored = kaplan_meier_estimator(train.event, train.time_days, reverse=True)
    trusted = times[uncensored >= _LEAST_UNCENSORED]
    return float(trusted.max()) if len(trusted) else 0.0


def _usable_days(train: Survival, test: Survival, days: Sequence[float]) -> NDArray[np.float64]:
    """Return the days at which cases, controls and censoring weights all exist."""
    wanted: NDArray[np.float64] = np.unique(np.asarray(days, dtype=np.float64))
    if not test.event.any() or not len(train):
        return wanted[:0]
    first = test.time_days[test.event].min()
    last = min(test.time_days.max(), _weighable_days(train))
    inside: NDArray[np.bool_] = (wanted >= first) & (wanted < last)
    return wanted[inside]


def _capped(train: Survival, test: Survival) -> Survival:
    """Return the test units with follow-up cut at the last day that `train` can weigh.

    A unit beyond it is alive at every usable day whatever happens later, so no score moves.
    """
    cap = _weighable_days(train)
    beyond = test.time_days > cap
    return Survival(np.minimum(test.time_days, cap), test.event & ~beyond)

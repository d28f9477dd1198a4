"""Do two ways of scoring put encoders in the same order: Kendall's tau, and how sure that is.

References:
    Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945) 239-251: tau-b.
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.stats.bootstrap import percentile_interval
from madeleine_bench.stats.ranks import LEAST_TASKS

RESAMPLES = 2000
# Means that differ by less are equal: what is left is the order of additions.
_DIGITS = 12
Floats = NDArray[np.float64]


def rank_agreement(
    first: Floats, second: Floats, families: Sequence[str], rng: np.random.Generator
) -> tuple[float | None, tuple[float, float] | None]:
    """Return Kendall's tau-b of two sets of scores, -1 to 1, and its 95% percentile interval.

    1 is the same order, 0 none in common; there is no tau where one side ties all encoders, and no
    interval below LEAST_TASKS tasks, or where more than one resample in twenty has no tau.
    Encoders are ranked by the mean over families of the mean of a family. For the interval, tasks
    are drawn with replacement, as many as there are and the same for both sides; families that a
    draw lacks do not count in it. It covers the choice of tasks, not that of cases.

    Args:
        first: encoder x task, chance-corrected scores of one protocol.
        second: the same encoders and tasks under the other.
        families: (task,) the family of each task.
        rng: draws the tasks.
    """
    once = np.ones((1, len(families)))
    means = [mean_over_families(scores, families, once)[0] for scores in (first, second)]
    tau = kendall_tau(means[0], means[1])
    if np.isnan(tau):
        return None, None
    return float(tau), _interval(first, second, families, rng)


def mean_over_families(scores: Floats, families: Sequence[str], counts: Floats) -> Floats:
    """Return resample x encoder: the mean over families of the mean of a family.

    Args:
        scores: encoder x task.
        families: (task,) the family of each task.
        counts: resample x task, how often each task counts; at least one a resample.
    """
    total, present = np.zeros((len(counts), len(scores))), np.zeros((len(counts), 1))
    for family in sorted(set(families)):
        own = np.array([name == family for name in families])
        drawn = counts[:, own].sum(axis=1, keepdims=True)
        total += counts[:, own] @ scores[:, own].T / np.maximum(drawn, 1.0)
        present += drawn > 0
    means: Floats = np.round(total / present, _DIGITS)
    return means


def kendall_tau(first: Floats, second: Floats) -> Floats:
    """Return Kendall's tau-b over the last axis, -1 to 1; NaN where one side is all ties.

    With s_ij and t_ij the signs of the differences of items i < j on both sides,

        tau-b = sum of s t / sqrt(sum of s^2 sum of t^2).

    Examples:
        >>> x = np.array([1.0, 2.0, 3.0])
        >>> float(kendall_tau(x, 2 * x)), float(kendall_tau(x, -x))
        (1.0, -1.0)
    """
    left, right = np.triu_indices(first.shape[-1], 1)
    s = np.sign(first[..., left] - first[..., right])
    t = np.sign(second[..., left] - second[..., right])
    top = (s * t).sum(axis=-1)
    bottom = np.sqrt((s != 0).sum(axis=-1) * (t != 0).sum(axis=-1))
    tau: Floats = np.full(np.shape(top), np.nan)
    np.divide(top, bottom, out=tau, where=bottom > 0)
    return tau


def _interval(
    first: Floats, second: Floats, families: Sequence[str], rng: np.random.Generator
) -> tuple[float, float] | None:
    tasks = len(families)
    if tasks < LEAST_TASKS:
        return None
    counts = rng.multinomial(tasks, np.full(tasks, 1.0 / tasks), size=RESAMPLES).astype(np.float64)
    tau = kendall_tau(
        mean_over_families(first, families, counts), mean_over_families(second, families, counts)
    )
    defined = tau[np.isfinite(tau)]
    return percentile_interval(defined) if len(defined) >= 0.95 * RESAMPLES else None

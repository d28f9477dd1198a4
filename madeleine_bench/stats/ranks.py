"""Several encoders over several tasks by their ranks: Friedman's test and Nemenyi's difference.

References:
    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

LEAST_ENCODERS = 3
LEAST_TASKS = 6


@dataclass(frozen=True)
class CriticalDifference:
    """How far apart mean ranks must be for a difference.

    Attributes:
        friedman_p: p-value of Friedman's test that all encoders are alike.
        difference: Nemenyi's critical difference of mean ranks at 0.05.
        mean_ranks: mean over tasks of the place of each encoder, 1 the best; best first.
        groups: the largest sets of encoders, by mean rank, of which no two are told apart.
    """

    friedman_p: float
    difference: float
    mean_ranks: Mapping[str, float]
    groups: tuple[tuple[str, ...], ...]


def critical_difference(scores: Mapping[str, Sequence[float]]) -> CriticalDifference | None:
    """Return Friedman's test and Nemenyi's critical difference, or None for too few.

    Fewer than three encoders or six tasks are too few. Tasks that share a cohort are not
    independent, so this is a picture of the ranks and marks nobody as better (docs/leaderboard.md).

    Args:
        scores: by encoder, one score for each task, higher is better, the tasks in one order.

    Raises:
        ValueError: a score is not finite, or the encoders differ in the number of tasks.
    """
    names = sorted(scores)
    table = np.array([list(scores[name]) for name in names], dtype=np.float64).T
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite")
    if len(names) < LEAST_ENCODERS or len(table) < LEAST_TASKS:
        return None
    mean_ranks = rankdata(-table, axis=1).mean(axis=0)
    order = np.argsort(mean_ranks, kind="stable")
    k, n = len(names), len(table)
    quantile = float(studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2.0)
    difference = float(quantile * np.sqrt(k * (k + 1) / (6.0 * n)))
    alike = _not_told_apart(table)
    return CriticalDifference(
        friedman_p=_friedman_p(table),
        difference=difference,
        mean_ranks={names[i]: float(mean_ranks[i]) for i in order},
        groups=_groups([names[i] for i in order], alike[np.ix_(order, order)]),
    )


def _friedman_p(table: np.ndarray) -> float:
    if (table == table[:, :1]).all():
        return 1.0  # every task ties all encoders: the statistic is 0 / 0
    return float(friedmanchisquare(*table.T).pvalue)


def _not_told_apart(table: np.ndarray) -> np.ndarray:
    from scikit_posthocs import posthoc_nemenyi_friedman

    p = posthoc_nemenyi_friedman(pd.DataFrame(table)).to_numpy()
    np.fill_diagonal(p, 1.0)
    return np.asarray(p >= 0.05)


def _groups(names: Sequence[str], alike: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Return the maximal runs of at least two, in order of mean rank, whose ends are alike."""
    found: list[tuple[int, int]] = []
    for start in range(len(names)):
        end = max(i for i in range(start, len(names)) if alike[start, i])
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return tuple(tuple(names[start : end + 1]) for start, end in found)

"""Several encoders at once: Friedman's test, Nemenyi's difference, and letters for what is alike.

References:
    Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), 3.2.
    Piepho, An algorithm for a letter-based representation of all-pairwise comparisons, JCGS 13
    (2004) 456-466.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

LEAST_ENCODERS = 3
LEAST_TASKS = 6
# Of names that do not differ, on the way to the letters; a readable display has far fewer.
_MOST_SETS = 500


@dataclass(frozen=True)
class CriticalDifference:
    """How far apart mean ranks must be for a difference.

    Attributes:
        friedman_p: p-value of Friedman's test that all encoders are alike.
        difference: Nemenyi's critical difference of mean ranks at 0.05.
        mean_ranks: mean over tasks of the place of each encoder, 1 the best; best first.
        groups: the largest sets of encoders, by mean rank, of which no two differ significantly.
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


def letter_display(names: Sequence[str], different: Collection[tuple[str, str]]) -> dict[str, str]:
    """Return the letters of each name: two names share a letter exactly when they do not differ.

    The insert-and-absorb algorithm of Piepho (2004): each letter stands for a largest set of names
    of which no two differ significantly, so a name may have several letters. Letters are given
    from the best name on, a to z, then A to Z. Where they do not suffice, as with very many names,
    there is no display: the result is empty.

    Args:
        names: the names, best first, each once.
        different: pairs that differ significantly, in either order.

    Examples:
        >>> letter_display(["x", "y", "z"], [("x", "z")])
        {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    sets = [frozenset(names)]
    for first, second in different:
        pair = {first, second}
        kept = [group for group in sets if not pair <= group]
        parts = {group - {name} for group in sets if pair <= group for name in pair}
        new = [part for part in parts if not any(part <= group for group in kept)]
        sets = kept + [part for part in new if not any(part < other for other in new)]
        if len(sets) > _MOST_SETS:
            return {}
    if len(sets) > len(ascii_letters):
        return {}
    place = {name: position for position, name in enumerate(names)}
    sets.sort(key=lambda group: sorted(place[name] for name in group))
    return {
        name: "".join(
            letter for letter, group in zip(ascii_letters, sets, strict=False) if name in group
        )
        for name in names
    }

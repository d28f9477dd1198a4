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
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range
from scipy.stats import t as student

LEAST_ENCODERS = 3
# With fewer, tests over tasks cannot reach .05, and a bootstrap of them has few resamples.
LEAST_TASKS = 6
# Of names that do not differ, on the way to the letters; a readable display has far fewer.
_MOST_SETS = 500


@dataclass(frozen=True)
class CriticalDifference:
    """How far apart mean ranks must be for a difference.

    Attributes:
        friedman_p: p-value of Friedman's test that all encoders are alike.
        critical_difference: Nemenyi's critical difference of mean ranks at 0.05.
        mean_ranks: mean over tasks of the place of each encoder, 1 the best; best first.
    """

    friedman_p: float
    critical_difference: float
    mean_ranks: Mapping[str, float]


def critical_difference(scores: Mapping[str, Sequence[float]]) -> CriticalDifference | None:
    """Return Friedman's test and Nemenyi's critical difference, or None for too few.

    Fewer than three encoders or six tasks are too few. Tasks that share a cohort are not
    independent, so this is a picture of the ranks and marks nobody as better (docs/leaderboard.md).

    Args:
        scores: by encoder, one score for each task, higher is better, the tasks in one order.
    """
    names = sorted(scores)
    table = np.array([list(scores[name]) for name in names], dtype=np.float64).T
    if len(names) < LEAST_ENCODERS or len(table) < LEAST_TASKS:
        return None
    tied = (table == table[:, :1]).all()
    mean_ranks = rankdata(-table, axis=1).mean(axis=0)
    order = np.argsort(mean_ranks, kind="stable")
    k, n = len(names), len(table)
    quantile = float(studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2.0)
    difference = float(quantile * np.sqrt(k * (k + 1) / (6.0 * n)))
    return CriticalDifference(
        # Where every task ties all encoders the statistic is 0 / 0.
        friedman_p=1.0 if tied else float(friedmanchisquare(*table.T).pvalue),
        critical_difference=difference,
        mean_ranks={names[i]: float(mean_ranks[i]) for i in order},
    )


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


@dataclass(frozen=True)
class Clusters:
    """How much each cluster weighs in a mean over tasks.

    Attributes:
        names: cluster ids, sorted.
        weights: (cluster,) share of each in the mean; they add up to 1.
        tasks: task x cluster, share of each task within its cluster; columns add up to 1.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    tasks: NDArray[np.float64]

    @property
    def spread(self) -> NDArray[np.float64]:
        """Return (cluster,) the variance of a deviation from the mean, in that of a cluster.

        For clusters of one variance s2, the value of cluster j less the weighted mean has the
        variance s2 (1 - 2 w_j + sum of w_i^2).
        """
        return 1.0 - 2.0 * self.weights + float(np.square(self.weights).sum())

    @property
    def degrees_of_freedom(self) -> float:
        """Return Satterthwaite's degrees of freedom of the variance; for two clusters or more."""
        deviation = np.eye(len(self.names)) - self.weights[None, :]
        form = deviation.T @ np.diag(np.square(self.weights) / self.spread) @ deviation
        eigenvalues = np.linalg.eigvalsh(form)
        return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


def clusters_of(cluster: Sequence[str], weight: Sequence[float]) -> Clusters:
    """Return the clusters of tasks.

    Args:
        cluster: (task,) the cluster of each task.
        weight: (task,) how much each weighs, above 0; only their ratios matter.
    """
    weights = np.asarray(weight, dtype=np.float64)
    names = tuple(sorted(set(cluster)))
    member = np.array([[name == own for name in names] for own in cluster], dtype=np.float64)
    total = weights @ member
    return Clusters(names, total / total.sum(), weights[:, None] * member / total)


def cluster_mean(
    values: Sequence[float], clusters: Clusters
) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of the values of tasks and its 95% interval; None with one cluster.

    With x_j the mean of cluster j, w_j its weight, m = sum of w_j x_j, and c_j the spread above:

        variance = sum over j of w_j^2 (x_j - m)^2 / c_j
        ci95 = m -+ t sqrt(variance),   t with Satterthwaite's df

    Examples:
        >>> three = clusters_of(["a", "b", "c"], [1, 1, 1])
        >>> _, ends = cluster_mean([0.1, 0.2, 0.3], three)  # the t interval of a mean of three
        >>> [round(end, 3) for end in ends]
        [-0.048, 0.448]
    """
    means = np.asarray(values, dtype=np.float64) @ clusters.tasks
    value = float(clusters.weights @ means)
    if len(clusters.names) < 2:
        return value, None
    scaled = clusters.weights * (means - value)
    error = float(np.sqrt((np.square(scaled) / clusters.spread).sum()))
    half = float(student.ppf(0.975, clusters.degrees_of_freedom)) * error
    return value, (value - half, value + half)


def cluster_draws(
    values: NDArray[np.float64], clusters: Clusters, n_draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return draws of the means of several encoders, encoder x draw, the same clusters for all.

    Each draw moves the mean by every cluster's deviation times a normal number of the cluster's
    own, all scaled by one number so that draws follow the t distribution of `cluster_mean`. What a
    cluster does to all encoders alike moves them together, so their order stays.

    Args:
        values: encoder x task.
        clusters: of the tasks; two at least.
        n_draws: number of draws.
        rng: where the numbers come from.
    """
    means = values @ clusters.tasks
    centre = means @ clusters.weights
    scaled = clusters.weights * (means - centre[:, None]) / np.sqrt(clusters.spread)
    normal = rng.standard_normal((len(clusters.names), n_draws))
    df = clusters.degrees_of_freedom
    heavy = np.sqrt(df / rng.chisquare(df, n_draws))
    moved: NDArray[np.float64] = centre[:, None] + (scaled @ normal) * heavy
    return moved

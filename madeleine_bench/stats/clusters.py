"""A mean over tasks of few cohorts: what it would be on other cohorts, and how sure that is.

Tasks on one cohort share its slides, its scanners and its hospital, so the cohort is what counts as
one observation. With few of them, and unequal weights, the usual bootstrap over cohorts is far too
narrow (85% instead of 95% with six), and one that resamples cohorts and then cases counts the noise
of cases twice (docs/leaderboard.md shows both). The variance here is the one of Bell and McCaffrey:
unbiased where cohorts are alike, with the degrees of freedom that few cohorts leave. What varies
from cohort to cohort is in it whatever its cause: other patients, other training cases, another
hospital.

References:
    Bell and McCaffrey, Bias reduction in standard errors for linear regression with multi-stage
    samples, Survey Methodology 28 (2002) 169-181.
    Pustejovsky and Tipton, Small-sample methods for cluster-robust variance estimation,
    JBES 36 (2018) 672-683.
    Wu, Jackknife, bootstrap and other resampling methods in regression analysis, Annals of
    Statistics 14 (1986) 1261-1295: multipliers in place of resampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student


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
        """Return Satterthwaite's degrees of freedom of the variance; 0 with one cluster."""
        n = len(self.names)
        if n < 2:
            return 0.0
        deviation = np.eye(n) - self.weights[None, :]
        form = deviation.T @ np.diag(np.square(self.weights) / self.spread) @ deviation
        eigenvalues = np.linalg.eigvalsh(form)
        return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())


@dataclass(frozen=True)
class ClusterMean:
    """A weighted mean over clusters.

    Attributes:
        value: the mean.
        ci95: lower and upper end of its 95% interval; None with one cluster.
        p_value: of the two-sided test that the mean is 0; None with one cluster.
        degrees_of_freedom: of the t distribution that both come from.
    """

    value: float
    ci95: tuple[float, float] | None
    p_value: float | None
    degrees_of_freedom: float


def clusters_of(cluster: Sequence[str], weight: Sequence[float]) -> Clusters:
    """Return the clusters of tasks.

    Args:
        cluster: (task,) the cluster of each task.
        weight: (task,) how much each weighs, above 0; only their ratios matter.

    Raises:
        ValueError: there is no task, or a weight is not a number above 0.
    """
    weights = np.asarray(weight, dtype=np.float64)
    if not len(cluster) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("each task needs a weight above 0, and there must be a task")
    names = tuple(sorted(set(cluster)))
    member = np.array([[name == own for name in names] for own in cluster], dtype=np.float64)
    total = weights @ member
    return Clusters(names, total / total.sum(), weights[:, None] * member / total)


def cluster_mean(values: Sequence[float], clusters: Clusters) -> ClusterMean:
    """Return the mean of the values of tasks, with the interval that the clusters leave it.

    With x_j the mean of cluster j, w_j its weight, m = sum of w_j x_j, and c_j the spread above:

        variance = sum over j of w_j^2 (x_j - m)^2 / c_j
        ci95 = m -+ t sqrt(variance),     p from m / sqrt(variance),   t with Satterthwaite's df

    Raises:
        ValueError: a value is not finite.

    Examples:
        >>> three = clusters_of(["a", "b", "c"], [1, 1, 1])
        >>> found = cluster_mean([0.1, 0.2, 0.3], three)  # the t interval of a mean of three
        >>> [round(end, 3) for end in found.ci95], round(found.degrees_of_freedom, 6)
        ([-0.048, 0.448], 2.0)
    """
    rows = np.asarray(values, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("values must be finite")
    means = rows @ clusters.tasks
    value = float(clusters.weights @ means)
    df = clusters.degrees_of_freedom
    if len(clusters.names) < 2:
        return ClusterMean(value, None, None, df)
    scaled = clusters.weights * (means - value)
    error = float(np.sqrt((np.square(scaled) / clusters.spread).sum()))
    half = float(student.ppf(0.975, df)) * error
    # Clusters that agree to the last bit leave no doubt: they differ from 0, or they are 0.
    p_value = 2.0 * float(student.sf(abs(value) / error, df)) if error else float(value == 0.0)
    return ClusterMean(value, (value - half, value + half), p_value, df)


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

"""Are we sure: intervals of means and ranks, who is better than whom, and who does not differ.

Two intervals stand beside each mean. One asks what would change with other cases of the same
cohorts (`sources`), one what would change on other cohorts (`stats.clusters`). One encoder is
marked better than another where two tests agree on the direction of the mean difference, after
Holm's correction for all pairs: the signed-rank test over tasks, and the resampled cases.
docs/leaderboard.md says why, with the measured coverage.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from madeleine_bench.leaderboard.aggregate import Board, Column, on_same_features, summarise
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.intervals import t_test
from madeleine_bench.stats.paired import ALPHA, AcrossTasks, across_tasks, holm
from madeleine_bench.stats.ranks import (
    LEAST_TASKS,
    Clusters,
    CriticalDifference,
    cluster_draws,
    cluster_mean,
    clusters_of,
    critical_difference,
    letter_display,
)

BASELINE = "mean-pool"
RANK_DRAWS = 2000
Interval = tuple[float, float]
DrawsOf = Callable[[Record], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A mean over families with its two 95% intervals.

    Attributes:
        value: on the scale where chance is 0 and the best 1.
        ci95: for other cohorts; None with one cohort.
        ci95_cases: for other cases, training cases included, of the same cohorts.
    """

    value: float
    ci95: Interval | None
    ci95_cases: Interval


@dataclass(frozen=True)
class Standing:
    """Where one complete encoder stands.

    Attributes:
        mean: its mean over families.
        gain: its mean less that of the baseline of the same features, paired; None without one and
            for the baseline itself.
        rank_ci95: 95% interval of its rank among the ranked; None when unranked or alone.
        letters: two ranked encoders share a letter exactly when neither is marked better than the
            other; "" when unranked, or where there are too many encoders for letters.
    """

    mean: Estimate
    gain: Estimate | None
    rank_ci95: tuple[int, int] | None
    letters: str


@dataclass(frozen=True)
class PairVerdict:
    """One ranked encoder against another that ranks below it.

    Attributes:
        mean: mean over families of the first less that of the second.
        across: wins, ties, losses and signed-rank test over tasks.
        p_signed_rank: of the signed-rank test in the direction of the mean.
        p_cases: of the test by resampling cases that the mean difference is 0 on these cohorts.
        p_holm: the larger of the two, adjusted for the number of pairs.
        better: whether the first is marked better.
    """

    first: str
    second: str
    mean: float
    across: AcrossTasks
    p_signed_rank: float
    p_cases: float
    p_holm: float
    better: bool


@dataclass(frozen=True)
class Comparison:
    """All that can be said of the encoders of a board beside each other.

    Attributes:
        baselines: by label, the label of the encoder that its gain is over: the baseline that was
            given the same features. Encoders without one are left out.
        standings: by label, of every encoder that has all core tasks.
        pairs: every pair of ranked encoders, the better ranked first.
        pairs_note: why nobody is marked better; "" where somebody could be.
        critical_difference: of the ranked; None for too few.
    """

    baselines: Mapping[str, str]
    standings: Mapping[str, Standing]
    pairs: tuple[PairVerdict, ...]
    pairs_note: str
    critical_difference: CriticalDifference | None


def compare(board: Board, draws_of: DrawsOf) -> Comparison:
    """Return the comparison of the encoders of a board over the tasks that they are ranked on.

    Args:
        board: the board.
        draws_of: gives draws of the main score of a record whose standard deviation is its standard
            error, the same resamples for all records of a cohort (`Sources.draws`).

    Raises:
        InputError: predictions are gone or were altered.
    """
    tasks = [task for task in board.tasks if task.id in board.ranked_ids]
    # What nobody recomputed has no predictions to resample.
    complete = [c for c in board.columns if c.complete and c.verification != "V0"]
    if not complete:
        return Comparison({}, {}, (), "no encoder has every task", None)
    if not tasks:
        return Comparison({}, {}, (), "no task has enough cases for a rank", None)
    ranked = [column.label for column in board.ranked if column.complete]
    return _compare(tasks, complete, ranked, draws_of)


def compare_subsets(board: Board, draws_of: DrawsOf) -> dict[str, Comparison]:
    """Return the comparison over the ranked tasks of each family, by the name of the family.

    Every encoder with all of these tasks is compared, even if others are missing. With fewer
    than six tasks there are means and intervals, and no marks.
    """
    found = {}
    for family in sorted({task.family for task in board.tasks if task.id in board.ranked_ids}):
        tasks = [t for t in board.tasks if t.family == family and t.id in board.ranked_ids]
        ids = [task.id for task in tasks]
        complete = [c for c in board.columns if c.verification != "V0" and c.has(ids)]
        if complete:
            placed = summarise(complete, tasks)
            ranked = sorted(placed, key=lambda label: (placed[label].rank or 0, label))
            found[family] = _compare(tasks, complete, ranked, draws_of)
    return found


def _compare(
    tasks: Sequence[TaskSpec], complete: Sequence[Column], ranked: Sequence[str], draws_of: DrawsOf
) -> Comparison:
    grid = make_grid(
        tasks,
        [column.label for column in complete],
        np.array([[column.cells[task.id].value for task in tasks] for column in complete]),
        [[draws_of(column.cells[task.id].record) for task in tasks] for column in complete],
    )
    cohorts = {task.cohort for task in tasks}
    over = {c.label: on_same_features(c, complete, BASELINE, cohorts) for c in complete}
    baselines = {label: baseline.label for label, baseline in over.items() if baseline}
    pairs = pair_verdicts(grid, ranked)
    marked = [(pair.first, pair.second) for pair in pairs if pair.better]
    letters = letter_display(ranked, marked) if pairs else {}
    ranks = rank_intervals(grid, ranked)
    standings = {}
    for label in grid.labels:
        baseline = baselines.get(label, label)
        gain = None if baseline == label else grid.estimate(label, baseline)
        mean = grid.estimate(label)
        standings[label] = Standing(mean, gain, ranks.get(label), letters.get(label, ""))
    note = ""
    if len(ranked) < 2:
        note = "fewer than two encoders are ranked"
    elif len(tasks) < LEAST_TASKS:
        note = f"fewer than {LEAST_TASKS} tasks: no test over tasks can reach {ALPHA}"
    scores = {label: grid.difference(label, None).tolist() for label in ranked}
    return Comparison(baselines, standings, pairs, note, critical_difference(scores))


@dataclass(frozen=True)
class Grid:
    """The chance-corrected scores of encoders that have every task, and their resampled means.

    Attributes:
        labels: the encoders.
        weights: (task,) the weight of each task in the mean over families.
        clusters: the cohorts of the tasks.
        scores: encoder x task.
        case_means: encoder x resample, the mean over families in each resample of the cases.
    """

    labels: tuple[str, ...]
    weights: NDArray[np.float64]
    clusters: Clusters
    scores: NDArray[np.float64]
    case_means: NDArray[np.float64]

    def difference(self, first: str, second: str | None) -> NDArray[np.float64]:
        """Return (task,) the scores of the first, less those of the second where there is one."""
        return self._less(self.scores, first, second)

    def case_error(self, first: str, second: str | None) -> float:
        """Return the standard error of a mean, or of a difference of two, on these cohorts."""
        return float(self._less(self.case_means, first, second).std(ddof=1))

    def estimate(self, first: str, second: str | None = None) -> Estimate:
        """Return the mean over families of an encoder, or of what it is above another."""
        value, ci95 = cluster_mean(self.difference(first, second).tolist(), self.clusters)
        half = float(norm.ppf(0.975)) * self.case_error(first, second)
        return Estimate(value, ci95, (value - half, value + half))

    def _less(
        self, rows: NDArray[np.float64], first: str, second: str | None
    ) -> NDArray[np.float64]:
        row: NDArray[np.float64] = rows[self.labels.index(first)]
        return row if second is None else row - rows[self.labels.index(second)]


def make_grid(
    tasks: Sequence[TaskSpec],
    labels: Sequence[str],
    scores: NDArray[np.float64],
    draws: Sequence[Sequence[NDArray[np.float64]]],
) -> Grid:
    """Return the grid of main scores.

    Args:
        tasks: the tasks.
        labels: the encoders.
        scores: encoder x task, main scores.
        draws: by encoder and task, the main score in each resample of the cases.
    """
    weights = family_weights([task.family for task in tasks])
    chance = np.array([task.chance for task in tasks])[:, None]
    clusters = clusters_of([task.cohort for task in tasks], weights.tolist())
    corrected = (scores - chance.T) / (1.0 - chance.T)
    means = [weights @ ((np.stack(row) - chance) / (1.0 - chance)) for row in draws]
    return Grid(tuple(labels), weights, clusters, corrected, np.stack(means))


def family_weights(families: Sequence[str]) -> NDArray[np.float64]:
    """Return (task,) the weight of each task in the mean over families of the mean of a family.

    Examples:
        >>> family_weights(["a", "a", "b"]).tolist()
        [0.25, 0.25, 0.5]
    """
    count = {family: families.count(family) for family in families}
    return np.array([1.0 / (len(count) * count[family]) for family in families])


def pair_verdicts(grid: Grid, ranked: Sequence[str]) -> tuple[PairVerdict, ...]:
    """Return each pair of the ranked, given from the best to the worst.

    The signed-rank test assumes that tasks are independent; tasks of one cohort are not, as they
    share its cases. The resampled cases know that, and do not ask whether an encoder wins on most
    tasks or by one task alone. A mark needs both, in the direction of the mean: a signed-rank test
    that speaks for the other encoder is no evidence. The larger p-value goes into Holm's
    correction.
    """
    rows = []
    for first, second in combinations(ranked, 2):
        differences = grid.difference(first, second)
        mean = float(grid.weights @ differences)
        across = across_tasks(differences.tolist())
        # The mean of many tasks is normal.
        p_cases = t_test(mean, grid.case_error(first, second), math.inf)
        rows.append((first, second, mean, across, across.p_in_direction(mean), p_cases))
    adjusted = holm([max(row[-2:]) for row in rows])
    enough = len(grid.weights) >= LEAST_TASKS
    return tuple(
        PairVerdict(*row, p_holm, better=enough and p_holm < ALPHA and row[2] > 0)
        for row, p_holm in zip(rows, adjusted, strict=True)
    )


def rank_intervals(grid: Grid, ranked: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the 95% interval of each rank over draws of cohorts, equal means sharing a place."""
    if len(ranked) < 2 or len(grid.clusters.names) < 2:
        return {}
    rows = [grid.labels.index(label) for label in ranked]
    rng = rng_for("rank intervals", *grid.clusters.names)
    draws = cluster_draws(grid.scores[rows], grid.clusters, RANK_DRAWS, rng)
    places = 1 + (draws[None, :, :] > draws[:, None, :]).sum(axis=1)
    ends = np.quantile(places, [0.025, 0.975], axis=1, method="inverted_cdf")
    return {label: (int(ends[0, i]), int(ends[1, i])) for i, label in enumerate(ranked)}


def controls_ahead(
    board: Board,
    task: TaskSpec,
    reads_the_answer: Callable[[Column], bool],
    gains: Mapping[tuple[str, str], Interval],
) -> list[dict[str, Any]]:
    """Return the controls that score significantly above mean-pool on a task, the best first.

    Each has its `label`, its score as `value`, the score of mean-pool as `baseline`, and the 95%
    confidence interval of the paired difference, which lies above 0, as `gain_ci95`.

    A control is compared with mean-pool of the same features, and left out without one, as are
    scores that are not on the data of the rest.

    Args:
        board: with its controls.
        task: one of its tasks.
        reads_the_answer: whether a control is a ceiling, as the phantom's oracle is, and no floor.
        gains: by the labels of two encoders, the interval of their paired difference on the task.
    """
    scored = [column for column in board.columns if column.has([task.id])]
    ahead: list[dict[str, Any]] = []
    for column in scored:
        pooled = on_same_features(column, scored, BASELINE, [task.cohort])
        if column.kind != "control" or pooled is None or reads_the_answer(column):
            continue
        ends = gains.get((column.label, pooled.label))
        if ends is not None and ends[0] > 0:
            value, baseline = (each.cells[task.id].value for each in (column, pooled))
            scores = {"label": column.label, "value": value, "baseline": baseline}
            ahead.append({**scores, "gain_ci95": ends})
    return sorted(ahead, key=lambda each: (-each["value"], each["label"]))

"""Which encoders change places between two protocols, and which verdicts on them change."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.leaderboard.comparison import (
    ALPHA,
    LEAST_TASKS,
    Grid,
    PairVerdict,
    pair_verdicts,
)
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.paired import across_tasks, holm
from madeleine_bench.stats.rank_agreement import mean_over_families


@dataclass(frozen=True)
class Swap:
    """Two encoders in one order under one protocol and in the other under another.

    Attributes:
        ahead: who is ahead under the first protocol of the pair.
        behind: who is ahead under the second.
        separated_by: the protocols under which they differ by the signed-rank test over tasks,
            after Holm's correction for all pairs of encoders, in the direction of the mean. The
            board's mark asks for a second test beside this one: it separates no more.
    """

    ahead: str
    behind: str
    separated_by: tuple[str, ...]


@dataclass(frozen=True)
class Flip:
    """Two encoders on which two versions of a protocol reach different conclusions.

    Either another encoder is ahead, or one of the versions alone marks an encoder as better.

    Attributes:
        first: the encoder that is ahead under the older version.
        second: the other encoder.
        differences: under each version, mean over families of the first less that of the second.
        better: under each version, the encoder that is marked better as on the board; "" for none.
    """

    first: str
    second: str
    differences: tuple[float, float]
    better: tuple[str, str]


def flips_between(older: Grid, newer: Grid) -> tuple[Flip, ...]:
    """Return the pairs of encoders whose verdict differs between two grids of the same encoders."""
    after = {frozenset((v.first, v.second)): v for v in _verdicts(newer)}
    flips = []
    for one in _verdicts(older):
        other = after[frozenset((one.first, one.second))]
        difference = other.mean if other.first == one.first else -other.mean
        better = (one.first if one.better else "", other.first if other.better else "")
        if one.mean * difference < 0 or better[0] != better[1]:
            flips.append(Flip(one.first, one.second, (one.mean, difference), better))
    return tuple(flips)


def _verdicts(grid: Grid) -> tuple[PairVerdict, ...]:
    means = dict(zip(grid.labels, grid.scores @ grid.weights, strict=True))
    return pair_verdicts(grid, sorted(grid.labels, key=lambda label: (-means[label], label)))


def means_of(scores: NDArray[np.float64], tasks: Sequence[TaskSpec]) -> list[float]:
    """Return by encoder the mean over families of its scores, encoder x task."""
    once = np.ones((1, len(tasks)))
    means: list[float] = mean_over_families(scores, [t.family for t in tasks], once)[0].tolist()
    return means


def swaps_between(
    names: tuple[str, str], tasks: Sequence[TaskSpec], first: NDArray[np.float64],
    second: NDArray[np.float64], labels: Sequence[str],
) -> tuple[Swap, ...]:  # fmt: skip
    """Return the encoders whose order under two protocols is strictly opposite.

    Args:
        names: the protocols.
        tasks: the tasks that both score.
        first: encoder x task, chance-corrected scores under the first protocol.
        second: the same under the second.
        labels: the encoders.
    """
    means = [means_of(scores, tasks) for scores in (first, second)]
    swapped = []
    for i, j in combinations(range(len(labels)), 2):
        before, after = (own[i] - own[j] for own in means)
        if before * after < 0:
            swapped.append((i, j) if before > 0 else (j, i))
    if not swapped:
        return ()
    apart = {
        name: _separated(scores, own)
        for name, scores, own in zip(names, (first, second), means, strict=True)
    }
    return tuple(
        Swap(labels[i], labels[j], tuple(name for name in names if {i, j} in apart[name]))
        for i, j in swapped
    )


def _separated(scores: NDArray[np.float64], means: Sequence[float]) -> list[set[int]]:
    """Return the pairs that the signed-rank test separates in the direction of their means."""
    if scores.shape[1] < LEAST_TASKS:
        return []
    pairs = list(combinations(range(len(scores)), 2))
    p_values = holm(
        [
            across_tasks((scores[i] - scores[j]).tolist()).p_in_direction(means[i] - means[j])
            for i, j in pairs
        ]
    )
    return [set(pair) for pair, p in zip(pairs, p_values, strict=True) if p < ALPHA]

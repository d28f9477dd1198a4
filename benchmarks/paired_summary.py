"""What a board says about pairs of encoders: on each task, by family, and over tasks.

Over tasks, scores are chance-corrected, (score - chance) / (1 - chance), so that AUROC, c and kappa
stand on one scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.paired_scores import BoardScores
from madeleine_bench.specs.record import MainScore
from madeleine_bench.stats.paired import AcrossTasks, PairedDifference, across_tasks, holm

FLOOR, CEILING = "mean-pool", "oracle"
PRIMARY = "primary"
Pair = tuple[str, str]


@dataclass(frozen=True)
class TaskComparison:
    """Every score and paired difference of one task under one protocol.

    Attributes:
        scores: main score by encoder.
        paired: difference by pair, above 0 where the first is better.
    """

    task: str
    protocol: str
    family: str
    metric: str
    chance: float
    scores: Mapping[str, MainScore]
    paired: Mapping[Pair, PairedDifference]

    def corrected(self, encoder: str) -> float:
        """Return a score on the scale where chance is 0 and the best 1."""
        return (self.scores[encoder].value - self.chance) / (1.0 - self.chance)

    def gain(self, pair: Pair) -> float:
        """Return a paired difference on that scale."""
        return self.paired[pair].difference / (1.0 - self.chance)


@dataclass(frozen=True)
class PairOverTasks:
    """One pair of encoders over the tasks of a protocol group.

    Attributes:
        across: mean, wins, ties, losses and signed-rank test of the gains.
        holm_p: p-value of that test, adjusted for the number of pairs.
        families: mean gain by family.
        task_holm_p: paired-bootstrap p-value by task, adjusted for the number of tasks.
    """

    across: AcrossTasks
    holm_p: float
    families: Mapping[str, float]
    task_holm_p: Mapping[str, float]


def compare_tasks(
    board: BoardScores, tasks: Sequence[str], encoders: Sequence[str], pairs: Sequence[Pair]
) -> list[TaskComparison]:
    """Return the comparison of each task under each protocol that it declares.

    Raises:
        InputError: a record is absent, or two encoders were not scored on the same data.
    """
    found = []
    for task in (board.catalogue.tasks[name] for name in tasks):
        for protocol in task.protocols:
            scores = {e: board.record(e, task.id, protocol).scores.main for e in encoders}
            paired = {pair: board.paired(*pair, task.id, protocol) for pair in pairs}
            metric, chance = task.metric.name, task.metric.chance
            found.append(
                TaskComparison(task.id, protocol, task.family, metric, chance, scores, paired)
            )
    return found


def protocol_groups(comparisons: Sequence[TaskComparison]) -> dict[str, list[TaskComparison]]:
    """Return what is tested together: each task under its first protocol, then each other one."""
    groups: dict[str, list[TaskComparison]] = {PRIMARY: []}
    seen: set[str] = set()
    for cell in comparisons:
        group = cell.protocol if cell.task in seen else PRIMARY
        seen.add(cell.task)
        groups.setdefault(group, []).append(cell)
    return groups


def pairs_over_tasks(
    cells: Sequence[TaskComparison], pairs: Sequence[Pair]
) -> dict[Pair, PairOverTasks]:
    """Return each pair over the tasks of one protocol group.

    Holm adjusts the tests over tasks for the number of pairs, and the tests of one pair on the
    tasks for the number of tasks.
    """
    across = {pair: across_tasks([cell.gain(pair) for cell in cells]) for pair in pairs}
    stepped = holm([found.p_value for found in across.values()])
    summary = {}
    for pair, adjusted in zip(pairs, stepped, strict=True):
        by_task = holm([cell.paired[pair].p_value for cell in cells])
        families: dict[str, list[float]] = {}
        for cell in cells:
            families.setdefault(cell.family, []).append(cell.gain(pair))
        summary[pair] = PairOverTasks(
            across[pair],
            adjusted,
            {family: fmean(gains) for family, gains in sorted(families.items())},
            {cell.task: p for cell, p in zip(cells, by_task, strict=True)},
        )
    return summary


def family_means(cells: Sequence[TaskComparison], encoder: str) -> dict[str, float]:
    """Return the mean chance-corrected score of each family, and the mean over families."""
    families: dict[str, list[float]] = {}
    for cell in cells:
        families.setdefault(cell.family, []).append(cell.corrected(encoder))
    means = {family: fmean(scores) for family, scores in sorted(families.items())}
    return {**means, "mean over families": fmean(means.values())}


def recovered(cells: Sequence[TaskComparison], encoder: str) -> float | None:
    """Return the share of the headroom, from mean-pool to the oracle, that an encoder recovers.

    Over several tasks it is the share of their headroom together, so that a task without headroom
    has no say. 0 is as good as mean-pool, below 0 is worse; None where there is no headroom.
    """
    if not all({FLOOR, CEILING} <= set(cell.scores) for cell in cells):
        return None
    headroom = sum(cell.corrected(CEILING) - cell.corrected(FLOOR) for cell in cells)
    way = sum(cell.corrected(encoder) - cell.corrected(FLOOR) for cell in cells)
    return way / headroom if headroom > 0 else None

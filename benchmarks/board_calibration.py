"""Do the board's intervals cover, and how often is somebody marked better where nobody is?

    python benchmarks/board_calibration.py            # about 10 min on 1 core

draws boards with known truth (benchmarks/simulated_boards.py) and counts. Each row of
benchmarks/results/board_calibration.json is one world; docs/leaderboard.md shows them.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.simulated_boards import World, simulated_grid, tasks_of
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.comparison import Estimate, Grid, pair_verdicts, rank_intervals
from madeleine_bench.stats.paired import across_tasks, holm

OUT = Path(__file__).resolve().parent / "results" / "board_calibration.json"
EQUAL = (0.5, 0.5, 0.5, 0.5)
LADDER = (0.7, 0.6, 0.5, 0.45)
WORLDS = (
    World(EQUAL),
    World(LADDER),
    World(EQUAL, all_tasks=True),
    World(EQUAL, cohort_effect=0.15),
    World(LADDER, cohort_effect=0.3),
)


Marks = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Found:
    """What one board says.

    Attributes:
        means: estimate of each encoder's mean.
        gains: estimate of each pair's difference, first less second in order of label.
        ranks: 95% interval of each encoder's rank.
        better: pairs marked (better, worse).
        signed_rank: pairs that the signed-rank test with Holm alone would mark.
    """

    means: tuple[Estimate, ...]
    gains: tuple[Estimate, ...]
    ranks: tuple[tuple[int, int], ...]
    better: tuple[tuple[str, str], ...]
    signed_rank: tuple[tuple[str, str], ...]


def read_board(world: World, board: int) -> Found:
    """Return what board number `board` of a world says."""
    with threadpool_limits(1):
        grid = simulated_grid(world, tasks_of(world), board)
        order = sorted(grid.labels, key=lambda label: -grid.estimate(label).value)
        ranks = rank_intervals(grid, order)
        return Found(
            means=tuple(grid.estimate(label) for label in grid.labels),
            gains=tuple(grid.estimate(*pair) for pair in combinations(grid.labels, 2)),
            ranks=tuple(ranks[label] for label in grid.labels),
            better=tuple((v.first, v.second) for v in pair_verdicts(grid, order) if v.better),
            signed_rank=signed_rank_marks(grid, order),
        )


def signed_rank_marks(grid: Grid, order: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs that the signed-rank test with Holm's correction alone would mark."""
    pairs = list(combinations(order, 2))
    adjusted = holm([across_tasks(grid.difference(*pair).tolist()).p_value for pair in pairs])
    return tuple(pair for pair, p in zip(pairs, adjusted, strict=True) if p < 0.05)


def summary(world: World, boards: list[Found]) -> dict[str, Any]:
    """Return how often the intervals of a world hold the truth, and how often marks are false.

    The truth of an encoder is its mean over all boards. Intervals and marks of these cohorts are
    judged where cohorts do not differ: elsewhere the truth of these cohorts alone is not known.
    """
    pairs = list(combinations(range(len(world.skill)), 2))
    truth = _truth(world, boards)
    truths, gaps = [truth] * len(boards), [[truth[i] - truth[j] for i, j in pairs]] * len(boards)
    coverage = {
        "mean, other cohorts": _covered([[e.ci95 for e in b.means] for b in boards], truths),
        "gain, other cohorts": _covered([[e.ci95 for e in b.gains] for b in boards], gaps),
    }
    if len(set(world.skill)) == len(world.skill):  # equal encoders have no true rank
        coverage["rank"] = _covered([b.ranks for b in boards], [_true_ranks(world)] * len(boards))
    row: dict[str, Any] = {**asdict(world), "boards": len(boards), "tasks": len(tasks_of(world))}
    row["true_means"] = [round(value, 4) for value in truth]
    if not world.cohort_effect:
        cases = [[e.ci95_cases for e in b.means] for b in boards]
        coverage["mean, these cohorts"] = _covered(cases, truths)
        cases = [[e.ci95_cases for e in b.gains] for b in boards]
        coverage["gain, these cohorts"] = _covered(cases, gaps)
        row["boards_with_a_false_mark"] = {
            "marked": _false(world, [b.better for b in boards]),
            "signed ranks alone": _false(world, [b.signed_rank for b in boards]),
        }
        row["true_differences_marked"] = _true(world, [b.better for b in boards])
    row["coverage"] = {name: round(share, 4) for name, share in sorted(coverage.items())}
    row["half_width_of_gains"] = {
        "these cohorts": _half([e.ci95_cases for b in boards for e in b.gains]),
        "other cohorts": _half([e.ci95 for b in boards for e in b.gains]),
    }
    return row


def _covered(intervals: Sequence[Sequence[Any]], truths: Sequence[Sequence[float]]) -> float:
    """Return the share of intervals that hold their truth."""
    held = [
        low <= truth <= high
        for found, true in zip(intervals, truths, strict=True)
        for (low, high), truth in zip(found, true, strict=True)
    ]
    return float(np.mean(held))


def _true_ranks(world: World) -> list[float]:
    return [1 + sum(other > own for other in world.skill) for own in world.skill]


def _false(world: World, marks: Sequence[Marks]) -> float:
    """Return the share of boards on which somebody is marked above one who is as good or better."""
    skill = dict(zip(world.labels, world.skill, strict=True))
    return _share([any(skill[a] <= skill[b] for a, b in board) for board in marks])


def _true(world: World, marks: Sequence[Marks]) -> float | None:
    """Return the share of true differences that are marked; None where there is none."""
    skill = dict(zip(world.labels, world.skill, strict=True))
    real = sum(skill[a] != skill[b] for a, b in combinations(world.labels, 2))
    if not real:
        return None
    return _share([sum(skill[a] > skill[b] for a, b in board) / real for board in marks])


def _truth(world: World, boards: list[Found]) -> list[float]:
    """Return the mean of each encoder over all boards; encoders of one skill share theirs."""
    means = np.mean([[e.value for e in found.means] for found in boards], axis=0)
    skill = np.array(world.skill)
    return [float(means[skill == own].mean()) for own in world.skill]


def _half(intervals: Sequence[Any]) -> float:
    return round(float(np.mean([(high - low) / 2 for low, high in intervals])), 4)


def _share(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def table(worlds: Sequence[dict[str, Any]]) -> str:
    """Return docs/leaderboard.md's table: coverage, half width of gains, and marks."""
    lines = [
        "| encoders | tasks | effect | gain, these cohorts | gain, other cohorts | half width, "
        "these cohorts | boards with a false mark | signed ranks alone | true differences marked |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for world in worlds:
        encoders = "equal" if len(set(world["skill"])) == 1 else "a ladder"
        false, coverage = world.get("boards_with_a_false_mark", {}), world["coverage"]
        cells = [coverage.get("gain, these cohorts"), coverage["gain, other cohorts"]]
        marks = [false.get("marked"), false.get("signed ranks alone")]
        lines.append(
            f"| {encoders} | {world['tasks']} | {world['cohort_effect']:g} | "
            + " | ".join(
                [
                    *map(_percent, cells),
                    f"{world['half_width_of_gains']['these cohorts']:.4f}",
                    *map(_percent, [*marks, world.get("true_differences_marked")]),
                ]
            )
            + " |"
        )
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def main() -> None:
    """Draw the boards of every world, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for world in WORLDS:
            boards = list(pool.map(partial(read_board, world), range(given.boards), chunksize=10))
            rows.append(summary(world, boards))
            print(json.dumps(rows[-1]), flush=True)
    about = "SIMULATED boards with known truth: benchmarks/simulated_boards.py"
    write_text(given.out, json.dumps({"about": about, "worlds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

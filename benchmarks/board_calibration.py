"""Do the board's intervals cover, and how often is somebody marked better where nobody is?

    python benchmarks/board_calibration.py            # about 20 min on 2 cores

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

from benchmarks.simulated_boards import World, core_tasks, simulated_grid
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard.comparison import Estimate, Grid, pair_verdicts, rank_intervals
from madeleine_bench.seeds import rng_for
from madeleine_bench.stats.bootstrap import percentile_interval
from madeleine_bench.stats.paired import across_tasks, holm

OUT = Path(__file__).resolve().parent / "results" / "board_calibration.json"
EQUAL = (0.5, 0.5, 0.5, 0.5)
LADDER = (0.7, 0.6, 0.5, 0.45)
WORLDS = (
    World(LADDER, 0.0, "once"),
    World(EQUAL, 0.0, "folds"),
    World(LADDER, 0.0, "folds"),
    World(EQUAL, 0.15, "folds"),
    World(EQUAL, 0.3, "folds"),
    World(LADDER, 0.3, "folds"),
)


Marks = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Found:
    """What one board says.

    Attributes:
        means: estimate of each encoder's mean.
        gains: estimate of each pair's difference, first less second in order of label.
        two_stage: as `gains`, the percentile interval of cohorts, then cases.
        ranks: 95% interval of each encoder's rank.
        better: pairs marked (better, worse) on these cohorts.
        beyond: pairs marked on other cohorts too.
        endless: mean of each encoder's own probes on endless cases; NaN where cross-validated.
        signed_rank: pairs that the signed-rank test with Holm alone would mark.
    """

    means: tuple[Estimate, ...]
    gains: tuple[Estimate, ...]
    two_stage: tuple[tuple[float, float], ...]
    ranks: tuple[tuple[int, int], ...]
    better: tuple[tuple[str, str], ...]
    beyond: tuple[tuple[str, str], ...]
    endless: tuple[float, ...]
    signed_rank: tuple[tuple[str, str], ...]


def read_board(world: World, board: int) -> Found:
    """Return what board number `board` of a world says."""
    with threadpool_limits(1):
        grid, endless = simulated_grid(world, core_tasks(), board)
        order = sorted(grid.labels, key=lambda label: -grid.estimate(label).value)
        verdicts = pair_verdicts(grid, order)
        ranks = rank_intervals(grid, order)
        pairs = list(combinations(grid.labels, 2))
        return Found(
            means=tuple(grid.estimate(label) for label in grid.labels),
            gains=tuple(grid.estimate(first, second) for first, second in pairs),
            two_stage=tuple(two_stage_interval(grid, *pair, board) for pair in pairs),
            ranks=tuple(ranks[label] for label in grid.labels),
            better=tuple((v.first, v.second) for v in verdicts if v.better),
            beyond=tuple((v.first, v.second) for v in verdicts if v.beyond),
            endless=tuple(endless.tolist()),
            signed_rank=signed_rank_marks(grid, order),
        )


def two_stage_interval(grid: Grid, first: str, second: str, board: int) -> tuple[float, float]:
    """Return the percentile interval that resamples cohorts, then cases: what is not used here.

    The noise of cases is that of the difference of the whole mean, dealt out to cohorts by weight.
    """
    rng = rng_for("two stages", board)
    names = grid.clusters.names
    means = grid.difference(first, second) @ grid.clusters.tasks
    error = (
        grid.case_error(first, second)
        / grid.widening
        / np.sqrt(np.square(grid.clusters.weights).sum())
    )
    count = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=1000)
    noisy = means + error * rng.standard_normal((1000, len(names)))
    share = count * grid.clusters.weights
    return percentile_interval((share * noisy).sum(axis=1) / share.sum(axis=1))


def signed_rank_marks(grid: Grid, order: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs that Wilcoxon's test with Holm's correction alone would mark."""
    pairs = list(combinations(order, 2))
    adjusted = holm([across_tasks(grid.difference(*pair).tolist()).p_value for pair in pairs])
    return tuple(pair for pair, p in zip(pairs, adjusted, strict=True) if p < 0.05)


def summary(world: World, boards: list[Found]) -> dict[str, Any]:
    """Return how often the intervals of a world hold the truth, and how often marks are false.

    The truth of a probe fitted once is what it scores on endless cases; that of a cross-validated
    encoder its mean over all boards. Intervals of these cohorts are judged where cohorts do not
    differ, as on a board whose cohorts do the truth of these alone is not known.
    """
    pairs = list(combinations(range(len(world.skill)), 2))
    everywhere = _truth(world, boards)
    truths = [list(b.endless) if world.fitted == "once" else everywhere for b in boards]
    gaps = [[own[i] - own[j] for i, j in pairs] for own in truths]
    coverage = {
        "mean, other cohorts": _covered([[e.ci95 for e in b.means] for b in boards], truths),
        "gain, other cohorts": _covered([[e.ci95 for e in b.gains] for b in boards], gaps),
        "gain, cohorts then cases": _covered([b.two_stage for b in boards], gaps),
    }
    if len(set(world.skill)) == len(world.skill):  # equal encoders have no true rank
        coverage["rank"] = _covered([b.ranks for b in boards], [_true_ranks(world)] * len(boards))
    if not world.cohort_effect:
        coverage |= {
            "mean, these cohorts": _covered(
                [[e.ci95_cases for e in b.means] for b in boards], truths
            ),
            "gain, these cohorts": _covered(
                [[e.ci95_cases for e in b.gains] for b in boards], gaps
            ),
        }
    return {
        **asdict(world),
        "boards": len(boards),
        "true_means": [round(value, 4) for value in everywhere],
        "coverage": {name: round(share, 4) for name, share in sorted(coverage.items())},
        "half_width_of_gains": {
            "these cohorts": _half([e.ci95_cases for b in boards for e in b.gains]),
            "other cohorts": _half([e.ci95 for b in boards for e in b.gains]),
        },
        "boards_with_a_false_mark": {
            "these cohorts": _false(world, [b.better for b in boards]),
            "other cohorts": _false(world, [b.beyond for b in boards]),
            "signed rank alone": _false(world, [b.signed_rank for b in boards]),
        },
        "true_differences_marked": {
            "these cohorts": _true(world, [b.better for b in boards]),
            "other cohorts": _true(world, [b.beyond for b in boards]),
        },
    }


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


def coverage_table(worlds: Sequence[dict[str, Any]]) -> str:
    """Return docs/leaderboard.md's table of how many intervals of gains hold the truth."""
    columns = ("gain, these cohorts", "gain, other cohorts", "gain, cohorts then cases")
    lines = ["| probes | encoders | effect | these cohorts | other cohorts | cohorts, then cases |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    lines += [
        _line(world, [_percent(world["coverage"].get(name)) for name in columns])
        for world in worlds
    ]
    return "\n".join(lines)


def marks_table(worlds: Sequence[dict[str, Any]]) -> str:
    """Return docs/leaderboard.md's table of false marks, and of true differences found."""
    false, true = "boards_with_a_false_mark", "true_differences_marked"
    columns = (
        (false, "these cohorts"), (false, "other cohorts"), (false, "signed rank alone"),
        (true, "these cohorts"), (true, "other cohorts"),
    )  # fmt: skip
    lines = [
        "| probes | encoders | effect | false: better | false: beyond | false: signed ranks alone "
        "| found: better | found: beyond |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        _line(world, [_percent(world[group][name]) for group, name in columns]) for world in worlds
    ]
    return "\n".join(lines)


def _line(world: dict[str, Any], cells: Sequence[str]) -> str:
    encoders = "equal" if len(set(world["skill"])) == 1 else "a ladder"
    probes = "cross-validated" if world["fitted"] == "folds" else "fitted once"
    return f"| {probes} | {encoders} | {world['cohort_effect']:g} | " + " | ".join(cells) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def main() -> None:
    """Draw the boards of every world, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=1000)
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

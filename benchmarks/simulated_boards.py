"""Boards whose truth is known: cohorts, tasks that share cases, encoders, probes, scores.

Each board has the cohorts, families and core tasks of the catalogue, with their numbers of cases,
class shares, metrics and events. A cohort's cases have one hidden state for each task, half of it
shared by its tasks; a task's class is a range of its state, and a hazard grows with it. An encoder
sees all states, each scaled by its own skill, in noise that is half shared between the encoders
(the tissue) and half its own. A probe is fitted on each training fold by least squares with a ridge
(for survival to the martingale residuals, the first step of a Cox fit), that which predicts
left-out training cases best, and scored as the task is: linear-probe/v2 and cox/v2 in a thousandth
of the time.

Each board has new patients, labels, noise, folds, and a new suitability of each cohort for each
encoder (`cohort_effect`). So the mean over very many boards is the truth of an encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.leaderboard.comparison import Grid, make_grid
from madeleine_bench.protocols.scoring import design_of
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import (
    bayesian_case_weights,
    weighted_auroc,
    weighted_harrell_c,
    weighted_quadratic_kappa,
)
from madeleine_bench.stats.intervals import LEAST_RARE_CASES
from madeleine_bench.types import Survival

Matrix = NDArray[np.float64]
Scorer = Callable[[NDArray[np.intp], Matrix, Matrix], Matrix]
FOLDS = 5
NOISE_DIMENSIONS = 32
# Each times the width: the grid of linear-probe/v2, at the curvature 1/4 of even classes.
RIDGES = 4.0 * np.logspace(-3, 3, 13)
_HAZARD = 1.5  # of the hidden state


@dataclass(frozen=True)
class World:
    """What boards are drawn from.

    Attributes:
        skill: how plain the states are to each encoder.
        cohort_effect: standard deviation over cohorts of the logarithm of an encoder's skill.
        all_tasks: whether tasks with too few cases for a rank count as well.
        resamples: of the cases, for the interval of these cohorts.
    """

    skill: tuple[float, ...]
    cohort_effect: float = 0.0
    all_tasks: bool = False
    resamples: int = 100

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the encoders, e0 to e9."""
        return tuple(f"e{i}" for i in range(len(self.skill)))


def tasks_of(world: World) -> list[TaskSpec]:
    """Return the core tasks that encoders of a world are ranked on."""
    return [t for t in _core() if world.all_tasks or t.expected.rarest >= LEAST_RARE_CASES]


@cache
def _core() -> list[TaskSpec]:
    return load_catalogue().select(["all"])


def simulated_grid(world: World, tasks: Sequence[TaskSpec], board: int) -> Grid:
    """Return board number `board` of a world: scores of every encoder and their draws."""
    n_encoders = len(world.skill)
    scores = np.empty((n_encoders, len(tasks)))
    draws = [[np.empty(0)] * len(tasks) for _ in world.skill]
    for cohort in sorted({task.cohort for task in tasks}):
        places = [i for i, task in enumerate(tasks) if task.cohort == cohort]
        n = max(tasks[i].expected.n for i in places)
        rng = rng_for("simulated board", board, cohort, world.cohort_effect)
        effect = np.exp(world.cohort_effect * rng.standard_normal(n_encoders))
        ids = [str(i) for i in range(n)]
        weights = bayesian_case_weights(f"{cohort} {board}", ids, world.resamples)
        states, embeddings = _cases(rng, n, len(places), np.array(world.skill) * effect)
        for position, place in enumerate(places):
            task = tasks[place]
            cases = np.sort(rng.permutation(n)[: task.expected.n])
            scorer, target, stratum = _outcome(task, states[cases, position], rng)
            folds = _folds(stratum, rng)
            tested = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
            dim = embeddings[0].shape[1]
            survival = task.expected.classes is None
            for encoder, embedding in enumerate(embeddings):
                value, resampled, moving = _cross_validated(
                    embedding[cases], target, scorer, folds, weights[cases], no_effect=survival
                )
                design = design_of(
                    np.arange(len(cases)), stratum, tested, dim, task.metric.name, moving=moving
                )
                scores[encoder, place] = value
                draws[encoder][place] = value + design.bayesian_factor * (resampled - value)
    return make_grid(tasks, world.labels, scores, draws)


def _cases(
    rng: np.random.Generator, n: int, tasks: int, skill: Matrix
) -> tuple[Matrix, list[Matrix]]:
    """Return the states, case x task, and what each encoder sees of the cases."""
    shared = rng.standard_normal((n, 1))
    states = (shared + rng.standard_normal((n, tasks))) / np.sqrt(2.0)
    width = tasks + NOISE_DIMENSIONS
    tissue = rng.standard_normal((n, width))
    seen = []
    for own in skill:
        noise = (tissue + rng.standard_normal((n, width))) / np.sqrt(2.0)
        noise[:, :tasks] += own * states
        seen.append(noise)
    return states, seen


def _outcome(
    task: TaskSpec, state: Matrix, rng: np.random.Generator
) -> tuple[Scorer, Matrix, NDArray[np.intp]]:
    """Return how predictions of some rows are scored, what a probe is fitted to, and the strata."""
    order = np.argsort(np.argsort(state))
    if task.expected.classes is None:
        time = rng.exponential(size=len(state)) * np.exp(-_HAZARD * state)
        censored = rng.exponential(size=len(state))
        # The scale at which as many cases as the task has see an event.
        ratio = np.sort(time / censored)[task.expected.events or 0]
        event = time < ratio * censored
        survival = Survival(np.minimum(time, ratio * censored) + 1e-3, event)
        place = np.argsort(np.argsort(survival.time_days))
        at_risk = len(state) - np.arange(len(state))
        hazard = np.cumsum(event[np.argsort(survival.time_days)] / at_risk)
        residual = (event - hazard[place])[:, None]
        return (
            lambda rows, risk, w: weighted_harrell_c(survival.take(rows), risk[:, 0], w),
            residual,
            event.astype(np.intp),
        )
    counts = list(task.expected.classes.values())
    label = np.searchsorted(np.cumsum(counts), order, side="right")
    target = np.eye(len(counts))[label]
    if task.metric.name == "quadratic-kappa":
        return (
            lambda rows, p, w: weighted_quadratic_kappa(
                label[rows], p.argmax(axis=1), len(counts), w
            ),
            target,
            label,
        )
    classes = [1] if len(counts) == 2 else range(len(counts))
    return (
        lambda rows, p, w: np.mean(
            [weighted_auroc(label[rows] == c, p[:, c], w) for c in classes], axis=0
        ),
        target,
        label,
    )


def _folds(stratum: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    folds, start = np.empty(len(stratum), dtype=np.intp), 0
    for kind in np.unique(stratum):
        rows = rng.permutation(np.flatnonzero(stratum == kind))
        folds[rows] = (start + np.arange(len(rows))) % FOLDS
        start += len(rows)
    return folds


def _cross_validated(
    embedding: Matrix,
    target: Matrix,
    scorer: Scorer,
    folds: NDArray[np.intp],
    weights: Matrix,
    *,
    no_effect: bool,
) -> tuple[float, Matrix, float]:
    """Return the mean over folds of the score, its resamples, and the share of folds that move.

    `no_effect` makes constant predictions a choice too, as for survival.
    """
    values, moving = [], []
    for fold in range(FOLDS):
        test, train = np.flatnonzero(folds == fold), folds != fold
        centre, mean = embedding[train].mean(axis=0), target[train].mean(axis=0)
        probe = _probe(embedding[train] - centre, target[train] - mean, no_effect=no_effect)
        predicted = (embedding[test] - centre) @ probe + mean
        both = np.concatenate([np.ones((len(test), 1)), weights[test]], axis=1)
        scored = scorer(test, predicted, both)
        values.append(np.where(np.isfinite(scored), scored, scored[0]))
        moving.append(probe.any())
    mean_of_folds = np.mean(np.nan_to_num(values, nan=0.0), axis=0)
    return float(mean_of_folds[0]), mean_of_folds[1:], float(np.mean(moving))


def _probe(rows: Matrix, target: Matrix, *, no_effect: bool) -> Matrix:
    """Return the coefficients of centred rows at the ridge that predicts left-out rows best.

    By generalised cross-validation (Golub, Heath and Wahba 1979): the squared error of what is
    left out, one row at a time, from the fit of all rows.
    """
    size, axes = np.linalg.eigh(rows.T @ rows)
    along = axes.T @ (rows.T @ target)
    ridges = rows.shape[1] * np.append(RIDGES, np.inf if no_effect else [])
    inverse = 1.0 / (size + ridges[:, None])
    residual = np.square(target).sum() - (2.0 - size * inverse) * inverse @ np.square(along).sum(1)
    best = inverse[np.argmin(residual / (len(rows) - 1.0 - inverse @ size) ** 2)]
    coefficients: Matrix = axes @ (best[:, None] * along)
    return coefficients

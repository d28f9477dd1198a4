"""Boards whose truth is known: cohorts, tasks that share cases, encoders, probes, scores.

Each board has the cohorts, families and core tasks of the catalogue. A cohort's cases have one
hidden state for each task, half of it shared by its tasks; a task's label is the sign of its state.
An encoder sees all states, each scaled by its own skill, in noise that is half shared between the
encoders (the tissue) and half its own. A probe is fitted on each training fold by least squares
with a ridge and scored by AUROC: linear-probe/v1 in a thousandth of the time.

What is drawn anew on each board: patients, labels, noise, folds, and how far each cohort suits each
encoder (`cohort_effect`). So the mean over very many boards is the truth of an encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.leaderboard.comparison import Grid, family_weights
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.bootstrap import TRAINING_WIDENING, bayesian_case_weights, weighted_auroc
from madeleine_bench.stats.clusters import clusters_of

Matrix = NDArray[np.float64]
FOLDS = 5
NOISE_DIMENSIONS = 8
RIDGE = 1.0
# Cases of a cohort: a quarter of the real ones, between these, so that 1,000 boards take minutes.
CASES = (40, 250)
CASES_OF_THE_TRUTH = 4000


@dataclass(frozen=True)
class World:
    """What boards are drawn from.

    Attributes:
        skill: how plain the states are to each encoder.
        cohort_effect: deviation over cohorts of the logarithm of an encoder's skill.
        fitted: "folds" for cross-validated probes; "once" for one probe fitted on other cases, so
            that nothing but the choice of test cases varies.
        resamples: of the cases, for the interval of these cohorts.
    """

    skill: tuple[float, ...]
    cohort_effect: float
    fitted: str
    resamples: int = 100

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the encoders, e0 to e9."""
        return tuple(f"e{i}" for i in range(len(self.skill)))


def core_tasks() -> list[TaskSpec]:
    """Return the core tasks, whose cohorts and families the boards have."""
    return load_catalogue().select(["all"])


def simulated_grid(world: World, tasks: Sequence[TaskSpec], board: int) -> tuple[Grid, Matrix]:
    """Return board number `board` of a world, and what its probes would score on endless cases.

    The grid has the scores of every encoder and their resampled means; the second, (encoder,), is
    the mean over families of probes fitted once, and NaN for cross-validated ones.
    """
    weights = family_weights([task.family for task in tasks])
    scores = np.empty((len(world.skill), len(tasks)))
    endless = np.full((len(world.skill), len(tasks)), np.nan)
    means = np.zeros((len(world.skill), world.resamples))
    none = np.empty((CASES_OF_THE_TRUTH, 0))
    for cohort in sorted({task.cohort for task in tasks}):
        own = [i for i, task in enumerate(tasks) if task.cohort == cohort]
        n = int(np.clip(max(tasks[i].expected.n for i in own) // 4, *CASES))
        rng = rng_for("simulated board", board, cohort, world.cohort_effect, world.fitted)
        effect = np.exp(world.cohort_effect * rng.standard_normal(len(world.skill)))
        draws = bayesian_case_weights(
            f"{cohort} {board}", [str(i) for i in range(n)], world.resamples
        )
        states, seen = _cases(rng, n, len(own), np.array(world.skill) * effect)
        once = world.fitted == "once"
        before = _cases(rng, n, len(own), np.array(world.skill) * effect) if once else None
        after = (
            _cases(rng, CASES_OF_THE_TRUTH, len(own), np.array(world.skill) * effect)
            if once
            else None
        )
        for position, task in enumerate(own):
            positive = states[:, position] > 0
            for encoder, embedding in enumerate(seen):
                if before is None or after is None:
                    folds = np.arange(n) % FOLDS
                    value, resampled = _cross_validated(embedding, positive, folds, draws)
                else:
                    probe = _probe(before[1][encoder], before[0][:, position] > 0)
                    value, resampled = _scored(positive, embedding @ probe, draws)
                    found, _ = _scored(after[0][:, position] > 0, after[1][encoder] @ probe, none)
                    endless[encoder, task] = 2.0 * found - 1.0
                scores[encoder, task] = 2.0 * value - 1.0
                means[encoder] += weights[task] * (2.0 * resampled - 1.0)
    clusters = clusters_of([task.cohort for task in tasks], weights.tolist())
    widening = TRAINING_WIDENING if world.fitted == "folds" else 1.0
    return Grid(world.labels, weights, clusters, scores, means, widening), endless @ weights


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


def _probe(embedding: Matrix, positive: NDArray[np.bool_]) -> Matrix:
    centred = embedding - embedding.mean(axis=0)
    gram = centred.T @ centred + RIDGE * np.eye(centred.shape[1])
    weights: Matrix = np.linalg.solve(gram, centred.T @ (positive - positive.mean()))
    return weights


def _cross_validated(
    embedding: Matrix, positive: NDArray[np.bool_], folds: NDArray[np.intp], draws: Matrix
) -> tuple[float, Matrix]:
    values, resampled = [], []
    for fold in range(FOLDS):
        test = folds == fold
        risk = embedding[test] @ _probe(embedding[~test], positive[~test])
        value, each = _scored(positive[test], risk, draws[test])
        values.append(value)
        resampled.append(each)
    return float(np.mean(values)), np.mean(resampled, axis=0)


def _scored(positive: NDArray[np.bool_], risk: Matrix, draws: Matrix) -> tuple[float, Matrix]:
    """Return the AUROC and that of each resample; .5 in a fold that lacks a class."""
    if positive.all() or not positive.any():
        return 0.5, np.full(draws.shape[1], 0.5)
    once = np.ones((len(risk), 1))
    both = np.concatenate([once, draws], axis=1)
    found = weighted_auroc(positive, risk, both)
    return float(found[0]), found[1:]

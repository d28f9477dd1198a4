"""What each stain of a case is worth: a task scored from every subset of its stains.

A subset is scored in two ways. "alike": trained and tested on that subset, as if the other stains
had never been cut. "dropped": trained on all stains and tested on the subset, as where stains go
missing in use. Folds, labels and protocol are those of the task, so every difference is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.data.case_bags import slide_groups
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.runner.plan import Assessment
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.stats.paired import PairedDifference, paired_difference
from madeleine_bench.types import Split, Splits, Units

Way = Literal["alike", "dropped"]
RESAMPLES = 1000
_REDUCED = "\x1f reduced"


@dataclass(frozen=True)
class SubsetScore:
    """The score of a task from some of its stains.

    Attributes:
        stains: the subset, in the order of the task.
        way: whether training saw the same subset ("alike") or all stains ("dropped").
        value: the main score over the cases that have one of these stains.
        cases: how many these are; `lacking` have none and are left out.
        difference: this less the score from all stains, on the same cases, with the 95% interval
            of resampled cases widened for training cases; None for all stains themselves.
    """

    stains: tuple[str, ...]
    way: Way
    value: float
    cases: int
    lacking: int
    difference: PairedDifference | None


def score_stain_subsets(
    assessment: Assessment, embeddings: Embeddings, stain_of: Mapping[str, str]
) -> list[SubsetScore]:
    """Return the score of every subset of a task's stains, all of them first, fewer later.

    Args:
        assessment: a task by case, under a protocol that starts from embeddings of slides.
        embeddings: of the slides of the cohort.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    full = assessment.units
    all_stains = assessment.task.stains
    whole = _fused(assessment, embeddings, full, stain_of)
    reference = _predictions(assessment, whole, full, assessment.splits)
    dim = whole.shape[1]
    found = [_scored(assessment, all_stains, "alike", reference, reference, 0, dim)]
    for size in range(len(all_stains) - 1, 0, -1):
        for stains in combinations(all_stains, size):
            kept = _restricted(full, set(stains), stain_of)
            lacking = len(full.table) - len(kept.table)
            if not len(kept.table):
                continue
            rows = np.flatnonzero(full.table["unit_id"].isin(kept.table["unit_id"]).to_numpy())
            reduced = _fused(assessment, embeddings, kept, stain_of)
            alike = _predictions(assessment, reduced, kept, _restrict(assessment.splits, rows))
            dropped = _dropped(assessment, whole, reduced, rows)
            found.append(_scored(assessment, stains, "alike", alike, reference, lacking, dim))
            found.append(_scored(assessment, stains, "dropped", dropped, reference, lacking, dim))
    return found


@dataclass(frozen=True)
class FusionScore:
    """The score of one way to make a case of its slides.

    Attributes:
        fusion: "late", "early" or "per-stain".
        stains: all of the task, or the one alone.
        value: the main score over the cases that have a slide of the one stain.
        difference: this less the score of the one stain alone, fused late, on the same cases; None
            for that itself.
    """

    fusion: Fusion
    stains: tuple[str, ...]
    value: float
    difference: PairedDifference | None


def score_fusions(
    assessments: Mapping[Fusion, Assessment],
    of_slides: Embeddings,
    of_cases: Mapping[tuple[str, ...], Embeddings],
    alone: str,
    stain_of: Mapping[str, str],
) -> list[FusionScore]:
    """Return the score of each fusion of all stains, and of one stain alone, that stain first.

    Args:
        assessments: of one task, under a protocol that differs in its fusion alone.
        of_slides: embeddings of the slides, for late and per-stain fusion.
        of_cases: embeddings of cases as one bag, by the stains in it, for early fusion.
        alone: the stain that all are held against.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    first = assessments["late"]
    kept = _restricted(first.units, {alone}, stain_of)
    rows = np.flatnonzero(first.units.table["unit_id"].isin(kept.table["unit_id"]).to_numpy())
    scored: list[tuple[Fusion, tuple[str, ...], pd.DataFrame]] = []
    choices: tuple[tuple[str, ...], ...] = ((alone,), first.task.stains)
    for fusion, assessment in assessments.items():
        for stains in choices:
            one = stains == (alone,)
            units = kept if one else assessment.units
            if one and fusion == "per-stain":
                continue  # one stain has one mean
            splits = _restrict(assessment.splits, rows) if one else assessment.splits
            if fusion == "early":
                groups = slide_groups(units, "early", stain_of)
                matrix = unit_embeddings(of_cases[stains], units, groups)
            else:
                matrix = _fused(assessment, of_slides, units, stain_of)
            scored.append((fusion, stains, _predictions(assessment, matrix, units, splits)))
    scored.sort(key=lambda each: (each[1] != (alone,), each[0] != "late"))
    reference = scored[0][2]
    found = []
    for fusion, stains, predictions in scored:
        same = predictions[predictions["unit_id"].isin(reference["unit_id"])]
        dim = of_slides.matrix.shape[1]
        each = _scored(assessments[fusion], stains, "alike", same, reference, 0, dim)
        difference = None if predictions is reference else each.difference
        found.append(FusionScore(fusion, stains, each.value, difference))
    return found


def curve(scores: Sequence[SubsetScore], way: Way) -> list[tuple[int, float, float, float]]:
    """Return by number of stains, most first: the number, and mean, lowest and highest score."""
    sizes = sorted({len(score.stains) for score in scores}, reverse=True)
    found = []
    for size in sizes:
        # From all stains both ways are one.
        own = [
            score.value
            for score in scores
            if len(score.stains) == size and (score.way == way or score.difference is None)
        ]
        if own:
            found.append((size, float(np.mean(own)), min(own), max(own)))
    return found


def _fused(
    assessment: Assessment, embeddings: Embeddings, units: Units, stain_of: Mapping[str, str]
) -> NDArray[np.floating]:
    return unit_embeddings(
        embeddings, units, slide_groups(units, assessment.protocol.fusion, stain_of)
    )


def _restricted(units: Units, stains: set[str], stain_of: Mapping[str, str]) -> Units:
    """Return the units that have a slide of these stains, with those slides alone."""
    slides = {
        unit: kept
        for unit, own in units.slides.items()
        if (kept := tuple(slide for slide in own if stain_of[slide] in stains))
    }
    table = units.table[units.table["unit_id"].isin(list(slides))].reset_index(drop=True)
    return Units(table, slides, units.missing, units.hash)


def _restrict(splits: Splits, rows: NDArray[np.intp]) -> Splits:
    """Return splits of the kept rows, as positions among them."""
    place = {int(row): position for position, row in enumerate(rows)}

    def kept(positions: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.array([place[int(p)] for p in positions if int(p) in place], dtype=np.intp)

    return Splits(
        splits.key_names, [Split(s.key, kept(s.train), kept(s.test)) for s in splits], splits.hash
    )


def _predictions(
    assessment: Assessment, matrix: NDArray[np.floating], units: Units, splits: Splits
) -> pd.DataFrame:
    task, protocol = assessment.task, assessment.protocol
    return evaluate(task, protocol, matrix, units, splits).predictions


def _dropped(
    assessment: Assessment,
    whole: NDArray[np.floating],
    reduced: NDArray[np.floating],
    rows: NDArray[np.intp],
) -> pd.DataFrame:
    """Return predictions for reduced cases by fits on whole ones.

    Every kept case stands in the table twice, whole to train on and reduced to be tested.
    """
    table = assessment.units.table
    twice = table.iloc[rows].assign(unit_id=table.iloc[rows]["unit_id"] + _REDUCED)
    both = Units(pd.concat([table, twice], ignore_index=True), {}, {}, assessment.units.hash)
    place = {int(row): len(table) + position for position, row in enumerate(rows)}
    splits = [
        Split(
            split.key,
            split.train,
            np.array([place[int(t)] for t in split.test if int(t) in place], dtype=np.intp),
        )
        for split in assessment.splits
    ]
    found = _predictions(
        assessment,
        np.concatenate([whole, reduced]),
        both,
        Splits(assessment.splits.key_names, splits, assessment.splits.hash),
    )
    return found.assign(unit_id=found["unit_id"].str.removesuffix(_REDUCED))


def _scored(
    assessment: Assessment,
    stains: tuple[str, ...],
    way: Way,
    predictions: pd.DataFrame,
    reference: pd.DataFrame,
    lacking: int,
    dim: int,
) -> SubsetScore:
    task, protocol = assessment.task, assessment.protocol
    same = reference[reference["unit_id"].isin(predictions["unit_id"])]
    ours, theirs = (
        scored_units(task, protocol, rows, assessment.splits.hash, f"stains of {task.name}", dim)
        for rows in (predictions, same)
    )
    difference = None
    with threadpool_limits(1):
        if predictions is not reference:
            rng = rng_for("stain subsets", task.name, protocol.name, way, *stains)
            difference = paired_difference(ours, theirs, RESAMPLES, rng)
        value = ours.score
    return SubsetScore(stains, way, value, len(ours.unit), lacking, difference)

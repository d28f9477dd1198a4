"""What the stains of a case are worth: fusions of all against one alone, and every subset of them.

A subset is scored in two ways. "alike": trained and tested on that subset, as if the other stains
had never been cut. "dropped": trained on all stains and tested on the subset, as where stains go
missing in use. Folds, labels and protocol are those of the task, so every difference is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.data.case_bags import CaseBags, slide_groups
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import Report
from madeleine_bench.runner.embedding import Ready, ToEmbed, embed
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.plan import (
    Assessment,
    Cell,
    Plan,
    Request,
    bags_to_embed,
    board_of,
    make_plan,
)
from madeleine_bench.runner.run import to_embed
from madeleine_bench.runner.stain_report import WAYS, Way, report_body, stain_chart
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.paired import PairedDifference, paired_difference
from madeleine_bench.types import Progress, Split, Splits, Units

RESAMPLES = 1000
_REDUCED = "\x1f reduced"


@dataclass(frozen=True)
class StainScore:
    """The score of a task from some of its stains.

    Attributes:
        stains: which, in the order of the task.
        fusion: how a case is made of its slides.
        way: whether training saw the same stains ("alike") or all of them ("dropped").
        value: the main score over the cases that have one of these stains.
        cases: how many these are.
        lacking: cases that have none of these stains and are left out.
        difference: this less the reference (all stains; of fusions the one stain alone), on the
            same cases, with the 95% interval of resampled cases widened for training cases; None
            for the reference itself.
    """

    stains: tuple[str, ...]
    fusion: Fusion
    way: Way
    value: float
    cases: int
    lacking: int
    difference: PairedDifference | None

    def document(self) -> dict[str, Any]:
        """Return the score, ready for JSON."""
        names = ("difference", "ci95", "p_value")
        paired = {name: getattr(self.difference, name, None) for name in names}
        return {**asdict(self), **paired}


def stain_ablation(
    encoders: Sequence[str],
    tasks: Sequence[str],
    workspace: Workspace,
    progress: Progress,
    *,
    protocol: str = "linear-probe",
    alone: str = "H&E",
) -> dict[Path, Report]:
    """Return what fusions and subsets of stains are worth, by the place of each cohort's report.

    Embeddings are those of `mbench run`, made where they are missing.

    Args:
        encoders: names or card paths.
        tasks: ids or globs of tasks by case.
        workspace: results, cohorts and catalogue.
        progress: told of each job.
        protocol: id of a protocol that starts from embeddings; its -early and -per-stain
            siblings, where there are such, are compared with it.
        alone: the stain that all stains are compared with.

    Raises:
        InputError: the request cannot be carried out, or a task has no case of several stains.
        CheckFailed: no encoder could be used.
    """
    catalogue = workspace.tasks()
    base = catalogue.protocol(protocol)
    if base.trains_networks or base.fusion != "late":
        raise InputError(
            f"--protocol {base.name}: name one that starts from embeddings and fuses late, such as "
            "linear-probe; its other fusions are compared by themselves"
        )
    siblings = [
        p.name
        for p in catalogue.protocols.values()
        if p.id in (f"{base.id}-early", f"{base.id}-per-stain") and p.version == base.version
    ]
    for task in catalogue.select(tasks):
        _check(task, alone)
    plan = make_plan(Request(tuple(encoders), tuple(tasks), (base.name, *siblings), workspace))
    ready, failed = embed(_bags_of(plan, alone), workspace, progress)
    failures = [(f"{encoder} on {name}", why) for (encoder, name), why in failed.items()]
    problem = ending("not every encoder could be used", failures)
    broken = {encoder for encoder, _ in failed}
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        if cell.entry.card.name not in broken:
            cells.setdefault((cell.assessment.task.id, cell.entry.card.name), []).append(cell)
    if not cells and problem:
        raise problem
    progress.phase("score", len(cells))
    by_cohort: dict[str, list[dict[str, Any]]] = {}
    for (task_id, encoder), of_task in cells.items():
        scored = _task_document(plan, of_task, alone, ready)
        by_cohort.setdefault(of_task[0].assessment.task.cohort, []).append(scored)
        progress.advance(f"{encoder} {task_id}")
    reports = {}
    for cohort_id, documents in sorted(by_cohort.items()):
        data = plan.cohorts[cohort_id].data
        document = {
            "what": "stains of a case: fusions, and subsets",
            "phantom": data.source == "phantom",
            "board": board_of(data),
            "cohort": cohort_id,
            "protocol": base.name,
            "alone": alone,
            "interval": f"95%, paired bootstrap of cases, {RESAMPLES} resamples, widened for "
            "training cases and few cases; none where there are too few cases",
            "tasks": documents,
            "provenance": machine_provenance(),
        }
        place = workspace.results / "stains" / board_of(data) / cohort_id
        last = cohort_id == max(by_cohort)
        charts = {cohort_id: stain_chart(document)}
        reports[place] = Report(
            document, report_body(document), charts, problem=problem if last else None
        )
    return reports


def _check(task: TaskSpec, alone: str) -> None:
    if task.unit != "case" or len(task.stains) < 2:
        raise InputError(
            f"{task.id} is no task by case on several stains (unit {task.unit}, stains "
            f"{', '.join(task.stains)}); name one that is, such as bwh-kidney-amr"
        )
    if alone not in task.stains:
        raise InputError(f"--alone '{alone}': {task.id} has stains {', '.join(task.stains)}")


def _bags_of(plan: Plan, alone: str) -> list[ToEmbed]:
    """Return what a run embeds, and cases as bags of the one stain."""
    bags = {each.name: each for each in to_embed(plan)}
    for cell in plan.cells:
        if cell.assessment.cases_as_bags:
            data = plan.cohorts[cell.assessment.task.cohort].data
            encoders = bags[bags_to_embed(cell.assessment, data)[0]].encoders
            name = _one_stain(cell.assessment, alone)
            bags.setdefault(name, ToEmbed(name, CaseBags(data, (alone,)), encoders))
    return list(bags.values())


def _one_stain(assessment: Assessment, alone: str) -> str:
    """Return the name of the cases of a cohort as bags of one stain."""
    word = "".join(c for c in alone.lower() if c.isalnum())
    return f"{assessment.task.cohort}-cases-{word}"


def _task_document(plan: Plan, cells: list[Cell], alone: str, ready: Ready) -> dict[str, Any]:
    """Return all numbers of one encoder on one task, ready for JSON."""
    task, encoder = cells[0].assessment.task, cells[0].entry.card.name
    data = plan.cohorts[task.cohort].data
    stain_of = dict(zip(data.slides["slide_id"], data.slides["stain"], strict=True))
    assessments = {cell.assessment.protocol.fusion: cell.assessment for cell in cells}
    of_cases: dict[tuple[str, ...], Embeddings] = {}
    for assessment in assessments.values():
        if assessment.cases_as_bags:
            names = bags_to_embed(assessment, data)[0], _one_stain(assessment, alone)
            for stains, name in zip((task.stains, (alone,)), names, strict=True):
                of_cases[stains] = read_embeddings(ready[encoder, name][0])
    of_slides = read_embeddings(ready[encoder, task.cohort][0])
    late = assessments["late"]
    fusions = score_fusions(assessments, of_slides, of_cases, alone, stain_of)
    subsets = score_stain_subsets(late, of_slides, stain_of)
    stains_of_units = [{stain_of[slide] for slide in ids} for ids in late.units.slides.values()]
    curve_keys = ("stains", "mean", "lowest", "highest")
    return {
        "task": task.id,
        "encoder": encoder,
        "metric": task.metric.name,
        "chance": task.metric.chance,
        "lacking": {s: sum(s not in stains for stains in stains_of_units) for s in task.stains},
        "fusions": [_without(score, "way", "cases", "lacking") for score in fusions],
        "subsets": [_without(score, "fusion") for score in subsets],
        "curves": {
            way: [dict(zip(curve_keys, point, strict=True)) for point in curve(subsets, way)]
            for way in WAYS
        },
    }


def _without(score: StainScore, *names: str) -> dict[str, Any]:
    return {name: value for name, value in score.document().items() if name not in names}


def score_stain_subsets(
    assessment: Assessment, embeddings: Embeddings, stain_of: Mapping[str, str]
) -> list[StainScore]:
    """Return the score of every subset of a task's stains, all of them first, fewer later.

    Args:
        assessment: a task by case, under a protocol that starts from embeddings of slides.
        embeddings: of the slides of the cohort.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    full, all_stains = assessment.units, assessment.task.stains
    whole = _fused(assessment, embeddings, full, stain_of)
    reference = _predictions(assessment, whole, full, assessment.splits)
    dim = whole.shape[1]
    scores = [_scored(assessment, all_stains, "alike", reference, reference, 0, dim)]
    for size in range(len(all_stains) - 1, 0, -1):
        for stains in combinations(all_stains, size):
            kept, rows = _restricted(full, set(stains), stain_of)
            if not len(rows):
                continue
            reduced = _fused(assessment, embeddings, kept, stain_of)
            splits = _selected(assessment.splits, rows)
            predictions: dict[Way, pd.DataFrame] = {
                "alike": _predictions(assessment, reduced, kept, splits),
                "dropped": _dropped(assessment, whole, reduced, rows),
            }
            lacking = len(full.table) - len(rows)
            scores += [
                _scored(assessment, stains, way, of_way, reference, lacking, dim)
                for way, of_way in predictions.items()
            ]
    return scores


def score_fusions(
    assessments: Mapping[Fusion, Assessment],
    of_slides: Embeddings,
    of_cases: Mapping[tuple[str, ...], Embeddings],
    alone: str,
    stain_of: Mapping[str, str],
) -> list[StainScore]:
    """Return the score of each fusion of all stains, and of one stain alone, that stain first.

    Args:
        assessments: of one task, under a protocol that differs in its fusion alone.
        of_slides: embeddings of the slides, for late and per-stain fusion.
        of_cases: embeddings of cases as one bag, by the stains in it, for early fusion.
        alone: the stain that all are compared with.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    first = assessments["late"]
    kept, rows = _restricted(first.units, {alone}, stain_of)
    predicted: list[tuple[Fusion, tuple[str, ...], pd.DataFrame]] = []
    choices: tuple[tuple[str, ...], ...] = ((alone,), first.task.stains)
    for fusion, assessment in assessments.items():
        for stains in choices:
            one = stains == (alone,)
            if one and fusion == "per-stain":
                continue  # one stain has one mean
            units = kept if one else assessment.units
            splits = _selected(assessment.splits, rows) if one else assessment.splits
            embeddings = of_cases[stains] if fusion == "early" else of_slides
            matrix = _fused(assessment, embeddings, units, stain_of)
            predicted.append((fusion, stains, _predictions(assessment, matrix, units, splits)))
    predicted.sort(key=lambda each: (each[1] != (alone,), each[0] != "late"))
    reference = predicted[0][2]
    dim = of_slides.matrix.shape[1]
    scores = []
    for fusion, stains, predictions in predicted:
        same = predictions[predictions["unit_id"].isin(reference["unit_id"])]
        score = _scored(assessments[fusion], stains, "alike", same, reference, 0, dim)
        scores.append(replace(score, difference=None) if predictions is reference else score)
    return scores


def curve(scores: Sequence[StainScore], way: Way) -> list[tuple[int, float, float, float]]:
    """Return by number of stains, most first: the number, and mean, lowest and highest score."""
    points = []
    for size in sorted({len(score.stains) for score in scores}, reverse=True):
        # From all stains both ways are one.
        values = [
            score.value
            for score in scores
            if len(score.stains) == size and (score.way == way or score.difference is None)
        ]
        if values:
            points.append((size, float(np.mean(values)), min(values), max(values)))
    return points


def _fused(
    assessment: Assessment, embeddings: Embeddings, units: Units, stain_of: Mapping[str, str]
) -> NDArray[np.floating]:
    groups = slide_groups(units, assessment.protocol.fusion, stain_of)
    return unit_embeddings(embeddings, units, groups)


def _restricted(
    units: Units, stains: set[str], stain_of: Mapping[str, str]
) -> tuple[Units, NDArray[np.intp]]:
    """Return the units that have a slide of these stains, with those slides alone; their rows."""
    slides = {
        unit: kept
        for unit, ids in units.slides.items()
        if (kept := tuple(slide for slide in ids if stain_of[slide] in stains))
    }
    rows = np.flatnonzero(units.table["unit_id"].isin(list(slides)).to_numpy())
    table = units.table.iloc[rows].reset_index(drop=True)
    return Units(table, slides, units.missing, units.hash), rows


def _selected(splits: Splits, rows: NDArray[np.intp]) -> Splits:
    """Return splits of the kept rows, as positions among them."""
    parts = [Split(s.key, _among(s.train, rows), _among(s.test, rows)) for s in splits]
    return Splits(splits.key_names, parts, splits.hash)


def _among(positions: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return where those of the positions that are kept stand in the rows, which are sorted."""
    return np.searchsorted(rows, positions[np.isin(positions, rows)])


def _predictions(
    assessment: Assessment, matrix: NDArray[np.floating], units: Units, splits: Splits
) -> pd.DataFrame:
    return evaluate(assessment.task, assessment.protocol, matrix, units, splits).predictions


def _dropped(
    assessment: Assessment,
    whole: NDArray[np.floating],
    reduced: NDArray[np.floating],
    rows: NDArray[np.intp],
) -> pd.DataFrame:
    """Return predictions for reduced cases by fits on whole ones.

    Every kept case stands in the table twice, whole to train on and reduced to be tested.
    """
    table, splits = assessment.units.table, assessment.splits
    twice = table.iloc[rows].assign(unit_id=table.iloc[rows]["unit_id"] + _REDUCED)
    both = Units(pd.concat([table, twice], ignore_index=True), {}, {}, assessment.units.hash)
    parts = [Split(s.key, s.train, len(table) + _among(s.test, rows)) for s in splits]
    matrix = np.concatenate([whole, reduced])
    predictions = _predictions(
        assessment, matrix, both, Splits(splits.key_names, parts, splits.hash)
    )
    return predictions.assign(unit_id=predictions["unit_id"].str.removesuffix(_REDUCED))


def _scored(
    assessment: Assessment,
    stains: tuple[str, ...],
    way: Way,
    predictions: pd.DataFrame,
    reference: pd.DataFrame,
    lacking: int,
    dim: int,
) -> StainScore:
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
    return StainScore(stains, protocol.fusion, way, value, len(ours.unit), lacking, difference)

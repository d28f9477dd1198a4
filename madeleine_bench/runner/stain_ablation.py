"""What the stains of a case are worth: fusions of all against one alone, and every subset of them.

A subset is scored in two ways. "alike": trained and tested on that subset, as if the other stains
had never been cut. "dropped": trained on all stains and tested on the subset, as where stains go
missing in use. Folds, labels and protocol are those of the task, so every difference is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.data.case_bags import slide_groups
from madeleine_bench.embeddings.compute import unit_embeddings
from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS
from madeleine_bench.protocols.evaluation import evaluate
from madeleine_bench.protocols.scoring import scored_units
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.runner.embedding import Ready, embed
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.plan import (
    Assessment,
    Cell,
    Plan,
    Request,
    board_of,
    make_plan,
)
from madeleine_bench.runner.run import to_embed
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.protocol import Fusion
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.paired import paired_difference
from madeleine_bench.types import Progress, Split, Splits, Units

Way = Literal["alike", "dropped"]
WAYS: dict[Way, str] = {
    "alike": "trained with the same stains",
    "dropped": "trained with all stains",
}
RESAMPLES = 1000
_REDUCED = "\x1f reduced"
# The score of a task from some of its stains, ready for JSON: which stains, their fusion, the way
# of training, the main score over the cases that have one of these stains, how many these are, how
# many have none, and this less the reference on the same cases, with the 95% interval of resampled
# cases widened for training cases; None for the reference itself. The reference is all stains; of
# fusions the one stain alone.
Score = dict[str, Any]


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
        stains = ", ".join(task.stains)
        if task.train_on is not None:
            raise InputError(f"{task.id} is an external task; name a task of one cohort")
        if task.unit != "case" or len(task.stains) < 2:
            raise InputError(
                f"{task.id} is not a task by case on several stains (unit {task.unit}, stains "
                f"{stains}); name one that is, such as bwh-kidney-amr"
            )
        if alone not in task.stains:
            raise InputError(f"--alone '{alone}': {task.id} has stains {stains}")
    plan = make_plan(Request(tuple(encoders), tuple(tasks), (base.name, *siblings), workspace))
    ready, failed = embed(to_embed(plan), workspace, progress)
    failures = [(f"{encoder} on {name}", why) for (encoder, name), why in failed.items()]
    problem = ending("not every encoder could be used", failures)
    broken = {encoder for encoder, _ in failed}
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells:
        if (name := cell.entry.card.name) not in broken:
            key = (cell.assessment.task.id, cell.assessment.folders[0], name)
            cells.setdefault(key, []).append(cell)
    if not cells and problem:
        raise problem
    progress.phase("score", len(cells))
    by_cohort: dict[str, list[dict[str, Any]]] = {}
    for (task_id, _, encoder), of_task in cells.items():
        scored = _task_document(plan, of_task, alone, ready)
        by_cohort.setdefault(of_task[0].assessment.key(of_task[0].assessment.task), []).append(
            scored
        )
        progress.advance(f"{encoder} {task_id}")
    reports = {}
    for key_of_cohort, documents in sorted(by_cohort.items()):
        data, cohort_id = plan.cohorts[key_of_cohort].data, key_of_cohort.replace(" ", "-")
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
        last = key_of_cohort == max(by_cohort)
        charts = {cohort_id: stain_chart(document)}
        reports[place] = Report(
            document, report_body(document), charts, problem=problem if last else None
        )
    return reports


def _task_document(plan: Plan, cells: list[Cell], alone: str, ready: Ready) -> dict[str, Any]:
    """Return all numbers of one encoder on one task, ready for JSON."""
    task, encoder = cells[0].assessment.task, cells[0].entry.card.name
    data = plan.cohorts[cells[0].assessment.key(task)].data
    stain_of = dict(zip(data.slides["slide_id"], data.slides["stain"], strict=True))
    assessments = {cell.assessment.protocol.fusion: cell.assessment for cell in cells}
    embeddings = {
        fusion: read_embeddings(ready[encoder, assessment.embedded(task)][0])
        for fusion, assessment in assessments.items()
    }
    late = assessments["late"]
    fusions = score_fusions(assessments, embeddings, alone, stain_of)
    subsets = score_stain_subsets(late, embeddings["late"], stain_of)
    stains_of_units = [{stain_of[slide] for slide in ids} for ids in late.units.slides.values()]
    return {
        "task": task.id,
        "encoder": encoder,
        "metric": task.metric.name,
        "chance": task.chance,
        "lacking": {s: sum(s not in stains for stains in stains_of_units) for s in task.stains},
        "fusions": [_without(score, "way", "cases", "lacking") for score in fusions],
        "subsets": [_without(score, "fusion") for score in subsets],
        "curves": {way: curve(subsets, way) for way in WAYS},
    }


def _without(score: Score, *names: str) -> Score:
    return {name: value for name, value in score.items() if name not in names}


def score_stain_subsets(
    assessment: Assessment, embeddings: Embeddings, stain_of: Mapping[str, str]
) -> list[Score]:
    """Return the score of every subset of a task's stains, all of them first, fewer later.

    Args:
        assessment: a task by case, under a protocol that starts from embeddings of slides.
        embeddings: of the slides of the cohort.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    all_stains, slides = assessment.task.stains, assessment.units.slides.values()
    whole, _, reference = _evaluated(assessment, embeddings, all_stains, stain_of)
    dim, cases = whole.shape[1], len(whole)
    scores = [_scored(assessment, all_stains, "alike", reference, reference, 0, dim)]
    there = {stain_of[slide] for ids in slides for slide in ids}
    for size in range(len(all_stains) - 1, 0, -1):
        for stains in combinations(all_stains, size):
            if there.isdisjoint(stains):
                continue
            reduced, rows, alike = _evaluated(assessment, embeddings, stains, stain_of)
            dropped = _dropped(assessment, whole, reduced, rows)
            predictions: dict[Way, pd.DataFrame] = {"alike": alike, "dropped": dropped}
            scores += [
                _scored(assessment, stains, way, of_way, reference, cases - len(rows), dim)
                for way, of_way in predictions.items()
            ]
    return scores


def score_fusions(
    assessments: Mapping[Fusion, Assessment],
    embeddings: Mapping[Fusion, Embeddings],
    alone: str,
    stain_of: Mapping[str, str],
) -> list[Score]:
    """Return the score of one stain alone, and of each fusion of all stains.

    Args:
        assessments: of one task, under a protocol that differs in its fusion alone.
        embeddings: of the slides; for early fusion of the cases, each as one bag.
        alone: the stain that all are compared with.
        stain_of: the stain of each slide.

    Raises:
        InputError: an embedding is missing or not finite.
    """
    late = assessments["late"]
    dim = embeddings["late"].matrix.shape[1]
    *_, reference = _evaluated(late, embeddings["late"], (alone,), stain_of)
    scores = [_scored(late, (alone,), "alike", reference, reference, 0, dim)]
    stains = late.task.stains
    for fusion in sorted(assessments, key=lambda fusion: fusion != "late"):
        *_, predictions = _evaluated(assessments[fusion], embeddings[fusion], stains, stain_of)
        predictions = predictions[predictions["unit_id"].isin(reference["unit_id"])]
        score = _scored(assessments[fusion], stains, "alike", predictions, reference, 0, dim)
        scores.append(score)
    return scores


def curve(scores: Sequence[Score], way: Way) -> list[dict[str, Any]]:
    """Return by number of stains, most first: mean, lowest and highest score."""
    points = []
    for size in sorted({len(score["stains"]) for score in scores}, reverse=True):
        # From all stains both ways are one.
        values = [
            score["value"]
            for score in scores
            if len(score["stains"]) == size and (score["way"] == way or score["difference"] is None)
        ]
        mean, lowest, highest = float(np.mean(values)), min(values), max(values)
        points.append({"stains": size, "mean": mean, "lowest": lowest, "highest": highest})
    return points


def _evaluated(
    assessment: Assessment,
    embeddings: Embeddings,
    stains: Sequence[str],
    stain_of: Mapping[str, str],
) -> tuple[NDArray[np.floating], NDArray[np.intp], pd.DataFrame]:
    """Return embeddings of the cases with a slide of these stains, their rows, and predictions.

    The cases are made of those slides alone.
    """
    full, splits = assessment.units, assessment.splits
    slides = {
        unit: kept
        for unit, ids in full.slides.items()
        if (kept := tuple(slide for slide in ids if stain_of[slide] in stains))
    }
    rows = np.flatnonzero(full.table["unit_id"].isin(list(slides)).to_numpy())
    table = full.table.iloc[rows].reset_index(drop=True)
    units = Units(table, slides, full.missing, full.hash)
    groups = slide_groups(units, assessment.protocol.fusion, stain_of)
    matrix = unit_embeddings(embeddings, units, groups)
    parts = [Split(s.key, _among(s.train, rows), _among(s.test, rows)) for s in splits]
    return matrix, rows, _predictions(assessment, matrix, units, parts)


def _among(positions: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return where those of the positions that are kept stand in the rows, which are sorted."""
    return np.searchsorted(rows, positions[np.isin(positions, rows)])


def _predictions(
    assessment: Assessment, matrix: NDArray[np.floating], units: Units, parts: Sequence[Split]
) -> pd.DataFrame:
    splits = Splits(assessment.splits.key_names, list(parts), assessment.splits.hash)
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
    table = assessment.units.table
    twice = table.iloc[rows].assign(unit_id=table.iloc[rows]["unit_id"] + _REDUCED)
    both = Units(pd.concat([table, twice], ignore_index=True), {}, {}, assessment.units.hash)
    parts = [Split(s.key, s.train, len(table) + _among(s.test, rows)) for s in assessment.splits]
    predictions = _predictions(assessment, np.concatenate([whole, reduced]), both, parts)
    return predictions.assign(unit_id=predictions["unit_id"].str.removesuffix(_REDUCED))


def _scored(
    assessment: Assessment,
    stains: tuple[str, ...],
    way: Way,
    predictions: pd.DataFrame,
    reference: pd.DataFrame,
    lacking: int,
    dim: int,
) -> Score:
    task, protocol = assessment.task, assessment.protocol
    same = reference[reference["unit_id"].isin(predictions["unit_id"])]
    ours, theirs = (
        scored_units(task, protocol, rows, assessment.splits.hash, f"stains of {task.name}", dim)
        for rows in (predictions, same)
    )
    paired: Score = {"difference": None, "ci95": None, "p_value": None}
    with threadpool_limits(1):
        if predictions is not reference:
            rng = rng_for("stain subsets", task.name, protocol.name, way, *stains)
            paired = asdict(paired_difference(ours, theirs, RESAMPLES, rng))
        return {
            "stains": stains,
            "fusion": protocol.fusion,
            "way": way,
            "value": ours.score,
            "cases": len(ours.unit),
            "lacking": lacking,
            **paired,
        }


def report_body(content: Mapping[str, Any]) -> list[Table | str]:
    """Return the tables of a document, and what to know of missing stains and phantoms."""
    kind = "PHANTOM" if content["phantom"] else "real data"
    fusions = []
    for each in content["tasks"]:
        for fusion in each["fusions"]:
            stains = "all" if len(fusion["stains"]) > 1 else fusion["stains"][0]
            name = [each["task"], each["encoder"], f"{stains}, {fusion['fusion']}"]
            fusions.append([*name, f"{fusion['value']:.3f}", gain_text(fusion)])
    sizes = sorted({p["stains"] for t in content["tasks"] for p in t["curves"]["alike"]})[::-1]
    rows = []
    for each in content["tasks"]:
        for way in WAYS:
            means = {point["stains"]: f"{point['mean']:.3f}" for point in each["curves"][way]}
            rows.append([each["task"], each["encoder"], way, *(means.get(n, "-") for n in sizes)])
    body: list[Table | str] = [
        Table(
            f"Stains together against {content['alone']} alone, {content['protocol']} ({kind})",
            ("task", "encoder", "stains, fusion", "score", f"above {content['alone']} alone (95%)"),
            fusions,
        ),
        Table(
            "Mean score over all choices of so many stains: trained alike, or on all and tested "
            "with the others dropped",
            ("task", "encoder", "trained", *(f"{n} stain{'s' * (n > 1)}" for n in sizes)),
            rows,
        ),
    ]
    for each in content["tasks"]:
        if counts := ", ".join(f"{stain} {n}" for stain, n in each["lacking"].items() if n):
            body.append(
                f"{each['task']}: cases that lack a stain: {counts}; each is scored from "
                "the stains it has"
            )
    return [*body, PHANTOM_NOTICE] if content["phantom"] else body


def gain_text(fusion: Mapping[str, Any]) -> str:
    """Return what a fusion gains over the one stain alone, with its interval where it has one."""
    if fusion["difference"] is None:
        return "-"
    interval = " ({:+.3f} to {:+.3f})".format(*fusion["ci95"]) if fusion["ci95"] else ""
    return f"{fusion['difference']:+.3f}{interval}"


def stain_chart(content: Mapping[str, Any]) -> Any:
    """Return the Altair chart of a document: how scores fall with the stains, by way of training.

    A row for each task: the mean score over all choices of so many stains, with the band from the
    worst to the best choice.
    """
    import altair as alt

    rows = []
    for task in dict.fromkeys(each["task"] for each in content["tasks"]):
        of_task = [each for each in content["tasks"] if each["task"] == task]
        points = [
            {"encoder": each["encoder"], "trained": WAYS[way], **point}
            for each in of_task
            for way in WAYS
            for point in each["curves"][way]
        ]
        x = alt.X("stains:Q", title="stains left", scale=alt.Scale(reverse=True))
        colour = alt.Color("encoder:N", title=None, sort=[each["encoder"] for each in of_task])
        base = alt.Chart(alt.Data(values=points)).encode(  # type: ignore[no-untyped-call]
            x.axis(tickMinStep=1, format="d"), colour.scale(range=COLOURS)
        )
        y = {"title": of_task[0]["metric"], "scale": alt.Scale(zero=False)}
        band = base.mark_area(opacity=0.12).encode(alt.Y("lowest:Q", **y), y2="highest:Q")
        line = base.mark_line(point=True).encode(alt.Y("mean:Q", **y))
        panels = (band + line).properties(width=240, height=190)
        rows.append(panels.facet(column=alt.Column("trained:N", title=None)).properties(title=task))
    kind = "PHANTOM slides: " if content["phantom"] else ""
    title = alt.Title(
        f"{kind}what each stain of a case adds ({content['cohort']})",
        subtitle=f"{content['protocol']}. Lines: mean over all choices of so many stains; bands: "
        "worst to best choice",
    )
    return alt.vconcat(*rows, title=title, background="white", padding=14)

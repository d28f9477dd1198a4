"""leaderboard.json: everything the pages show, as plain JSON made from records alone.

It holds no clock of its own, so equal records give equal bytes. docs/leaderboard.md explains it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench import __version__
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import Board, Cell, Column
from madeleine_bench.leaderboard.comparison import (
    BASELINE,
    Comparison,
    Interval,
    compare,
    compare_subsets,
    controls_ahead,
)
from madeleine_bench.leaderboard.export import slug_of, to_csv
from madeleine_bench.leaderboard.external import drops
from madeleine_bench.leaderboard.pairwise import EncoderComparison, board_comparisons
from madeleine_bench.leaderboard.sources import Sources
from madeleine_bench.leaderboard.stratification import board_curves, stratify
from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.loader import Spec
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.reference import PublishedScores, read_adjudications, read_published
from madeleine_bench.specs.task import ClassLabels, SurvivalLabels, TaskSpec
from madeleine_bench.types import Progress

SCHEMA_VERSION = 1
Json = dict[str, Any]


def boards_text(boards: Sequence[Board], form: str, sources: Sources, progress: Progress) -> str:
    """Return boards as "csv" or "json".

    For JSON, what was not resampled before is resampled first.

    Raises:
        InputError: predictions are gone or were altered.
    """
    if form == "csv":
        return to_csv(boards)
    document = leaderboard_document(compared_boards(boards, sources, progress), sources)
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def compared_boards(
    boards: Sequence[Board], sources: Sources, progress: Progress
) -> list[tuple[Board, Comparison]]:
    """Return each board with the comparison of its encoders; scores are resampled where needed.

    Raises:
        InputError: predictions are gone or were altered.
    """
    progress.phase("resample", sum(len(c.cells) for board in boards for c in board.columns))

    def draws_of(record: Record) -> NDArray[np.float64]:
        draws = sources.draws(record)
        progress.advance(f"{record.encoder.name} {record.task.id}")
        return draws

    return [(board, compare(board, draws_of)) for board in boards]


def leaderboard_document(compared: Sequence[tuple[Board, Comparison]], sources: Sources) -> Json:
    """Return the leaderboard as plain JSON, with what others published and people decided.

    Args:
        compared: boards, each with the comparison of its encoders.
        sources: where their records lie.

    Raises:
        InputError: the predictions of a survival task are gone or were altered.
    """
    folder = resource_folder("leaderboard")
    published = read_published(folder / "published", sources.catalogue.tasks)
    document = {
        "schema_version": SCHEMA_VERSION,
        "package": f"madeleine-bench {__version__}",
        "links": _links(),
        "boards": [_board(*each, sources) for each in compared],
        "published": [row for scores in published for row in _published(scores)],
        "adjudications": read_adjudications(folder / "adjudications.yaml"),
    }
    plain: Json = json.loads(json.dumps(document, default=_as_dict))
    return plain


def _links() -> dict[str, str]:
    """Return the web addresses of the project by name, such as Documentation, where it has any."""
    urls = metadata("madeleine-bench").get_all("Project-URL") or []
    return {name: address for name, _, address in (url.partition(", ") for url in urls)}


def _as_dict(part: Any) -> Json:
    return part.model_dump(mode="json") if isinstance(part, Spec) else asdict(part)


def _slugs(board: Board) -> list[str]:
    """Return the file name of each column; labels that would share one are numbered."""
    names: list[str] = []
    for column in board.columns:
        slug, number = slug_of(column.label), 1
        while (name := slug if number == 1 else f"{slug}.{number}") in names:
            number += 1
        names.append(name)
    return names


def _board(board: Board, comparison: Comparison, sources: Sources) -> Json:
    pairs = board_comparisons(board, sources)
    subsets = compare_subsets(board, sources.draws)
    return {
        **_values(board, "name", "protocol", "track", "core"),
        "phantom": board.is_phantom,
        "notice": PHANTOM_NOTICE if board.is_phantom else "",
        "ranked_tasks": len(board.ranked_ids),
        "baseline": BASELINE if comparison.baselines else None,
        "families": sorted({task.family for task in board.tasks}),
        "tasks": [_task(task, board, sources, pairs) for task in board.tasks],
        "encoders": [
            {**_encoder(column, comparison, sources), "slug": slug}
            for column, slug in zip(board.columns, _slugs(board), strict=True)
        ],
        "pairs": [
            {
                **{name: value for name, value in asdict(pair).items() if name != "across"},
                **_values(pair.across, "wins", "ties", "losses"),
            }
            for pair in comparison.pairs
        ],
        "pairs_note": comparison.pairs_note,
        "comparisons": [_compared(pair) for pair in pairs],
        "subsets": {
            name: {"standings": subset.standings, "pairs_note": subset.pairs_note}
            for name, subset in subsets.items()
        },
        "critical_difference": comparison.critical_difference,
        "external": drops(board),
        "survival": {
            task.id: {
                column.label: board_curves(stratify("", cell.record, sources.predictions))
                for column in board.columns
                if (cell := column.cells.get(task.id)) and cell.record.verification != "V0"
            }
            for task in board.tasks
            if isinstance(task.labels, SurvivalLabels)
        },
    }


def _values(source: object, *names: str) -> Json:
    return {name: getattr(source, name) for name in names}


def _compared(pair: EncoderComparison) -> Json:
    return {
        **_values(pair, "first", "second", "conclusions", "left_out"),
        "tasks": {
            each.task: {
                **_values(each, "difference", "ci95", "p_value", "p_holm"),
                "higher": pair.higher(each),
            }
            for each in pair.tasks
        },
    }


def _task(
    task: TaskSpec, board: Board, sources: Sources, pairs: Sequence[EncoderComparison]
) -> Json:
    gains: dict[tuple[str, str], Interval] = {}
    for pair in pairs:
        for each in pair.tasks:
            if each.task == task.id and each.ci95 is not None:
                low, high = each.ci95
                gains[pair.first, pair.second] = low, high
                gains[pair.second, pair.first] = -high, -low

    def reads_the_answer(column: Column) -> bool:
        card = sources.card(column.newest)
        return card is not None and card.phantom_only

    cohort = sources.catalogue.cohorts[task.cohort]
    return {
        **_values(task, "id", "version", "title", "family", "cohort", "unit", "stains"),
        **_values(task, "citation", "licence", "train_on"),
        **_counts(task, board, sources),
        "organ": cohort.organ,
        **_values(cohort.access, "url", "how"),
        "access": cohort.access.status,
        "labels": task.labels.type,
        "classes": task.labels.classes if isinstance(task.labels, ClassLabels) else None,
        "metric": task.metric.name,
        "chance": task.chance,
        "core": task.id in board.core_ids,
        "ranked": task.id in board.ranked_ids,
        "protocol": board.protocol_of(task),
        "n": max(c.cells[task.id].record.inputs.n for c in board.columns if task.id in c.cells),
        "controls_ahead": controls_ahead(board, task, reads_the_answer, gains),
        "attested": {fact: source.status for fact, source in task.provenance.items()},
    }


def _counts(task: TaskSpec, board: Board, sources: Sources) -> Json:
    """Return how many patients and units of each class, or with an event, were scored."""
    for column in board.columns:
        cell = column.cells.get(task.id)
        if cell is None or not cell.comparable:
            continue
        try:
            units = sources.units(cell.record)
        except InputError:  # nobody recomputed it, or its predictions are gone
            continue
        counted = isinstance(task.labels, ClassLabels | SurvivalLabels)
        counts = Counter(units.stratum) if counted else None
        return {"patients": len(set(units.case)), "counts": counts}
    return {"patients": None, "counts": None}


def _encoder(column: Column, comparison: Comparison, sources: Sources) -> Json:
    newest, standing = column.newest, comparison.standings.get(column.label)
    card = sources.card(newest)
    costs = [c.record.provenance.get("encoding") or {} for c in column.cells.values()]
    sizes = [cost["parameters"] for cost in costs if isinstance(cost.get("parameters"), int)]
    return {
        **_values(column, "label", "name", "revision", "title", "kind", "rank", "unranked"),
        **_values(column, "complete", "coverage", "verification", "mean", "mean_rank", "win_rate"),
        **_values(column, "families", "features"),
        "description": card.description if card else "",
        "citation": card.citation if card else None,
        "licence": card.licence if card else "",
        "training_cohorts": newest.encoder.training_cohorts,
        "parameters": max(sizes, default=None),
        "dim": newest.inputs.dim,
        "seconds_per_slide": _seconds(costs),
        "device": newest.provenance.get("cpu"),
        "made": newest.made,
        "version": (newest.provenance.get("packages") or {}).get("madeleine-bench"),
        "mean_ci95": standing and standing.mean.ci95,
        "mean_ci95_cases": standing and standing.mean.ci95_cases,
        "rank_ci95": standing and standing.rank_ci95,
        "gain": standing and standing.gain,
        "letters": standing.letters if standing else "",
        "baseline": comparison.baselines.get(column.label),
        "cells": {task_id: _cell(cell) for task_id, cell in column.cells.items()},
    }


def _seconds(costs: Sequence[Json]) -> float | None:
    """Return the mean over cohorts of the seconds per slide, weighted by slides."""
    # The tasks of a cohort share its embeddings: equal pairs are one measurement.
    pairs = sorted({(c["slides"], c["seconds_per_slide"]) for c in costs if "slides" in c})
    slides = sum(count for count, _ in pairs)
    return sum(count * each for count, each in pairs) / slides if slides else None


def _cell(cell: Cell) -> Json:
    record = cell.record
    return {
        **_values(cell, "value", "corrected", "comparable", "contamination"),
        **_values(record.scores.main, "ci95", "method", "chance"),
        **_values(record.inputs, "n", "dim"),
        **_values(record, "status", "verification", "record_id", "protocol", "provenance"),
        "missing": {reason: len(ids) for reason, ids in record.inputs.missing.items()},
        "secondary": record.scores.secondary,
        "folds": [fold.model_dump(exclude={"n_iter", "diagnostics"}) for fold in record.folds],
        "hashes": {
            **_values(record.inputs, "embeddings", "labels", "splits"),
            "task": record.task.task_hash,
            "predictions": record.predictions.hash,
            "fingerprint": record.encoder.fingerprint,
        },
    }


def _published(scores: PublishedScores) -> list[Json]:
    return [
        {
            "encoder": row.encoder,
            "source": row.source,
            "citation": scores.sources[row.source],
            "task": task,
            "shots": shots,
            "metric": scores.metric,
            "value": value,
        }
        for row in scores.encoders
        for task, by_shots in row.scores.items()
        for shots, value in sorted(by_shots.items())
    ]

"""leaderboard.json: everything the pages show, as plain JSON made from records alone.

It holds no clock of its own, so equal records give equal bytes. docs/leaderboard.md explains it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from madeleine_bench import __version__
from madeleine_bench.files import reserved_on_windows
from madeleine_bench.leaderboard.aggregate import Board, Cell, Column
from madeleine_bench.leaderboard.comparison import (
    BASELINE,
    Comparison,
    Estimate,
    PairVerdict,
    Standing,
)
from madeleine_bench.leaderboard.control_flags import controls_ahead
from madeleine_bench.leaderboard.stratification import calibration_day
from madeleine_bench.metrics.calibration import calibration
from madeleine_bench.metrics.risk_groups import Curve, risk_groups
from madeleine_bench.protocols.cox import survival_days
from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.reference import Adjudication, PublishedScores
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.types import Survival

SCHEMA_VERSION = 1
Json = dict[str, Any]
PredictionsOf = Callable[[Record], pd.DataFrame]
CardOf = Callable[[Record], EncoderCard | None]


@dataclass(frozen=True)
class Compared:
    """A board with the comparison of its encoders."""

    board: Board
    comparison: Comparison


def leaderboard_document(
    compared: Sequence[Compared],
    catalogue: Catalogue,
    predictions_of: PredictionsOf,
    card_of: CardOf,
    published: Iterable[PublishedScores] = (),
    adjudications: Iterable[Adjudication] = (),
) -> Json:
    """Return the leaderboard as JSON.

    Raises:
        InputError: the predictions of a survival task are gone or were altered.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "package": f"madeleine-bench {__version__}",
        "boards": [_board(one, catalogue, predictions_of, card_of) for one in compared],
        "published": [row for scores in published for row in _published(scores)],
        "adjudications": [entry.model_dump(mode="json") for entry in adjudications],
    }


def slug_of(label: str) -> str:
    """Return a file name for an encoder's label.

    Examples:
        >>> slug_of("madeleine@2+cu 12"), slug_of("NUL.1")
        ('madeleine_2_cu_12', '_nul.1')
    """
    slug = re.sub(r"[^a-z0-9.-]", "_", label.lower())[:99].strip(".") or "encoder"
    return f"_{slug}" if reserved_on_windows(slug) else slug


def _slugs(board: Board) -> list[str]:
    """Return the file name of each column; labels that would share one are numbered."""
    names: list[str] = []
    for column in board.columns:
        slug, number = slug_of(column.label), 1
        while (name := slug if number == 1 else f"{slug}.{number}") in names:
            number += 1
        names.append(name)
    return names


def _board(
    one: Compared, catalogue: Catalogue, predictions_of: PredictionsOf, card_of: CardOf
) -> Json:
    board, comparison = one.board, one.comparison
    return {
        "name": board.name,
        "phantom": board.is_phantom,
        "notice": PHANTOM_NOTICE if board.is_phantom else "",
        "protocol": board.protocol,
        "core": board.core,
        "ranked_tasks": len(board.ranked_ids),
        "baseline": BASELINE if comparison.baselines else None,
        "families": sorted({task.family for task in board.tasks}),
        "tasks": [_task(task, board, catalogue, card_of) for task in board.tasks],
        "encoders": [
            {
                **_encoder(column, comparison.standings.get(column.label), card_of),
                "baseline": comparison.baselines.get(column.label),
                "slug": slug,
            }
            for column, slug in zip(board.columns, _slugs(board), strict=True)
        ],
        "pairs": [_pair(pair) for pair in comparison.pairs],
        "pairs_note": comparison.pairs_note,
        "critical_difference": _critical_difference(comparison),
        "survival": {
            task.id: {
                column.label: _survival(predictions_of(column.cells[task.id].record))
                for column in board.columns
                if task.id in column.cells and column.cells[task.id].record.verification != "V0"
            }
            for task in board.tasks
            if not isinstance(task.labels, ClassLabels)
        },
    }


def _task(task: TaskSpec, board: Board, catalogue: Catalogue, card_of: CardOf) -> Json:
    def reads_the_answer(column: Column) -> bool:
        card = card_of(_newest(column))
        return card is not None and card.phantom_only

    cohort = catalogue.cohorts[task.cohort]
    labels = task.labels
    counts = [c.cells[task.id].record.inputs.n for c in board.columns if task.id in c.cells]
    return {
        "id": task.id,
        "version": task.version,
        "title": task.title,
        "family": task.family,
        "cohort": task.cohort,
        "organ": cohort.organ,
        "unit": task.unit,
        "stains": list(task.stains),
        "labels": labels.type,
        "classes": list(labels.classes) if isinstance(labels, ClassLabels) else None,
        "metric": task.metric.name,
        "chance": task.metric.chance,
        "core": task.id in board.core_ids,
        "ranked": task.id in board.ranked_ids,
        "protocol": board.protocol_of(task),
        "n": max(counts),
        "citation": task.citation,
        "licence": task.licence,
        "controls_ahead": [asdict(c) for c in controls_ahead(board, task, reads_the_answer)],
        "attested": {fact: known.status for fact, known in sorted(task.provenance.items())},
    }


def _encoder(column: Column, standing: Standing | None, card_of: CardOf) -> Json:
    cells = list(column.cells.values())
    newest = _newest(column)
    encoder = newest.encoder
    card = card_of(newest)
    cost = [r.provenance.get("encoding") or {} for r in (c.record for c in cells)]
    summary = column.summary
    return {
        "label": column.label,
        "name": encoder.name,
        "revision": encoder.revision,
        "features": {
            cohort: features.model_dump() if features else None
            for cohort, features in column.features.items()
        },
        "title": column.title,
        "kind": column.kind,
        "description": card.description if card else "",
        "citation": card.citation if card else None,
        "licence": card.licence if card else "",
        "training_cohorts": _listed(encoder.training_cohorts),
        "parameters": max((c["parameters"] for c in cost if _counted(c)), default=None),
        "dim": newest.inputs.dim,
        "seconds_per_slide": _seconds(cost),
        "device": newest.provenance.get("cpu"),
        "rank": column.rank,
        "unranked": column.unranked,
        "complete": column.complete,
        "coverage": column.coverage,
        "verification": column.verification,
        "mean": column.mean,
        "mean_ci95": _ends(standing.mean.ci95) if standing else None,
        "mean_ci95_cases": _ends(standing.mean.ci95_cases) if standing else None,
        "rank_ci95": _ends(standing.rank_ci95) if standing else None,
        "mean_rank": column.mean_rank,
        "win_rate": summary.win_rate if summary else None,
        "gain": _gain(standing.gain) if standing and standing.gain else None,
        "letters": standing.letters if standing else "",
        "families": dict(column.families),
        "cells": {task_id: _cell(cell) for task_id, cell in sorted(column.cells.items())},
    }


def _newest(column: Column) -> Record:
    """Return the record of a column that was made last: what it says of the encoder holds."""
    return max((cell.record for cell in column.cells.values()), key=lambda record: record.made)


def _cell(cell: Cell) -> Json:
    record = cell.record
    main = record.scores.main
    return {
        "value": main.value,
        "ci95": _ends(main.ci95),
        "method": main.method,
        "corrected": cell.corrected,
        "status": record.status,
        "comparable": cell.comparable,
        "n": record.inputs.n,
        "dim": record.inputs.dim,
        "missing": {reason: len(ids) for reason, ids in sorted(record.inputs.missing.items())},
        "contamination": cell.contamination,
        "verification": record.verification,
        "record_id": record.record_id,
        "protocol": record.protocol,
        "chance": main.chance,
        "secondary": dict(sorted(record.scores.secondary.items())),
        "folds": [
            {
                "key": fold.key,
                "value": fold.value,
                "n_train": fold.n_train,
                "n_test": fold.n_test,
                "converged": fold.converged,
                "reason": fold.reason,
                "flag": fold.flag,
            }
            for fold in record.folds
        ],
        "hashes": {
            "embeddings": record.inputs.embeddings,
            "labels": record.inputs.labels,
            "splits": record.inputs.splits,
            "task": record.task.task_hash,
            "predictions": record.predictions.hash,
            "fingerprint": record.encoder.fingerprint,
        },
        "provenance": record.provenance,
    }


def _pair(pair: PairVerdict) -> Json:
    return {
        "first": pair.first,
        "second": pair.second,
        "mean": pair.mean,
        "wins": pair.across.wins,
        "ties": pair.across.ties,
        "losses": pair.across.losses,
        "p_signed_rank": pair.p_signed_rank,
        "p_cases": pair.p_cases,
        "p_holm": pair.p_holm,
        "better": pair.better,
    }


def _critical_difference(comparison: Comparison) -> Json | None:
    found = comparison.critical_difference
    if found is None:
        return None
    return {
        "friedman_p": found.friedman_p,
        "critical_difference": found.difference,
        "mean_ranks": dict(found.mean_ranks),
        "groups": [list(group) for group in found.groups],
    }


def _survival(predictions: pd.DataFrame) -> Json:
    """Return risk groups and calibration over the test units of the first repeat, each once."""
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    survival = Survival(
        first["time_days"].to_numpy(dtype=np.float64), first["event"].to_numpy(dtype=np.bool_)
    )
    groups = risk_groups(survival, first["high_risk"].to_numpy(dtype=np.bool_))
    day = calibration_day(survival_days(list(first.columns)))
    judged = None
    if day is not None:
        judged = asdict(calibration(survival, first[f"surv@{day}"].to_numpy(np.float64), day))
    return {
        "low": _curve(groups.low),
        "high": _curve(groups.high),
        "logrank_p": groups.logrank_p,
        "hazard_ratio": groups.hazard_ratio,
        "hazard_ratio_ci95": _ends(groups.hazard_ratio_ci95),
        "calibration": judged,
    }


def _curve(curve: Curve | None) -> Json | None:
    if curve is None:
        return None
    content = asdict(curve)
    content["survival"] = content.pop("alive")
    return {key: list(v) if isinstance(v, tuple) else v for key, v in content.items()}


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


def _gain(gain: Estimate) -> Json:
    return {
        "value": gain.value,
        "ci95": _ends(gain.ci95),
        "ci95_cases": _ends(gain.ci95_cases),
    }


def _counted(cost: Json) -> bool:
    return isinstance(cost.get("parameters"), int)


def _seconds(costs: Sequence[Json]) -> float | None:
    """Return the mean over cohorts of the seconds per slide, weighted by slides."""
    # The tasks of a cohort share its embeddings: equal pairs are one measurement.
    known = sorted({(c["slides"], c["seconds_per_slide"]) for c in costs if "slides" in c})
    slides = sum(count for count, _ in known)
    return sum(count * each for count, each in known) / slides if slides else None


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)

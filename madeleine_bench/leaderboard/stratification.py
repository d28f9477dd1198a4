"""Patients by predicted risk: curves, numbers at risk and calibration of survival records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench import __version__
from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.export import slug_of
from madeleine_bench.leaderboard.page.figures import survival_figure
from madeleine_bench.leaderboard.page.text import NONE, interval, number, p_value
from madeleine_bench.leaderboard.sources import Sources, predictions_name
from madeleine_bench.metrics.calibration import Calibration, RiskGroups, calibration, risk_groups
from madeleine_bench.protocols.cox import survival_days
from madeleine_bench.protocols.scorers import require_columns
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import SurvivalLabels, TaskSpec
from madeleine_bench.types import Survival

DAYS_A_YEAR = 365.25
_MOST_TICKS = 8


@dataclass(frozen=True)
class Stratification:
    """What the predictions of one record say of its patients.

    Attributes:
        label: the encoder, with its revision where the board holds several.
        record: the record.
        repeats: how often the folds were drawn; what follows is of the first, each unit once.
        groups: the curves of low and high risk, log-rank test and hazard ratio.
        at_risk: by `years`, how many units of `low` and of `high` risk are still watched.
        calibration: of predicted survival at a day; None where none was predicted.
    """

    label: str
    record: Record
    repeats: int
    groups: RiskGroups
    at_risk: Mapping[str, list[int]]
    calibration: Calibration | None


def survival_tasks(catalogue: Catalogue, patterns: Sequence[str]) -> list[TaskSpec]:
    """Return the survival tasks that are named; all of them where no name is given.

    Raises:
        InputError: a name is of no task, or of one that is not of survival.
    """
    named = catalogue.select(patterns) if patterns else list(catalogue.tasks.values())
    chosen = [task for task in named if isinstance(task.labels, SurvivalLabels)]
    if not chosen:
        kinds = ", ".join(f"{task.id} is {task.labels.type}" for task in named[:5])
        raise InputError(f"--task: no survival task named ({kinds}); see mbench tasks list")
    return chosen


def survival_records(
    records: Sequence[Record],
    catalogue: Catalogue,
    task: TaskSpec,
    encoders: Sequence[str] = (),
    protocol: str | None = None,
) -> dict[str, list[tuple[str, Record]]]:
    """Return by board the label and the newest record of each encoder on a task, best first.

    Records that nobody recomputed (V0) have no predictions and are left out.

    Args:
        records: all there are.
        catalogue: the catalogue of the task.
        task: a survival task.
        encoders: names; empty takes all.
        protocol: versioned name; None takes the task's first, and fine-tuning for supervised ones.

    Raises:
        InputError: there is no such record, or none of an encoder that was named.
    """
    boards = {
        board.name: [
            (column.label, cell.record)
            for column in board.columns
            if (cell := column.cells.get(task.id)) and cell.record.verification != "V0"
        ]
        for board in build_boards(records, catalogue, protocol)
    }
    names = {record.encoder.name for rows in boards.values() for _, record in rows}
    if not names:
        under = f" under {protocol}" if protocol else ""
        raise InputError(
            f"no record of {task.id}{under} that can be read; make one with "
            f"mbench run --task {task.id}"
        )
    for name in encoders:
        if name not in names:
            hint = did_you_mean(name, sorted(names))
            raise InputError(f"no record of {task.id} is of encoder '{name}'{hint}")
    chosen = {
        board: [row for row in rows if not encoders or row[1].encoder.name in encoders]
        for board, rows in boards.items()
    }
    return {
        board: sorted(rows, key=lambda row: (-row[1].scores.main.value, row[0]))
        for board, rows in chosen.items()
        if rows
    }


def stratify(
    label: str, record: Record, predictions_of: Callable[[Record], pd.DataFrame]
) -> Stratification:
    """Return curves and calibration of a survival record, over the first repeat of its folds.

    The test units of all folds of a repeat are all units, each once, each predicted by a model that
    did not see it. The groups come with the predictions: above or below the median risk of the
    training units of the fold. Calibration is judged at the predicted day nearest to their median,
    the earlier of two.

    Args:
        label: the name of the encoder.
        record: a survival record.
        predictions_of: gives the predictions of a record.

    Raises:
        InputError: the predictions are gone, were altered or lack a column.
    """
    predictions = predictions_of(record)
    where = predictions_name(record)
    require_columns(predictions, ["repeat", "time_days", "event", "high_risk"], where)
    days = survival_days(list(predictions.columns))
    require_columns(predictions, [f"surv@{d}" for d in days], where)
    middle = float(np.median(days)) if days else 0.0
    day = min(days, key=lambda one: (abs(one - middle), one), default=None)
    repeats = sorted(set(predictions["repeat"]))
    first = predictions[predictions["repeat"] == repeats[0]]
    try:
        survival = Survival(
            first["time_days"].to_numpy(dtype=np.float64), first["event"].to_numpy(dtype=np.bool_)
        )
        calibrated = None
        if day is not None:
            alive = first[f"surv@{day}"].to_numpy(dtype=np.float64)
            calibrated = calibration(survival, alive, day)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    high = first["high_risk"].to_numpy(dtype=np.bool_)
    groups = risk_groups(survival, high)
    return Stratification(label, record, len(repeats), groups, _at_risk(survival, high), calibrated)


def _at_risk(survival: Survival, high: NDArray[np.bool_]) -> dict[str, list[int]]:
    last = int(survival.time_days.max() / DAYS_A_YEAR)
    step = next(s for s in (1, 2, 5, 10, 20, 50) if last // s < _MOST_TICKS)
    years = np.arange(0, last + 1, step)
    watched = survival.time_days[:, None] >= years * DAYS_A_YEAR
    counts = {"years": years, "low": watched[~high].sum(axis=0), "high": watched[high].sum(axis=0)}
    return {name: numbers.tolist() for name, numbers in counts.items()}


def stratification_report(
    folders: Sequence[Path],
    catalogue: Catalogue,
    tasks: Sequence[str] = (),
    encoders: Sequence[str] = (),
    protocol: str | None = None,
) -> Report:
    """Return risk groups and calibration of survival records. Equal records give equal numbers.

    Args:
        folders: results folders.
        catalogue: the catalogue of the tasks.
        tasks: ids or globs; empty takes all survival tasks.
        encoders: names; empty takes all.
        protocol: its name; None takes the task's first, and fine-tuning for supervised encoders.

    Raises:
        InputError: an argument is unknown, or predictions are gone or were altered.
    """
    sources = Sources(folders, catalogue)
    name = catalogue.protocol(protocol).name if protocol else None
    numbers: list[dict[str, Any]] = []
    body: list[Table | str] = []
    charts: dict[str, Any] = {}
    for task in survival_tasks(catalogue, tasks):
        boards = survival_records(sources.records, catalogue, task, encoders, name)
        for board, rows in boards.items():
            strata = [stratify(label, record, sources.predictions) for label, record in rows]
            phantom = board.startswith("phantom")
            notice = PHANTOM_NOTICE if phantom else ""
            stratum = {"board": board, "phantom": phantom, "notice": notice, "task": task.id}
            numbers.append({**stratum, "encoders": [_numbers(one) for one in strata]})
            body.append(_table(board, task, strata))
            for one in strata:
                if one.repeats > 1:
                    body.append(f"{one.label}: the first of {one.repeats} repeats")
                file = f"{slug_of(one.label)}.{one.record.protocol.replace('/', '-')}"
                charts[f"{board}/{task.id}/{file}"] = stratification_figure(one, task.title)
            body += [notice] if phantom else []
    document = {
        "what": "patients by predicted risk, and calibration of predicted survival",
        "package": f"madeleine-bench {__version__}",
        "units": "the test units of all folds of the first repeat, each once",
        "groups": "above or below the median risk of the training units of the fold",
        "slope": "Cox regression on log(-log predicted survival), whole follow-up",
        "strata": numbers,
    }
    return Report(document, body, charts)


def stratification_figure(one: Stratification, task_title: str) -> str:
    """Return an encoder on a task as SVG: curves, numbers at risk and calibration."""
    main = one.record.scores.main
    heading = f"{one.label}: C {_estimate(main.value, main.ci95, 3)}"
    phantom = one.record.board.startswith("phantom")
    return survival_figure(task_title, heading, one.label, board_curves(one), phantom)


def board_curves(one: Stratification) -> dict[str, Any]:
    """Return curves, numbers at risk and calibration as leaderboard.json holds them."""
    content = asdict(one.groups)
    for curve in filter(None, (content["low"], content["high"])):
        curve["survival"] = curve.pop("alive")
    calibrated = one.calibration and asdict(one.calibration)
    return {**content, "at_risk": one.at_risk, "calibration": calibrated}


def _numbers(one: Stratification) -> dict[str, Any]:
    """Return all numbers of an encoder, ready for JSON."""
    record = one.record
    return {
        "encoder": one.label,
        "kind": record.encoder.kind,
        "protocol": record.protocol,
        "record_id": record.record_id,
        "repeats": one.repeats,
        "concordance": record.scores.main.value,
        "concordance_ci95": record.scores.main.ci95,
        **asdict(one.groups),
        "at_risk": one.at_risk,
        "calibration": asdict(one.calibration) if one.calibration else None,
    }


def _table(board: str, task: TaskSpec, strata: Sequence[Stratification]) -> Table:
    kind = "PHANTOM" if board.startswith("phantom") else "real data"
    days = sorted({one.calibration.day for one in strata if one.calibration})
    at = f", calibration at day {', '.join(map(str, days))}" if days else ""
    header = ["encoder", "protocol", "C", "low risk", "high risk", "hazard ratio", "log-rank p"]
    header += ["slope", "O/E"]
    rows = []
    for one in strata:
        main, groups, fit = one.record.scores.main, one.groups, one.calibration
        row = [
            one.label, one.record.protocol, _estimate(main.value, main.ci95, 3),
            *(f"{c.events} of {c.n}" if c else "nobody" for c in (groups.low, groups.high)),
            _estimate(groups.hazard_ratio, groups.hazard_ratio_ci95), p_value(groups.logrank_p),
            _estimate(fit.slope, fit.slope_ci95) if fit else NONE,
            _estimate(fit.observed_over_expected, fit.observed_over_expected_ci95) if fit else NONE,
        ]  # fmt: skip
        rows.append([text.replace(" to ", "-") for text in row])
    return Table(f"{task.id} on board '{board}' ({kind}){at}", header, rows)


def _estimate(value: float | None, ends: tuple[float, float] | None, digits: int = 2) -> str:
    return number(value, digits) + (f" ({interval(ends, digits)})" if ends else "")

"""Survival records as a table, as JSON, and as figures: risk groups and calibration."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from madeleine_bench import __version__
from madeleine_bench.cli.console import print_table
from madeleine_bench.figures import styled_png, styled_svg
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.leaderboard.document import slug_of
from madeleine_bench.leaderboard.sources import Sources
from madeleine_bench.leaderboard.stratification import (
    Stratification,
    stratify,
    survival_records,
    survival_tasks,
)
from madeleine_bench.leaderboard.stratification_figure import (
    comparison_chart,
    stratification_chart,
)
from madeleine_bench.metrics.risk_groups import Curve
from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.task import TaskSpec


@dataclass(frozen=True)
class StratifyRequest:
    """What the user asked for; an empty tuple, or None, means all, or what is usual."""

    results: tuple[Path, ...]
    tasks: tuple[str, ...]
    encoders: tuple[str, ...]
    protocol: str | None
    day: int | None
    catalogue: Path | None


@dataclass(frozen=True)
class TaskStrata:
    """The encoders of one board on one survival task, best concordance first."""

    board: str
    task: TaskSpec
    encoders: tuple[Stratification, ...]

    @property
    def phantom(self) -> bool:
        """Whether the patients are synthetic."""
        return self.board.startswith("phantom")


def report_strata(
    request: StratifyRequest, form: Literal["table", "json"], out: Path | None
) -> None:
    """Print risk groups and calibration of survival records, and write them to a folder.

    Raises:
        InputError: the request cannot be carried out, or predictions are gone or were altered.
    """
    strata = read_strata(request)
    text = json.dumps(document(strata), indent=1, allow_nan=False) + "\n"
    if out is not None:
        write_text(out / "stratify.json", text)
        for one in strata:
            _draw(one, out)
        typer.echo(f"numbers and figures in {out}", err=True)
    if form == "json":
        typer.echo(text, nl=False)
    else:
        for one in strata:
            _print(one)


def read_strata(request: StratifyRequest) -> list[TaskStrata]:
    """Return the strata of every board and survival task that was asked for.

    Raises:
        InputError: the request cannot be carried out, or predictions are gone or were altered.
    """
    catalogue, sources = load_catalogue(request.catalogue), Sources(request.results)
    sources.check(catalogue)
    protocol = catalogue.protocol(request.protocol).name if request.protocol else None
    found = []
    for task in survival_tasks(catalogue, request.tasks):
        boards = survival_records(sources.records, catalogue, task, request.encoders, protocol)
        for board, rows in boards.items():
            encoders = tuple(
                stratify(label, record, sources.predictions, request.day) for label, record in rows
            )
            found.append(TaskStrata(board, task, encoders))
    return found


def document(strata: Sequence[TaskStrata]) -> dict[str, Any]:
    """Return all numbers, ready for JSON. Equal records give equal documents."""
    return {
        "what": "patients by predicted risk, and calibration of predicted survival",
        "package": f"madeleine-bench {__version__}",
        "units": "the test units of all folds of the first repeat, each once",
        "groups": "above or below the median risk of the training units of the fold",
        "slope": "Cox regression on log(-log predicted survival), whole follow-up",
        "strata": [
            {
                "board": one.board,
                "phantom": one.phantom,
                "notice": PHANTOM_NOTICE if one.phantom else "",
                "task": one.task.id,
                "encoders": [_encoder(found) for found in one.encoders],
            }
            for one in strata
        ],
    }


def _encoder(found: Stratification) -> dict[str, Any]:
    main = found.record.scores.main
    return {
        "encoder": found.label,
        "kind": found.kind,
        "protocol": found.record.protocol,
        "record_id": found.record.record_id,
        "repeats": found.repeats,
        "concordance": main.value,
        "concordance_ci95": main.ci95,
        "hazard_ratio": found.groups.hazard_ratio,
        "hazard_ratio_ci95": found.groups.hazard_ratio_ci95,
        "logrank_p": found.groups.logrank_p,
        "low": asdict(found.groups.low) if found.groups.low else None,
        "high": asdict(found.groups.high) if found.groups.high else None,
        "at_risk": asdict(found.at_risk),
        "calibration": asdict(found.calibration) if found.calibration else None,
        "notes": list(found.notes),
    }


def _draw(one: TaskStrata, out: Path) -> None:
    folder = out / one.board / one.task.id
    charts = {
        f"{slug_of(found.label)}.{found.record.protocol.replace('/', '-')}": stratification_chart(
            found, one.task.title
        )
        for found in one.encoders
    }
    if len(one.encoders) > 1:
        charts["all"] = comparison_chart(one.encoders, one.task.title)
    for name, chart in charts.items():
        write_text(folder / f"{name}.svg", styled_svg(chart))
        write_bytes(folder / f"{name}.png", styled_png(chart))


def _print(one: TaskStrata) -> None:
    kind = "PHANTOM" if one.phantom else "real data"
    days = {found.calibration.day for found in one.encoders if found.calibration}
    at = f", calibration at day {', '.join(map(str, sorted(days)))}" if days else ""
    header = ["encoder", "protocol", "C", "low risk", "high risk", "hazard ratio", "log-rank p",
              "slope", "O/E", "ICI"]  # fmt: skip
    rows = [_row(found) for found in one.encoders]
    print_table(f"{one.task.id} on board '{one.board}' ({kind}){at}", header, rows)
    for found in one.encoders:
        for note in found.notes:
            typer.echo(f"{found.label}: {note}")
        if found.repeats > 1:
            typer.echo(f"{found.label}: the first of {found.repeats} repeats")
    if one.phantom:
        typer.echo(PHANTOM_NOTICE)


def _row(found: Stratification) -> list[str]:
    groups, main, judged = found.groups, found.record.scores.main, found.calibration
    p = groups.logrank_p
    numbers = ["-", "-", "-"]
    if judged is not None:
        numbers = [
            _with_interval(judged.slope, judged.slope_ci95),
            _with_interval(judged.observed_over_expected, judged.observed_over_expected_ci95),
            "-" if judged.integrated_index is None else f"{judged.integrated_index:.3f}",
        ]
    return [
        found.label,
        found.record.protocol,
        _with_interval(main.value, main.ci95, 3),
        _counts(groups.low),
        _counts(groups.high),
        _with_interval(groups.hazard_ratio, groups.hazard_ratio_ci95),
        "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
        *numbers,
    ]


def _with_interval(value: float | None, ends: tuple[float, float] | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    interval = f" ({ends[0]:.{digits}f}-{ends[1]:.{digits}f})" if ends else ""
    return f"{value:.{digits}f}{interval}"


def _counts(curve: Curve | None) -> str:
    return "nobody" if curve is None else f"{curve.events} of {curve.n}"

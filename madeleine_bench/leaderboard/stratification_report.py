"""Risk groups and calibration of survival records as a report: tables, numbers and figures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from madeleine_bench import __version__
from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.export import slug_of
from madeleine_bench.leaderboard.sources import Sources
from madeleine_bench.leaderboard.stratification import (
    DAYS_A_YEAR,
    AtRisk,
    Stratification,
    stratify,
    survival_records,
    survival_tasks,
)
from madeleine_bench.metrics.calibration import Calibration, Curve, RiskGroups
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.task import TaskSpec

_GROUPS = ("low risk", "high risk")
_CALIBRATION = ("slope", "O/E", "ICI")
_WIDTH, _SQUARE, _SMALL = 420, 250, 150


def stratification_report(
    folders: Sequence[Path],
    catalogue: Catalogue,
    tasks: Sequence[str] = (),
    encoders: Sequence[str] = (),
    protocol: str | None = None,
    day: int | None = None,
) -> Report:
    """Return risk groups and calibration of survival records. Equal records give equal numbers.

    Args:
        folders: results folders.
        catalogue: the catalogue of the tasks.
        tasks: ids or globs; empty takes all survival tasks.
        encoders: names; empty takes all.
        protocol: its name; None takes the task's first, and fine-tuning for supervised encoders.
        day: at which calibration is judged; None takes the middle one of those predicted.

    Raises:
        InputError: an argument is unknown, or predictions are gone or were altered.
    """
    sources = Sources(folders)
    sources.check(catalogue)
    name = catalogue.protocol(protocol).name if protocol else None
    numbers: list[dict[str, Any]] = []
    body: list[Table | str] = []
    charts: dict[str, Any] = {}
    for task in survival_tasks(catalogue, tasks):
        boards = survival_records(sources.records, catalogue, task, encoders, name)
        for board, rows in boards.items():
            strata = [stratify(label, record, sources.predictions, day) for label, record in rows]
            phantom = board.startswith("phantom")
            notice = PHANTOM_NOTICE if phantom else ""
            stratum = {"board": board, "phantom": phantom, "notice": notice, "task": task.id}
            numbers.append({**stratum, "encoders": [_numbers(one) for one in strata]})
            body.append(_table(board, task, strata))
            body += [f"{one.label}: {note}" for one in strata for note in one.notes]
            repeated = [one for one in strata if one.repeats > 1]
            body += [f"{one.label}: the first of {one.repeats} repeats" for one in repeated]
            body += [notice] if phantom else []
            for one in strata:
                file = f"{slug_of(one.label)}.{one.record.protocol.replace('/', '-')}"
                charts[f"{board}/{task.id}/{file}"] = stratification_chart(one, task.title)
            if len(strata) > 1:
                charts[f"{board}/{task.id}/all"] = comparison_chart(strata, task.title)
    document = {
        "what": "patients by predicted risk, and calibration of predicted survival",
        "package": f"madeleine-bench {__version__}",
        "units": "the test units of all folds of the first repeat, each once",
        "groups": "above or below the median risk of the training units of the fold",
        "slope": "Cox regression on log(-log predicted survival), whole follow-up",
        "strata": numbers,
    }
    return Report(document, body, charts)


def stratification_chart(one: Stratification, task_title: str) -> Any:
    """Return the figure of one encoder on one task: curves over numbers at risk, calibration."""
    last = max(_last_year(one.groups), one.at_risk.years[-1] if one.at_risk.years else 0.0, 0.1)
    curves = survival_curves(one.groups, last, _SQUARE)
    # By their plots alone the two panels share the axis; the gap holds its labels and title.
    panels = [alt.vconcat(curves, _numbers_at_risk(one.at_risk, last), spacing=62, bounds="flush")]
    if one.calibration is not None:
        panels.append(calibration_panel(one.calibration, _SQUARE))
    title = figure_title(f"{one.label}: {task_title}", [groups_line(one)], one.record.board)
    chart = alt.hconcat(*panels, title=title, spacing=70, padding=16, background="white")
    return chart.resolve_scale(color="independent")


def comparison_chart(strata: Sequence[Stratification], task_title: str) -> Any:
    """Return several encoders on one task, a row each: curves, and calibration."""
    last = max([_last_year(one.groups) for one in strata] + [0.1])
    rows = []
    for one in strata:
        curves = survival_curves(one.groups, last, _SMALL)
        panels = [curves.properties(title=_panel_title(one.label, groups_line(one)))]
        if one.calibration is not None:
            panels.append(calibration_panel(one.calibration, _SMALL))
        rows.append(alt.hconcat(*panels, spacing=50).resolve_scale(color="independent"))
    below = ["Best concordance first; bands and bars: 95%."]
    title = figure_title(task_title, below, strata[0].record.board)
    chart = alt.vconcat(*rows, title=title, spacing=22, padding=16, background="white")
    return chart.resolve_scale(color="independent")


def figure_title(text: str, below: Sequence[str], board: str, offset: int = 16) -> Any:
    """Return the title of a figure of a board; that of a phantom says PHANTOM."""
    phantom = " (PHANTOM, synthetic data)" if board.startswith("phantom") else ""
    return alt.Title(
        f"{text}{phantom}", subtitle=list(below), fontSize=15, fontWeight=600, color=INK,
        subtitleColor=GREY, subtitleFontSize=11, subtitlePadding=5, anchor="start", offset=offset,
    )  # fmt: skip


def groups_line(one: Stratification) -> str:
    """Return hazard ratio, log-rank test and concordance of an encoder as one line."""
    texts = zip(("C", "hazard ratio", "log-rank p"), _group_texts(one), strict=True)
    return ", ".join(f"{name} {text}" for name, text in texts if text != "-")


def calibration_line(calibrated: Calibration) -> str:
    """Return slope, observed over expected and the calibration index as one line."""
    texts = zip(_CALIBRATION, _calibration_texts(calibrated), strict=True)
    line = ", ".join(f"{name} {text}" for name, text in texts if text != "-")
    return (line or "undefined").replace("-", "\u2212")


def survival_curves(groups: RiskGroups, last: float, height: int) -> Any:
    """Return the Kaplan-Meier curves of both groups with 95% bands, up to the last year."""
    named = _named(groups)
    steps = pd.concat(
        pd.DataFrame({"group": name, "years": np.array(curve.time_days) / DAYS_A_YEAR,
                      "alive": curve.alive, "low": curve.lower, "high": curve.upper})
        for name, curve in named
    )  # fmt: skip
    # The corner below the curves is the one place that they always leave free.
    key = pd.DataFrame(
        {"group": name, "years": 0.02 * last, "alive": 0.18 - 0.1 * place,
         "text": f"{name}: {curve.events} events in {curve.n}"}
        for place, (name, curve) in enumerate(named)
    )  # fmt: skip
    x = alt.X("years:Q", title="years", axis=alt.Axis(grid=False),
              scale=alt.Scale(domain=[0, last], nice=False))  # fmt: skip
    axis = alt.Axis(title="survival", format=".0%", tickCount=5, domain=False, ticks=False)
    scale = alt.Scale(domain=[0, 1])
    base = alt.Chart(steps).encode(x, _group_colour())
    layers = [
        base.mark_area(interpolate="step-after", opacity=0.16, line=False).encode(
            alt.Y("low:Q", scale=scale, axis=axis), alt.Y2("high:Q")
        ),
        base.mark_line(interpolate="step-after", strokeWidth=2).encode(
            alt.Y("alive:Q", scale=scale)
        ),
        alt.Chart(key).mark_text(align="left", fontSize=11, fontWeight=600).encode(
            alt.X("years:Q"), alt.Y("alive:Q", scale=scale), _group_colour(), alt.Text("text:N")
        ),
    ]  # fmt: skip
    return alt.layer(*layers).properties(width=_WIDTH, height=height)


def calibration_panel(calibrated: Calibration, side: int) -> Any:
    """Return observed over predicted survival at a day: groups with 95% bars, a smooth curve."""
    points = pd.DataFrame(
        [
            (g.predicted, g.observed, *(g.ci95 or (g.observed, g.observed)))
            for g in calibrated.groups if g.observed is not None
        ],
        columns=["predicted", "observed", "low", "high"],
    )  # fmt: skip
    values = [*points["predicted"], *points["low"], *np.ravel(calibrated.curve)]
    low = max(0.0, (min(values, default=0.0) * 20 // 1) / 20)
    scale = alt.Scale(domain=[low, 1.0], nice=False)
    year = f"{calibrated.day / DAYS_A_YEAR:.1f} years"
    x = alt.X("predicted:Q", scale=scale, title=f"predicted survival at {year}",
              axis=alt.Axis(format=".0%", tickCount=4, grid=False))  # fmt: skip
    y = alt.Y("observed:Q", scale=scale, title="observed (Kaplan-Meier)",
              axis=alt.Axis(format=".0%", tickCount=4, domain=False, ticks=False))  # fmt: skip
    ideal = pd.DataFrame({"predicted": [low, 1.0], "observed": [low, 1.0]})
    smooth = pd.DataFrame(list(calibrated.curve), columns=["predicted", "observed"])
    base = alt.Chart(points).encode(x)
    layers = [
        alt.Chart(ideal).mark_line(strokeDash=[4, 3], color=GREY, strokeWidth=1).encode(x, y),
        alt.Chart(smooth).mark_line(color=COLOURS[2], strokeWidth=1.8).encode(x, y),
        base.mark_rule(color=INK, strokeWidth=1.4).encode(
            alt.Y("low:Q", scale=scale), alt.Y2("high:Q")
        ),
        base.mark_point(filled=True, size=60, color=INK, opacity=1).encode(y),
    ]
    title = _panel_title(f"Calibration at {year}", calibration_line(calibrated))
    return alt.layer(*layers).properties(width=side, height=side, title=title)


def _numbers_at_risk(table: AtRisk, last: float) -> Any:
    rows = pd.DataFrame({"years": table.years, _GROUPS[0]: table.low, _GROUPS[1]: table.high})
    title = alt.Title("number at risk", anchor="start", fontSize=11, color=GREY,
                      fontWeight="normal", offset=2)  # fmt: skip
    chart = alt.Chart(rows.melt("years", var_name="group", value_name="n")).mark_text(fontSize=11)
    return chart.encode(
        alt.X("years:Q", scale=alt.Scale(domain=[0, last], nice=False), axis=None),
        alt.Y("group:N", sort=_GROUPS, title=None,
              axis=alt.Axis(domain=False, ticks=False, labelPadding=20)),
        alt.Text("n:Q", format="d"),
        _group_colour(),
    ).properties(width=_WIDTH, height=36, title=title)  # fmt: skip


def _panel_title(text: str, below: str) -> Any:
    return alt.Title(
        text, subtitle=below, anchor="start", fontSize=12, fontWeight=600, color=INK, offset=8,
        subtitleColor=GREY, subtitleFontSize=11,
    )  # fmt: skip


def _group_colour() -> Any:
    scale = alt.Scale(domain=_GROUPS, range=COLOURS[:2])
    return alt.Color("group:N", scale=scale, legend=None)


def _named(groups: RiskGroups) -> list[tuple[str, Curve]]:
    both = zip(_GROUPS, (groups.low, groups.high), strict=True)
    return [(name, curve) for name, curve in both if curve is not None]


def _last_year(groups: RiskGroups) -> float:
    return max(curve.time_days[-1] for _, curve in _named(groups)) / DAYS_A_YEAR


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
        "at_risk": asdict(one.at_risk),
        "calibration": asdict(one.calibration) if one.calibration else None,
        "notes": one.notes,
    }


def _table(board: str, task: TaskSpec, strata: Sequence[Stratification]) -> Table:
    kind = "PHANTOM" if board.startswith("phantom") else "real data"
    days = sorted({one.calibration.day for one in strata if one.calibration})
    at = f", calibration at day {', '.join(map(str, days))}" if days else ""
    header = ["encoder", "protocol", "C", *_GROUPS, "hazard ratio", "log-rank p", *_CALIBRATION]
    rows = []
    for one in strata:
        counts = [
            "nobody" if curve is None else f"{curve.events} of {curve.n}"
            for curve in (one.groups.low, one.groups.high)
        ]
        concordance, *tests = _group_texts(one)
        calibrated = _calibration_texts(one.calibration) if one.calibration else ["-"] * 3
        row = [one.label, one.record.protocol, concordance, *counts, *tests, *calibrated]
        rows.append([text.replace(" to ", "-") for text in row])
    return Table(f"{task.id} on board '{board}' ({kind}){at}", header, rows)


def _group_texts(one: Stratification) -> list[str]:
    """Return concordance, hazard ratio and the p-value of the log-rank test."""
    main, groups, p = one.record.scores.main, one.groups, one.groups.logrank_p
    return [
        _estimate(main.value, main.ci95, 3),
        _estimate(groups.hazard_ratio, groups.hazard_ratio_ci95),
        "< 0.001" if p is not None and p < 0.001 else _estimate(p, None, 3),
    ]


def _calibration_texts(calibrated: Calibration) -> list[str]:
    return [
        _estimate(calibrated.slope, calibrated.slope_ci95),
        _estimate(calibrated.observed_over_expected, calibrated.observed_over_expected_ci95),
        _estimate(calibrated.integrated_index, None, 3),
    ]


def _estimate(value: float | None, ends: tuple[float, float] | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    interval = f" ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})" if ends else ""
    return f"{value:.{digits}f}{interval}"

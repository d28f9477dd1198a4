"""Kaplan-Meier curves by predicted risk, numbers at risk beneath, and calibration beside."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.stratification import DAYS_A_YEAR, Stratification
from madeleine_bench.metrics.calibration import Calibration, Curve, RiskGroups

_GROUPS = ("low risk", "high risk")
_WIDTH, _SQUARE, _SMALL = 420, 250, 150


def stratification_chart(found: Stratification, task_title: str) -> Any:
    """Return the figure of one encoder on one task as an Altair chart."""
    import altair as alt

    years = found.at_risk.years[-1] if found.at_risk.years else 0
    last = max([_last_year(found.groups), float(years), 0.1])
    curves = _curves(found.groups, last, _SQUARE)
    # By their plots alone the two panels share the axis; the gap holds its labels and title.
    left = alt.vconcat(curves, _at_risk(found, last), spacing=62, bounds="flush")
    panels = [left]
    if found.calibration is not None:
        panels.append(_calibration(found.calibration, _SQUARE))
    title = _title(found.record.board, f"{found.label}: {task_title}", [groups_line(found)])
    return alt.hconcat(
        *panels, title=title, spacing=70, padding=16, background="white"
    ).resolve_scale(color="independent")  # fmt: skip


def comparison_chart(found: Sequence[Stratification], task_title: str) -> Any:
    """Return several encoders on one task, a row each: curves, and calibration."""
    import altair as alt

    last = max([_last_year(one.groups) for one in found] + [0.1])
    rows = []
    for one in found:
        own = _curves(one.groups, last, _SMALL)
        panels = [own.properties(title=_panel(one.label, groups_line(one)))]
        if one.calibration is not None:
            panels.append(_calibration(one.calibration, _SMALL))
        rows.append(alt.hconcat(*panels, spacing=50).resolve_scale(color="independent"))
    title = _title(
        found[0].record.board, task_title, ["Best concordance first; bands and bars: 95%."]
    )
    return alt.vconcat(
        *rows, title=title, spacing=22, padding=16, background="white"
    ).resolve_scale(color="independent")


def groups_line(found: Stratification) -> str:
    """Return hazard ratio, log-rank test and concordance of an encoder as one line."""
    groups, main = found.groups, found.record.scores.main
    interval = f" ({main.ci95[0]:.3f} to {main.ci95[1]:.3f})" if main.ci95 else ""
    parts = [f"C {main.value:.3f}{interval}"]
    if groups.hazard_ratio is not None and groups.hazard_ratio_ci95 is not None:
        low, high = groups.hazard_ratio_ci95
        parts.append(f"hazard ratio {groups.hazard_ratio:.2f} ({low:.2f} to {high:.2f})")
    if groups.logrank_p is not None:
        p = "< 0.001" if groups.logrank_p < 0.001 else f"= {groups.logrank_p:.3f}"
        parts.append(f"log-rank p {p}")
    return ", ".join(parts)


def calibration_line(judged: Calibration) -> str:
    """Return slope, observed over expected and the calibration index as one line."""
    parts = []
    if judged.slope is not None and judged.slope_ci95 is not None:
        low, high = judged.slope_ci95
        parts.append(f"slope {judged.slope:.2f} ({low:.2f} to {high:.2f})")
    if judged.observed_over_expected is not None:
        said = f"O/E {judged.observed_over_expected:.2f}"
        if ends := judged.observed_over_expected_ci95:
            said += f" ({ends[0]:.2f} to {ends[1]:.2f})"
        parts.append(said)
    if judged.integrated_index is not None:
        parts.append(f"ICI {judged.integrated_index:.3f}")
    return (", ".join(parts) or "undefined").replace("-", "\u2212")


def _title(board: str, text: str, below: list[str]) -> Any:
    import altair as alt

    stamp = " (PHANTOM, synthetic data)" if board.startswith("phantom") else ""
    return alt.Title(
        f"{text}{stamp}", subtitle=below, fontSize=15, fontWeight=600, color=INK,
        subtitleColor=GREY, subtitleFontSize=11, subtitlePadding=5, anchor="start", offset=16,
    )  # fmt: skip


def _panel(text: str, below: str) -> Any:
    import altair as alt

    return alt.Title(
        text, subtitle=below, anchor="start", fontSize=12, fontWeight=600, color=INK, offset=8,
        subtitleColor=GREY, subtitleFontSize=11,
    )  # fmt: skip


def _named(groups: RiskGroups) -> list[tuple[str, Curve]]:
    both = zip(_GROUPS, (groups.low, groups.high), strict=True)
    return [(name, curve) for name, curve in both if curve is not None]


def _last_year(groups: RiskGroups) -> float:
    return max(curve.time_days[-1] for _, curve in _named(groups)) / DAYS_A_YEAR


def _curves(groups: RiskGroups, last: float, height: int) -> Any:
    import altair as alt

    rows = [
        {"group": name, "years": day / DAYS_A_YEAR, "alive": alive, "low": low, "high": high}
        for name, curve in _named(groups)
        for day, alive, low, high in zip(
            curve.time_days, curve.alive, curve.lower, curve.upper, strict=True
        )
    ]
    # The corner below the curves is the one place that they always leave free.
    key = pd.DataFrame(
        [
            {"group": name, "years": 0.02 * last, "alive": 0.18 - 0.1 * place,
             "said": f"{name}: {curve.events} events in {curve.n}"}
            for place, (name, curve) in enumerate(_named(groups))
        ]
    )  # fmt: skip
    base = alt.Chart(pd.DataFrame(rows)).encode(
        alt.X("years:Q", scale=alt.Scale(domain=[0, last], nice=False),
              axis=alt.Axis(title="years", grid=False)),
    )  # fmt: skip
    y = alt.Axis(title="survival", format=".0%", tickCount=5, domain=False, ticks=False)
    scale = alt.Scale(domain=[0, 1])
    band = base.mark_area(interpolate="step-after", opacity=0.16, line=False).encode(
        alt.Y("low:Q", scale=scale, axis=y),
        alt.Y2("high:Q"),
        alt.Color("group:N", scale=_colours(), legend=None),
    )
    line = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        alt.Y("alive:Q", scale=scale), alt.Color("group:N", scale=_colours(), legend=None)
    )
    words = alt.Chart(key).mark_text(align="left", fontSize=11, fontWeight=600).encode(
        x="years:Q", y=alt.Y("alive:Q", scale=scale), text="said:N",
        color=alt.Color("group:N", scale=_colours(), legend=None),
    )  # fmt: skip
    return alt.layer(band, line, words).properties(width=_WIDTH, height=height)


def _colours() -> Any:
    import altair as alt

    return alt.Scale(domain=list(_GROUPS), range=list(COLOURS[:2]))


def _at_risk(found: Stratification, last: float) -> Any:
    import altair as alt

    table = found.at_risk
    rows = [
        {"group": name, "years": year, "n": count}
        for name, counts in zip(_GROUPS, (table.low, table.high), strict=True)
        for year, count in zip(table.years, counts, strict=True)
    ]
    return (
        alt.Chart(pd.DataFrame(rows))
        .mark_text(fontSize=11)
        .encode(
            alt.X("years:Q", scale=alt.Scale(domain=[0, last], nice=False), axis=None),
            alt.Y("group:N", sort=list(_GROUPS), title=None,
                  axis=alt.Axis(domain=False, ticks=False, labelPadding=20)),
            alt.Text("n:Q", format="d"),
            alt.Color("group:N", scale=_colours(), legend=None),
        )
        .properties(
            width=_WIDTH, height=36,
            title=alt.Title("number at risk", anchor="start", fontSize=11, color=GREY,
                            fontWeight="normal", offset=2),
        )
    )  # fmt: skip


def _calibration(judged: Calibration, side: int) -> Any:
    import altair as alt

    table = pd.DataFrame(
        [
            {"predicted": g.predicted, "observed": g.observed, "n": g.n, "events": g.events,
             "low": g.ci95[0] if g.ci95 else g.observed,
             "high": g.ci95[1] if g.ci95 else g.observed}
            for g in judged.groups if g.observed is not None
        ],
        columns=["predicted", "observed", "n", "events", "low", "high"],
    )  # fmt: skip
    values = [*table["predicted"], *table["low"], *(end for p in judged.curve for end in p)]
    low = max(0.0, (min(values, default=0.0) * 20 // 1) / 20)
    scale = alt.Scale(domain=[low, 1.0], nice=False)
    year = f"{judged.day / DAYS_A_YEAR:.1f} years"
    x = alt.X("predicted:Q", scale=scale, axis=alt.Axis(
        title=f"predicted survival at {year}", format=".0%", tickCount=4, grid=False),
    )  # fmt: skip
    y = alt.Axis(title="observed (Kaplan-Meier)", format=".0%", tickCount=4, domain=False,
                 ticks=False)  # fmt: skip
    ideal = alt.Chart(pd.DataFrame({"predicted": [low, 1.0], "observed": [low, 1.0]}))
    smooth = alt.Chart(pd.DataFrame(list(judged.curve), columns=["predicted", "observed"]))
    points = alt.Chart(table)
    height = alt.Y("observed:Q", scale=scale, axis=y)
    layers = alt.layer(
        ideal.mark_line(strokeDash=[4, 3], color=GREY, strokeWidth=1).encode(x, height),
        smooth.mark_line(color=COLOURS[2], strokeWidth=1.8).encode(x, height),
        points.mark_rule(color=INK, strokeWidth=1.4).encode(
            x, alt.Y("low:Q", scale=scale), alt.Y2("high:Q")
        ),
        points.mark_point(filled=True, size=60, color=INK, opacity=1).encode(x, height),
    )
    title = _panel(f"Calibration at {year}", calibration_line(judged))
    return layers.properties(width=side, height=side, title=title)

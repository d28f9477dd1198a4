"""A forest plot: differences of pairs of encoders with their intervals, a row a task."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import altair as alt
import pandas as pd

from madeleine_bench.figures import styled_svg

# Okabe and Ito's palette: told apart by readers with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_SHAPES = ("circle", "diamond", "square", "triangle-up")
_INK, _GREY = "#222222", "#6B6B6B"
_WIDTH, _STEP = 250, 21


@dataclass(frozen=True)
class Difference:
    """One point with its interval: task and family say the row, series the colour."""

    comparison: str
    family: str
    task: str
    series: str
    difference: float
    low: float
    high: float


def forest_svg(
    points: Sequence[Difference], title: str, subtitle: str, captions: Mapping[str, Sequence[str]]
) -> str:
    """Return a forest plot as SVG: a panel for each comparison, rows of tasks grouped by family.

    Args:
        points: differences; comparisons, families and tasks stand in the order of their first.
        title: stands above; "phantom" is written in capitals.
        subtitle: what is shown, and in which direction it is better.
        captions: lines that stand below the name of a comparison.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("a forest plot needs a point")
    table = pd.DataFrame([asdict(point) for point in points])
    rows = _rows(table)
    reach = _reach(table)
    panels = [
        _panel(
            own, str(name), list(captions.get(str(name), ())), rows, reach, labelled=position == 0
        )
        for position, (name, own) in enumerate(table.groupby("comparison", sort=False))
    ]
    heading = alt.Title(
        re.sub("phantom", "PHANTOM", title, flags=re.IGNORECASE), subtitle=subtitle, fontSize=15,
        fontWeight=600, color=_INK, subtitleColor=_GREY, subtitleFontSize=11, subtitlePadding=5,
        anchor="start", offset=18,
    )  # fmt: skip
    chart = alt.hconcat(*panels, title=heading, spacing=22, padding=16, background="white")
    chart = chart.resolve_scale(color="shared", shape="shared")
    return styled_svg(chart)


def _rows(table: pd.DataFrame) -> list[str]:
    """Return the labels from top to bottom: each family as a heading, then its tasks."""
    rows: list[str] = []
    for family, own in table.groupby("family", sort=False):
        rows += [_heading(str(family)), *own["task"].unique()]
    return rows


def _heading(family: str) -> str:
    words = family.replace("-", " ").replace("ihc", "IHC")
    return words[0].upper() + words[1:]


def _reach(table: pd.DataFrame) -> float:
    """Return how far the axis reaches on either side: to every point and nine of ten intervals.

    One task of few slides would otherwise squeeze all others into a line.
    """
    ends = pd.concat([table["low"], table["high"]]).abs()
    return float(max(1.15 * table["difference"].abs().max(), ends.quantile(0.9), 1e-3))


def _panel(
    points: pd.DataFrame, name: str, caption: list[str], rows: list[str], reach: float,
    labelled: bool,
) -> Any:  # fmt: skip
    headings = [_heading(family) for family in points["family"].unique()]
    bold = f"indexof({headings}, datum.value) >= 0"
    axis = alt.Axis(
        title=None, labels=labelled, ticks=False, domain=False, labelLimit=260, labelPadding=8,
        labelFontWeight=alt.condition(bold, alt.value(600), alt.value("normal")),
        labelColor=alt.condition(bold, alt.value(_INK), alt.value(_GREY)),
    )  # fmt: skip
    series = list(points["series"].unique())
    legend = alt.Legend(
        title=None, orient="bottom", labelColor=_INK, labelFontSize=11, columnPadding=16, offset=12
    )
    colours = alt.Scale(domain=series, range=_COLOURS[: len(series)])
    shapes = alt.Scale(domain=series, range=_SHAPES[: len(series)])
    scale = alt.Scale(domain=[-1.03 * reach, 1.03 * reach], nice=False)
    marks = alt.Axis(title="difference in main score", tickCount=5)

    def drawn(shown: pd.DataFrame) -> Any:
        return alt.Chart(shown).encode(
            alt.Y("task:N", scale=alt.Scale(domain=rows), axis=axis),
            alt.YOffset("series:N", scale=alt.Scale(domain=series, paddingOuter=0.4)),
            alt.Color("series:N", scale=colours, legend=legend),
        )

    def arrows(beyond: pd.DataFrame, side: int, shape: str) -> Any:
        mark = drawn(beyond).mark_point(filled=True, size=40, opacity=1, shape=shape)
        return mark.encode(x=alt.datum(side * 1.02 * reach, scale=scale))

    cut = points.assign(low=points["low"].clip(-reach), high=points["high"].clip(upper=reach))
    label = alt.Title(
        name, subtitle=caption, anchor="start", frame="group", fontSize=12, fontWeight=600,
        color=_INK, offset=8, subtitleColor=_GREY, subtitleFontSize=11,
    )  # fmt: skip
    layers = alt.layer(
        alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(color=_GREY).encode(alt.X("x:Q")),
        drawn(cut)
        .mark_rule(strokeWidth=1.6)
        .encode(alt.X("low:Q", scale=scale, axis=marks), alt.X2("high:Q")),
        arrows(points[points["low"] < -reach], -1, "triangle-left"),
        arrows(points[points["high"] > reach], 1, "triangle-right"),
        drawn(points)
        .mark_point(filled=True, size=34, opacity=1)
        .encode(
            alt.X("difference:Q", scale=scale), alt.Shape("series:N", scale=shapes, legend=legend)
        ),
    )
    height = alt.Step(_STEP, **{"for": "position"})
    return layers.properties(width=_WIDTH, height=height, title=label)

"""The figure of benchmarks/growth.py: time above, memory below, a column for each axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from madeleine_bench.figures import COLOURS, GREY, INK

Json = dict[str, Any]
_WIDTH, _HEIGHT = 180, 150
_AXES = {"patches": "patches a bag"}
_TICKS = tuple(digit * 10.0**power for power in range(6) for digit in (1, 2, 5))


@dataclass(frozen=True)
class _Row:
    """A row of panels: what of a point it shows, which slope, its title, and its ticks."""

    key: str
    slope: str
    title: str
    ticks: tuple[float, ...]


def growth_chart(curves: Sequence[Json]) -> Any:
    """Return the figure of some curves as an Altair chart; the panels of a row share an axis."""
    import altair as alt

    axes = list(dict.fromkeys(one["axis"] for one in curves))
    rows = (
        _Row("seconds", "time", "seconds", ticks_around(curves, "seconds")),
        _Row("peak_mb", "memory", "peak memory, MB", ticks_around(curves, "peak_mb")),
    )
    series = list(dict.fromkeys(one["series"] for one in curves))
    colour = alt.Color(
        "series:N", legend=None, scale=alt.Scale(domain=series, range=COLOURS[: len(series)])
    )
    panels = [
        _panel([one for one in curves if one["axis"] == axis], row, colour, axis == axes[0])
        for row in rows
        for axis in axes
    ]
    title = alt.Title(
        "Time and memory of mbench run, one process (phantom slides, made-up bags)",
        subtitle="Both axes are logarithmic. Dashed: proportional to the size. "
        "Numbers: slope between the two largest sizes; 1 is proportional, 0 does not grow.",
        fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY, subtitleFontSize=11,
        subtitlePadding=5, anchor="start", offset=16,
    )  # fmt: skip
    return alt.concat(
        *panels, columns=len(axes), title=title, spacing=30, padding=16, background="white"
    )


def ticks_around(curves: Sequence[Json], key: str) -> tuple[float, ...]:
    """Return ticks at 1, 2 and 5 times powers of ten, from below all points to above them."""
    values = [point[key] for one in curves for point in one["points"]]
    first = max(tick for tick in _TICKS if tick <= min(values))
    last = min(tick for tick in _TICKS if tick >= 1.5 * max(values))  # room for the numbers
    return tuple(tick for tick in _TICKS if first <= tick <= last)


def _panel(curves: Sequence[Json], row: _Row, colour: Any, leftmost: bool) -> Any:
    import altair as alt
    import pandas as pd

    points = curves[0]["points"]
    low, high = points[0]["size"], points[-1]["size"]
    table = pd.DataFrame([{**p, "series": one["series"]} for one in curves for p in one["points"]])
    ends = pd.DataFrame(
        [
            {
                **one["points"][-1],
                "series": one["series"],
                "said": f"{one[row.slope]['last_slope']:.2f}",
            }
            for one in curves
        ]
    )
    upwards = sorted(curves, key=lambda one: float(one["points"][-1][row.key]))
    at_ends = f"datum.value == {low} || datum.value == {high} ? datum.label : ''"
    axis = curves[0]["axis"]
    x = alt.X(
        "size:Q", scale=alt.Scale(type="log", domain=[low, high], nice=False, padding=6),
        axis=alt.Axis(title=_AXES.get(axis, axis), values=[point["size"] for point in points],
                      format=",d", labelExpr=at_ends, labelFlush=False, grid=False),
    )  # fmt: skip
    y = alt.Y(
        f"{row.key}:Q",
        scale=alt.Scale(type="log", domain=[row.ticks[0], row.ticks[-1]], nice=False),
        axis=alt.Axis(
            title=row.title if leftmost else None, labels=leftmost, values=row.ticks, format=",d"
        ),
    )
    start = points[0][row.key]
    reach = min(high / low, row.ticks[-1] / start)
    line = pd.DataFrame({"size": [low, low * reach], row.key: [start, start * reach]})
    layers = [
        alt.Chart(line).mark_line(strokeDash=[4, 4], color=GREY, opacity=0.5).encode(x, y),
        alt.Chart(table).mark_line(strokeWidth=2).encode(x, y, colour),
        alt.Chart(table).mark_point(filled=True, size=46, opacity=1).encode(x, y, colour),
        alt.Chart(ends)
        .mark_text(align="left", dx=8, fontSize=11)
        .encode(x, y, colour, text="said:N"),
    ]
    if len(curves) > 1:
        layers += [
            alt.Chart(pd.DataFrame([{**one["points"][0], "series": one["series"]}]))
            .mark_text(align="left", dx=-5, dy=13 if one is upwards[0] else -12, fontSize=11)
            .encode(x, y, colour, text="series:N")
            for one in curves
        ]
    return alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT)

"""Figures of scores: intervals in a table's row, one task's forest, score against cost."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from madeleine_bench.leaderboard.page.svg import (
    cut,
    decades,
    element,
    figure_svg,
    found,
    line,
    linear,
    logarithmic,
    reach,
    round_ticks,
    words_at,
)
from madeleine_bench.leaderboard.page.wording import interval, number, seconds, short_count

_STRIP = (210, 18)


def mean_reach(board: dict[str, Any]) -> tuple[float, float]:
    """Return the ends of the axis for a board's means: those of the ranked, where there are any.

    A control far below, or an unchecked claim far above, would press the ranked into a corner; what
    lies outside is drawn as an arrow at the edge.
    """
    ranked = [e for e in board["encoders"] if e["rank"] is not None]
    values = []
    for encoder in ranked or board["encoders"]:
        values += found([encoder["mean"], *(encoder["mean_ci95"] or [])])
    return reach(values or [0.0, 1.0])


def strip_axis(ends: tuple[float, float], phantom: bool) -> Markup:
    """Return the axis that heads the column of interval strips."""
    width, height = _STRIP
    scale = linear(*ends, 8, width - 8)
    marks = [words_at(scale(t), 12, f"{t:.1f}") for t in round_ticks(*ends, 4)]
    marks += [line(scale(t), 15, scale(t), height, "axis") for t in round_ticks(*ends, 4)]
    label = f"Axis from {number(ends[0], 2)} to {number(ends[1], 2)}"
    return _plain_svg(width, height, label, phantom, *marks)


def interval_strip(
    encoder: dict[str, Any], ends: tuple[float, float], baseline: float | None, phantom: bool
) -> Markup:
    """Return a row's intervals: thin with other cohorts, thick within these; a stroke: mean."""
    width, height = _STRIP
    scale, middle = linear(*ends, 8, width - 8), height / 2
    parts = []
    if ends[0] <= 0.0 <= ends[1]:
        parts.append(line(scale(0.0), 1, scale(0.0), height - 1, "zero"))
    if baseline is not None:
        parts.append(line(scale(baseline), 0, scale(baseline), height, "baseline"))
    for key, style in (("mean_ci95", "thin"), ("mean_ci95_cases", "thick")):
        if encoder[key] is not None:
            low, high = encoder[key]
            parts.append(line(scale(low), middle, scale(high), middle, style))
    parts.append(_mean_mark(encoder["mean"], ends, scale(encoder["mean"]), height))
    label = f"Mean {number(encoder['mean'])}, 95% interval {interval(encoder['mean_ci95'])}"
    return _plain_svg(width, height, label, phantom, *parts)


def _mean_mark(mean: float, ends: tuple[float, float], x: float, height: int) -> Markup:
    """Return a stroke at the mean, or an arrow at the edge that it lies beyond."""
    if ends[0] <= mean <= ends[1]:
        return line(x, 2, x, height - 2, "point")
    turn = -6 if mean < ends[0] else 6
    return element("path", d=f"M{x:.1f} 4l{turn} 5l{-turn} 5Z", class_="arrow")


def _plain_svg(width: int, height: int, label: str, phantom: bool, *parts: Markup) -> Markup:
    # Too low for a stamp that can be read: the section's watermark runs behind, the title says it.
    said = f"PHANTOM, synthetic data. {label}" if phantom else label
    return element(
        "svg", element("title", said), *parts,
        viewbox=f"0 0 {width} {height}", width=width, height=height, role="img", class_="strip",
    )  # fmt: skip


def task_forest(rows: Sequence[tuple[str, dict[str, Any]]], metric: str, phantom: bool) -> Markup:
    """Return the scores of one task, best first, each with its 95% interval and the chance line."""
    width, left, step = 720, 200, 22
    height = 50 + step * len(rows)
    values = [v for _, cell in rows for v in (cell["value"], *(cell["ci95"] or []), cell["chance"])]
    low, high = reach(values)
    scale = linear(low, high, left, width - 70)
    bottom = height - 34
    parts = _bottom_axis(scale, (low, high), bottom, metric, (left + width - 70) / 2)
    chance = rows[0][1]["chance"]
    parts += [line(scale(chance), 6, scale(chance), bottom, "baseline")]
    for index, (label, cell) in enumerate(rows):
        parts += _forest_row(label, cell, 18 + step * index, scale, left, width)
    said = f"{metric} of {len(rows)} encoders with 95% intervals; dashed line: chance"
    return figure_svg(width, height, said, phantom, *parts)


def _forest_row(
    label: str, cell: dict[str, Any], y: float, scale: Any, left: int, width: int
) -> list[Markup]:
    low, high = cell["ci95"] or (cell["value"], cell["value"])  # without one, the dot alone
    return [
        words_at(left - 10, y + 4, cut(label, 28), "name", "end"),
        line(scale(low), y, scale(high), y, "thick"),
        element("circle", cx=scale(cell["value"]), cy=float(y), r=4, class_="dot"),
        words_at(width - 4, y + 4, number(cell["value"]), "value", "end"),
    ]


def _bottom_axis(
    scale: Any, ends: tuple[float, float], y: float, title: str, middle: float
) -> list[Markup]:
    ticks = round_ticks(*ends)
    parts = [line(scale(ends[0]), y, scale(ends[1]), y, "axis")]
    parts += [line(scale(t), 6, scale(t), y, "grid") for t in ticks]
    parts += [words_at(scale(t), y + 14, f"{t:.2f}") for t in ticks]
    return [*parts, words_at(middle, y + 29, title, "title")]


def cost_scatter(board: dict[str, Any], key: str, title: str) -> Markup | None:
    """Return the mean against a cost on a log axis; None where no encoder has both numbers."""
    points = [
        (e["label"], float(e[key]), e) for e in board["encoders"]
        if e[key] and e["mean"] is not None
    ]  # fmt: skip
    if not points:
        return None
    width, height, left, bottom = 560, 330, 52, 286
    costs = [cost for _, cost, _ in points]
    span = (min(costs) / 1.8, max(costs) * 6)
    means = [v for _, _, e in points for v in (e["mean"], *(e["mean_ci95_cases"] or []))]
    ends = reach([*means, 0.0])
    across = logarithmic(*span, left, width - 10)
    up = linear(*ends, bottom, 10)
    parts = _scatter_axes(across, up, span, ends, title, key)
    taken: list[tuple[float, float]] = []
    for label, cost, encoder in sorted(points, key=lambda p: -p[2]["mean"]):
        parts += _point(across(cost), up, encoder, label, taken)
    said = f"Mean against {title} of {len(points)} encoders, with 95% intervals (same cohorts)"
    return figure_svg(width, height, said, bool(board["phantom"]), *parts)


def _scatter_axes(
    across: Any, up: Any, span: tuple[float, float], ends: tuple[float, float], title: str, key: str
) -> list[Markup]:
    left, right, bottom = across(span[0]), across(span[1]), up(ends[0])
    parts = [line(left, bottom, right, bottom, "axis"), line(left, bottom, left, 10, "axis")]
    for tick in round_ticks(*ends):
        parts.append(line(left, up(tick), right, up(tick), "grid"))
        parts.append(words_at(left - 6, up(tick) + 4, f"{tick:.1f}", anchor="end"))
    write = seconds if key == "seconds_per_slide" else short_count
    for power in decades(*span):
        parts.append(line(across(power), bottom, across(power), bottom + 5, "axis"))
        parts.append(words_at(across(power), bottom + 17, write(power)))
    parts.append(words_at((left + right) / 2, bottom + 36, f"{title} (log scale)", "title"))
    middle = (bottom + 10) / 2
    parts.append(
        element(
            "text", "mean, chance-corrected", x=14, y=middle, textanchor="middle",
            transform=f"rotate(-90 14 {middle:.0f})", class_="title",
        )
    )  # fmt: skip
    return parts


def _point(
    x: float, up: Any, encoder: dict[str, Any], label: str, taken: list[tuple[float, float]]
) -> list[Markup]:
    """Return a dot, its interval, and its name moved down until it is clear of the others."""
    y = up(encoder["mean"])
    place = y + 4
    while any(abs(place - other) < 13 and abs(x - where) < 130 for where, other in taken):
        place += 3
    taken.append((x, place))
    parts = [line(x + 5, y, x + 10, place - 4, "leader")] if abs(place - y - 4) > 3 else []
    if encoder["mean_ci95_cases"]:
        low, high = encoder["mean_ci95_cases"]
        parts.append(line(x, up(low), x, up(high), "thin"))
    shape = "dot" if encoder["rank"] is not None else "dot hollow"
    parts.append(element("circle", cx=float(x), cy=float(y), r=4.5, class_=shape))
    return [*parts, words_at(x + 12, place, cut(label, 24), "name", "start")]

"""Every figure of the pages as inline SVG, from the board document; each curve is drawn once."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from markupsafe import Markup, escape

from madeleine_bench.leaderboard.page.text import (
    interval,
    number,
    p_value,
    page_file,
    seconds,
    short_count,
)

Write = Callable[[float], str]
_DAYS_A_YEAR = 365.25
_STRIP = (150, 18)
_FONT = "Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` along pixels from `start` to `end`; others lie at its ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a number."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, wanted: int = 7) -> list[float]:
        """Return round numbers on the axis, about as many as wanted.

        Examples:
            >>> [round(t, 2) for t in Axis(0.03, 0.61, 0, 1).ticks(4)]
            [0.2, 0.4, 0.6]
        """
        span = (self.high - self.low) or 1.0
        size: float = 10.0 ** math.floor(math.log10(span / wanted))
        step = next(size * m for m in (1, 2, 5, 10) if span / (size * m) <= wanted)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def reach(values: Sequence[float], least: float = 0.1) -> tuple[float, float]:
    """Return the ends of an axis that holds the values, with a little air, never of no width."""
    low, high = min(values), max(values)
    air = max((high - low) * 0.06, (least - (high - low)) / 2, 0.0)
    return low - air, high + air


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element; numbers are cut to a tenth of a pixel, `_` in a name becomes `-`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), pairs, inner)


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, int | float) else value


def figure_svg(
    width: float, height: float, label: str, *parts: Markup, strip: bool = False, **more: object
) -> Markup:
    """Return a whole drawing with its text alternative and further attributes."""
    return element(
        "svg", element("title", label), *parts, viewBox=f"0 0 {width} {height}", width=width,
        height=height, role="img", class_="strip" if strip else "figure", **more,
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, class_: str = "dot") -> Markup:
    """Return the mark of a value."""
    return element("circle", cx=x, cy=y, r=4, class_=class_)


def words_at(
    x: float, y: float, words: str, class_: str = "tick", anchor: str = "middle"
) -> Markup:
    """Return text at a point."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def bottom_axis(
    across: Axis, y: float, ticks: Iterable[float], write: Write, title: str, grid: float = -4
) -> list[Markup]:
    """Return an axis with words at its ticks, and a line from each, `grid` pixels up."""
    parts = [line(across.start, y, across.end, y, "axis")]
    for x, words in [(across(tick), write(tick)) for tick in ticks]:
        parts += [line(x, y, x, y - grid, "grid"), words_at(x, y + 16, words)]
    return [*parts, words_at((across.start + across.end) / 2, y + 32, title, "title")]


def left_axis(
    up: Axis, x: float, right: float, ticks: Iterable[float], write: Write, title: str = ""
) -> list[Markup]:
    """Return an axis with words at its ticks, and a grid line to the right from each."""
    parts = [line(x, up.start, x, up.end, "axis")]
    for y, words in [(up(tick), write(tick)) for tick in ticks]:
        parts += [line(x, y, right, y, "grid"), words_at(x - 6, y + 4, words, anchor="end")]
    if title:
        middle = (up.start + up.end) / 2
        parts.append(element(
            "text", title, x=x - 38, y=middle, text_anchor="middle", class_="title",
            transform=f"rotate(-90 {x - 38:.0f} {middle:.0f})",
        ))  # fmt: skip
    return parts


def cut(text: str, length: int) -> str:
    """Return text short enough for a drawing; the tables beside it carry the whole."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def mean_axis(board: dict[str, Any]) -> Axis:
    """Return the axis of a board's means: it holds those of the ranked, where there are any.

    A control far below, or an unchecked claim far above, would press the ranked into a corner; what
    lies outside is drawn as an arrow at the edge.
    """
    ranked = [e for e in board["encoders"] if e["rank"] is not None]
    values = [
        value
        for encoder in ranked or board["encoders"]
        for value in (encoder["mean"], *(encoder["mean_ci95"] or []))
        if value is not None
    ]
    return Axis(*reach(values or [0.0, 1.0]), 8, _STRIP[0] - 8)


def strip_axis(axis: Axis) -> Markup:
    """Return the axis that heads the column of interval strips."""
    parts = [words_at(axis(t), 12, f"{t:.1f}") for t in axis.ticks(4)]
    parts += [line(axis(t), 15, axis(t), _STRIP[1], "axis") for t in axis.ticks(4)]
    label = f"Axis from {number(axis.low, 2)} to {number(axis.high, 2)}"
    return figure_svg(*_STRIP, label, *parts, strip=True)


def interval_strip(encoder: dict[str, Any], axis: Axis) -> Markup | None:
    """Return the intervals of a mean: thin for new cohorts, thick for new patients."""
    mean, height = encoder["mean"], _STRIP[1]
    if mean is None:
        return None
    parts = []
    if axis.low <= 0.0 <= axis.high:
        parts.append(line(axis(0.0), 1, axis(0.0), height - 1, "zero"))
    for key, style in (("mean_ci95", "thin"), ("mean_ci95_cases", "thick")):
        if encoder[key] is not None:
            low, high = map(axis, encoder[key])
            parts.append(line(low, height / 2, high, height / 2, style))
    if axis.low <= mean <= axis.high:
        parts.append(line(axis(mean), 2, axis(mean), height - 2, "point"))
    else:
        turn = -6 if mean < axis.low else 6
        path = f"M{axis(mean):.1f} 4l{turn} 5l{-turn} 5Z"
        parts.append(element("path", d=path, class_="arrow"))
    label = (
        f"Mean {number(mean)}; 95% CI {interval(encoder['mean_ci95_cases'])} (new patients), "
        f"{interval(encoder['mean_ci95'])} (new cohorts)"
    )
    return figure_svg(*_STRIP, label, *parts, strip=True)


def task_forest(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]], metric: str) -> Markup:
    """Return the scores of one task, best first, each with its 95% interval and the chance line."""
    width, step = 720, 22
    bottom = 16 + step * len(rows)
    values = [v for _, cell in rows for v in (cell["value"], *(cell["ci95"] or []), cell["chance"])]
    across = Axis(*reach(values), 200, width - 70)
    chance = across(rows[0][1]["chance"])
    parts = bottom_axis(across, bottom, across.ticks(), "{:.2f}".format, metric, bottom - 6)
    parts.append(line(chance, 6, chance, bottom, "baseline"))
    for place, (encoder, cell) in enumerate(rows):
        y, value = 18 + step * place, cell["value"]
        low, high = cell["ci95"] or (value, value)  # without one, the dot alone
        parts += [
            words_at(across.start - 10, y + 4, cut(encoder["label"], 28), "name", "end"),
            line(across(low), y, across(high), y, "thick"),
            dot(across(value), y),
            words_at(width - 4, y + 4, number(value), "value", "end"),
        ]
    label = f"{metric} of {len(rows)} encoders with 95% confidence intervals; dashed line: chance"
    return figure_svg(width, bottom + 34, label, *parts)


def cost_scatter(board: dict[str, Any], key: str, title: str, most: int) -> Markup | None:
    """Return the mean against a cost on a log axis; None where no encoder has both numbers.

    All encoders are drawn; those after the first `most` of the board are hidden at first.
    """
    encoders = [
        (place, e) for place, e in enumerate(board["encoders"]) if e[key] and e["mean"] is not None
    ]
    if not encoders:
        return None
    width, height, left, bottom = 560, 330, 52, 286
    costs = [e[key] for _, e in encoders]
    means = [v for _, e in encoders for v in (e["mean"], *(e["mean_ci95_cases"] or []))]
    low, high = math.log10(min(costs) / 1.8), math.log10(max(costs) * 6)
    across = Axis(low, high, left, width - 10)
    up = Axis(*reach([*means, 0.0]), bottom, 10)
    powers = range(math.ceil(low), math.floor(high) + 1)
    write = seconds if key == "seconds_per_slide" else short_count
    parts = bottom_axis(across, bottom, powers, lambda p: write(10.0**p), f"{title} (log scale)")
    name = "mean, chance-corrected"
    parts += left_axis(up, left, across.end, up.ticks(), "{:.1f}".format, name)
    taken: list[tuple[float, float]] = []
    for place, encoder in sorted(encoders, key=lambda row: (row[0] >= most, -row[1]["mean"])):
        clear_of = taken if place < most else []
        drawn = _point(across(math.log10(encoder[key])), up, encoder, clear_of)
        parts.append(_group(place, most, *drawn))
    label = f"Mean against {title} of {len(encoders)} encoders, with 95% confidence intervals"
    return figure_svg(width, height, label, *parts, data_pictured="points")


def _group(place: int, most: int, *parts: Markup, **attributes: object) -> Markup:
    """Return the drawing of one encoder, by its place on the board; hidden at first beyond most."""
    more = {"data_more": ""} if place >= most else {}
    return element("g", *parts, data_encoder=place, **more, **attributes)


def _point(
    x: float, up: Axis, encoder: dict[str, Any], taken: list[tuple[float, float]]
) -> list[Markup]:
    """Return a dot, its interval, and its name moved down until it is clear of the others."""
    y = up(encoder["mean"])
    place = y + 4
    while any(abs(place - other) < 13 and abs(x - where) < 130 for where, other in taken):
        place += 3
    taken.append((x, place))
    parts = [line(x + 5, y, x + 10, place - 4, "leader")] if abs(place - y - 4) > 3 else []
    if encoder["mean_ci95_cases"]:
        low, high = map(up, encoder["mean_ci95_cases"])
        parts.append(line(x, low, x, high, "thin"))
    parts.append(dot(x, y, "dot" if encoder["rank"] is not None else "dot hollow"))
    return [*parts, words_at(x + 12, place, cut(encoder["label"], 24), "name", "start")]


def critical_difference(board: dict[str, Any], most: int) -> Markup | None:
    """Return mean ranks with bars as long as the critical difference; None where there is none.

    Two mean ranks differ by Nemenyi's test exactly when their bars do not overlap (Demsar 2006).
    The encoders after the first `most` are hidden at first.
    """
    content = board["critical_difference"]
    if not content:
        return None
    ranks, half = content["mean_ranks"], content["critical_difference"] / 2
    places = [(i, e["label"]) for i, e in enumerate(board["encoders"]) if e["label"] in ranks]
    places.sort(key=lambda row: (ranks[row[1]], row[1]))
    width, top = 720, 34
    across = Axis(max(0.0, min(ranks.values()) - half), max(ranks.values()) + half, 210, width - 60)
    ticks = [tick for tick in across.ticks() if tick > 0]
    bottom = top + 18 * min(most, len(places))
    parts = [words_at(across(tick), 12, f"{tick:g}") for tick in ticks]
    parts += [line(across(tick), 18, across(tick), bottom, "grid") for tick in ticks]
    for level, (place, label) in enumerate(places):
        value = ranks[label]
        drawn = [
            words_at(across.start - 10, 4, cut(label, 28), "name", "end"),
            line(across(value - half), 0, across(value + half), 0, "thin"),
            dot(across(value), 0),
            words_at(width - 4, 4, number(value, 2), "value", "end"),
        ]
        where = {"transform": f"translate(0 {top + 18 * level})"}
        parts.append(_group(place, most, *drawn, **where))
    label = f"Mean ranks over tasks of {len(places)} encoders; bars: the critical difference"
    return figure_svg(width, bottom + 4, label, *parts, data_pictured="rows", data_top=top)


def over_time(board: dict[str, Any]) -> Markup | None:
    """Return the means by the day they were scored on; the line is the best ranked mean so far.

    Only encoders that raised the line have their name and their interval. None where all ranked
    encoders were scored on one day.
    """
    days = {e["label"]: day for e in board["encoders"] if e["rank"] and (day := _day(e["made"]))}
    ranked = [e for e in board["encoders"] if e["label"] in days]
    if len(set(days.values())) < 2:
        return None
    width, left, bottom = 720, 52, 246
    means = [v for e in ranked for v in (e["mean"], *(e["mean_ci95_cases"] or []))]
    across = Axis(min(days.values()), max(days.values()), left + 8, width - 130)
    up = Axis(*reach(means), bottom, 10)
    shown = sorted({int(across.low), round((across.low + across.high) / 2), int(across.high)})
    parts = bottom_axis(across, bottom, shown, lambda day: str(date.fromordinal(int(day))), "date")
    parts += left_axis(up, left, across.end, up.ticks(5), "{:.2f}".format, "mean, chance-corrected")
    best, path = -math.inf, ""
    taken: list[tuple[float, float]] = []
    for encoder in sorted(ranked, key=lambda e: (days[e["label"]], -e["mean"])):
        x = across(days[encoder["label"]])
        if encoder["mean"] <= best:
            parts.append(dot(x, up(encoder["mean"]), "dot hollow"))
            continue
        best = encoder["mean"]
        path += f"H{x:.1f}V{up(best):.1f}" if path else f"M{x:.1f} {up(best):.1f}"
        parts += _point(x, up, encoder, taken)
    parts.append(element("path", d=f"{path}H{across.end:.1f}", class_="elbow"))
    return figure_svg(width, bottom + 40, "Means by the date of scoring", *parts)


def _day(made: str) -> int | None:
    """Return the day of an ISO time; None where the text, which a submission may set, is none."""
    try:
        return date.fromisoformat(made[:10]).toordinal()
    except ValueError:
        return None


def kaplan_meier(curves: dict[str, Any], label: str) -> Markup:
    """Return the curves of low risk (solid) and high risk (dashed) with their 95% bands.

    Beneath stand the numbers at risk, where they are given.

    Args:
        curves: `low` and `high`, each None or a curve, and the tests between them, as in
            leaderboard.json; `at_risk`, if any, beside them.
        label: whose risk it is.
    """
    width, height, left, top, bottom = 440, 296, 56, 30, 250
    groups = {name: curves[name] for name in ("low", "high") if curves[name] is not None}
    days = [day for curve in groups.values() for day in curve["time_days"]]
    across = Axis(0, max([0.1, *(day / _DAYS_A_YEAR for day in days)]), left, width - 12)
    up = Axis(0, 1, bottom, top)
    parts = bottom_axis(across, bottom, across.ticks(6), "{:g}".format, "years of follow-up")
    steps = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts += left_axis(up, left, across.end, steps, "{:.2f}".format, "probability of survival")
    for name, curve in groups.items():
        upper, lower, middle = (
            _steps(curve["time_days"], curve[key], across, up)
            for key in ("upper", "lower", "survival")
        )
        band = "M" + "L".join([*upper, *reversed(lower)]) + "Z"
        x = left + (190 if name == "high" else 0)
        words = f"{name} risk, {curve['events']} of {curve['n']}"
        parts += [
            element("path", d=band, class_=f"band {name}"),
            element("path", d="M" + "L".join(middle), class_=f"curve {name}"),
            element("path", d=f"M{x:.0f} 12h26", class_=f"curve {name}"),
            words_at(x + 32, 16, words, "name", "start"),
        ]
    if table := curves.get("at_risk"):
        parts.append(words_at(8, bottom + 34, "number at risk", "title", "start"))
        for name, y in (("low", bottom + 50), ("high", bottom + 66)):
            parts.append(words_at(left - 18, y, name, "tick", "end"))
            at_risk = zip(table["years"], table[name], strict=True)
            parts += [words_at(across(year), y, str(count)) for year, count in at_risk]
        height = bottom + 76
    label = f"Survival by risk of {label}. {curves_summary(curves)}"
    return figure_svg(width, height, label, *parts)


def _steps(days: list[float], shares: list[float], across: Axis, up: Axis) -> list[str]:
    """Return the corners of a step function that starts at (0, 1)."""
    corners, share = [f"{across(0):.1f} {up(1):.1f}"], 1.0
    for day, after in zip(days, shares, strict=True):
        x = across(day / _DAYS_A_YEAR)
        corners += [f"{x:.1f} {up(share):.1f}", f"{x:.1f} {up(after):.1f}"]
        share = after
    return corners


def curves_summary(curves: dict[str, Any]) -> str:
    """Return the counts, the log-rank p and the hazard ratio as one sentence."""
    low, high = (
        f"{curve['events']} events in {curve['n']}" if curve else "nobody"
        for curve in (curves["low"], curves["high"])
    )
    ratio = _with_interval("hazard ratio", curves, "hazard_ratio")
    return (
        f"Low risk: {low}; high risk: {high}; log-rank p {p_value(curves['logrank_p'])}; {ratio}."
    )


def calibration_plot(curves: dict[str, Any], label: str) -> Markup | None:
    """Return the groups with their 95% intervals; on the diagonal the predictions came true.

    None where no survival was predicted, or nobody is watched until the day.

    Args:
        curves: with `calibration`, as in leaderboard.json.
        label: whose predictions they are.
    """
    content = curves.get("calibration") or {"groups": []}
    groups = [
        (g["predicted"], g["observed"], *(g["ci95"] or (g["observed"], g["observed"])))
        for g in content["groups"]
        if g["observed"] is not None
    ]
    if not groups:
        return None
    left, right, top, bottom = 56, 248, 8, 200
    low = max(0.0, min(map(min, groups)) - 0.02)
    across, up = Axis(low, 1, left, right), Axis(low, 1, bottom, top)
    ticks, write = up.ticks(4), "{:.2f}".format
    title = f"predicted survival at {number(content['day'] / _DAYS_A_YEAR, 1)} years"
    parts = bottom_axis(across, bottom, ticks, write, title)
    parts += left_axis(up, left, right, ticks, write, "observed survival")
    parts.append(line(left, bottom, right, top, "zero"))
    for predicted, observed, least, most in groups:
        x = across(predicted)
        parts += [line(x, up(least), x, up(most), "thin"), dot(x, up(observed))]
    label = f"Calibration of {label}. {calibration_summary(curves)}"
    return figure_svg(440, 246, label, *parts)


def calibration_summary(curves: dict[str, Any]) -> str:
    """Return slope and observed over expected as one sentence; "" where nothing was predicted."""
    content = curves.get("calibration")
    if not content:
        return ""
    slope = _with_interval("Calibration slope", content, "slope")
    ratio = _with_interval("observed over expected events", content, "observed_over_expected")
    return f"{slope}; {ratio}; 1 is right for both."


def survival_figure(
    title: str, heading: str, label: str, curves: dict[str, Any], phantom: bool
) -> str:
    """Return a drawing that stands alone: the curves of an encoder beside its calibration.

    Args:
        title: what the figure is of.
        heading: the encoder and its score.
        label: whose curves they are.
        curves: as of `kaplan_meier`.
        phantom: whether the data are synthetic.
    """
    title = f"{title} (PHANTOM, synthetic data)" if phantom else title
    # The pages' own style; programs that draw SVG know no `light-dark` and no variables.
    style = page_file("style.css")
    light = dict(re.findall(r"--(\w+): light-dark\((#\w+),", style))
    rules = "\n".join(rule for rule in style.splitlines() if rule.startswith("svg"))
    rules = re.sub(r"var\(--(\w+)\)", lambda name: light.get(name[1], _FONT), rules)
    panels = kaplan_meier(curves, label), calibration_plot(curves, label)
    return str(element(
        "svg",
        element("title", title),
        element("style", Markup(rules)),
        element("rect", width="100%", height="100%", fill="white"),
        element("text", title, x=10, y=26, font_size=16, font_weight=600),
        element("text", heading, x=10, y=56, font_size=13, font_weight=600),
        words_at(10, 73, curves_summary(curves), "tick", "start"),
        words_at(10, 89, calibration_summary(curves), "tick", "start"),
        *(
            element("svg", panel, x=450 * place, y=100, width=440, height=330)
            for place, panel in enumerate(panels)
            if panel
        ),
        xmlns="http://www.w3.org/2000/svg", viewBox="0 0 890 430", width=890, height=430,
        class_="strip",
    ))  # fmt: skip


def _with_interval(name: str, content: dict[str, Any], key: str) -> str:
    ends = content[f"{key}_ci95"]
    words = f"{name} {number(content[key], 2)}"
    return f"{words} (95% {interval(ends, 2)})" if ends else words

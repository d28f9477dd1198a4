"""Kaplan-Meier curves of the patients an encoder's risk put low and high."""

from typing import Any

from markupsafe import Markup

from madeleine_bench.leaderboard.page.svg import (
    Scale,
    element,
    figure_svg,
    line,
    linear,
    round_ticks,
    words_at,
)
from madeleine_bench.leaderboard.page.wording import interval, number, p_value

_DAYS_A_YEAR = 365.25
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 440, 296, 46, 30, 250


def kaplan_meier(curves: dict[str, Any], label: str, phantom: bool) -> Markup:
    """Return both curves with their 95% bands; low risk solid, high risk dashed."""
    found = {name: curves[name] for name in ("low", "high") if curves[name] is not None}
    times = [0.0, *(time for curve in found.values() for time in curve["time_days"])]
    last = max(max(times) / _DAYS_A_YEAR, 0.1)
    across, up = linear(0, last, _LEFT, _WIDTH - 12), linear(0, 1, _BOTTOM, _TOP)
    parts = _axes(across, up, last)
    for name, curve in found.items():
        parts += _curve(curve, name, across, up)
        parts += _key(curve, name, _LEFT + (190 if name == "high" else 0))
    return figure_svg(_WIDTH, _HEIGHT, f"Survival by risk of {label}. {summary(curves)}",
                      phantom, *parts)  # fmt: skip


def summary(curves: dict[str, Any]) -> str:
    """Return the counts, the log-rank p and the hazard ratio as one sentence."""
    ratio = f"hazard ratio {number(curves['hazard_ratio'], 2)}"
    if curves["hazard_ratio_ci95"] is not None:
        ratio += f" (95% {interval(curves['hazard_ratio_ci95'], 2)})"
    low, high = _counts(curves["low"]), _counts(curves["high"])
    p = p_value(curves["logrank_p"])
    return f"Low risk: {low}; high risk: {high}; log-rank p {p}; {ratio}."


def _counts(curve: dict[str, Any] | None) -> str:
    return "nobody" if curve is None else f"{curve['events']} events in {curve['n']}"


def _axes(across: Scale, up: Scale, last: float) -> list[Markup]:
    parts = [line(_LEFT, _BOTTOM, across(last), _BOTTOM, "axis"),
             line(_LEFT, _BOTTOM, _LEFT, _TOP, "axis")]  # fmt: skip
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(_LEFT, up(share), across(last), up(share), "grid"))
        parts.append(words_at(_LEFT - 6, up(share) + 4, f"{share:.2f}", anchor="end"))
    parts += [words_at(across(t), _BOTTOM + 15, f"{t:g}") for t in round_ticks(0, last, 6)]
    return [*parts, words_at((_LEFT + _WIDTH) / 2, _BOTTOM + 34, "years", "title")]


def _curve(curve: dict[str, Any], name: str, across: Scale, up: Scale) -> list[Markup]:
    years = [t / _DAYS_A_YEAR for t in curve["time_days"]]
    upper = _steps(years, curve["upper"], across, up)
    lower = _steps(years, curve["lower"], across, up)
    middle = _steps(years, curve["survival"], across, up)
    band = "M" + "L".join([*upper, *reversed(lower)]) + "Z"
    return [
        element("path", d=band, class_=f"band {name}"),
        element("path", d="M" + "L".join(middle), class_=f"curve {name}"),
    ]


def _steps(years: list[float], shares: list[float], across: Scale, up: Scale) -> list[str]:
    """Return the corners of a step function that starts at (0, 1)."""
    corners, share = [f"{across(0):.1f} {up(1):.1f}"], 1.0
    for year, after in zip(years, shares, strict=True):
        x = across(year)
        corners += [f"{x:.1f} {up(share):.1f}", f"{x:.1f} {up(after):.1f}"]
        share = after
    return corners


def _key(curve: dict[str, Any], name: str, x: float) -> list[Markup]:
    said = f"{name} risk, {curve['events']} of {curve['n']}"
    return [
        element("path", d=f"M{x:.0f} 12h26", class_=f"curve {name}"),
        words_at(x + 32, 16, said, "name", "start"),
    ]

"""Predicted against observed survival at one day, by groups of patients predicted alike."""

from typing import Any

from markupsafe import Markup

from madeleine_bench.leaderboard.page.svg import (
    element,
    figure_svg,
    line,
    linear,
    round_ticks,
    words_at,
)
from madeleine_bench.leaderboard.page.wording import interval, number

_DAYS_A_YEAR = 365.25
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 246, 46, 238, 8, 200


def calibration_plot(curves: dict[str, Any], label: str, phantom: bool) -> Markup | None:
    """Return the groups with their 95% intervals; on the diagonal the predictions came true.

    None where no survival was predicted, or nobody is watched until the day.
    """
    judged = curves.get("calibration")
    if not judged or not (groups := [g for g in judged["groups"] if g["observed"] is not None]):
        return None
    lowest = min(value for g in groups for value in (g["predicted"], *_ends(g)))
    low = max(0.0, lowest - 0.02)
    across, up = linear(low, 1, _LEFT, _RIGHT), linear(low, 1, _BOTTOM, _TOP)
    parts = [
        line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"),
        line(_LEFT, _BOTTOM, _LEFT, _TOP, "axis"),
        line(_LEFT, _BOTTOM, _RIGHT, _TOP, "zero"),
    ]
    for share in round_ticks(low, 1, 4):
        parts.append(words_at(_LEFT - 6, up(share) + 4, f"{share:.2f}", anchor="end"))
        parts.append(words_at(across(share), _BOTTOM + 15, f"{share:.2f}"))
    said = f"predicted survival at {number(judged['day'] / _DAYS_A_YEAR, 1)} years; up: observed"
    parts.append(words_at(_LEFT, _BOTTOM + 34, said, "title", "start"))
    for group in groups:
        x, (bottom, top) = across(group["predicted"]), _ends(group)
        parts.append(line(x, up(bottom), x, up(top), "thin"))
        parts.append(element("circle", cx=x, cy=up(group["observed"]), r=4, class_="dot"))
    return figure_svg(_WIDTH, _HEIGHT, f"Calibration of {label}. {calibration_summary(curves)}",
                      phantom, *parts)  # fmt: skip


def calibration_summary(curves: dict[str, Any]) -> str:
    """Return slope and observed over expected as one sentence; "" where nothing was predicted."""
    judged = curves.get("calibration")
    if not judged:
        return ""
    parts = [
        f"{name} {number(judged[key], 2)}"
        + (f" (95% {interval(judged[f'{key}_ci95'], 2)})" if judged[f"{key}_ci95"] else "")
        for name, key in (
            ("Calibration slope", "slope"),
            ("observed over expected events", "observed_over_expected"),
        )
    ]
    return f"{'; '.join(parts)}; 1 is right for both."


def _ends(group: dict[str, Any]) -> tuple[float, float]:
    low, high = group["ci95"] or (group["observed"], group["observed"])
    return low, high

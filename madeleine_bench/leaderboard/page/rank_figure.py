"""The critical-difference diagram: mean ranks on a line, bars over those that do not differ."""

from typing import Any

from markupsafe import Markup

from madeleine_bench.leaderboard.page.svg import (
    Scale,
    cut,
    element,
    figure_svg,
    line,
    linear,
    words_at,
)
from madeleine_bench.leaderboard.page.wording import number

_WIDTH, _LEFT, _RIGHT, _AXIS = 760, 220, 540, 56


def critical_difference(board: dict[str, Any]) -> Markup | None:
    """Return the diagram of Demsar (2006), best rank at the left; None where there is none."""
    content = board["critical_difference"]
    if not content or len(content["mean_ranks"]) < 2:
        return None
    ranks = sorted(content["mean_ranks"].items(), key=lambda item: (item[1], item[0]))
    scale = linear(1, len(ranks), _LEFT, _RIGHT)
    bars = _bars(content, scale)
    first = _AXIS + 20 + 8 * len(content["groups"])
    half = (len(ranks) + 1) // 2
    height = first + 18 * half + 8
    parts = [*_axis(scale, len(ranks), content["critical_difference"]), *bars]
    for index, (label, rank) in enumerate(ranks):
        left = index < half
        level = index if left else len(ranks) - 1 - index
        parts += _name(label, rank, scale, first + 18 * level, left)
    said = "Critical-difference diagram of mean ranks: " + ", ".join(
        f"{label} {number(rank, 2)}" for label, rank in ranks
    )
    return figure_svg(_WIDTH, height, said, bool(board["phantom"]), *parts)


def _axis(scale: Scale, count: int, difference: float) -> list[Markup]:
    parts = [line(scale(1), _AXIS, scale(count), _AXIS, "axis")]
    for place in range(1, count + 1):
        parts.append(line(scale(place), _AXIS - 5, scale(place), _AXIS, "axis"))
        parts.append(words_at(scale(place), _AXIS - 9, str(place)))
    end = min(scale(1) + (scale(2) - scale(1)) * difference, _WIDTH - 60.0)
    parts += [line(scale(1), 18, end, 18, "thick"), line(scale(1), 14, scale(1), 22, "axis")]
    parts.append(line(end, 14, end, 22, "axis"))
    said = f"critical difference {number(difference, 2)}"
    return [*parts, words_at(end + 8, 22, said, "name", "start")]


def _bars(content: dict[str, Any], scale: Scale) -> list[Markup]:
    ranks, parts = content["mean_ranks"], []
    groups = sorted(content["groups"], key=lambda g: min(ranks[label] for label in g))
    for index, group in enumerate(groups):
        places = [ranks[label] for label in group]
        y = _AXIS + 10 + 8 * index
        parts.append(line(scale(min(places)) - 3, y, scale(max(places)) + 3, y, "bar"))
    return parts


def _name(label: str, rank: float, scale: Scale, y: float, left: bool) -> list[Markup]:
    edge = _LEFT - 14 if left else _RIGHT + 14
    x = scale(rank)
    path = f"M{x:.1f} {_AXIS}V{y:.1f}H{edge}"
    words = f"{cut(label, 26)}  {number(rank, 2)}"
    anchor = "end" if left else "start"
    place = edge - 5 if left else edge + 5
    return [
        element("path", d=path, class_="elbow"),
        words_at(place, y + 4, words, "name", anchor),
    ]

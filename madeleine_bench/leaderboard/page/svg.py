"""Inline SVG: escaped elements, scales, and the frame every figure shares."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

Scale = Callable[[float], float]


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element; numbers are cut to a tenth of a pixel, `class_` and `_` become HTML's."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(_attribute(key), _short(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), pairs, inner)


def _attribute(key: str) -> Markup:
    camel = {"viewbox": "viewBox", "textanchor": "text-anchor"}
    return Markup(camel.get(key, key.rstrip("_").replace("_", "-")))


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def figure_svg(width: int, height: int, label: str, phantom: bool, *parts: Markup) -> Markup:
    """Return a whole drawing with its text alternative; a phantom's says so across the middle."""
    said = f"PHANTOM, synthetic data. {label}" if phantom else label
    stamp = [_stamp(width, height)] if phantom else []
    return element(
        "svg", element("title", said), *stamp, *parts,
        viewbox=f"0 0 {width} {height}", width=width, height=height, role="img", class_="figure",
    )  # fmt: skip


def _stamp(width: int, height: int) -> Markup:
    size = min(width / 6, height / 2.5)
    turn = f"rotate(-18 {width / 2:.0f} {height / 2:.0f})"
    return element(
        "text", "PHANTOM", x=width / 2, y=height / 2 + size / 3, textanchor="middle",
        font_size=size, transform=turn, class_="stamp",
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def words_at(x: float, y: float, said: str, class_: str = "tick", anchor: str = "middle") -> Markup:
    """Return text at a point."""
    return element("text", said, x=float(x), y=float(y), textanchor=anchor, class_=class_)


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map of [low, high] onto [start, end] pixels, held inside them."""
    span = (high - low) or 1.0

    def place(value: float) -> float:
        share = min(1.0, max(0.0, (value - low) / span))
        return start + share * (end - start)

    return place


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map of positive [low, high] onto pixels, equal ratios equally far apart."""
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(value))


def round_ticks(low: float, high: float, wanted: int = 7) -> list[float]:
    """Return round numbers inside [low, high], about as many as wanted.

    Examples:
        >>> [round(t, 2) for t in round_ticks(0.03, 0.61, 4)]
        [0.2, 0.4, 0.6]
    """
    span = (high - low) or 1.0
    size: float = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(size * m for m in (1, 2, 5, 10) if span / (size * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten inside [low, high]."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def cut(text: str, length: int) -> str:
    """Return text short enough for a drawing; the tables beside it carry the whole."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def reach(values: Sequence[float], least: float = 0.1) -> tuple[float, float]:
    """Return an axis that holds the values, with a little air, never of no width."""
    low, high = min(values), max(values)
    air = max((high - low) * 0.06, (least - (high - low)) / 2, 0.0)
    return low - air, high + air


def found(values: Sequence[Any]) -> list[Any]:
    """Return the values that are there."""
    return [value for value in values if value is not None]

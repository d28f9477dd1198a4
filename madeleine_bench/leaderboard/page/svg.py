"""Inline SVG: escaped elements, axes, and the frame that every figure shares."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Write = Callable[[float], str]


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
    width: float, height: float, label: str, phantom: bool, *parts: Markup, strip: bool = False
) -> Markup:
    """Return a whole drawing with its text alternative; a phantom's says so across the middle.

    A strip is too low for a stamp that can be read: its title says it alone.
    """
    stamp = []
    if phantom and not strip:
        stamp.append(element(
            "text", "PHANTOM", x=width / 2, y=height / 2 + min(width / 18, height / 7.5),
            text_anchor="middle", font_size=min(width / 6, height / 2.5),
            transform=f"rotate(-18 {width / 2:.0f} {height / 2:.0f})", class_="stamp",
        ))  # fmt: skip
    title = element("title", f"PHANTOM, synthetic data. {label}" if phantom else label)
    return element(
        "svg", title, *stamp, *parts, viewBox=f"0 0 {width} {height}", width=width, height=height,
        role="img", class_="strip" if strip else "figure",
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
    up: Axis, x: float, right: float, ticks: Iterable[float], write: Write
) -> list[Markup]:
    """Return an axis with words at its ticks, and a grid line to the right from each."""
    parts = [line(x, up.start, x, up.end, "axis")]
    for y, words in [(up(tick), write(tick)) for tick in ticks]:
        parts += [line(x, y, right, y, "grid"), words_at(x - 6, y + 4, words, anchor="end")]
    return parts


def cut(text: str, length: int) -> str:
    """Return text short enough for a drawing; the tables beside it carry the whole."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"

"""One figure of an encoder on a cohort: spectrum, cosines, halves against slides, and scale."""

from typing import Any

import numpy as np
import pandas as pd

from madeleine_bench.embeddings.doctor.checks import COSINE_FAIL, COSINE_WARN
from madeleine_bench.embeddings.doctor.geometry import cosines, effective_rank, singular_values
from madeleine_bench.embeddings.doctor.patch_count import compare_halves
from madeleine_bench.embeddings.doctor.sample import Floats, Rows
from madeleine_bench.figures import COLOURS, GREY, INK

_WIDTH, _HEIGHT = 300, 190
_BINS = 40
# Panels above each other begin at the same place.
_AXIS = {"minExtent": 34}


def doctor_chart(rows: Rows, title: str, *, phantom: bool) -> Any:
    """Return the figure as an Altair chart; a phantom's title says PHANTOM.

    Args:
        rows: usable embeddings, of several slides.
        title: names the encoder and the cohort.
        phantom: whether the slides are made up.
    """
    import altair as alt

    heading = alt.Title(
        title + (" (PHANTOM, synthetic data)" if phantom else ""),
        subtitle=f"{len(rows.slides)} slides, embeddings of width {rows.matrix.shape[1]}",
        fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY, subtitleFontSize=11,
        subtitlePadding=5, anchor="start", offset=18,
    )  # fmt: skip
    top = alt.hconcat(_spectrum(rows), _cosines(rows), spacing=44)
    bottom = alt.hconcat(_halves(rows), _norms(rows), spacing=44)
    return alt.vconcat(
        top, bottom, title=heading, spacing=30, padding=18, background="white"
    ).resolve_scale(color="independent")


def histogram(values: Floats, low: float, high: float) -> pd.DataFrame:
    """Return counts in equal bins as shares of all values; empty bins are left out."""
    counts, edges = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))
    share = counts / max(len(values), 1)
    table = pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": share, "zero": 0.0})
    return table[table["share"] > 0.0]


def _heading(text: str, subtitle: str) -> Any:
    import altair as alt

    return alt.Title(
        text, subtitle=subtitle, fontSize=12, fontWeight=600, color=INK, anchor="start",
        subtitleColor=GREY, subtitleFontSize=10, subtitlePadding=3, offset=8,
    )  # fmt: skip


def _spectrum(rows: Rows) -> Any:
    import altair as alt

    values = singular_values(rows.matrix)
    most = min(len(rows.matrix) - 1, rows.matrix.shape[1])
    share = 100.0 * values[:most] / max(float(values.sum()), 1e-300)
    table = pd.DataFrame({"direction": np.arange(1, len(share) + 1), "share": share})
    subtitle = f"effective rank {effective_rank(values):.1f} of {most} possible"
    return (
        alt.Chart(table, title=_heading("Singular values of the centred embeddings", subtitle))
        .mark_line(color=COLOURS[0], point=alt.OverlayMarkDef(size=22, color=COLOURS[0]))
        .encode(
            alt.X("direction:Q", title="direction, largest first", axis=alt.Axis(tickMinStep=1),
                  scale=alt.Scale(domain=[1, max(most, 2)], nice=False)),
            alt.Y("share:Q", title="share of the sum, %", axis=_AXIS),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )  # fmt: skip


def _cosines(rows: Rows) -> Any:
    import altair as alt

    found = cosines(rows.matrix)
    low = min(float(np.floor(found.min() * 10.0) / 10.0), 0.9)
    table = histogram(found, low, 1.0)
    bars = _bars(table, COLOURS[0], low, 1.0, "cosine, nothing subtracted")
    limits = pd.DataFrame({"at": [COSINE_WARN, COSINE_FAIL]})
    lines = alt.Chart(limits).mark_rule(color=COLOURS[1], strokeDash=[4, 3]).encode(x="at:Q")
    subtitle = f"mean {found.mean():.3f}; dashed: its limits, {COSINE_WARN:g} and {COSINE_FAIL:g}"
    return alt.layer(bars, lines).properties(
        width=_WIDTH, height=_HEIGHT, title=_heading("Cosine between different slides", subtitle)
    )


def _halves(rows: Rows) -> Any:
    import altair as alt

    found = compare_halves(rows)
    everything = np.concatenate([found.own, found.between])
    low = min(float(np.floor(everything.min(initial=0.0) * 10.0) / 10.0), 0.9)
    parts = [
        histogram(values, low, 1.0).assign(pair=name)
        for name, values in (("another slide", found.between), ("its own slide", found.own))
    ]
    for part in parts:  # there are far more pairs of different slides than slides
        part["share"] /= part["share"].max()
    nearest = float((found.own > found.best_other + 1e-9).mean()) if len(found.own) else 0.0
    scale = alt.Scale(domain=["its own slide", "another slide"], range=[COLOURS[1], COLOURS[7]])
    legend = alt.Legend(orient="bottom", title=None, labelFontSize=11)
    bars = _bars(pd.concat(parts), COLOURS[7], low, 1.0, "cosine, mean slide subtracted").encode(
        alt.Y("share:Q", title="of the tallest bar", axis=_AXIS),
        alt.Color("pair:N", scale=scale, legend=legend),
    )
    subtitle = f"{nearest:.0%} are nearest to their own slide"
    return bars.properties(
        width=_WIDTH, height=_HEIGHT, title=_heading("Cosine of half of the patches to", subtitle)
    )


def _norms(rows: Rows) -> Any:
    import altair as alt

    table = pd.DataFrame(
        {
            "patches": [slide.patches for slide in rows.slides],
            "norm": np.linalg.norm(rows.matrix, axis=1),
        }
    )
    subtitle = "one point a slide"
    return (
        alt.Chart(table, title=_heading("Norm of the embedding by number of patches", subtitle))
        .mark_point(filled=True, size=36, opacity=0.7, color=COLOURS[0])
        .encode(
            alt.X("patches:Q", title="patches (log)",
                  scale=alt.Scale(type="log", nice=False, padding=8),
                  axis=alt.Axis(tickCount=5)),
            alt.Y("norm:Q", title="norm", scale=alt.Scale(zero=True), axis=_AXIS),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )  # fmt: skip


def _bars(table: pd.DataFrame, colour: str, low: float, high: float, title: str) -> Any:
    import altair as alt

    return (
        alt.Chart(table)
        .mark_rect(opacity=0.6, color=colour)
        .encode(
            alt.X("left:Q", title=title, scale=alt.Scale(domain=[low, high], nice=False)),
            alt.X2("right"),
            alt.Y("share:Q", title="share of pairs", axis={**_AXIS, "format": "%"}),
            alt.Y2("zero"),
        )
    )

"""The figure of stains: scores as stains are dropped, and what fusions gain over one alone."""

from typing import Any

from madeleine_bench.figures import COLOURS, GREY, INK, styled_png, styled_svg

_WAYS = {"alike": "trained with the same stains", "dropped": "trained with all stains"}
_PANEL = 190


def stain_curves(content: dict[str, Any]) -> tuple[str, bytes]:
    """Return SVG and PNG of a document of `mbench stains`.

    A row of panels for each task. Left and middle: the mean score over all choices of so many
    stains, with the band from the worst to the best choice. Right: what all stains gain over the
    one alone, by fusion, with the 95% interval.
    """
    import altair as alt

    encoders = list(dict.fromkeys(each["encoder"] for each in content["tasks"]))
    colour = (
        alt.Color("encoder:N", title=None, sort=encoders)
        .scale(domain=encoders, range=list(COLOURS[: len(encoders)]))
        .legend(symbolType="circle", symbolOpacity=1, symbolStrokeWidth=0)
    )
    rows = []
    for task in dict.fromkeys(each["task"] for each in content["tasks"]):
        own = [each for each in content["tasks"] if each["task"] == task]
        points = [p for each in own for way in _WAYS for p in each["curves"][way]]
        reach = alt.Scale(
            domain=[min(p["lowest"] for p in points), max(p["highest"] for p in points)], nice=True
        )
        panels = [_dropping(own, way, colour, reach) for way in _WAYS]
        rows.append(
            alt.hconcat(
                *panels, _gains(own, content["alone"], colour), spacing=62, bounds="flush"
            ).properties(title=alt.Title(task, anchor="start", fontSize=13, color=INK, offset=10))
        )
    kind = "PHANTOM slides: " if content["phantom"] else ""
    title = alt.Title(
        f"{kind}what the stains of a case are worth ({content['cohort']})",
        subtitle=f"{content['protocol']}. Lines: mean over all choices of so many stains; bands: "
        "worst to best choice. Dots: gain and 95% interval.",
        anchor="start", fontSize=15, color=INK, subtitleColor=GREY, offset=16,
    )  # fmt: skip
    chart = alt.vconcat(*rows, title=title, background="white", padding=14, spacing=28)
    return styled_svg(chart), styled_png(chart)


def _dropping(own: list[dict[str, Any]], way: str, colour: Any, reach: Any) -> Any:
    import altair as alt

    points = [
        {"encoder": each["encoder"], **point} for each in own for point in each["curves"][way]
    ]
    most = max(point["stains"] for point in points)
    base = alt.Chart(_data(points)).encode(
        x=alt.X("stains:Q", title="stains left", scale=alt.Scale(domain=[most, 1], reverse=False))
        .axis(values=list(range(most, 0, -1)), grid=False, format="d"),
        color=colour,
    )  # fmt: skip
    y = alt.Y("mean:Q", title=own[0]["metric"], scale=reach)
    band = base.mark_area(opacity=0.12).encode(
        y=alt.Y("lowest:Q", scale=reach, title=own[0]["metric"]), y2="highest:Q"
    )
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=36, filled=True)).encode(y=y)
    return (band + line).properties(
        width=_PANEL, height=_PANEL,
        title=alt.Title(_WAYS[way], fontSize=11, fontWeight="normal", color=GREY, anchor="start"),
    )  # fmt: skip


def _gains(own: list[dict[str, Any]], alone: str, colour: Any) -> Any:
    import altair as alt

    points = [
        {
            "encoder": each["encoder"],
            "fusion": fusion["fusion"],
            "gain": fusion["difference"],
            # Without an interval, the point alone.
            "low": (fusion["ci95"] or [fusion["difference"]])[0],
            "high": (fusion["ci95"] or [fusion["difference"]])[-1],
        }
        for each in own
        for fusion in each["fusions"]
        if fusion["difference"] is not None and len(fusion["stains"]) > 1
    ]
    offset = alt.YOffset("encoder:N", sort=list(dict.fromkeys(p["encoder"] for p in points)))
    base = alt.Chart(_data(points)).encode(
        y=alt.Y("fusion:N", title=None, sort=["late", "per-stain", "early"]), yOffset=offset,
        color=colour,
    )  # fmt: skip
    x = alt.X("gain:Q", title=f"above {alone} alone", scale=alt.Scale(zero=True))
    dots = base.mark_circle(size=46, opacity=1).encode(x=x)
    bars = base.mark_rule(strokeWidth=1.6).encode(
        x=alt.X("low:Q", title=f"above {alone} alone"), x2="high:Q"
    )
    zero = alt.Chart(_data([{"x": 0}])).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="x:Q")
    return (zero + bars + dots).properties(
        width=_PANEL, height=_PANEL,
        title=alt.Title("all stains, by fusion", fontSize=11, fontWeight="normal", color=GREY,
                        anchor="start"),
    )  # fmt: skip


def _data(values: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.Data(values=values)  # type: ignore[no-untyped-call]

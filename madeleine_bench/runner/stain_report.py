"""The document of `mbench stains` for a reader: tables, and the figure of docs/multistain.md."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.report import PHANTOM_NOTICE, Table

Way = Literal["alike", "dropped"]
WAYS: dict[Way, str] = {
    "alike": "trained with the same stains",
    "dropped": "trained with all stains",
}
_PANEL = 190


def report_body(content: Mapping[str, Any]) -> list[Table | str]:
    """Return the tables of a document, and what to know of missing stains and phantoms."""
    kind = "PHANTOM" if content["phantom"] else "real data"
    fusions = []
    for each in content["tasks"]:
        for fusion in each["fusions"]:
            stains = "all" if len(fusion["stains"]) > 1 else fusion["stains"][0]
            name = [each["task"], each["encoder"], f"{stains}, {fusion['fusion']}"]
            fusions.append([*name, f"{fusion['value']:.3f}", gain_text(fusion)])
    sizes = sorted({p["stains"] for t in content["tasks"] for p in t["curves"]["alike"]})[::-1]
    rows = []
    for each in content["tasks"]:
        for way in WAYS:
            means = {point["stains"]: f"{point['mean']:.3f}" for point in each["curves"][way]}
            rows.append([each["task"], each["encoder"], way, *(means.get(n, "-") for n in sizes)])
    body: list[Table | str] = [
        Table(
            f"Stains together against {content['alone']} alone, {content['protocol']} ({kind})",
            ("task", "encoder", "stains, fusion", "score", f"above {content['alone']} alone (95%)"),
            fusions,
        ),
        Table(
            "Mean score over all choices of so many stains: trained alike, or on all and tested "
            "with the others dropped",
            ("task", "encoder", "trained", *(f"{n} stain{'s' * (n > 1)}" for n in sizes)),
            rows,
        ),
    ]
    for each in content["tasks"]:
        if counts := ", ".join(f"{stain} {n}" for stain, n in each["lacking"].items() if n):
            body.append(
                f"{each['task']}: cases that lack a stain: {counts}; each is scored from "
                "the stains it has"
            )
    return [*body, PHANTOM_NOTICE] if content["phantom"] else body


def gain_text(fusion: Mapping[str, Any]) -> str:
    """Return what a fusion gains over the one stain alone, with its interval where it has one."""
    if fusion["difference"] is None:
        return "-"
    interval = " ({:+.3f} to {:+.3f})".format(*fusion["ci95"]) if fusion["ci95"] else ""
    return f"{fusion['difference']:+.3f}{interval}"


def stain_chart(content: Mapping[str, Any]) -> Any:
    """Return the Altair chart of a document, a row of panels for each task.

    Left and middle: the mean score over all choices of so many stains, with the band from the worst
    to the best choice. Right: what all stains gain over the one alone, by fusion, with the 95%
    interval.
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
        of_task = [each for each in content["tasks"] if each["task"] == task]
        curves = [_dropping(of_task, way, colour) for way in WAYS]
        left = alt.hconcat(*curves, spacing=62, bounds="flush").resolve_scale(y="shared")
        panels = alt.hconcat(left, _gains(of_task, content["alone"], colour), spacing=62)
        title = alt.Title(task, anchor="start", fontSize=13, color=INK, offset=10)
        rows.append(panels.properties(title=title, bounds="flush"))
    kind = "PHANTOM slides: " if content["phantom"] else ""
    title = alt.Title(
        f"{kind}what the stains of a case are worth ({content['cohort']})",
        subtitle=f"{content['protocol']}. Lines: mean over all choices of so many stains; bands: "
        "worst to best choice. Dots: gain and 95% interval.",
        anchor="start", fontSize=15, color=INK, subtitleColor=GREY, offset=16,
    )  # fmt: skip
    return alt.vconcat(*rows, title=title, background="white", padding=14, spacing=28)


def _dropping(of_task: Sequence[Mapping[str, Any]], way: Way, colour: Any) -> Any:
    import altair as alt

    points = [{"encoder": e["encoder"], **point} for e in of_task for point in e["curves"][way]]
    most = max(point["stains"] for point in points)
    x = alt.X("stains:Q", title="stains left", scale=alt.Scale(domain=[most, 1])).axis(
        values=list(range(most, 0, -1)), grid=False, format="d"
    )
    y = {"title": of_task[0]["metric"], "scale": alt.Scale(zero=False)}
    base = _chart(points).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.12).encode(y=alt.Y("lowest:Q", **y), y2="highest:Q")
    line = base.mark_line(strokeWidth=2, point={"size": 36}).encode(y=alt.Y("mean:Q", **y))
    return _panel(band + line, WAYS[way])


def _gains(of_task: Sequence[Mapping[str, Any]], alone: str, colour: Any) -> Any:
    import altair as alt

    points = []
    for each in of_task:
        for fusion in each["fusions"]:
            if fusion["difference"] is not None and len(fusion["stains"]) > 1:
                gain = fusion["difference"]
                low, high = fusion["ci95"] or (gain, gain)  # without an interval, the point alone
                place = {"encoder": each["encoder"], "fusion": fusion["fusion"]}
                points.append({**place, "gain": gain, "low": low, "high": high})
    base = _chart(points).encode(
        y=alt.Y("fusion:N", title=None, sort=["late", "per-stain", "early"]),
        yOffset=alt.YOffset("encoder:N", sort=list(dict.fromkeys(p["encoder"] for p in points))),
        color=colour,
    )
    dots = base.mark_circle(size=46, opacity=1).encode(
        x=alt.X("gain:Q", title=f"above {alone} alone")
    )
    bars = base.mark_rule(strokeWidth=1.6).encode(x="low:Q", x2="high:Q")
    zero = _chart([{"x": 0}]).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="x:Q")
    return _panel(zero + bars + dots, "all stains, by fusion")


def _chart(values: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.Chart(alt.Data(values=values))  # type: ignore[no-untyped-call]


def _panel(chart: Any, title: str) -> Any:
    import altair as alt

    style = alt.Title(title, fontSize=11, fontWeight="normal", color=GREY, anchor="start")
    return chart.properties(width=_PANEL, height=_PANEL, title=style)

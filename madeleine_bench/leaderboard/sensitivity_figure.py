"""Ranks of encoders across protocols as a bump chart, over tau between protocols as a heat map."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.sensitivity import Ranking, Sensitivity

_STEP, _CELL, _ROW = 64, 64, 46
_DIM = "#B4B4B4"
_TIE_STEP = 0.16


def sensitivity_chart(found: Sensitivity) -> Any:
    """Return the figure as an Altair chart; a phantom's title says PHANTOM.

    A line joins the ranks of an encoder under protocols that score the same tasks. Controls are
    dashed and grey, between the ranks that they lie between.
    """
    import altair as alt

    phantom = found.board.startswith("phantom")
    title = alt.Title(
        f"Ranks of encoders under {len(found.rankings)} protocols"
        + (" (PHANTOM, synthetic data)" if phantom else ""),
        subtitle=[
            "Above: place by the mean over families of chance-corrected scores, 1 is the best; in "
            "brackets the number of tasks.",
            "Below: Kendall's tau-b between the rankings over the tasks that both protocols score; "
            "1 is the same order, 0 none in common.",
        ],
        fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY, subtitleFontSize=11,
        subtitlePadding=5, anchor="start", offset=18,
    )  # fmt: skip
    panels = [_bumps(found)]
    if any(pair.agreement.tau is not None for pair in found.pairs):
        panels.append(_heat(found))
    chart = alt.vconcat(*panels, title=title, spacing=24, padding=24, background="white")
    return chart.resolve_scale(color="independent")


def places(ranking: Ranking, ranked: Sequence[str], controls: Sequence[str]) -> dict[str, float]:
    """Return where each line runs: at the rank, ties side by side, controls between ranks.

    Examples:
        >>> places(Ranking("p", (), {"a": 0.2, "b": 0.1, "c": 0.15}, {"a": 1, "b": 2}), "ab", "c")
        {'a': 1.0, 'b': 2.0, 'c': 1.5}
    """
    seen: Counter[int] = Counter()
    found = {}
    for label in ranked:
        rank = ranking.ranks[label]
        found[label] = rank + _TIE_STEP * seen[rank]
        seen[rank] += 1
    above = {c: sum(ranking.means[r] >= ranking.means[c] for r in ranked) for c in controls}
    for count in set(above.values()):
        together = sorted(
            (c for c in controls if above[c] == count), key=lambda c: -ranking.means[c]
        )
        for place, control in enumerate(together, start=1):
            found[control] = count + place / (len(together) + 1)
    return found


def in_order(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Return the rankings with those over the same tasks together, the most tasks first."""
    sets = sorted({ranking.tasks for ranking in rankings}, key=lambda ids: (-len(ids), ids))
    return sorted(rankings, key=lambda ranking: sets.index(ranking.tasks))


def _bumps(found: Sensitivity) -> Any:
    import altair as alt

    order = in_order(found.rankings)
    names = [f"{ranking.protocol} ({len(ranking.tasks)})" for ranking in order]
    tied = [name for name, r in zip(names, order, strict=True) if set(r.ranks.values()) == {1}]
    table = pd.DataFrame(
        [
            {"protocol": name, "encoder": label, "place": place, "tasks": " ".join(ranking.tasks),
             "rank": str(ranking.ranks.get(label, ""))}
            for ranking, name in zip(order, names, strict=True) if name not in tied
            for label, place in places(ranking, found.ranked, found.controls).items()
        ],
        columns=["protocol", "encoder", "place", "tasks", "rank"],
    )  # fmt: skip
    # Colours go by the first protocol's ranks, so that neighbours differ.
    best = sorted(found.ranked, key=lambda label: (order[0].ranks[label], label))
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(best))] + [_DIM] * len(found.controls)
    colour = alt.Color(
        "encoder:N", legend=None, scale=alt.Scale(domain=[*best, *found.controls], range=colours)
    )
    x = alt.X(
        "protocol:N", sort=names, title=None, scale=alt.Scale(domain=names),
        axis=alt.Axis(labelAngle=-35, labelLimit=220, domain=False, ticks=False, labelPadding=8),
    )  # fmt: skip
    count = len(found.ranked)
    y = alt.Y(
        "place:Q", axis=None, scale=alt.Scale(domain=[count + 0.8, 0.6], nice=False, zero=False)
    )
    base = alt.Chart(table).encode(x, y, colour)
    ranked = base.transform_filter(alt.FieldOneOfPredicate("encoder", list(found.ranked)))
    layers = [
        ranked.mark_line(strokeWidth=2.4).encode(detail="tasks:N"),
        ranked.mark_point(filled=True, size=210, opacity=1),
        ranked.mark_text(fontSize=10, fontWeight=600).encode(
            text="rank:N", color=alt.value("white")
        ),
        base.transform_filter(alt.FieldEqualPredicate(names[0], "protocol"))
        .mark_text(align="right", dx=-16, fontSize=11)
        .encode(text="encoder:N"),
        alt.Chart(pd.DataFrame({"protocol": tied, "place": (count + 1) / 2, "said": "all tied"}))
        .mark_text(fontSize=11, color=GREY)
        .encode(x, y, text="said:N"),
    ]
    if found.controls:
        controls = base.transform_filter(alt.FieldOneOfPredicate("encoder", list(found.controls)))
        dashed = controls.mark_line(strokeWidth=1.4, strokeDash=[4, 3]).encode(detail="tasks:N")
        layers = [dashed, controls.mark_point(filled=True, size=50, opacity=1), *layers]
    return alt.layer(*layers).properties(width=_STEP * len(names), height=_ROW * (count + 1))


def _heat(found: Sensitivity) -> Any:
    import altair as alt

    pairs = [pair for pair in found.pairs if pair.agreement.tau is not None]
    shown = {name for pair in pairs for name in (pair.first, pair.second)}
    names = [r.protocol for r in in_order(found.rankings) if r.protocol in shown]
    rows = []
    for pair in pairs:
        first, second = sorted((pair.first, pair.second), key=names.index)
        tau, ends = pair.agreement.tau, pair.agreement.ci95
        rows.append({
            "first": first, "second": second, "tau": tau,
            "said": f"{tau:.2f}".replace("-", "\u2212"),
            "ends": f"{ends[0]:.1f} to {ends[1]:.1f}".replace("-", "\u2212") if ends else "",
            "dark": abs(tau or 0.0) > 0.7,
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=["first", "second", "tau", "said", "ends", "dark"])
    axis = alt.Axis(labelLimit=200, domain=False, ticks=False, labelPadding=6)
    across, down = ([n for n in names if n in set(table[side])] for side in ("first", "second"))
    base = alt.Chart(table).encode(
        alt.X("first:N", sort=across, scale=alt.Scale(domain=across), title=None,
              axis=alt.Axis(labelAngle=-35, labelLimit=200, domain=False, ticks=False)),
        alt.Y("second:N", sort=down, scale=alt.Scale(domain=down), title=None, axis=axis),
    )  # fmt: skip
    scale = alt.Scale(domain=[-1, 0, 1], range=[COLOURS[1], "#F7F7F7", COLOURS[0]])
    cells = base.mark_rect(stroke="white", strokeWidth=2).encode(
        alt.Color("tau:Q", scale=scale, legend=None)
    )
    ink = alt.condition("datum.dark", alt.value("white"), alt.value(INK))
    taus = base.mark_text(fontSize=11, fontWeight=600, dy=-5).encode(text="said:N", color=ink)
    ends = base.mark_text(fontSize=9, dy=8).encode(text="ends:N", color=ink)
    size = {"width": _CELL * len(across), "height": 38 * len(down)}
    return alt.layer(cells, taus, ends).properties(**size)

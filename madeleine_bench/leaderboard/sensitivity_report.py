"""The sensitivity of ranks to the protocol as a report: score what is missing, tables, figure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench import __version__
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.comparison import ALPHA
from madeleine_bench.leaderboard.sensitivity import (
    LEAST_ENCODERS,
    ProtocolPair,
    Ranking,
    Sensitivity,
    fitting_protocols,
    sensitivity,
)
from madeleine_bench.leaderboard.sources import CaseDraws
from madeleine_bench.report import Report, Table
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.catalogue import Catalogue, is_glob, misfit
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.rank_agreement import LEAST_TASKS, RESAMPLES
from madeleine_bench.types import Progress

_STEP, _CELL, _ROW = 64, 64, 46
_DIM = "#B4B4B4"
_TIE_STEP = 0.16
_AGREEMENT = ("tasks", "tau-b", "95%", "p", "tau by task")


# Scores what is missing of some tasks (ids) under some protocols (versioned names); returns the
# boards of its records, and whether a record is of the features that it scored.
Score = Callable[[Sequence[str], Sequence[str]], tuple[Sequence[str], Callable[[Record], bool]]]


def sensitivity_report(
    workspace: Workspace,
    encoders: Sequence[str],
    tasks: Sequence[str],
    protocols: Sequence[str],
    rank_controls: bool,
    score: Score | None,
    progress: Progress,
) -> Report:
    """Return how far protocols agree on the order of encoders, of each board with records.

    Equal records give equal numbers.

    Args:
        workspace: where records lie; its source says which of them count.
        encoders: names, or paths of cards; may be empty where nothing is scored.
        tasks: ids, globs, or "all".
        protocols: ids or globs; empty takes all that start from embeddings.
        rank_controls: rank controls too.
        score: scores what is missing; None reads records only.
        progress: told of each board.

    Raises:
        InputError: an argument is unknown, or too little is left to compare.
    """
    catalogue = workspace.tasks()
    chosen = catalogue.select(tasks)
    names = _protocols(protocols, catalogue, chosen)
    runs = []
    if score is not None:
        _check_encoders(encoders, rank_controls)
        by_tasks = _by_tasks(catalogue, chosen, names)
        runs = [score(ids, together) for ids, together in by_tasks.items()]
    store = ResultStore(workspace.results)
    every = [r for r in store.records() if all(is_scored(r) for _, is_scored in runs)]
    records = _records_of(every, workspace, encoders)
    boards = {board for scored, _ in runs for board in scored} or {r.board for r in records}
    draws = CaseDraws({record.record_id: store for record in records}, catalogue)

    def draws_of(record: Record) -> NDArray[np.float64]:
        progress.note(f"resample {record.encoder.name} {record.task.id}")
        return draws.of(record)

    progress.phase("compare", len(boards))
    results: list[Sensitivity] = []
    for board in sorted(boards):
        one = sensitivity(records, catalogue, board, names, chosen, draws_of, rank_controls)
        results.append(one)
        progress.advance(board)
    body = [part for one in results for part in _body(one)]
    charts = {
        "sensitivity" if len(results) == 1 else f"sensitivity-{one.board}": sensitivity_chart(one)
        for one in results
    }
    document = {
        "what": "sensitivity of ranks to the protocol",
        "package": f"madeleine-bench {__version__}",
        "interval": f"95% percentile, {RESAMPLES} bootstrap resamples of the tasks that both "
        f"protocols score; none below {LEAST_TASKS} tasks",
        "p_value": "two-sided, of tau between unrelated orders: all orders up to 8 encoders",
        "separated": f"Wilcoxon signed-rank over tasks, Holm over encoder pairs, below {ALPHA}",
        "better": "as on the board: that test and the one by resampled cases, in one direction",
        "boards": [asdict(one) for one in results],
    }
    return Report(document, body, charts)


def sensitivity_chart(result: Sensitivity) -> Any:
    """Return ranks across protocols as a bump chart, over tau between protocols as a heat map.

    A line joins the ranks of an encoder under protocols that score the same tasks. Controls are
    dashed and grey, between the ranks that they lie between. A phantom's title says PHANTOM.
    """
    below = [
        "Above: place by the mean over families of chance-corrected scores, 1 is the best; in "
        "brackets the number of tasks.",
        "Below: Kendall's tau-b between the rankings over the tasks that both protocols score; "
        "1 is the same order, 0 none in common.",
    ]
    text = f"Ranks of encoders under {len(result.rankings)} protocols"
    panels = [_bumps(result)]
    if any(pair.tau is not None for pair in result.pairs):
        panels.append(_heat(result))
    title = alt.Title(
        f"{text} (PHANTOM, synthetic data)" if result.phantom else text,
        subtitle=below, fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY,
        subtitleFontSize=11, subtitlePadding=5, anchor="start", offset=18,
    )  # fmt: skip
    chart = alt.vconcat(*panels, title=title, spacing=24, padding=24, background="white")
    return chart.resolve_scale(color="independent")


def places(ranking: Ranking, ranked: Sequence[str], controls: Sequence[str]) -> dict[str, float]:
    """Return where each line runs: at the rank, ties side by side, controls between ranks.

    Examples:
        >>> places(Ranking("p", (), {"a": 0.2, "b": 0.1, "c": 0.15}, {"a": 1, "b": 2}), "ab", "c")
        {'a': 1.0, 'b': 2.0, 'c': 1.5}
    """
    lines: dict[str, float] = {}
    for place, label in enumerate(ranked):
        ties = [other for other in ranked[:place] if ranking.ranks[other] == ranking.ranks[label]]
        lines[label] = ranking.ranks[label] + _TIE_STEP * len(ties)
    above = {c: sum(ranking.means[r] >= ranking.means[c] for r in ranked) for c in controls}
    for count in set(above.values()):
        together = [c for c in controls if above[c] == count]
        together.sort(key=lambda control: -ranking.means[control])
        for place, control in enumerate(together, start=1):
            lines[control] = count + place / (len(together) + 1)
    return lines


def in_order(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Return the rankings with those over the same tasks together, the most tasks first."""
    sets = sorted({ranking.tasks for ranking in rankings}, key=lambda ids: (-len(ids), ids))
    return sorted(rankings, key=lambda ranking: sets.index(ranking.tasks))


def verdict_text(difference: float, better: str) -> str:
    """Return a difference of two encoders, and which of them is marked better."""
    return f"{difference:+.3f} ({f'{better} better' if better else 'not significant'})"


def _protocols(
    patterns: Sequence[str], catalogue: Catalogue, tasks: Sequence[TaskSpec]
) -> list[str]:
    """Return the protocols to compare; of those a glob matches, the ones that fit a task."""
    fitting = fitting_protocols(catalogue, tasks)
    if not patterns:
        return fitting
    named = [catalogue.protocol(p).name for p in patterns if not is_glob(p)]
    matches = [protocol.name for protocol in catalogue.select_protocols(patterns)]
    return [name for name in matches if name in named or name in fitting]


def _check_encoders(encoders: Sequence[str], rank_controls: bool) -> None:
    if not encoders:
        raise InputError("no encoder given: --encoder NAME (mbench encoders list), or --no-run")
    kinds = {name: find_encoder(name).card.kind for name in encoders}
    ranked = [n for n, kind in kinds.items() if rank_controls or kind != "control"]
    if len(ranked) < LEAST_ENCODERS:
        raise InputError(
            f"tau of fewer than {LEAST_ENCODERS} encoders is a coin; to be ranked are "
            f"{', '.join(ranked) or 'none'}; name more with --encoder, or --rank-controls"
        )


def _by_tasks(
    catalogue: Catalogue, tasks: Sequence[TaskSpec], protocols: Sequence[str]
) -> dict[tuple[str, ...], list[str]]:
    """Return the protocols by the tasks that they fit."""
    by_tasks: dict[tuple[str, ...], list[str]] = {}
    for name in protocols:
        ids = tuple(t.id for t in tasks if misfit(t, catalogue.protocols[name]) is None)
        if not ids:
            raise InputError(f"protocol {name} fits none of the tasks; leave it out")
        by_tasks.setdefault(ids, []).append(name)
    return by_tasks


def _records_of(
    records: Sequence[Record], workspace: Workspace, encoders: Sequence[str]
) -> list[Record]:
    """Return the records of the source and of the encoders that were named, or of all."""
    kept = [r for r in records if workspace.source in ("auto", r.source)]
    names = {record.encoder.name for record in kept}
    if not names:
        raise InputError(f"no records for this in {workspace.results}; make some without --no-run")
    is_card = (".yaml", ".yml")
    wanted = {find_encoder(n).card.name if n.endswith(is_card) else n for n in encoders}
    for name in sorted(wanted - names):
        raise InputError(f"no record of encoder '{name}'{did_you_mean(name, sorted(names))}")
    return [record for record in kept if not wanted or record.encoder.name in wanted]


def _body(result: Sensitivity) -> list[Table | str]:
    board = f"Board '{result.board}' ({'PHANTOM' if result.phantom else 'real data'})"
    ranks = result.rankings[0].ranks
    labels = sorted(result.ranked, key=lambda label: (ranks[label], label))
    labels += result.controls
    rankings = [
        [r.protocol, str(len(r.tasks)),
         *(f"{r.ranks.get(label, '-')} ({r.means[label]:.3f})" for label in labels)]
        for r in result.rankings
    ]  # fmt: skip
    pairs = [
        [*_agreement(pair), str(len(pair.alike)),
         f"{len(pair.swaps)} ({sum(bool(s.separated_by) for s in pair.swaps)} significant)"]
        for pair in result.pairs
    ]  # fmt: skip
    header = ["protocol", "and", *_AGREEMENT, "alike", "swaps"]
    body = [
        *_versions(result, board),
        Table(
            f"{board}: rank (mean over families) under each protocol",
            ["protocol", "tasks", *labels],
            rankings,
        ),
        Table("\nKendall's tau between the rankings, over tasks that both score", header, pairs),
        *_swaps(result.pairs),
    ]
    body += [f"{label} is left out: {why}" for label, why in result.left_out.items()]
    return [*body, result.notice] if result.phantom else body


def _versions(result: Sensitivity, board: str) -> list[Table | str]:
    """Return how far versions of a protocol agree, and each verdict that differs between them."""
    versions = [(pair, pair.flips) for pair in result.pairs if pair.flips is not None]
    if not versions:
        return []
    count = len(result.ranked) * (len(result.ranked) - 1) // 2
    rows = [
        [*_agreement(pair),
         f"{len(flips)} of {count} ({sum(any(f.better) for f in flips)} significant)"]
        for pair, flips in versions
    ]  # fmt: skip
    header = ["older", "newer", *_AGREEMENT, "conclusions flip"]
    tables = [Table(f"{board}: versions of a protocol against each other", header, rows)]
    flipped = [
        [pair.second, f"{flip.first} - {flip.second}",
         *(verdict_text(d, b) for d, b in zip(flip.differences, flip.better, strict=True))]
        for pair, flips in versions for flip in flips
    ]  # fmt: skip
    if flipped:
        header = ["newer version", "encoders", "difference, older", "difference, newer"]
        tables.append(Table("\nConclusions that flip (mean over families)", header, flipped))
    return [*tables, ""]


def _swaps(pairs: Sequence[ProtocolPair]) -> list[Table]:
    """Return who swaps places, in how many pairs and in how many with significance, most first."""
    swaps = [
        (" and ".join(sorted((swap.ahead, swap.behind))), bool(swap.separated_by))
        for pair in pairs for swap in pair.swaps
    ]  # fmt: skip
    count = Counter(names for names, _ in swaps)
    significant = Counter(names for names, is_significant in swaps if is_significant)
    order = sorted(count, key=lambda names: (-count[names], names))
    rows = [[names, str(count[names]), str(significant[names])] for names in order]
    header = ["encoders that swap places", "between pairs of protocols", "significant under either"]
    return [Table(f"\nSwaps, of {len(pairs)} pairs of protocols", header, rows)] if rows else []


def _agreement(pair: ProtocolPair) -> list[str]:
    ends = pair.tau_ci95
    return [
        *(pair.first, pair.second, str(len(pair.tasks))),
        "tied" if pair.tau is None else f"{pair.tau:.2f}",
        f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "-",
        "-" if pair.p_value is None else f"{pair.p_value:.3f}",
        "-" if pair.mean_task_tau is None else f"{pair.mean_task_tau:.2f}",
    ]


def _bumps(result: Sensitivity) -> Any:
    order = in_order(result.rankings)
    names = [f"{ranking.protocol} ({len(ranking.tasks)})" for ranking in order]
    tied = [name for name, r in zip(names, order, strict=True) if set(r.ranks.values()) == {1}]
    table = pd.DataFrame(
        [
            (name, label, place, " ".join(ranking.tasks), str(ranking.ranks.get(label, "")))
            for ranking, name in zip(order, names, strict=True) if name not in tied
            for label, place in places(ranking, result.ranked, result.controls).items()
        ],
        columns=["protocol", "encoder", "place", "tasks", "rank"],
    )  # fmt: skip
    # Colours go by the first protocol's ranks, so that neighbours differ.
    best = sorted(result.ranked, key=lambda label: (order[0].ranks[label], label))
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(best))] + [_DIM] * len(result.controls)
    colour_scale = alt.Scale(domain=[*best, *result.controls], range=colours)
    x = alt.X("protocol:N", sort=names, title=None, scale=alt.Scale(domain=names),
              axis=_axis(labelAngle=-35, labelLimit=220, labelPadding=8))  # fmt: skip
    count = len(result.ranked)
    y_scale = alt.Scale(domain=[count + 0.8, 0.6], nice=False, zero=False)
    y = alt.Y("place:Q", axis=None, scale=y_scale)
    colour = alt.Color("encoder:N", legend=None, scale=colour_scale)
    ranked, controls, first = (
        alt.Chart(rows).encode(x, y, colour)
        for rows in (
            table[table["encoder"].isin(result.ranked)],
            table[table["encoder"].isin(result.controls)],
            table[table["protocol"] == names[0]],
        )
    )
    ties = pd.DataFrame({"protocol": tied, "place": (count + 1) / 2, "text": "all tied"})
    layers = [
        controls.mark_line(strokeWidth=1.4, strokeDash=[4, 3]).encode(detail="tasks:N"),
        controls.mark_point(filled=True, size=50, opacity=1),
        ranked.mark_line(strokeWidth=2.4).encode(detail="tasks:N"),
        ranked.mark_point(filled=True, size=210, opacity=1),
        ranked.mark_text(fontSize=10, fontWeight=600).encode(
            text="rank:N", color=alt.value("white")
        ),
        first.mark_text(align="right", dx=-16, fontSize=11).encode(text="encoder:N"),
        alt.Chart(ties).mark_text(fontSize=11, color=GREY).encode(x, y, text="text:N"),
    ]
    return alt.layer(*layers).properties(width=_STEP * len(names), height=_ROW * (count + 1))


def _heat(result: Sensitivity) -> Any:
    names = [ranking.protocol for ranking in in_order(result.rankings)]
    rows = []
    for pair in result.pairs:
        if (tau := pair.tau) is not None:
            first, second = sorted((pair.first, pair.second), key=names.index)
            ends = "{:.1f} to {:.1f}".format(*pair.tau_ci95) if pair.tau_ci95 else ""
            rows.append((first, second, tau, f"{tau:.2f}", ends, abs(tau) > 0.7))
    table = pd.DataFrame(rows, columns=["first", "second", "tau", "text", "ends", "dark"])
    table[["text", "ends"]] = table[["text", "ends"]].replace("-", "\u2212", regex=True)
    across, down = ([n for n in names if n in set(table[side])] for side in ("first", "second"))
    base = alt.Chart(table).encode(
        alt.X("first:N", sort=across, scale=alt.Scale(domain=across), title=None,
              axis=_axis(labelAngle=-35, labelLimit=200)),
        alt.Y("second:N", sort=down, scale=alt.Scale(domain=down), title=None,
              axis=_axis(labelLimit=200, labelPadding=6)),
    )  # fmt: skip
    scale = alt.Scale(domain=[-1, 0, 1], range=[COLOURS[1], "#F7F7F7", COLOURS[0]])
    ink = alt.condition("datum.dark", alt.value("white"), alt.value(INK))
    layers = [
        base.mark_rect(stroke="white", strokeWidth=2).encode(
            alt.Color("tau:Q", scale=scale, legend=None)
        ),
        base.mark_text(fontSize=11, fontWeight=600, dy=-5).encode(text="text:N", color=ink),
        base.mark_text(fontSize=9, dy=8).encode(text="ends:N", color=ink),
    ]
    return alt.layer(*layers).properties(width=_CELL * len(across), height=38 * len(down))


def _axis(**options: Any) -> Any:
    return alt.Axis(domain=False, ticks=False, **options)

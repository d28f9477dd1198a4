"""The sensitivity of ranks to the protocol as a report: score what is missing, tables, figure."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import altair as alt
import pandas as pd

from madeleine_bench import __version__
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.figures import COLOURS, GREY, INK
from madeleine_bench.leaderboard.sensitivity import (
    LEAST_ENCODERS,
    ProtocolPair,
    Ranking,
    Sensitivity,
    fitting_protocols,
    sensitivity,
)
from madeleine_bench.report import Report, Table
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.catalogue import Catalogue, is_glob, misfit
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.paired import ALPHA
from madeleine_bench.stats.rank_agreement import RESAMPLES
from madeleine_bench.stats.ranks import LEAST_TASKS
from madeleine_bench.types import Progress

_STEP, _ROW = 64, 46


# Scores what is missing of some tasks (ids) under some protocols (versioned names); returns the
# boards of its records, and whether a record is of the features that it scored.
Score = Callable[[Sequence[str], Sequence[str]], tuple[Sequence[str], Callable[[Record], bool]]]


def sensitivity_report(
    workspace: Workspace,
    encoders: Sequence[str],
    tasks: Sequence[str],
    protocols: Sequence[str],
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
        _check_encoders(encoders)
        by_tasks = _by_tasks(catalogue, chosen, names)
        runs = [score(ids, together) for ids, together in by_tasks.items()]
    store = ResultStore(workspace.results)
    every = [r for r in store.records() if all(is_scored(r) for _, is_scored in runs)]
    records = _records_of(every, workspace, encoders)
    boards = {board for scored, _ in runs for board in scored} or {r.board for r in records}
    progress.phase("compare", len(boards))
    results: list[Sensitivity] = []
    for board in sorted(boards):
        one = sensitivity(records, catalogue, board, names, chosen)
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
        "separated": f"Wilcoxon signed-rank over tasks, Holm over encoder pairs, below {ALPHA}",
        "boards": [asdict(one) for one in results],
    }
    return Report(document, body, charts)


def sensitivity_chart(result: Sensitivity) -> Any:
    """Return the places of the ranked encoders across protocols as a bump chart.

    A line joins the places of an encoder under protocols that score the same tasks; the number is
    its rank, which equal means share. A phantom's title says PHANTOM.
    """
    order = sorted(result.rankings, key=lambda ranking: (-len(ranking.tasks), ranking.tasks))
    names = [f"{ranking.protocol} ({len(ranking.tasks)})" for ranking in order]
    rows = [
        (name, label, place, " ".join(ranking.tasks), str(ranking.ranks[label]))
        for ranking, name in zip(order, names, strict=True)
        for place, label in enumerate(_by_rank(ranking), start=1)
    ]
    table = pd.DataFrame(rows, columns=["protocol", "encoder", "place", "tasks", "rank"])
    # Colours go by the first protocol's ranks, so that neighbours differ.
    colours = alt.Scale(domain=_by_rank(order[0]), range=COLOURS)
    axis = alt.Axis(domain=False, ticks=False, labelAngle=-35, labelLimit=220, labelPadding=8)
    x = alt.X("protocol:N", sort=names, title=None, axis=axis)
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[len(result.ranked) + 0.8, 0.6]))
    lines = alt.Chart(table).encode(x, y, alt.Color("encoder:N", legend=None, scale=colours))
    names_at_left = lines.transform_filter(alt.datum.protocol == names[0])
    chart = alt.layer(
        lines.mark_line(strokeWidth=2.4).encode(detail="tasks:N"),
        lines.mark_point(filled=True, size=210, opacity=1),
        lines.mark_text(fontSize=10, fontWeight=600).encode(
            text="rank:N", color=alt.value("white")
        ),
        names_at_left.mark_text(align="right", dx=-16, fontSize=11).encode(text="encoder:N"),
    )
    text = f"Ranks of encoders under {len(names)} protocols"
    title = alt.Title(
        f"{text} (PHANTOM, synthetic data)" if result.phantom else text,
        subtitle="By the mean over families of chance-corrected scores, 1 is the best; in brackets "
        "the number of tasks.",
        fontSize=15, fontWeight=600, color=INK, subtitleColor=GREY,
        subtitleFontSize=11, subtitlePadding=5, anchor="start", offset=18,
    )  # fmt: skip
    size = {"width": _STEP * len(names), "height": _ROW * (len(result.ranked) + 1)}
    return chart.properties(title=title, padding=24, background="white", **size)


def _by_rank(ranking: Ranking) -> list[str]:
    return sorted(ranking.ranks, key=lambda label: (ranking.ranks[label], label))


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


def _check_encoders(encoders: Sequence[str]) -> None:
    if not encoders:
        raise InputError("no encoder given: --encoder NAME (mbench encoders list), or --no-run")
    ranked = [n for n in dict.fromkeys(encoders) if find_encoder(n).card.kind != "control"]
    if len(ranked) < LEAST_ENCODERS:
        raise InputError(
            f"tau of fewer than {LEAST_ENCODERS} encoders is not informative; to be ranked are "
            f"{', '.join(ranked) or 'none'}; name more with --encoder"
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
    labels = [*_by_rank(result.rankings[0]), *result.controls]
    rankings = [
        [r.protocol, str(len(r.tasks)),
         *(f"{r.ranks.get(label, '-')} ({r.means[label]:.3f})" for label in labels)]
        for r in result.rankings
    ]  # fmt: skip
    header = ["protocol", "and", "tasks", "tau-b", "95%", "swaps"]
    body: list[Table | str] = [
        Table(
            f"{board}: rank (mean over families) under each protocol",
            ["protocol", "tasks", *labels],
            rankings,
        ),
        Table(
            "\nKendall's tau between the rankings, over tasks that both score",
            header,
            [_agreement(pair) for pair in result.pairs],
        ),
        *_swaps(result.pairs),
    ]
    body += [f"{label} is left out: {why}" for label, why in result.left_out.items()]
    return [*body, result.notice] if result.phantom else body


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
        f"{len(pair.swaps)} ({sum(bool(s.separated_by) for s in pair.swaps)} significant)",
    ]

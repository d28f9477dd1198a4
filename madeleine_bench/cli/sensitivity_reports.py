"""The sensitivity of ranks to the protocol: run what is missing, then tables, JSON and figure."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from madeleine_bench import __version__
from madeleine_bench.cli.console import LiveProgress, print_table
from madeleine_bench.encoders.registry import find_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.figures import styled_png, styled_svg
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import hash_json
from madeleine_bench.leaderboard.case_draws import CaseDraws
from madeleine_bench.leaderboard.comparison import ALPHA
from madeleine_bench.leaderboard.sensitivity import (
    LEAST_ENCODERS,
    ProtocolPair,
    Sensitivity,
    fitting_protocols,
    sensitivity,
)
from madeleine_bench.leaderboard.sensitivity_figure import sensitivity_chart
from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.cohorts import PhantomChoice
from madeleine_bench.runner.failures import ending
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import RunReport, run
from madeleine_bench.specs.catalogue import Catalogue, is_glob, load_catalogue, misfit
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.stats.rank_agreement import LEAST_TASKS, RESAMPLES

_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class SensitivityRequest:
    """What the user asked for; `protocols` empty means all that start from embeddings."""

    encoders: tuple[str, ...]
    tasks: tuple[str, ...]
    protocols: tuple[str, ...]
    source: SourceChoice
    results: Path
    jobs: int
    config: Path | None
    catalogue: Path | None
    phantom: PhantomChoice
    run: bool
    rank_controls: bool


def report_sensitivity(
    request: SensitivityRequest, form: Literal["table", "json"], out: Path | None
) -> None:
    """Score what is missing, then print how far protocols agree, and write it to a folder.

    Raises:
        InputError: the request cannot be carried out, or part of it failed.
    """
    catalogue = load_catalogue(request.catalogue)
    tasks = catalogue.select(request.tasks)
    protocols = _protocols(request, catalogue, tasks)
    runs = _score(request, catalogue, tasks, protocols) if request.run else []
    failures = [failure for one in runs for failure in one.failures]
    store = ResultStore(request.results)
    every = store.records()
    records = _chosen([r for r in every if all(one.on_its_features(r) for one in runs)], request)
    boards = sorted({board for one in runs for board in one.boards})
    boards = boards or sorted({record.board for record in records})
    draws = CaseDraws({record.record_id: store for record in records}, catalogue)
    reports = []
    with LiveProgress() as progress:
        progress.phase("compare", len(boards))

        def draws_of(record: Record) -> NDArray[np.float64]:
            progress.note(f"resample {record.encoder.name} {record.task.id}")
            return draws.of(record)

        for board in boards:
            reports.append(
                sensitivity(
                    records, catalogue, board, protocols, tasks, draws_of, request.rank_controls
                )
            )
            progress.advance(board)
    text = json.dumps(document(reports), indent=1, allow_nan=False) + "\n"
    if out is not None:
        _write(reports, text, out)
    if form == "json":
        typer.echo(text, nl=False)
    else:
        for report in reports:
            _print(report)
    if failures:
        lines = [f"  {what}: {why}" for what, why in failures[:_SHOWN_FAILURES]]
        if (more := len(failures) - _SHOWN_FAILURES) > 0:
            lines.append(f"  and {more} more")
        text = "not everything could be scored:\n" + "\n".join(lines)
        raise ending(text, failures)


def _protocols(
    request: SensitivityRequest, catalogue: Catalogue, tasks: Sequence[TaskSpec]
) -> list[str]:
    """Return the protocols to compare; of those a glob matches, the ones that fit a task."""
    fitting = fitting_protocols(catalogue, tasks)
    if not request.protocols:
        return fitting
    named = [catalogue.protocol(p).name for p in request.protocols if not is_glob(p)]
    asked = [protocol.name for protocol in catalogue.select_protocols(request.protocols)]
    return [name for name in asked if name in named or name in fitting]


def _score(
    request: SensitivityRequest,
    catalogue: Catalogue,
    tasks: Sequence[TaskSpec],
    protocols: Sequence[str],
) -> list[RunReport]:
    """Score the encoders on the tasks each protocol fits; return what each run did."""
    if not request.encoders:
        raise InputError("no encoder given: --encoder NAME (mbench encoders list), or --no-run")
    kinds = {name: find_encoder(name).card.kind for name in request.encoders}
    ranked = [n for n, kind in kinds.items() if request.rank_controls or kind != "control"]
    if len(ranked) < LEAST_ENCODERS:
        raise InputError(
            f"tau of fewer than {LEAST_ENCODERS} encoders is a coin; to be ranked are "
            f"{', '.join(ranked) or 'none'}; name more with --encoder, or --rank-controls"
        )
    fitting: dict[tuple[str, ...], list[str]] = {}
    for name in protocols:
        own = tuple(t.id for t in tasks if misfit(t, catalogue.protocols[name]) is None)
        if not own:
            raise InputError(f"protocol {name} fits none of the tasks; leave it out")
        fitting.setdefault(own, []).append(name)
    reports = []
    with LiveProgress() as progress:
        for ids, names in fitting.items():
            report = run(
                Request(
                    request.encoders, ids, tuple(names),
                    Workspace(request.results, request.source, request.config, request.catalogue,
                              request.jobs, request.phantom.signal, request.phantom.seed),
                ),
                progress,
            )  # fmt: skip
            reports.append(report)
    return reports


def _chosen(records: list[Record], request: SensitivityRequest) -> list[Record]:
    """Return the records of the source and of the encoders that were asked for.

    Raises:
        InputError: there is none, or none of one of the encoders.
    """
    kept = [r for r in records if request.source in ("auto", r.source)]
    names = {record.encoder.name for record in kept}
    if not names:
        raise InputError(f"no records for this in {request.results}; make some without --no-run")
    wanted = {find_encoder(n).card.name if _is_card(n) else n for n in request.encoders}
    for name in sorted(wanted - names):
        raise InputError(f"no record of encoder '{name}'{did_you_mean(name, sorted(names))}")
    return [record for record in kept if not wanted or record.encoder.name in wanted]


def _is_card(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def document(reports: Sequence[Sensitivity]) -> dict[str, Any]:
    """Return all numbers of the reports, ready for JSON. Equal records give equal documents."""
    return {
        "what": "sensitivity of ranks to the protocol",
        "package": f"madeleine-bench {__version__}",
        "interval": f"95% percentile, {RESAMPLES} bootstrap resamples of the tasks that both "
        f"protocols score; none below {LEAST_TASKS} tasks",
        "p_value": "two-sided, of tau between unrelated orders: all orders up to 8 encoders",
        "separated": f"Wilcoxon signed-rank over tasks, Holm over encoder pairs, below {ALPHA}",
        "better": "as on the board: that test and the one by resampled cases, in one direction",
        "boards": [_board(report) for report in reports],
    }


def _board(report: Sensitivity) -> dict[str, Any]:
    phantom = report.board.startswith("phantom")
    return {
        "board": report.board,
        "phantom": phantom,
        "notice": PHANTOM_NOTICE if phantom else "",
        "ranked": list(report.ranked),
        "controls": list(report.controls),
        "left_out": dict(report.left_out),
        "records": {"count": len(report.records), "hash": hash_json(list(report.records))},
        "rankings": [
            {"protocol": r.protocol, "tasks": list(r.tasks), "means": dict(r.means),
             "ranks": dict(r.ranks)}
            for r in report.rankings
        ],
        "pairs": [_pair(pair) for pair in report.pairs],
    }  # fmt: skip


def _pair(pair: ProtocolPair) -> dict[str, Any]:
    ends = pair.agreement.ci95
    return {
        "first": pair.first,
        "second": pair.second,
        "tasks": list(pair.tasks),
        "alike": list(pair.alike),
        "tau": pair.agreement.tau,
        "tau_ci95": list(ends) if ends else None,
        "p_value": pair.agreement.p_value,
        "mean_task_tau": pair.mean_task_tau,
        "task_taus": dict(pair.task_taus),
        "swaps": [
            {"ahead": s.ahead, "behind": s.behind, "separated_by": list(s.separated_by)}
            for s in pair.swaps
        ],
        "flips": None if pair.flips is None else [asdict(flip) for flip in pair.flips],
    }


def _write(reports: Sequence[Sensitivity], text: str, out: Path) -> None:
    write_text(out / "sensitivity.json", text)
    for report in reports:
        chart = sensitivity_chart(report)
        stem = "sensitivity" if len(reports) == 1 else f"sensitivity-{report.board}"
        write_text(out / f"{stem}.svg", styled_svg(chart))
        write_bytes(out / f"{stem}.png", styled_png(chart))
    typer.echo(f"numbers and figure in {out}", err=True)


def _print(report: Sensitivity) -> None:
    kind = "PHANTOM" if report.board.startswith("phantom") else "real data"
    board = f"Board '{report.board}' ({kind})"
    _print_versions(report, board)
    first = report.rankings[0]
    labels = sorted(report.ranked, key=lambda label: (first.ranks[label], label))
    labels += report.controls
    rows = [
        [r.protocol, str(len(r.tasks)),
         *(f"{r.ranks.get(label, '-')} ({r.means[label]:.3f})" for label in labels)]
        for r in report.rankings
    ]  # fmt: skip
    title = f"{board}: rank (mean over families) under each protocol"
    print_table(title, ["protocol", "tasks", *labels], rows)
    pairs = [
        [pair.first, pair.second, str(len(pair.tasks)), str(len(pair.alike)), *_numbers(pair)]
        for pair in report.pairs
    ]
    header = ["protocol", "and", "tasks", "alike", "tau-b", "95%", "p", "tau by task", "swaps"]
    print_table("\nKendall's tau between the rankings, over tasks that both score", header, pairs)
    swaps = [
        [f"{one} and {other}", str(count), str(told)]
        for one, other, count, told in swap_counts(report.pairs)
    ]
    if swaps:
        header = [
            "encoders that swap places",
            "between pairs of protocols",
            "significant under either",
        ]
        print_table(f"\nSwaps, of {len(report.pairs)} pairs of protocols", header, swaps)
    for label, why in report.left_out.items():
        typer.echo(f"{label} is left out: {why}")
    if report.board.startswith("phantom"):
        typer.echo(PHANTOM_NOTICE)


def _print_versions(report: Sensitivity, board: str) -> None:
    """Print how far versions of a protocol agree, and each verdict that differs between them."""
    versions = [(pair, pair.flips) for pair in report.pairs if pair.flips is not None]
    if not versions:
        return
    count = len(report.ranked) * (len(report.ranked) - 1) // 2
    rows = [
        [pair.first, pair.second, str(len(pair.tasks)), *_numbers(pair)[:-1],
         f"{len(flips)} of {count} ({sum(any(f.better) for f in flips)} significant)"]
        for pair, flips in versions
    ]  # fmt: skip
    header = ["older", "newer", "tasks", "tau-b", "95%", "p", "tau by task", "conclusions flip"]
    print_table(f"{board}: versions of a protocol against each other", header, rows)
    flipped = [
        [pair.second, f"{flip.first} - {flip.second}",
         *(verdict_text(d, b) for d, b in zip(flip.differences, flip.better, strict=True))]
        for pair, flips in versions for flip in flips
    ]  # fmt: skip
    if flipped:
        header = ["newer version", "encoders", "difference, older", "difference, newer"]
        print_table("\nConclusions that flip (mean over families)", header, flipped)
    typer.echo("")


def verdict_text(difference: float, better: str) -> str:
    """Return a difference of two encoders, and which of them is marked better."""
    return f"{difference:+.3f} ({f'{better} better' if better else 'not significant'})"


def swap_counts(pairs: Sequence[ProtocolPair]) -> list[tuple[str, str, int, int]]:
    """Return two encoders, in how many pairs they swap, and in how many with significance.

    The most frequent first.
    """
    count: Counter[tuple[str, str]] = Counter()
    told: Counter[tuple[str, str]] = Counter()
    for swap in (swap for pair in pairs for swap in pair.swaps):
        one, other = sorted((swap.ahead, swap.behind))
        count[one, other] += 1
        told[one, other] += bool(swap.separated_by)
    order = sorted(count, key=lambda names: (-count[names], names))
    return [(*names, count[names], told[names]) for names in order]


def _numbers(pair: ProtocolPair) -> list[str]:
    found, ends = pair.agreement, pair.agreement.ci95
    told = sum(len(swap.separated_by) > 0 for swap in pair.swaps)
    return [
        "tied" if found.tau is None else f"{found.tau:.2f}",
        f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "-",
        "-" if found.p_value is None else f"{found.p_value:.3f}",
        "-" if pair.mean_task_tau is None else f"{pair.mean_task_tau:.2f}",
        f"{len(pair.swaps)} ({told} significant)",
    ]

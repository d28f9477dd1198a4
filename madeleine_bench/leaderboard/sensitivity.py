"""Would another protocol rank the encoders otherwise: the same embeddings under each of them.

Everything is read from records. For each two protocols the encoders are ranked over the tasks that
both score, by the mean over families of their chance-corrected scores, as on the board. An encoder
takes part where it has every score that is compared, all of one version of its code and weights.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.leaderboard.aggregate import Column, build_boards, enough_cases
from madeleine_bench.leaderboard.comparison import family_weights
from madeleine_bench.report import PHANTOM_NOTICE
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.paired import ALPHA, across_tasks, holm
from madeleine_bench.stats.rank_agreement import rank_agreement
from madeleine_bench.stats.ranks import LEAST_TASKS

LEAST_ENCODERS = 3
_Key = tuple[str, str, str]  # name, revision, what made the features


@dataclass(frozen=True)
class Ranking:
    """The encoders under one protocol, over all chosen tasks that it scores.

    Attributes:
        protocol: its versioned name.
        tasks: ids of the tasks.
        means: by label, mean over families of the chance-corrected scores; controls too.
        ranks: by label of the ranked, equal means sharing a rank.
    """

    protocol: str
    tasks: tuple[str, ...]
    means: Mapping[str, float]
    ranks: Mapping[str, int]


@dataclass(frozen=True)
class Swap:
    """Two encoders in one order under one protocol and in the other under another.

    Attributes:
        ahead: who is ahead under the first protocol of the pair.
        behind: who is ahead under the second.
        separated_by: the protocols under which they differ by the signed-rank test over tasks,
            after Holm's correction for all pairs of encoders, in the direction of the mean. The
            board's mark asks for a second test beside this one: it separates no more.
    """

    ahead: str
    behind: str
    separated_by: tuple[str, ...]


@dataclass(frozen=True)
class ProtocolPair:
    """Two protocols over the tasks that both score.

    Attributes:
        first, second: versioned names.
        tasks: ids of the tasks.
        tau: of the rankings by the mean over families, with its interval `tau_ci95`, as in
            `stats.rank_agreement`.
        swaps: the encoders that change places.
    """

    first: str
    second: str
    tasks: tuple[str, ...]
    tau: float | None
    tau_ci95: tuple[float, float] | None
    swaps: tuple[Swap, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What the choice of the protocol does to the ranks of a board, in the order of its JSON.

    Attributes:
        board: "local", "phantom", or a variant.
        phantom: whether the data are synthetic; `notice` says so.
        ranked: labels of the encoders that are ranked, sorted; `controls` those shown beside.
        left_out: by label, why an encoder takes no part.
        records: count and hash of the sorted ids of the records it was read from.
        rankings: one for each protocol.
        pairs: every two protocols that score a task in common.
    """

    board: str
    phantom: bool
    notice: str
    ranked: tuple[str, ...]
    controls: tuple[str, ...]
    left_out: Mapping[str, str]
    records: Mapping[str, int | str]
    rankings: tuple[Ranking, ...]
    pairs: tuple[ProtocolPair, ...]


def fitting_protocols(catalogue: Catalogue, tasks: Iterable[TaskSpec]) -> list[str]:
    """Return the protocols that start from embeddings and can score one of the tasks or more.

    Those that the board ranks most tasks by come first, and versions of a protocol together.
    """
    chosen = list(tasks)
    primary = Counter(task.protocols[0] for task in chosen)
    ids = Counter(name.partition("/")[0] for name in primary.elements())
    fitting = [
        protocol
        for protocol in catalogue.protocols.values()
        if not protocol.trains_networks
        and any(misfit(task, protocol) is None for task in chosen)
    ]  # fmt: skip
    order = sorted(fitting, key=lambda p: (-ids[p.id], p.id, -primary[p.name]))
    return [protocol.name for protocol in order]


def sensitivity(
    records: Sequence[Record],
    catalogue: Catalogue,
    board: str,
    protocols: Sequence[str],
    tasks: Sequence[TaskSpec],
) -> Sensitivity:
    """Return how far the protocols agree on the order of the encoders.

    A protocol without a record of the tasks is left out, as is a task that nobody was scored on,
    and one with too few cases for a rank, unless all have too few.

    Args:
        records: of the encoders that shall be compared.
        catalogue: the catalogue of the tasks.
        board: which board's records count.
        protocols: versioned names.
        tasks: the tasks.

    Raises:
        InputError: fewer than two protocols or three encoders are left.
    """
    tasks = [task for task in tasks if enough_cases(task, records)] or tasks
    columns = {name: _columns(records, catalogue, board, name) for name in protocols}
    scored = {
        name: [t for t in tasks if any(t.id in column.cells for column in by_key.values())]
        for name, by_key in columns.items()
    }
    scored = {name: of for name, of in scored.items() if of}
    if len(scored) < 2:
        raise InputError(
            f"board {board}: a comparison of protocols needs two with records, found "
            f"{', '.join(scored) or 'none'}; make more with mbench sensitivity, without --no-run"
        )
    keys = sorted({key for name in scored for key in columns[name]})
    labels = _labels(keys)
    faults = {key: _fault(key, columns, scored) for key in keys}
    left_out = {labels[key]: why for key, why in faults.items() if why}
    complete = [key for key in keys if not faults[key]]
    first = columns[next(iter(scored))]
    aside = [key for key in complete if first[key].kind == "control"]
    controls = tuple(labels[key] for key in aside)
    ranked = tuple(labels[key] for key in complete if key not in aside)
    if len(ranked) < LEAST_ENCODERS:
        reasons = "".join(f"\n  {label}: {why}" for label, why in left_out.items())
        raise InputError(
            f"board {board}: tau of fewer than {LEAST_ENCODERS} encoders is not informative; "
            f"complete, and "
            f"no control, are {', '.join(ranked) or 'none'}{reasons}"
        )
    cells = {n: {labels[k]: columns[n][k].cells for k in complete} for n in scored}

    def scores(name: str, of: Sequence[TaskSpec], who: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[cells[name][label][t.id].corrected for t in of] for label in who])

    rankings = []
    for name, of in scored.items():
        everyone = [*ranked, *controls]
        means = dict(zip(everyone, means_of(scores(name, of, everyone), of), strict=True))
        ranks = {one: 1 + sum(means[other] > means[one] for other in ranked) for one in ranked}
        rankings.append(Ranking(name, tuple(task.id for task in of), means, ranks))
    pairs = []
    for one, other in combinations(scored, 2):
        if common := [task for task in scored[one] if task in scored[other]]:
            both = scores(one, common, ranked), scores(other, common, ranked)
            pairs.append(_pair((one, other), common, *both, ranked))
    ids = sorted(
        cells[name][label][task.id].record.record_id
        for name, of in scored.items() for label in cells[name] for task in of
    )  # fmt: skip
    phantom = board.startswith("phantom")
    return Sensitivity(
        board, phantom, PHANTOM_NOTICE if phantom else "", ranked, controls, left_out,
        {"count": len(ids), "hash": hash_json(ids)}, tuple(rankings), tuple(pairs),
    )  # fmt: skip


def means_of(scores: NDArray[np.float64], tasks: Sequence[TaskSpec]) -> list[float]:
    """Return by encoder the mean over families of its scores, encoder x task."""
    means: list[float] = (scores @ family_weights([t.family for t in tasks])).round(12).tolist()
    return means


def swaps_between(
    names: tuple[str, str], tasks: Sequence[TaskSpec], first: NDArray[np.float64],
    second: NDArray[np.float64], labels: Sequence[str],
) -> tuple[Swap, ...]:  # fmt: skip
    """Return the encoders whose order under two protocols is strictly opposite.

    Args:
        names: the protocols.
        tasks: the tasks that both score.
        first: encoder x task, chance-corrected scores under the first protocol.
        second: the same under the second.
        labels: the encoders.
    """
    before, after = means_of(first, tasks), means_of(second, tasks)
    swapped = [
        (i, j)
        for i, j in permutations(range(len(labels)), 2)
        if before[i] > before[j] and after[i] < after[j]
    ]
    if not swapped:
        return ()
    apart = (names[0], _separated(first, before)), (names[1], _separated(second, after))
    return tuple(
        Swap(labels[i], labels[j], tuple(name for name, pairs in apart if {i, j} in pairs))
        for i, j in sorted(swapped, key=sorted)
    )


def _separated(scores: NDArray[np.float64], means: Sequence[float]) -> list[set[int]]:
    """Return the pairs that the signed-rank test separates in the direction of their means."""
    if scores.shape[1] < LEAST_TASKS:
        return []
    pairs = list(combinations(range(len(scores)), 2))
    p_values = holm(
        [
            across_tasks((scores[i] - scores[j]).tolist()).p_in_direction(means[i] - means[j])
            for i, j in pairs
        ]
    )
    return [set(pair) for pair, p in zip(pairs, p_values, strict=True) if p < ALPHA]


def _columns(
    records: Sequence[Record], catalogue: Catalogue, board: str, protocol: str
) -> dict[_Key, Column]:
    """Return the columns of a protocol's board by encoder, revision, and what made the features.

    Of several contents of one cohort, the one that most encoders were given.
    """
    columns: dict[_Key, Column] = {}
    for one in build_boards(records, catalogue, protocol):
        for column in one.columns if one.name == board else ():
            key = column.name, column.revision, column.made_by
            if key not in columns or any(cell.comparable for cell in column.cells.values()):
                columns[key] = column
    return columns


def _labels(keys: Sequence[_Key]) -> dict[_Key, str]:
    """Return the label of each encoder: its name, with what else tells it from the others."""
    revisions = Counter(name for name, _ in {key[:2] for key in keys})
    several = len({made_by for *_, made_by in keys}) > 1
    return {
        (name, revision, made_by): (name if revisions[name] == 1 else f"{name}@{revision}")
        + (f" \u00b7 {made_by}" if several else "")
        for name, revision, made_by in keys
    }


def _fault(
    key: _Key,
    columns: Mapping[str, Mapping[_Key, Column]],
    scored: Mapping[str, Sequence[TaskSpec]],
) -> str:
    """Return why an encoder cannot be compared; "" when it can."""
    versions = set()
    for protocol, tasks in scored.items():
        column = columns[protocol].get(key)
        if column is None:
            return f"no score under {protocol}"
        if absent := [task.id for task in tasks if task.id not in column.cells]:
            return f"no score under {protocol} on {', '.join(absent)}"
        if other := [task.id for task in tasks if not column.cells[task.id].comparable]:
            return f"under {protocol} scored on other data than the rest: {', '.join(other)}"
        if column.verification == "V0":
            return "reported, not recomputed (V0)"
        versions |= {column.cells[task.id].record.encoder.fingerprint for task in tasks}
    if len(versions) > 1:
        return f"its scores are of {len(versions)} versions of its code or weights; run them again"
    return ""


def _pair(
    names: tuple[str, str], tasks: Sequence[TaskSpec], first: NDArray[np.float64],
    second: NDArray[np.float64], labels: Sequence[str],
) -> ProtocolPair:  # fmt: skip
    ids = tuple(task.id for task in tasks)
    rng = rng_for("protocol sensitivity", *ids)  # the same draws for all pairs on these tasks
    tau, ends = rank_agreement(first, second, [task.family for task in tasks], rng)
    swaps = swaps_between(names, tasks, first, second, labels)
    return ProtocolPair(*names, ids, tau, ends, swaps)

"""Would another protocol rank the encoders otherwise: the same embeddings under each of them.

Everything is read from records. For each two protocols the encoders are ranked over the tasks that
both score, by the mean over families of their chance-corrected scores, as on the board. An encoder
takes part where it has every score that is compared, all of one version of its code and weights.
Of two versions of one protocol the verdicts on each two encoders are compared too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import Column, build_boards, enough_cases
from madeleine_bench.leaderboard.comparison import DrawsOf, Grid, make_grid
from madeleine_bench.leaderboard.rank_swaps import (
    Flip,
    Swap,
    flips_between,
    means_of,
    swaps_between,
)
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import Catalogue, misfit
from madeleine_bench.specs.record import Record
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.stats.rank_agreement import (
    RankAgreement,
    kendall_tau,
    rank_agreement,
)

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
class ProtocolPair:
    """Two protocols over the tasks that both score.

    Attributes:
        first, second: versioned names.
        tasks: ids of the tasks; `alike` are those on which no score differs.
        agreement: of the rankings by the mean over families.
        task_taus: by task, tau-b of the scores; None where one side ties all encoders.
        swaps: the encoders that change places.
        flips: of two versions of one protocol, the older first, the verdicts that differ; None for
            two different protocols.
    """

    first: str
    second: str
    tasks: tuple[str, ...]
    alike: tuple[str, ...]
    agreement: RankAgreement
    task_taus: Mapping[str, float | None]
    swaps: tuple[Swap, ...]
    flips: tuple[Flip, ...] | None

    @property
    def mean_task_tau(self) -> float | None:
        """The mean over tasks of tau; None where no task has one."""
        found = [tau for tau in self.task_taus.values() if tau is not None]
        return float(np.mean(found)) if found else None


@dataclass(frozen=True)
class Sensitivity:
    """What the choice of the protocol does to the ranks of a board.

    Attributes:
        board: "local", "phantom", or a variant.
        ranked: labels of the encoders that are ranked, sorted; `controls` those shown beside.
        left_out: by label, why an encoder takes no part.
        records: ids of the records it was read from, sorted.
        rankings: one for each protocol.
        pairs: every two protocols that score a task in common; versions of one protocol first.
    """

    board: str
    ranked: tuple[str, ...]
    controls: tuple[str, ...]
    left_out: Mapping[str, str]
    records: tuple[str, ...]
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
    draws_of: DrawsOf,
    rank_controls: bool = False,
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
        draws_of: draws of the main score of a record, as in `comparison.compare`.
        rank_controls: rank controls with the encoders, instead of showing them beside.

    Raises:
        InputError: fewer than two protocols or three encoders are left.
    """
    tasks = [task for task in tasks if enough_cases(task, records)] or tasks
    columns = {name: _columns(records, catalogue, board, name) for name in protocols}
    own = {name: _scored(columns[name], tasks) for name in protocols}
    own = {name: found for name, found in own.items() if found}
    if len(own) < 2:
        raise InputError(
            f"board {board}: a comparison of protocols needs two with records, found "
            f"{', '.join(own) or 'none'}; make more with mbench sensitivity, without --no-run"
        )
    keys = sorted({key for name in own for key in columns[name]})
    labels = _labels(keys)
    faults = {key: _fault(key, columns, own) for key in keys}
    complete = [key for key in keys if not faults[key]]
    first = next(iter(own))
    aside = [k for k in complete if columns[first][k].kind == "control" and not rank_controls]
    ranked = [key for key in complete if key not in aside]
    left_out = {labels[key]: why for key, why in faults.items() if why}
    if len(ranked) < LEAST_ENCODERS:
        reasons = "".join(f"\n  {label}: {why}" for label, why in left_out.items())
        raise InputError(
            f"board {board}: tau of fewer than {LEAST_ENCODERS} encoders is a coin; complete, and "
            f"no control, are {', '.join(labels[k] for k in ranked) or 'none'}{reasons}"
        )
    used = [columns[n][k].cells[t.id].record for n, found in own.items() for t in found
            for k in complete]  # fmt: skip

    def scores(name: str, of: Sequence[TaskSpec], who: Sequence[_Key]) -> NDArray[np.float64]:
        return np.array([[columns[name][k].cells[t.id].corrected for t in of] for k in who])

    def grid(name: str, of: Sequence[TaskSpec]) -> Grid:
        cells = [[columns[name][k].cells[t.id] for t in of] for k in ranked]
        values = np.array([[cell.value for cell in row] for row in cells])
        draws = [[draws_of(cell.record) for cell in row] for row in cells]
        return make_grid(of, [labels[key] for key in ranked], values, draws)

    rankings = tuple(
        _ranking(name, found, scores(name, found, ranked), scores(name, found, aside),
                 [labels[key] for key in ranked], [labels[key] for key in aside])
        for name, found in own.items()
    )  # fmt: skip
    pairs = []
    for one, other, versions in _pairs_of(own, catalogue):
        if common := [task for task in own[one] if task in own[other]]:
            flips = flips_between(grid(one, common), grid(other, common)) if versions else None
            grids = scores(one, common, ranked), scores(other, common, ranked)
            names = [labels[key] for key in ranked]
            pairs.append(_pair((one, other), common, *grids, names, flips))
    return Sensitivity(
        board,
        tuple(labels[key] for key in ranked),
        tuple(labels[key] for key in aside),
        left_out,
        tuple(sorted(record.record_id for record in used)),
        rankings,
        tuple(pairs),
    )


def _pairs_of(names: Iterable[str], catalogue: Catalogue) -> list[tuple[str, str, bool]]:
    """Return every two protocols, and whether they are versions of one.

    Those come first, the older version before the newer.
    """
    pairs = []
    for two in combinations(names, 2):
        one, other = (catalogue.protocols[name] for name in two)
        if one.id == other.id:
            one, other = sorted((one, other), key=lambda protocol: protocol.version)
        pairs.append((one.name, other.name, one.id == other.id))
    return sorted(pairs, key=lambda pair: not pair[2])


def _columns(
    records: Sequence[Record], catalogue: Catalogue, board: str, protocol: str
) -> dict[_Key, Column]:
    """Return the columns of a protocol's board by encoder, revision, and what made the features.

    Of several contents of one cohort, the one that most encoders were given.
    """
    found: dict[_Key, Column] = {}
    for one in build_boards(records, catalogue, protocol):
        if one.name == board:
            for column in one.columns:
                key = column.name, column.revision, column.made_by
                if key not in found or any(cell.comparable for cell in column.cells.values()):
                    found[key] = column
    return found


def _labels(keys: Sequence[_Key]) -> dict[_Key, str]:
    """Return the label of each encoder: its name, with what else tells it from the others."""
    revisions = Counter(name for name, _ in {key[:2] for key in keys})
    several = len({made_by for *_, made_by in keys}) > 1
    return {
        (name, revision, made_by): (name if revisions[name] == 1 else f"{name}@{revision}")
        + (f" \u00b7 {made_by}" if several else "")
        for name, revision, made_by in keys
    }


def _scored(columns: Mapping[_Key, Column], tasks: Sequence[TaskSpec]) -> list[TaskSpec]:
    return [t for t in tasks if any(t.id in column.cells for column in columns.values())]


def _fault(
    key: _Key,
    columns: Mapping[str, Mapping[_Key, Column]],
    tasks: Mapping[str, Sequence[TaskSpec]],
) -> str:
    """Return why an encoder cannot be compared; "" when it can."""
    versions = set()
    for protocol, own in tasks.items():
        column = columns[protocol].get(key)
        if column is None:
            return f"no score under {protocol}"
        if absent := [task.id for task in own if task.id not in column.cells]:
            return f"no score under {protocol} on {', '.join(absent)}"
        if other := [task.id for task in own if not column.cells[task.id].comparable]:
            return f"under {protocol} scored on other data than the rest: {', '.join(other)}"
        if column.verification == "V0":
            return "reported, not recomputed (V0)"
        versions |= {column.cells[task.id].record.encoder.fingerprint for task in own}
    if len(versions) > 1:
        return f"its scores are of {len(versions)} versions of its code or weights; run them again"
    return ""


def _ranking(
    protocol: str, tasks: Sequence[TaskSpec], ranked: NDArray[np.float64],
    aside: NDArray[np.float64], labels: Sequence[str], controls: Sequence[str],
) -> Ranking:  # fmt: skip
    own, others = (means_of(scores, tasks) if len(scores) else [] for scores in (ranked, aside))
    means = dict(zip([*labels, *controls], [*own, *others], strict=True))
    ranks = {label: 1 + sum(mean > means[label] for mean in own) for label in labels}
    return Ranking(protocol, tuple(task.id for task in tasks), means, ranks)


def _pair(
    names: tuple[str, str], tasks: Sequence[TaskSpec], first: NDArray[np.float64],
    second: NDArray[np.float64], labels: Sequence[str], flips: tuple[Flip, ...] | None,
) -> ProtocolPair:  # fmt: skip
    ids = tuple(task.id for task in tasks)
    rng = rng_for("protocol sensitivity", *ids)  # the same draws for all pairs on these tasks
    agreement = rank_agreement(first, second, [task.family for task in tasks], rng)
    taus = kendall_tau(first.T, second.T)
    return ProtocolPair(
        *names,
        ids,
        tuple(t for t, same in zip(ids, (first == second).all(axis=0), strict=True) if same),
        agreement,
        {t: None if np.isnan(tau) else float(tau) for t, tau in zip(ids, taus, strict=True)},
        swaps_between(names, tasks, first, second, labels),
        flips,
    )

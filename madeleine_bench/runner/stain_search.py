"""What an encoder's embeddings of one stain find among those of another, with chance beside it.

The gallery is all slides of a stain, and what is looked for are those of the query's case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.metrics.retrieval import (
    average_precision,
    expected_average_precision,
    expected_hit,
    expected_reciprocal_rank,
    hit_at,
    ranked_neighbours,
    reciprocal_rank,
)
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.stats.bootstrap import bayesian_case_weights, percentile_interval
from madeleine_bench.types import CohortData

TOP = (1, 5, 10)
RESAMPLES = 1000
Centring = Literal["centred", "raw"]
# A stain shifts all its embeddings alike, which says nothing of a case but tilts every cosine. So
# the mean of the stain is taken out; "raw" leaves it in.
CENTRINGS: tuple[Centring, ...] = ("centred", "raw")


@dataclass(frozen=True)
class Measure:
    """A mean over queries in [0, 1], higher is better, its 95% interval, and what chance gives."""

    value: float
    ci95: tuple[float, float]
    chance: float


@dataclass(frozen=True)
class StainSearch:
    """What one encoder finds in one stain.

    Attributes:
        stain: what is searched; "mean" is the mean over the stains.
        queries: slides that ask; of a mean, the sum.
        gallery: slides searched; of a mean, the sum.
        left_out: cases with a slide of the query's stain and none of this one.
        measures: for each centring recall@<k>, mean-average-precision, mean-reciprocal-rank.
    """

    stain: str
    queries: int
    gallery: int
    left_out: int
    measures: dict[Centring, dict[str, Measure]]


@dataclass(frozen=True)
class _Search:
    """Values and expectations of each query: measure -> (query,); and the cases that ask."""

    case: tuple[str, ...]
    gallery: int
    left_out: int
    values: dict[Centring, dict[str, NDArray[np.float64]]]
    chance: dict[str, NDArray[np.float64]]


def search_stains(
    embeddings: Embeddings, data: CohortData, query: str, stains: Sequence[str]
) -> tuple[StainSearch, ...]:
    """Return what is found in each stain, then the mean over stains.

    The interval is the percentile interval of the Bayesian bootstrap of the cases that ask, 1,000
    resamples, the same for every stain and encoder of a cohort; the gallery stays as it is.

    Args:
        embeddings: of all slides of the cohort that have a bag.
        data: the cohort.
        query: the stain that asks.
        stains: the stains that are searched; each shares a case with the query's.
    """
    row_of = {slide: row for row, slide in enumerate(embeddings.ids)}
    held: dict[str, tuple[list[str], NDArray[np.float64]]] = {}
    for stain in (query, *stains):
        own = data.slides[data.slides["stain"] == stain]
        own = own[own["slide_id"].isin(list(row_of))].sort_values("slide_id")
        rows = embeddings.matrix[[row_of[slide] for slide in own["slide_id"]]]
        held[stain] = (own["case_id"].tolist(), rows.astype(np.float64))
    with threadpool_limits(1):
        searches = {stain: _search(*held[query], *held[stain]) for stain in stains}
        return _summaries(searches, data.cohort_id)


def _search(
    asking: list[str], queries: NDArray[np.float64], cases: list[str], rows: NDArray[np.float64]
) -> _Search:
    """Return what the queries find among the rows; `asking` and `cases` are the cases of both."""
    there = np.isin(np.array(asking), np.array(cases))
    names = np.array(asking)[there]
    n_rows = len(cases)
    values: dict[Centring, dict[str, NDArray[np.float64]]] = {}
    for centring in CENTRINGS:
        asked, searched = queries, rows
        if centring == "centred":
            asked, searched = (fit_scaler(r, "none").apply(r) for r in (queries, rows))
        order = ranked_neighbours(asked[there], searched, n_rows).indices
        relevant = np.array(cases)[order] == names[:, None]
        values[centring] = {f"recall@{k}": hit_at(relevant, k).astype(np.float64) for k in TOP}
        values[centring]["mean-average-precision"] = average_precision(relevant)
        values[centring]["mean-reciprocal-rank"] = reciprocal_rank(relevant)
    sought = [cases.count(name) for name in names.tolist()]
    expected = {
        f"recall@{k}": {r: expected_hit(n_rows, r, k) for r in set(sought)} for k in TOP
    } | {
        "mean-average-precision": {r: expected_average_precision(n_rows, r) for r in set(sought)},
        "mean-reciprocal-rank": {r: expected_reciprocal_rank(n_rows, r) for r in set(sought)},
    }
    chance = {name: np.array([by[r] for r in sought]) for name, by in expected.items()}
    left_out = len(set(asking) - set(cases))
    return _Search(tuple(names.tolist()), n_rows, left_out, values, chance)


def _summaries(searches: dict[str, _Search], cohort_id: str) -> tuple[StainSearch, ...]:
    """Return each search as means with intervals, then the mean over searches."""
    weights = {
        stain: bayesian_case_weights(cohort_id, s.case, RESAMPLES).astype(np.float64)
        for stain, s in searches.items()
    }
    found = [_summary([stain], searches, weights) for stain in searches]
    return (*found, _summary(list(searches), searches, weights, name="mean"))


def _summary(
    stains: list[str],
    searches: dict[str, _Search],
    weights: dict[str, NDArray[np.float64]],
    name: str | None = None,
) -> StainSearch:
    chosen = [searches[stain] for stain in stains]
    measures: dict[Centring, dict[str, Measure]] = {}
    for centring in CENTRINGS:
        measures[centring] = {}
        for measure in chosen[0].chance:
            values = {s: searches[s].values[centring][measure] for s in stains}
            drawn = [_weighted_mean(values[s], weights[s]) for s in stains]
            measures[centring][measure] = Measure(
                value=float(np.mean([value.mean() for value in values.values()])),
                ci95=percentile_interval(np.mean(drawn, axis=0)),
                chance=float(np.mean([search.chance[measure].mean() for search in chosen])),
            )
    return StainSearch(
        stain=name or stains[0],
        queries=sum(len(search.case) for search in chosen),
        gallery=sum(search.gallery for search in chosen),
        left_out=sum(search.left_out for search in chosen),
        measures=measures,
    )


def _weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of (query,) values in each resample; weights are query x resample."""
    mean: NDArray[np.float64] = np.einsum("q,qr->r", values, weights) / weights.sum(axis=0)
    return mean

"""Does a slide find its own case in another stain: the claim of cross-stain pretraining, measured.

Queries are the slides of one stain (H&E), the gallery all slides of another, and a slide of the
query's case is what is looked for. No label is read.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859): the slides of a case in other stains are aligned
    with its H&E slide. This measure is ours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, fingerprint
from madeleine_bench.errors import InputError
from madeleine_bench.metrics import retrieval
from madeleine_bench.protocols.scaling import fit_scaler
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.report import PHANTOM_NOTICE, Report, Table
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.embedding import ToEmbed, embed
from madeleine_bench.runner.failures import Failure, ending
from madeleine_bench.runner.plan import board_of, slides_with_bags
from madeleine_bench.specs.card import contamination
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.bootstrap import bayesian_case_weights, percentile_interval
from madeleine_bench.types import CohortData, Progress

TOP = (1, 5, 10)
RESAMPLES = 1000
# A stain shifts all its embeddings alike, which says nothing of a case but tilts every cosine. So
# the mean of the stain is taken out; "raw" leaves it in.
CENTRINGS = ("centred", "raw")
_PRECISION, _RANK = "mean-average-precision", "mean-reciprocal-rank"
_SHORT = {**{f"recall@{k}": f"recall@{k}" for k in TOP}, _PRECISION: "mAP", _RANK: "MRR"}
Values = dict[tuple[str, str], NDArray[np.float64]]


def cross_stain(
    encoders: Sequence[str],
    cohort_id: str,
    workspace: Workspace,
    progress: Progress,
    *,
    query: str = "H&E",
) -> Report:
    """Return what each encoder finds. Embeddings are those of `mbench run`, made where missing.

    Args:
        encoders: names or card paths.
        cohort_id: which cohort.
        workspace: results, cohorts and catalogue.
        progress: told of each job.
        query: the stain that asks; every other one is searched.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or no two stains of a case.
        CheckFailed: no encoder could be used.
    """
    catalogue, config = workspace.open()
    cohort = open_cohort(workspace, catalogue, cohort_id, config)
    entries = [_usable(name) for name in encoders]
    stains = searched_stains(cohort, catalogue.cohorts[cohort_id], query)
    ready, failures = embed_cohort(entries, cohort.data, workspace, progress)
    problem = ending("not every encoder could be used", failures)
    if not ready and problem:
        raise problem
    progress.phase("search", len(ready))
    documents: list[dict[str, Any]] = []
    for entry in entries:
        if (embeddings := ready.get(entry.card.name)) is not None:
            card = entry.card
            documents.append(
                {
                    "encoder": card.name,
                    "revision": card.revision,
                    "training_cohorts": card.training_cohorts,
                    "contamination": contamination(card.training_cohorts, cohort_id),
                    "embeddings": embeddings.hash,
                    "stains": search_stains(embeddings, cohort.data, query, stains),
                }
            )
            progress.advance(card.name)
    document = {
        "what": "cross-stain retrieval",
        "phantom": cohort.data.source == "phantom",
        "board": board_of(cohort.data),
        "cohort": cohort_id,
        "query": query,
        "main": "centred",
        "interval": f"95% percentile, Bayesian bootstrap of the query cases, {RESAMPLES}",
        "encoders": documents,
        "provenance": machine_provenance(),
    }
    return Report(document, _body(document), problem=problem)


def _usable(name: str) -> EncoderEntry:
    entry = find_encoder(name)
    if entry.card.kind == "supervised":
        raise InputError(
            f"encoder {entry.card.name} is trained on the labels of each task, so it has no "
            "embedding of its own; leave it out"
        )
    return entry


def searched_stains(cohort: OpenCohort, spec: CohortSpec, query: str) -> tuple[str, ...]:
    """Return the stains of a cohort that share a case with the query's stain.

    Raises:
        InputError: no case has a slide of the query's stain and one of another.
    """
    slides = cohort.data.slides
    with_bag = slides[slides["slide_id"].isin(slides_with_bags(cohort.data))]
    cases = {str(stain): set(rows["case_id"]) for stain, rows in with_bag.groupby("stain")}
    asking = cases.get(query, set())
    stains = tuple(s for s in spec.stains if s != query and cases.get(s, set()) & asking)
    if not stains:
        hint = did_you_mean(query, list(cases)) if not asking else ""
        raise InputError(
            f"cohort {spec.id} has no case with a slide of '{query}' and one of another stain{hint}"
            f"; it has {', '.join(sorted(cases))} (--query, or --cohort such as bwh-kidney)"
        )
    return stains


def embed_cohort(
    entries: Sequence[EncoderEntry], data: CohortData, workspace: Workspace, progress: Progress
) -> tuple[dict[str, Embeddings], list[tuple[str, Failure]]]:
    """Return the embeddings of all slides of a cohort by encoder, and why the others have none.

    They lie where `mbench run` keeps them, so either makes what the other finds.
    """
    bags = ToEmbed(data.cohort_id, data, tuple((e, fingerprint(e)) for e in entries))
    ready, failed = embed([bags], workspace, progress)
    embeddings = {name: read_embeddings(path) for (name, _), (path, _) in ready.items()}
    failures = [(name, why) for (name, _), why in failed.items()]
    return embeddings, sorted(failures, key=lambda each: each[0])


def search_stains(
    embeddings: Embeddings, data: CohortData, query: str, stains: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what is found in each stain, then the mean over stains (queries and gallery: sums).

    Each measure, with the mean of a stain taken out and with it left in, is a mean over queries in
    [0, 1], higher is better. Its interval is the percentile interval of the Bayesian bootstrap of
    the cases that ask, 1,000 resamples, the same for every stain and encoder of a cohort; the
    gallery stays as it is.

    Args:
        embeddings: of all slides of the cohort that have a bag.
        data: the cohort.
        query: the stain that asks.
        stains: the stains that are searched; each shares a case with the query's.
    """
    row_of = {slide: row for row, slide in enumerate(embeddings.ids)}
    sides: dict[str, tuple[list[str], NDArray[np.float64]]] = {}
    for stain in (query, *stains):
        slides = data.slides[data.slides["stain"] == stain]
        slides = slides[slides["slide_id"].isin(list(row_of))].sort_values("slide_id")
        rows = embeddings.matrix[[row_of[slide] for slide in slides["slide_id"]]]
        sides[stain] = (slides["case_id"].tolist(), rows.astype(np.float64))
    asking = sides[query][0]
    present = {stain: set(sides[stain][0]) for stain in stains}
    asked = {stain: [case for case in asking if case in present[stain]] for stain in stains}
    documents = []
    with threadpool_limits(1):
        values = {stain: _search(*sides[query], *sides[stain]) for stain in stains}
        weights = {
            stain: bayesian_case_weights(data.cohort_id, tuple(cases), RESAMPLES).astype(np.float64)
            for stain, cases in asked.items()
        }
        for name, of in (*((stain, [stain]) for stain in stains), ("mean", list(stains))):
            document: dict[str, Any] = {
                "stain": name,
                "queries": sum(len(asked[stain]) for stain in of),
                "gallery": sum(len(sides[stain][0]) for stain in of),
                "cases_without_stain": sum(len(set(asking) - present[stain]) for stain in of),
            }
            for centring in CENTRINGS:
                document[centring] = {
                    measure: _measured(
                        [values[stain][centring, measure] for stain in of],
                        [values[stain]["chance", measure] for stain in of],
                        [weights[stain] for stain in of],
                    )
                    for measure in _SHORT
                }
            documents.append(document)
    return documents


def _search(
    asking: list[str], queries: NDArray[np.float64], cases: list[str], rows: NDArray[np.float64]
) -> Values:
    """Return what the queries find among the rows, (centring, measure) -> (query,), and chance.

    `asking` and `cases` are the cases of both. A query whose case has no row does not ask.
    """
    there = np.isin(np.array(asking), np.array(cases))
    names, n_rows = np.array(asking)[there], len(cases)
    values: Values = {}
    for centring in CENTRINGS:
        pair = (queries, rows)
        if centring == "centred":
            pair = (
                fit_scaler(queries, "none").apply(queries),
                fit_scaler(rows, "none").apply(rows),
            )
        order = retrieval.ranked_neighbours(pair[0][there], pair[1], n_rows).indices
        relevant = np.array(cases)[order] == names[:, None]
        for k in TOP:
            values[centring, f"recall@{k}"] = retrieval.hit_at(relevant, k).astype(np.float64)
        values[centring, _PRECISION] = retrieval.average_precision(relevant)
        values[centring, _RANK] = retrieval.reciprocal_rank(relevant)
    expected: dict[str, Callable[[int, int], float]] = {
        **{f"recall@{k}": partial(retrieval.expected_hit, k=k) for k in TOP},
        _PRECISION: retrieval.expected_average_precision,
        _RANK: retrieval.expected_reciprocal_rank,
    }
    sought, inverse = np.unique([cases.count(name) for name in names.tolist()], return_inverse=True)
    for measure, of in expected.items():
        values["chance", measure] = np.array([of(n_rows, int(r)) for r in sought])[inverse]
    return values


def _measured(
    values: Sequence[NDArray[np.float64]],
    chances: Sequence[NDArray[np.float64]],
    weights: Sequence[NDArray[np.float64]],
) -> dict[str, Any]:
    """Return the mean over stains of the mean over queries, its 95% interval, and chance.

    Values are of queries, weights of queries x resamples, of each stain.
    """
    drawn = [
        np.einsum("q,qr->r", v, w) / w.sum(axis=0) for v, w in zip(values, weights, strict=True)
    ]
    return {
        "value": float(np.mean([each.mean() for each in values])),
        "ci95": percentile_interval(np.mean(drawn, axis=0)),
        "chance": float(np.mean([each.mean() for each in chances])),
    }


def _body(document: Mapping[str, Any]) -> list[Table | str]:
    kind = "PHANTOM" if document["phantom"] else "real data"
    query, cohort_id = document["query"], document["cohort"]
    rows = [
        [each["encoder"], each["contamination"], *_counts(search)]
        + [
            "{value:.3f} ({ci95[0]:.2f}-{ci95[1]:.2f})".format(**search["centred"][m])
            for m in _SHORT
        ]
        for each in document["encoders"]
        for search in each["stains"]
    ]
    first = document["encoders"][0]["stains"]
    for search in first:
        chances = [f"{search['centred'][name]['chance']:.3f}" for name in _SHORT]
        rows.append(["chance", "", *_counts(search), *chances])
    title = f"{query} retrieves slides of the same case in another stain: {cohort_id} ({kind})"
    header = ["encoder", "trained on it", "stain", "queries", "gallery", *_SHORT.values()]
    left_out = [
        f"{search['cases_without_stain']} cases have no {search['stain']} slide and are left out"
        for search in first[:-1]
        if search["cases_without_stain"]
    ]
    notice = [PHANTOM_NOTICE] if document["phantom"] else []
    return [Table(title, header, rows), *left_out, *notice]


def _counts(search: Mapping[str, Any]) -> list[str]:
    if search["stain"] == "mean":
        return ["mean", "", ""]
    return [search["stain"], str(search["queries"]), str(search["gallery"])]

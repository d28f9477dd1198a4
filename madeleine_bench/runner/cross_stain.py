"""Does a slide find its own case in another stain: the claim of cross-stain pretraining, measured.

Queries are the slides of one stain (H&E), the gallery all slides of another, and a slide of the
query's case is what is looked for. No label is read.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859): the slides of a case in other stains are aligned
    with its H&E slide. This measure is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from madeleine_bench.data.config import load_config
from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, fingerprint
from madeleine_bench.errors import InputError
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
Centring = Literal["centred", "raw"]
# A stain shifts all its embeddings alike, which says nothing of a case but tilts every cosine. So
# the mean of the stain is taken out; "raw" leaves it in.
CENTRINGS: tuple[Centring, ...] = ("centred", "raw")
_SHORT = {
    **{f"recall@{k}": f"recall@{k}" for k in TOP},
    "mean-average-precision": "mAP",
    "mean-reciprocal-rank": "MRR",
}
Values = dict[str, NDArray[np.float64]]


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

    def document(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        content = asdict(self)
        content["cases_without_stain"] = content.pop("left_out")
        content.update(content.pop("measures"))
        return content


@dataclass(frozen=True)
class _Search:
    """Values and expectations of each query: measure -> (query,); and the cases that ask."""

    case: tuple[str, ...]
    gallery: int
    left_out: int
    values: dict[Centring, Values]
    chance: Values


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
        progress: told of each job, and of encoders that were trained on the cohort.
        query: the stain that asks; every other one is searched.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or no two stains of a case.
        CheckFailed: no encoder could be used.
    """
    catalogue = workspace.tasks()
    config = load_config(workspace.config, catalogue)
    cohort = open_cohort(workspace, catalogue, cohort_id, config)
    entries = [_usable(name) for name in encoders]
    stains = searched_stains(cohort, catalogue.cohorts[cohort_id], query)
    ready, failures = embed_cohort(entries, cohort.data, workspace, progress)
    problem = ending("not every encoder could be used", failures)
    if not ready and problem:
        raise problem
    progress.phase("search", len(ready))
    documents = []
    for entry in entries:
        if (embeddings := ready.get(entry.card.name)) is not None:
            searches = search_stains(embeddings, cohort.data, query, stains)
            documents.append(_encoder_document(entry, cohort_id, embeddings.hash, searches))
            progress.advance(entry.card.name)
    for line in _warnings(documents, cohort_id):
        progress.say(line)
    document = {
        "what": "cross-stain retrieval",
        "phantom": cohort.data.source == "phantom",
        "board": board_of(cohort.data),
        "cohort": cohort_id,
        "query": query,
        "main": "centred",
        "interval": f"95% percentile, Bayesian bootstrap of the cases that ask, {RESAMPLES}",
        "encoders": documents,
        "provenance": machine_provenance(),
    }
    texts = {f"{cohort_id}.md": "\n".join(markdown_rows(document)) + "\n"}
    return Report(document, _body(document), texts=texts, problem=problem)


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
        InputError: the cohort has no slide of the query's stain, or no case with another one.
    """
    slides = cohort.data.slides
    with_bag = slides[slides["slide_id"].isin(slides_with_bags(cohort.data))]
    cases = {str(stain): set(rows["case_id"]) for stain, rows in with_bag.groupby("stain")}
    if query not in cases:
        raise InputError(
            f"cohort {spec.id} has no slide of stain '{query}'{did_you_mean(query, list(cases))}; "
            f"it has {', '.join(sorted(cases))} (--query)"
        )
    stains = [s for s in spec.stains if s != query and cases.get(s, set()) & cases[query]]
    if not stains:
        raise InputError(
            f"cohort {spec.id} has no case with a slide of '{query}' and one of another stain; "
            "choose a cohort with several stains, such as bwh-kidney"
        )
    return tuple(stains)


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
        slides = data.slides[data.slides["stain"] == stain]
        slides = slides[slides["slide_id"].isin(list(row_of))].sort_values("slide_id")
        rows = embeddings.matrix[[row_of[slide] for slide in slides["slide_id"]]]
        held[stain] = (slides["case_id"].tolist(), rows.astype(np.float64))
    with threadpool_limits(1):
        searches = {stain: _search(*held[query], *held[stain]) for stain in stains}
        weights = {
            stain: bayesian_case_weights(data.cohort_id, search.case, RESAMPLES).astype(np.float64)
            for stain, search in searches.items()
        }
        each = [_summary(stain, {stain: search}, weights) for stain, search in searches.items()]
        return (*each, _summary("mean", searches, weights))


def _search(
    asking: list[str], queries: NDArray[np.float64], cases: list[str], rows: NDArray[np.float64]
) -> _Search:
    """Return what the queries find among the rows; `asking` and `cases` are the cases of both."""
    there = np.isin(np.array(asking), np.array(cases))
    names = np.array(asking)[there]
    n_rows = len(cases)
    values: dict[Centring, Values] = {}
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
    chance = {f"recall@{k}": np.array([expected_hit(n_rows, r, k) for r in sought]) for k in TOP}
    for name, expected in (
        ("mean-average-precision", expected_average_precision),
        ("mean-reciprocal-rank", expected_reciprocal_rank),
    ):
        of_number = {r: expected(n_rows, r) for r in set(sought)}
        chance[name] = np.array([of_number[r] for r in sought])
    left_out = len(set(asking) - set(cases))
    return _Search(tuple(names.tolist()), n_rows, left_out, values, chance)


def _summary(
    name: str, searches: Mapping[str, _Search], weights: Mapping[str, NDArray[np.float64]]
) -> StainSearch:
    """Return the mean over searches, with intervals."""
    measures: dict[Centring, dict[str, Measure]] = {centring: {} for centring in CENTRINGS}
    for centring, of_centring in measures.items():
        for measure in _SHORT:
            values = {stain: s.values[centring][measure] for stain, s in searches.items()}
            drawn = [_weighted_mean(values[stain], weights[stain]) for stain in searches]
            of_centring[measure] = Measure(
                value=float(np.mean([value.mean() for value in values.values()])),
                ci95=percentile_interval(np.mean(drawn, axis=0)),
                chance=float(np.mean([s.chance[measure].mean() for s in searches.values()])),
            )
    return StainSearch(
        stain=name,
        queries=sum(len(search.case) for search in searches.values()),
        gallery=sum(search.gallery for search in searches.values()),
        left_out=sum(search.left_out for search in searches.values()),
        measures=measures,
    )


def _weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of (query,) values in each resample; weights are query x resample."""
    mean: NDArray[np.float64] = np.einsum("q,qr->r", values, weights) / weights.sum(axis=0)
    return mean


def _encoder_document(
    entry: EncoderEntry, cohort_id: str, embeddings: str, searches: Sequence[StainSearch]
) -> dict[str, Any]:
    card = entry.card
    return {
        "encoder": card.name,
        "revision": card.revision,
        "training_cohorts": card.training_cohorts,
        "contamination": contamination(card.training_cohorts, cohort_id),
        "embeddings": embeddings,
        "stains": [search.document() for search in searches],
    }


def _warnings(documents: Sequence[Mapping[str, Any]], cohort_id: str) -> list[str]:
    """Say which encoders were trained on the slides they are judged on, or may have been."""
    lines = []
    for word, means in (("contaminated", "was trained"), ("unknown", "may have been trained")):
        if names := [each["encoder"] for each in documents if each["contamination"] == word]:
            lines.append(
                f"warning: {', '.join(names)} {means} on {cohort_id} itself; what it finds "
                "there says little of other slides"
            )
    return lines


def markdown_rows(document: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of a document, a line each: means over stains, and chance last."""
    data = "PHANTOM " if document["phantom"] else ""
    measures = [f"{name} (95%)" for name in _SHORT.values()]
    lines = [[f"{data}{document['cohort']}", *measures, "recall@1, not centred"]]
    lines.append(["---"] * len(lines[0]))
    for encoder in document["encoders"]:
        mean = encoder["stains"][-1]
        cells = [_cell(mean["centred"][name], ".3f", "-") for name in _SHORT]
        lines.append([encoder["encoder"], *cells, f"{mean['raw']['recall@1']['value']:.3f}"])
    chances = [f"{mean['centred'][name]['chance']:.3f}" for name in (*_SHORT, "recall@1")]
    return [f"| {' | '.join(cells)} |" for cells in (*lines, ["chance", *chances])]


def _cell(measure: Mapping[str, Any], digits: str, to: str) -> str:
    low, high = (format(end, digits) for end in measure["ci95"])
    return f"{measure['value']:.3f} ({low}{to}{high})"


def _body(document: Mapping[str, Any]) -> list[Table | str]:
    kind = "PHANTOM" if document["phantom"] else "real data"
    query, cohort_id = document["query"], document["cohort"]
    rows = [
        [each["encoder"], each["contamination"], *_counts(search)]
        + [_cell(search["centred"][name], ".2f", "-") for name in _SHORT]
        for each in document["encoders"]
        for search in each["stains"]
    ]
    first = document["encoders"][0]["stains"]
    for search in first:
        chances = [f"{search['centred'][name]['chance']:.3f}" for name in _SHORT]
        rows.append(["chance", "", *_counts(search), *chances])
    title = f"{query} finds its own case in another stain: {cohort_id} ({kind})"
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

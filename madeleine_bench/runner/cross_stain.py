"""Does a slide find its own case in another stain: the claim of cross-stain pretraining, measured.

Queries are the slides of one stain (H&E), the gallery all slides of another, and a slide of the
query's case is what is looked for. No label is read.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859): the slides of a case in other stains are aligned
    with its H&E slide. This measure is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from madeleine_bench.data.config import load_config
from madeleine_bench.embeddings.store import Embeddings, read_embeddings
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, fingerprint
from madeleine_bench.errors import InputError
from madeleine_bench.runner.cohorts import OpenCohort, PhantomChoice, open_cohort
from madeleine_bench.runner.embedding import ToEmbed, embed
from madeleine_bench.runner.failures import Failure
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.runner.stain_search import StainSearch, search_stains
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.types import CohortData, Progress


@dataclass(frozen=True)
class CrossStainRequest:
    """What the user asked for; see `runner.plan.Request` for what is not said here.

    Attributes:
        encoders: names or card paths.
        cohort: id of the cohort.
        query: the stain that asks; every other one is searched.
    """

    encoders: tuple[str, ...]
    cohort: str
    query: str = "H&E"
    source: SourceChoice = "auto"
    results: Path = Path("results")
    jobs: int = 1
    config: Path | None = None
    catalogue: Path | None = None
    phantom: PhantomChoice = field(default_factory=PhantomChoice)


@dataclass(frozen=True)
class EncoderSearch:
    """What one encoder finds: each stain, in the order of the cohort's, then the mean over them."""

    entry: EncoderEntry
    embeddings: str
    stains: tuple[StainSearch, ...]


@dataclass(frozen=True)
class CrossStainReport:
    """What was found; `failures` says which encoder could not be used and why."""

    cohort: CohortSpec
    data: CohortData
    query: str
    encoders: tuple[EncoderSearch, ...]
    failures: tuple[tuple[str, Failure], ...]


def cross_stain(request: CrossStainRequest, progress: Progress) -> CrossStainReport:
    """Return what each encoder finds. Embeddings are those of `mbench run`, made where missing.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or no two stains of a case.
    """
    catalogue = load_catalogue(request.catalogue)
    if request.cohort not in catalogue.cohorts:
        hint = did_you_mean(request.cohort, list(catalogue.cohorts))
        raise InputError(f"no cohort is called '{request.cohort}'{hint} (mbench data status)")
    config = load_config(request.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    entries = [_usable(name) for name in request.encoders]
    workspace = Workspace(
        request.results, request.source, request.config, request.catalogue, request.jobs,
        request.phantom.signal, request.phantom.seed,
    )  # fmt: skip
    cohort = open_cohort(workspace, catalogue, request.cohort, config)
    spec = catalogue.cohorts[request.cohort]
    stains = searched_stains(cohort, spec, request.query)
    ready, failures = embed_cohort(entries, cohort.data, request.results, request.jobs, progress)
    found = []
    progress.phase("search", len(ready))
    for entry in entries:
        if entry.card.name in ready:
            embeddings = ready[entry.card.name]
            searches = search_stains(embeddings, cohort.data, request.query, stains)
            found.append(EncoderSearch(entry, embeddings.hash, searches))
            progress.advance(entry.card.name)
    return CrossStainReport(spec, cohort.data, request.query, tuple(found), tuple(failures))


def searched_stains(cohort: OpenCohort, spec: CohortSpec, query: str) -> tuple[str, ...]:
    """Return the stains of a cohort that share a case with the query's stain.

    Raises:
        InputError: the cohort has no slide of the query's stain, or no case with another one.
    """
    slides = cohort.data.slides
    there = slides[slides["slide_id"].isin(slides_with_bags(cohort.data))]
    held = {str(stain): set(rows["case_id"]) for stain, rows in there.groupby("stain")}
    if query not in held:
        raise InputError(
            f"cohort {spec.id} has no slide of stain '{query}'{did_you_mean(query, list(held))}; "
            f"it has {', '.join(sorted(held))} (--query)"
        )
    stains = [s for s in spec.stains if s != query and held.get(s, set()) & held[query]]
    if not stains:
        raise InputError(
            f"cohort {spec.id} has no case with a slide of '{query}' and one of another stain; "
            "choose a cohort with several stains, such as bwh-kidney"
        )
    return tuple(stains)


def embed_cohort(
    entries: Sequence[EncoderEntry], data: CohortData, results: Path, jobs: int, progress: Progress
) -> tuple[dict[str, Embeddings], list[tuple[str, Failure]]]:
    """Return the embeddings of all slides of a cohort by encoder, and why the others have none.

    They lie where `mbench run` keeps them, so either makes what the other finds.
    """
    wanted = ToEmbed(data.cohort_id, data, tuple((e, fingerprint(e)) for e in entries))
    ready, failed = embed([wanted], results, jobs, "only-missing", progress)
    found = {name: read_embeddings(path) for (name, _), (path, _) in ready.items()}
    return found, sorted(
        ((name, why) for (name, _), why in failed.items()), key=lambda each: each[0]
    )


def _usable(name: str) -> EncoderEntry:
    entry = find_encoder(name)
    if entry.card.kind == "supervised":
        raise InputError(
            f"encoder {entry.card.name} is trained on the labels of each task, so it has no "
            "embedding of its own; leave it out"
        )
    return entry

"""An encoder by its name, examined on a sample of the slides of cohorts."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from madeleine_bench.data.config import Config, load_config
from madeleine_bench.embeddings.doctor.examine import Examination, examine_encoder
from madeleine_bench.encoders.base import SlideEncoder
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, load_encoder
from madeleine_bench.errors import InputError
from madeleine_bench.runner.checks import check_bags
from madeleine_bench.runner.cohorts import OpenCohort, open_cohort
from madeleine_bench.runner.plan import slides_with_bags
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.workspace import SourceChoice, Workspace
from madeleine_bench.types import CohortData, Progress

# It has sites, and its phantom needs no file.
DEFAULT_COHORT = "tcga-breast"


@dataclass(frozen=True)
class DoctorRequest:
    """What the user asked for; see `runner.plan.Request` for what is not said here.

    Attributes:
        encoder: name, or path of a card.
        cohorts: ids; empty means those of mbench.toml, or the phantom of tcga-breast.
        slides: how many slides of each cohort are drawn.
    """

    encoder: str
    cohorts: tuple[str, ...] = ()
    slides: int = 64
    source: SourceChoice = "auto"
    results: Path = Path("results")
    config: Path | None = None
    catalogue: Path | None = None


@dataclass(frozen=True)
class ExaminedCohort:
    """A cohort and what was found of the encoder on it."""

    data: CohortData
    examination: Examination


@dataclass(frozen=True)
class DoctorReport:
    """An encoder examined on cohorts."""

    entry: EncoderEntry
    cohorts: tuple[ExaminedCohort, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Checks that failed on a cohort, each named once."""
        return tuple(dict.fromkeys(name for c in self.cohorts for name in c.examination.failed))


def examine(request: DoctorRequest, progress: Progress) -> DoctorReport:
    """Return what is found of an encoder on each cohort. Nothing is cached, no label is read.

    Raises:
        InputError: an unknown name, a cohort that cannot be read, or bags that the encoder is not
            made for.
    """
    catalogue = load_catalogue(request.catalogue)
    config = load_config(request.config)
    config.check(catalogue.cohorts, catalogue.tasks)
    entry = find_encoder(request.encoder)
    opened = []
    for cohort_id in request.cohorts or _default_cohorts(request, config):
        if cohort_id not in catalogue.cohorts:
            hint = did_you_mean(cohort_id, list(catalogue.cohorts))
            raise InputError(f"no cohort is called '{cohort_id}'{hint} (mbench data status)")
        workspace = Workspace(request.results, request.source)
        cohort = open_cohort(workspace, catalogue, cohort_id, config)
        _require_fit(entry, cohort)
        opened.append(cohort.data)
    encoder = load_encoder(entry)
    on_device = _on_device(entry, encoder)
    with threadpool_limits(1):  # as embeddings are made for scores
        found = [
            ExaminedCohort(
                data,
                examine_encoder(
                    encoder, data, draw_slides(data, request.slides), progress, on_device
                ),
            )
            for data in opened
        ]
    return DoctorReport(entry, tuple(found))


def draw_slides(data: CohortData, count: int) -> list[str]:
    """Return slides of a cohort that have a bag, drawn at random, the same ones each time."""
    slide_ids = slides_with_bags(data)
    drawn = rng_for("doctor", data.cohort_id).permutation(len(slide_ids))[:count]
    return [slide_ids[row] for row in sorted(drawn.tolist())]


def _default_cohorts(request: DoctorRequest, config: Config) -> tuple[str, ...]:
    own = tuple(config.cohorts) if request.source != "phantom" else ()
    return own or (DEFAULT_COHORT,)


def _require_fit(entry: EncoderEntry, cohort: OpenCohort) -> None:
    if entry.card.phantom_only and cohort.data.source != "phantom":
        raise InputError(
            f"encoder {entry.card.name} reads what only phantom bags have, and "
            f"{cohort.data.cohort_id} is read from files; take --source phantom"
        )
    check_bags([entry.card], cohort.data, cohort.where)


def _on_device(entry: EncoderEntry, encoder: SlideEncoder) -> Callable[[str], SlideEncoder] | None:
    """Return what makes the encoder anew on a device, where its class can be told which."""
    parameters = inspect.signature(type(encoder)).parameters
    if "device" not in parameters:
        return None

    def make(device: str) -> SlideEncoder:
        own = {**entry.card.parameters, "device": device}
        card = entry.card.model_copy(update={"parameters": own})
        return load_encoder(EncoderEntry(card, entry.path, entry.origin))

    return make

"""Slides to bags by many processes: each slide is a job that any process can do, or do again."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.extraction import ExtractionSettings, SlideOutcome, extracted, follow
from madeleine_bench.slides.patch_encoders import (
    PatchEncoder,
    PatchEncoderEntry,
    load_patch_encoder,
)
from madeleine_bench.slides.patch_encoders.base import Device, Precision
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.types import Progress, Silence


@dataclass(frozen=True)
class EncoderChoice:
    """A patch encoder, and how it is loaded.

    Attributes:
        entry: which.
        device: "auto" takes the GPU of the process that loads it, where there is one.
        precision: as in `load_patch_encoder`.
        weights: the user's own copy of weights that do not ship.
    """

    entry: PatchEncoderEntry
    device: Device
    precision: Precision
    weights: Path | None

    def load(self, threads: int) -> PatchEncoder:
        """Return the encoder; on a CPU it takes as many threads.

        Raises:
            InputError: code or weights are absent or unfit, or there is no such device.
        """
        import torch

        torch.set_num_threads(threads)
        return load_patch_encoder(self.entry, self.device, self.precision, self.weights)


@dataclass(frozen=True)
class SlideJob:
    """One slide to extract; arguments as in `extract`, all paths absolute."""

    slide: Path
    choice: EncoderChoice
    encoder_key: str
    folder: BagFolder
    settings: ExtractionSettings


class RunJobs(Protocol):
    """Does jobs somewhere, and yields their outcomes in any order; see `runner.workers`."""

    def __call__(
        self,
        work: Callable[[SlideJob], SlideOutcome],
        jobs: Sequence[SlideJob],
        on_worker_death: Callable[[SlideJob, str], SlideOutcome],
        *,
        gpu: bool,
    ) -> Iterator[SlideOutcome]:
        """Yield the outcome of each job as it ends."""
        ...


def extract_by_jobs(
    slides: Sequence[Path],
    choice: EncoderChoice,
    encoder_key: str,
    folder: BagFolder,
    settings: ExtractionSettings,
    progress: Progress,
    run: RunJobs,
) -> list[SlideOutcome]:
    """Write the bag of each slide and return what became of each, sorted by slide.

    The bags are those of `extract`, to the byte.

    Args:
        slides: files, of different stems.
        choice: turns patches into features.
        encoder_key: hash of all that a feature depends on besides the pixels.
        folder: where the files go; every process must see it, and the slides, at the same place.
        settings: size of patches, tissue, and the threads of each process.
        progress: told of each slide.
        run: does the jobs.

    Raises:
        InputError: the output folder cannot be written, or another process writes to it.
    """
    folder = replace(folder, root=folder.root.absolute())
    given = settings.patch_folder
    settings = replace(settings, patch_folder=None if given is None else given.absolute())
    if choice.weights is not None:
        choice = replace(choice, weights=choice.weights.absolute())
    jobs = [SlideJob(s.absolute(), choice, encoder_key, folder, settings) for s in slides]
    made = run(extract_slide, jobs, _lost, gpu=choice.device != "cpu")
    outcomes = follow(made, len(jobs), folder, progress)
    return sorted(outcomes, key=operator.attrgetter("slide_id"))


def extract_slide(job: SlideJob) -> SlideOutcome:
    """Write the bag of one slide, and return what became of it."""
    choice, threads = job.choice, job.settings.workers
    encoder = _loaded(
        str(choice.entry.path), choice.entry.card.model_dump_json(), choice.device,
        choice.precision, choice.weights, threads, job.encoder_key,
    )  # fmt: skip
    (outcome,) = extracted(
        [job.slide], encoder, job.encoder_key, job.folder, job.settings, Silence()
    )
    return outcome


@lru_cache(maxsize=1)
def _loaded(
    path: str, card: str, device: Device, precision: Precision, weights: Path | None, threads: int,
    encoder_key: str,
) -> PatchEncoder:  # fmt: skip
    """Return the encoder, loaded once for each process until weights or code are others."""
    entry = PatchEncoderEntry(PatchEncoderCard.model_validate_json(card), Path(path), path)
    return EncoderChoice(entry, device, precision, weights).load(threads)


def _lost(job: SlideJob, reason: str) -> SlideOutcome:
    return SlideOutcome(job.slide.stem, "failed", message=reason)

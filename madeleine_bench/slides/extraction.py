"""From slides to bags: every slide of a list read, cut into patches and encoded, resumable.

In this process threads prepare and read while the encoder works; other processes do a slide each.
"""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import sole_writer, write_text
from madeleine_bench.hashing import hash_file, hash_json
from madeleine_bench.report import Report
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.masks import find_mask_file
from madeleine_bench.slides.patch_encoders import (
    Device,
    PatchEncoder,
    PatchEncoderEntry,
    Precision,
    load_patch_encoder,
    patch_fingerprint,
)
from madeleine_bench.slides.patches import (
    ChosenPatches,
    PatchSettings,
    check_mask_folder,
    choose_patches,
    find_patch_file,
    read_patches,
)
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.resolution import GivenMpp, unmatched_note
from madeleine_bench.slides.tissue import TissueSettings
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.types import Progress, Silence

Status = Literal["extracted", "already there", "empty", "failed"]
Job = TypeVar("Job")
RunJobs = Callable[..., Iterable["SlideOutcome"]]

EXTRACTION_VERSION = 3  # raise it when the same settings come to mean other patches or pixels

_SLIDES_AHEAD = 1
_BATCHES_AHEAD = 4
_SAME_MPP = 0.05


@dataclass(frozen=True)
class ExtractionSettings:
    """How bags are made.

    Attributes:
        patches: size, resolution and choice of patches.
        slide_mpp: micrometres per level-0 pixel of slides whose file states none.
        force_mpp: micrometres per level-0 pixel in place of what files state.
        patch_folder: folder of patch files of CLAM or TRIDENT, to take in place of an own choice.
        mask_folder: folder of tissue masks, GeoJSON or pictures, for the tissue method "mask".
        overwrite: replace bags that were made with other settings.
        workers: threads that read.
        batch: patches encoded at once.
    """

    patches: PatchSettings = field(default_factory=PatchSettings)
    slide_mpp: GivenMpp = None
    force_mpp: GivenMpp = None
    patch_folder: Path | None = None
    mask_folder: Path | None = None
    overwrite: bool = False
    workers: int = 1
    batch: int = 32

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            InputError: a value is out of its range.
        """
        for name, value in (("--workers", self.workers), ("--batch-size", self.batch)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        if self.patch_folder is not None and not self.patch_folder.is_dir():
            raise InputError(f"no folder {self.patch_folder}; --patches wants that of patch files")
        check_mask_folder(self.patches, self.mask_folder)


@dataclass(frozen=True)
class EncoderChoice:
    """A patch encoder, and how it is loaded; two are equal where their features are.

    Attributes:
        entry: which.
        device: "auto" takes the GPU of the process that loads it, where there is one.
        precision: as in `load_patch_encoder`.
        weights: the user's own copy of weights that do not ship.
        key: hash of all that a feature depends on besides the pixels.
    """

    entry: PatchEncoderEntry = field(compare=False)
    device: Device = "auto"
    precision: Precision = "auto"
    weights: Path | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        """Work out the key.

        Raises:
            InputError: the weights are absent or are not those of the card; the code is not found.
        """
        object.__setattr__(self, "key", patch_fingerprint(self.entry, self.weights))
        if self.weights is not None:  # another process may stand in another folder
            object.__setattr__(self, "weights", self.weights.absolute())

    def load(self, threads: int) -> PatchEncoder:
        """Return the encoder; on a CPU it takes as many threads.

        Raises:
            InputError: code or weights are absent or unfit, or there is no such device.
        """
        import torch

        torch.set_num_threads(threads)
        return load_patch_encoder(self.entry, self.device, self.precision, self.weights)


@dataclass(frozen=True)
class SlideOutcome:
    """What became of a slide: patches in its bag, seconds, and why it failed or another remark."""

    slide_id: str
    status: Status
    patches: int = 0
    mpp: float | None = None
    seconds: float = 0.0
    message: str = ""


def extract_cohort(
    place: Path,
    cohort: str,
    choice: EncoderChoice,
    folder: BagFolder,
    settings: ExtractionSettings,
    progress: Progress,
    catalogue: Path | None = None,
    run: RunJobs | None = None,
) -> Report:
    """Write the bags of a folder of slides, and return what became of them.

    Args:
        place: a folder of slides, or one slide.
        cohort: name of the cohort that the slides are of.
        choice: turns patches into features.
        folder: where the files go.
        settings: size of patches, tissue, threads.
        progress: told of each slide, and of what a user may not have meant.
        catalogue: folder of tasks; None takes the shipped one.
        run: as in `extract_bags`.

    Raises:
        InputError: the cohort has no such name, there is no slide, or as `extract_bags`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", cohort):
        raise InputError(
            f"--cohort is '{cohort}'; a cohort is named in lower case, digits and hyphens"
        )
    slides = list_slides(place, progress.say)
    for line in [
        *unmatched_note("--mpp", settings.slide_mpp, slides),
        *unmatched_note("--force-mpp", settings.force_mpp, slides),
    ]:
        progress.say(line)
    names = sorted(load_catalogue(catalogue).cohorts)
    if cohort not in names:
        progress.say(
            f"note: the catalogue has no cohort '{cohort}'{did_you_mean(cohort, names)}. Bags are "
            "written; for mbench run to read them the cohort must be declared (CONTRIBUTING.md)"
        )
    card, mpp = choice.entry.card, settings.patches.mpp
    if card.mpp is not None and abs(mpp / card.mpp - 1.0) > _SAME_MPP:
        progress.say(
            f"note: {card.name} was made for patches of {card.mpp:g} micrometres a pixel; you ask "
            f"for {mpp:g} (--patch-mpp {card.mpp:g} is what its authors use)"
        )
    outcomes = extract_bags(slides, choice, folder, settings, progress, run)
    return _report(outcomes, folder, cohort)


def extract_bags(
    slides: Sequence[Path],
    choice: EncoderChoice,
    folder: BagFolder,
    settings: ExtractionSettings,
    progress: Progress,
    run: RunJobs | None = None,
) -> list[SlideOutcome]:
    """Write the bag of each slide and return what became of each, by slide id.

    A slide that fails is named and skipped. A bag that the same slide, settings and encoder
    have made before is left as it is, so an interrupted extraction goes on where it was.

    Args:
        slides: files, of different stems.
        choice: turns patches into features.
        folder: where the files go; with `run` every process must see it, and the slides, at the
            same place.
        settings: size of patches, tissue, and the threads of each process.
        progress: told of each slide.
        run: does a job for each slide in other processes, see `runner.workers`; None extracts in
            this process. The bags are the same, to the byte.

    Raises:
        InputError: the encoder cannot be loaded, the output folder cannot be written, or another
            process writes to it.
    """
    if run is None:
        encoder = choice.load(settings.workers)
        outcomes: Iterable[SlideOutcome] = _Extraction(
            encoder, choice.key, folder, settings, progress
        ).run(slides)
    else:
        patches, masks = settings.patch_folder, settings.mask_folder
        work = partial(
            _extract_slide,
            choice=choice,
            folder=replace(folder, root=folder.root.absolute()),
            settings=replace(
                settings,
                patch_folder=patches and patches.absolute(),
                mask_folder=masks and masks.absolute(),
            ),
        )
        jobs = [path.absolute() for path in slides]
        outcomes = run(work, jobs, _on_worker_death, gpu=choice.device != "cpu")
    collected: list[SlideOutcome] = []
    with sole_writer(folder.features):
        progress.phase("slides", len(slides))
        try:
            for outcome in outcomes:
                collected.append(outcome)
                if outcome.message:
                    failed = " failed" if outcome.status == "failed" else ""
                    progress.say(f"{outcome.slide_id}{failed}: {outcome.message}")
                progress.advance(f"{outcome.slide_id}: {outcome.status}")
        finally:
            collected.sort(key=lambda outcome: outcome.slide_id)
            if collected:
                _write_table(folder.report, collected)
    return collected


def _write_table(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Write what became of each slide; slides of earlier calls keep their rows."""
    table = pd.DataFrame([asdict(outcome) for outcome in outcomes])
    table["seconds"] = table["seconds"].map("{:.2f}".format)
    table["mpp"] = table["mpp"].map("{:g}".format, na_action="ignore")
    try:
        before = pd.read_csv(path, dtype=str, keep_default_na=False)[list(table)]
    except (OSError, ValueError, KeyError):  # there is none, or it is no such table
        before = table.iloc[:0]
    others = before[~before["slide_id"].isin(table["slide_id"])]
    table = pd.concat([others, table.astype({"patches": str})]).sort_values("slide_id")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _report(outcomes: Sequence[SlideOutcome], folder: BagFolder, cohort: str) -> Report:
    """Return what became of all slides, how the bags are used, and the first failures."""
    counts = Counter(outcome.status for outcome in outcomes)
    patches = sum(outcome.patches for outcome in outcomes)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    body = [f"{told}; {patches} patches; each slide: {folder.report}"]
    failed = [f"{one.slide_id}: {one.message}" for one in outcomes if one.status == "failed"]
    if len(failed) < len(outcomes):
        body.append(
            f"bags: {folder.features}\nfor mbench.toml:\n\n[cohorts.{cohort}]\n"
            f'features = "{folder.features.absolute()}"\nlabels = "YOUR LABEL TABLE"\n'
            f'patch_encoder = "{folder.patch_encoder}"\n'
        )
    problem = None
    if failed:
        heading = f"{len(failed)} of {len(outcomes)} slides failed, all of them in {folder.report}"
        problem = CheckFailed(f"{heading}; the first: {failed[0]}")
    return Report({"slides": dict(counts), "patches": patches}, body, problem=problem)


def _extract_slide(
    path: Path, choice: EncoderChoice, folder: BagFolder, settings: ExtractionSettings
) -> SlideOutcome:
    encoder = _loaded(choice, settings.workers)
    (outcome,) = _Extraction(encoder, choice.key, folder, settings, Silence()).run([path])
    return outcome


@lru_cache(maxsize=1)
def _loaded(choice: EncoderChoice, threads: int) -> PatchEncoder:
    """Return the encoder, loaded once for each process until weights or code are others."""
    return choice.load(threads)


def _on_worker_death(path: Path, reason: str) -> SlideOutcome:
    return SlideOutcome(path.stem, "failed", message=reason)


@dataclass(frozen=True)
class _Work:
    """A slide under work; `chosen` is None where its bag, of so many patches, is there already."""

    slide: Slide
    key: str
    seconds: float
    patches: int
    chosen: ChosenPatches | None


@dataclass
class _Extraction:
    """One extraction under way: threads prepare and read, this thread encodes and writes."""

    encoder: PatchEncoder
    encoder_key: str
    folder: BagFolder
    settings: ExtractionSettings
    progress: Progress

    def run(self, slides: Sequence[Path]) -> Iterator[SlideOutcome]:
        """Yield what became of each slide, in their order, once its bag is written."""
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="read-slides")
        # NumPy's own threads would spin for the cores that reading and encoding share.
        with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
            try:
                jobs = ((path, pool.submit(self.prepare, path)) for path in slides)
                for path, ready in submit_ahead(jobs, _SLIDES_AHEAD):
                    try:
                        yield self.finish(ready.result(), pool)
                    except InputError as error:
                        yield SlideOutcome(path.stem, "failed", message=str(error))
            finally:
                pool.shutdown(cancel_futures=True)

    def prepare(self, path: Path) -> _Work:
        """Open a slide and choose its patches, or find that its bag is there."""
        started = time.perf_counter()
        settings = self.settings
        slide = Slide(path, settings.slide_mpp, settings.force_mpp)
        key = self.key_of(slide)
        patches = self.folder.find_bag(slide.slide_id, key, overwrite=settings.overwrite)
        chosen = None
        if patches is None:
            chosen = choose_patches(
                slide, settings.patches, settings.patch_folder, settings.mask_folder
            )
            patches = len(chosen.coords)
            self.folder.write_tissue(slide, chosen)
        return _Work(slide, key, time.perf_counter() - started, patches, chosen)

    def key_of(self, slide: Slide) -> str:
        """Return the hash of all that the bag of a slide depends on."""
        settings = self.settings
        chosen = None
        if settings.patch_folder is not None:
            chosen = hash_file(find_patch_file(settings.patch_folder, slide.slide_id))
        elif settings.mask_folder is not None:
            chosen = hash_file(find_mask_file(settings.mask_folder, slide.slide_id))
        how = [asdict(settings.patches), asdict(TissueSettings()), slide.mpp, chosen]
        return hash_json([EXTRACTION_VERSION, slide.content, self.encoder_key, how])

    def finish(self, work: _Work, pool: ThreadPoolExecutor) -> SlideOutcome:
        """Read and encode the patches of a slide, write its bag, and return its outcome."""
        begun = time.perf_counter()
        status: Status = "already there"
        with work.slide as slide:
            if work.chosen is not None:
                features = self.encode(slide, work.chosen, pool)
                self.folder.write_bag(slide, work.chosen, features, work.key)
                status = "extracted" if work.patches else "empty"
        seconds = work.seconds + time.perf_counter() - begun
        remark = slide.mpp_remark
        return SlideOutcome(slide.slide_id, status, work.patches, slide.mpp, seconds, remark)

    def encode(
        self, slide: Slide, chosen: ChosenPatches, pool: ThreadPoolExecutor
    ) -> NDArray[np.float32]:
        """Return the features of all patches; some batches are read before they are wanted."""
        count, size = len(chosen.coords), self.settings.batch
        features = np.empty((count, self.encoder.card.dim), dtype=np.float32)
        parts = (slice(start, start + size) for start in range(0, count, size))
        batches = ((part, pool.submit(read_patches, slide, chosen, part)) for part in parts)
        for part, pixels in submit_ahead(batches, _BATCHES_AHEAD):
            try:
                features[part] = self.encoder.encode(pixels.result())
            except InputError:
                raise
            except Exception as error:  # of a third-party encoder, or of a GPU that is full
                raise InputError(
                    f"patch encoder {self.encoder.card.name} raised {type(error).__name__}: {error}"
                ) from error
            self.progress.note(f"{slide.slide_id}: {min(part.stop, count)}/{count} patches")
        return features


def submit_ahead(jobs: Iterable[Job], ahead: int) -> Iterator[Job]:
    """Yield jobs that are submitted as they are drawn; so many are drawn before they are wanted."""
    queue: deque[Job] = deque()
    for job in jobs:
        queue.append(job)
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue

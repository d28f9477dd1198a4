"""From slides to bags: every slide of a list read, cut into patches and encoded, resumable."""

import csv
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer, write_text
from madeleine_bench.hashing import hash_file, hash_json
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.patch_encoders import PatchEncoder
from madeleine_bench.slides.patches import (
    ChosenPatches,
    PatchSettings,
    choose_patches,
    find_patch_file,
    read_patches,
)
from madeleine_bench.slides.read_ahead import Batch, ReadAhead
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.tissue import TissueSettings
from madeleine_bench.types import Progress

Status = Literal["extracted", "already there", "empty", "failed"]

EXTRACTION_VERSION = 1  # raise it when the same settings come to mean other patches or pixels

_BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ExtractionSettings:
    """How bags are made.

    Attributes:
        patches: size, resolution and choice of patches.
        tissue: how tissue is told from glass.
        slide_mpp: micrometres per level-0 pixel of every slide, in place of what files state.
        patch_folder: folder of patch files of CLAM or TRIDENT, to take in place of an own choice.
        overwrite: replace bags that were made with other settings.
        workers: threads that read.
        batch: patches encoded at once.
    """

    patches: PatchSettings = field(default_factory=PatchSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)
    slide_mpp: float | None = None
    patch_folder: Path | None = None
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


@dataclass(frozen=True)
class SlideOutcome:
    """What became of a slide: patches in its bag, seconds of work on it, and why it failed."""

    slide_id: str
    status: Status
    patches: int = 0
    mpp: float | None = None
    seconds: float = 0.0
    message: str = ""


@dataclass
class _Work:
    """A slide under work; `chosen` is None where its bag is there already."""

    slide: Slide
    key: str
    seconds: float
    patches: int
    chosen: ChosenPatches | None = None
    features: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def encoded(self) -> int:
        return sum(map(len, self.features))


def extract(
    slides: Sequence[Path],
    encoder: PatchEncoder,
    encoder_key: str,
    folder: BagFolder,
    settings: ExtractionSettings,
    progress: Progress,
) -> list[SlideOutcome]:
    """Write the bag of each slide and return what became of each, in the order of the slides.

    A slide that fails is named and passed over. A bag that the same slide, settings and encoder
    have made before is left as it is, so an interrupted extraction goes on where it was.

    Args:
        slides: files, of different stems.
        encoder: turns patches into features.
        encoder_key: hash of all that a feature depends on besides the pixels.
        folder: where the files go.
        settings: size of patches, tissue, threads.
        progress: told of each slide.

    Raises:
        InputError: the output folder cannot be written, or another process writes to it.
    """
    made = extracted(slides, encoder, encoder_key, folder, settings, progress)
    return follow(made, len(slides), folder, progress)


def extracted(
    slides: Sequence[Path],
    encoder: PatchEncoder,
    encoder_key: str,
    folder: BagFolder,
    settings: ExtractionSettings,
    progress: Progress,
) -> Iterator[SlideOutcome]:
    """Yield what became of each slide, in their order, once its bag is written.

    Arguments are those of `extract`; whoever calls holds the folder against other runs.
    """
    # NumPy's own threads would spin for the cores that reading and encoding share.
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield from _Extraction(encoder, encoder_key, folder, settings, progress).run(slides)


def follow(
    made: Iterable[SlideOutcome], slides: int, folder: BagFolder, progress: Progress
) -> list[SlideOutcome]:
    """Return outcomes as they came; progress is told of each, and the table of all is written.

    Raises:
        InputError: the output folder cannot be written, or another process writes to it.
    """
    outcomes: list[SlideOutcome] = []
    with sole_writer(folder.features):
        progress.phase("slides", slides)
        try:
            for outcome in made:
                outcomes.append(outcome)
                if outcome.status == "failed":
                    progress.say(f"{outcome.slide_id} failed: {outcome.message}")
                progress.advance(f"{outcome.slide_id}: {outcome.status}")
        finally:
            if outcomes:
                write_text(folder.report, _report(outcomes))
    return outcomes


class _Extraction:
    """One extraction under way: threads prepare and read, this thread encodes and writes."""

    def __init__(
        self,
        encoder: PatchEncoder,
        encoder_key: str,
        folder: BagFolder,
        settings: ExtractionSettings,
        progress: Progress,
    ) -> None:
        self.encoder, self.encoder_key = encoder, encoder_key
        self.folder, self.settings, self.progress = folder, settings, progress

    def run(self, slides: Sequence[Path]) -> Iterator[SlideOutcome]:
        """Yield the outcome of each slide as it ends."""
        ahead = ReadAhead(
            slides, self.prepare, self.split, self.read, self.settings.workers, _BATCHES_AHEAD
        )
        work: _Work | None = None
        failed: Path | None = None
        begun = 0.0
        for item in ahead:
            try:
                if isinstance(item, Batch):
                    if item.path == failed:
                        continue
                    assert work is not None
                    self.encode(work, item)
                else:
                    work = item.ready.result()
                    begun = time.perf_counter()
                if work.encoded == work.patches or work.chosen is None:
                    yield self.finish(work, time.perf_counter() - begun)
            except InputError as error:
                failed = item.path
                ahead.drop(failed)
                yield self.fail(failed, work, error)

    def prepare(self, path: Path) -> _Work:
        """Open a slide and choose its patches, or find that its bag is there."""
        started = time.perf_counter()
        slide = Slide(path, self.settings.slide_mpp)
        try:
            key = self.key_of(slide)
            found = self.folder.find_bag(slide.slide_id, key, overwrite=self.settings.overwrite)
            if found is not None:
                return _Work(slide, key, time.perf_counter() - started, found)
            wanted = self.settings
            chosen = choose_patches(slide, wanted.patches, wanted.tissue, wanted.patch_folder)
            self.folder.write_tissue(slide, chosen)
        except BaseException:
            slide.close()
            raise
        return _Work(slide, key, time.perf_counter() - started, len(chosen.coords), chosen)

    def key_of(self, slide: Slide) -> str:
        """Return the hash of all that the bag of a slide depends on."""
        wanted = self.settings
        chosen = None
        if wanted.patch_folder is not None:
            chosen = hash_file(find_patch_file(wanted.patch_folder, slide.slide_id))
        how = [asdict(wanted.patches), asdict(wanted.tissue), slide.mpp, chosen]
        return hash_json([EXTRACTION_VERSION, slide.content, self.encoder_key, how])

    def split(self, work: _Work) -> list[NDArray[np.intp]]:
        """Return the rows of each batch of a slide."""
        if work.chosen is None:
            return []
        rows, size = np.arange(work.patches), self.settings.batch
        return [rows[start : start + size] for start in range(0, work.patches, size)]

    def read(self, work: _Work, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return the patches of some rows."""
        assert work.chosen is not None
        return read_patches(work.slide, work.chosen, rows)

    def encode(self, work: _Work, batch: Batch) -> None:
        """Append the features of a batch that a thread has read."""
        pixels = batch.pixels.result()
        try:
            work.features.append(self.encoder.encode(pixels))
        except InputError:
            raise
        except Exception as error:  # of a stranger's encoder, or of a GPU that is full
            raise InputError(
                f"patch encoder {self.encoder.card.name} raised {type(error).__name__}: {error}"
            ) from error
        self.progress.note(f"{work.slide.slide_id}: {work.encoded}/{work.patches} patches")

    def finish(self, work: _Work, seconds: float) -> SlideOutcome:
        """Write the bag of a slide whose turn took some seconds, and return its outcome."""
        slide, seconds = work.slide, work.seconds + seconds
        done = SlideOutcome(slide.slide_id, "already there", work.patches, slide.mpp, seconds)
        if work.chosen is not None:
            none = np.empty((0, self.encoder.card.dim), dtype=np.float32)
            features = np.concatenate([none, *work.features])
            self.folder.write_bag(slide, work.chosen, features, work.key)
            done = replace(done, status="extracted" if work.patches else "empty")
        work.features.clear()
        slide.close()
        return done

    def fail(self, path: Path, work: _Work | None, error: InputError) -> SlideOutcome:
        """Return the outcome of a slide that failed."""
        if work is not None and work.slide.path == path:
            work.features.clear()
            work.slide.close()
        return SlideOutcome(path.stem, "failed", message=str(error))


def _report(outcomes: Sequence[SlideOutcome]) -> str:
    """Return the table of outcomes as CSV, sorted by slide."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["slide_id", "status", "patches", "mpp", "seconds", "message"])
    for done in sorted(outcomes, key=lambda outcome: outcome.slide_id):
        mpp = "" if done.mpp is None else f"{done.mpp:g}"
        row = [done.slide_id, done.status, done.patches, mpp, f"{done.seconds:.2f}", done.message]
        writer.writerow(row)
    return out.getvalue()

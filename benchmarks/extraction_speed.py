"""Patches a second, read and encoded: alone, and as `mbench features extract` overlaps them.

For each patch encoder and number of reading threads, on the same slides:

    read      patches a second that the threads read, nothing encoded
    encode    patches a second that the encoder does on patches in memory, nothing read
    extract   the whole command on a cold folder: tissue, reading, encoding, writing
    overlap   wall time of `extract` over the longer of the two alone; 1 is perfect

The named baseline is the loop that reads a batch and then encodes it (`sequential`), in the same
run. Slides are phantoms (drawn once, kept in --work) or, with --slides, yours. Run it on a machine
with nothing else to do:

    python benchmarks/extraction_speed.py --work /tmp/extraction-speed
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madeleine_bench.data.bags import read_bag_header
from madeleine_bench.files import write_text
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.runner.phantom_slides import write_phantom_slides
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.choice import choose_patches, read_patches
from madeleine_bench.slides.extraction import ExtractionSettings, extract
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.patch_encoders import (
    PatchEncoder,
    find_patch_encoder,
    load_patch_encoder,
)
from madeleine_bench.slides.read_ahead import Batch, ReadAhead
from madeleine_bench.slides.reader import Slide
from madeleine_bench.slides.tissue import TissueSettings
from madeleine_bench.specs.catalogue import load_catalogue

RESULTS = Path(__file__).resolve().parent / "results" / "extraction_speed.json"
ENCODERS = ("efficientnet-lite0", "stain-texture")
THREADS = (1, 2)
CASES = 12


class Quiet:
    """Progress that says nothing."""

    def phase(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, note: str) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def say(self, line: str) -> None:
        """Say nothing."""


def phantom_slides(work: Path) -> Path:
    """Return the folder of some phantom slides, drawn where they are not there."""
    catalogue = load_catalogue()
    spec = catalogue.cohorts["bcnb"]
    cohort = PhantomCohort(spec, catalogue.tasks_of("bcnb"))
    done = write_phantom_slides(
        cohort, spec.columns, CASES, work / "bcnb", Quiet(), workers=os.cpu_count() or 1
    )
    return done.slides


def read_alone(slides: Sequence[Path], settings: ExtractionSettings) -> int:
    """Choose and read every patch in threads, and return how many there were."""

    def prepare(path: Path) -> tuple[Slide, Any]:
        slide = Slide(path, settings.slide_mpp)
        return slide, choose_patches(slide, settings.patches, TissueSettings())

    def split(ready: tuple[Slide, Any]) -> list[Any]:
        count = len(ready[1].coords)
        return np.split(np.arange(count), range(settings.batch, count, settings.batch))

    ahead = ReadAhead(slides, prepare, split, lambda r, rows: read_patches(*r, rows),
                      settings.threads, 4)  # fmt: skip
    return sum(len(item.pixels.result()) for item in ahead if isinstance(item, Batch))


def encode_alone(batches: Sequence[Any], encoder: PatchEncoder) -> None:
    """Encode batches that are in memory."""
    for pixels in batches:
        encoder.encode(pixels)


def sequential(
    slides: Sequence[Path], encoder: PatchEncoder, settings: ExtractionSettings
) -> list[Any]:
    """Read a batch, encode it, read the next: the baseline. Returns the pixels."""
    kept = []
    for path in slides:
        with Slide(path, settings.slide_mpp) as slide:
            chosen = choose_patches(slide, settings.patches, TissueSettings())
            rows = np.arange(len(chosen.coords))
            for part in np.split(rows, range(settings.batch, len(rows), settings.batch)):
                pixels = read_patches(slide, chosen, part)
                encoder.encode(pixels)
                kept.append(pixels)
    return kept


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the seconds that some work took, and what it gave."""
    started = time.perf_counter()
    found = work(*arguments)
    return time.perf_counter() - started, found


def measure(
    slides: Sequence[Path], name: str, settings: ExtractionSettings, work: Path, repeats: int
) -> dict[str, Any]:
    """Return one row of the table: medians over repeats that take turns."""
    encoder = load_patch_encoder(find_patch_encoder(name))
    folder = BagFolder(work / "bags", settings.patches, name)
    seconds: dict[str, list[float]] = {key: [] for key in ("sequential", "read", "encode", "all")}
    encoder.encode(np.zeros((settings.batch, 256, 256, 3), np.uint8))  # warm
    for _ in range(repeats):
        shutil.rmtree(folder.root, ignore_errors=True)
        spent, batches = timed(sequential, slides, encoder, settings)
        seconds["sequential"].append(spent)
        seconds["read"].append(timed(read_alone, slides, settings)[0])
        seconds["encode"].append(timed(encode_alone, batches, encoder)[0])
        spent, outcomes = timed(extract, slides, encoder, "speed", folder, settings, Quiet())
        seconds["all"].append(spent)
    patches = sum(outcome.patches for outcome in outcomes)
    assert patches == sum(map(len, batches))
    assert all(read_bag_header(folder.bag(one.slide_id)).patches == one.patches for one in outcomes)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    slower = max(middle["read"], middle["encode"])
    return {
        "patch_encoder": name,
        "readers": settings.threads,
        "slides": len(slides),
        "patches": patches,
        "read_per_s": round(patches / middle["read"], 1),
        "encode_per_s": round(patches / middle["encode"], 1),
        "extract_per_s": round(patches / middle["all"], 1),
        "overlap": round(middle["all"] / slower, 3),
        "times_sequential": round(middle["sequential"] / middle["all"], 2),
        "seconds": {key: [round(v, 3) for v in values] for key, values in seconds.items()},
    }


def main() -> None:
    """Measure, print the table, and write it."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for slides and bags")
    parser.add_argument("--slides", type=Path, help="a folder of your slides, not phantoms")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    place = wanted.slides or phantom_slides(wanted.work)
    slides = list_slides(place).slides
    load_before = os.getloadavg()[0]
    rows = []
    for name in ENCODERS:
        for threads in THREADS:
            settings = ExtractionSettings(threads=threads)
            rows.append(measure(slides, name, settings, wanted.work, wanted.repeats))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "seconds"}))
    kept = {
        **machine_provenance(),
        "torch_threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "load_before": round(load_before, 2),
        "slides": "yours" if wanted.slides else f"PHANTOM bcnb, {CASES} cases, 0.5 mpp, JPEG",
        "patches": "256 px at 1 mpp, batch 32",
        "repeats": wanted.repeats,
        "rows": rows,
    }
    write_text(wanted.results, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

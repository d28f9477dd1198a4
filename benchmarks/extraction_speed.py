"""Patches a second, read and encoded: alone, and as `mbench features extract` overlaps them.

For each patch encoder and number of workers, on the same slides:

    read      `extract` with an encoder that does nothing: tissue, reading, writing
    encode    the encoder on patches in memory, nothing read
    extract   the whole command on a cold folder
    overlap   wall time of `extract` over the longer of the two alone; 1 is perfect
    busy      processor time of `read` and `encode` together over what the cores could give in the
              wall time of `extract`; where it is near 1, no order of work could be faster

The named baseline is a loop that makes the same files and reads a batch, then encodes it, in the
same run (`sequential`). Slides are phantoms (drawn once, kept in --work) or, with --slides, yours.
Run it on a machine with nothing else to do:

    python benchmarks/extraction_speed.py --work /tmp/extraction-speed

`--processor` measures processor time on one thread instead, which other programs disturb less, and
writes extraction_processor.json. `plain` is what one would write who has the coordinates already:
OpenSlide reads a patch, Pillow averages it down, the encoder encodes a batch. Its features must be
those of `extract`, to the byte. `extract` also finds the tissue and writes outlines and bags.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import ThreadpoolController

from madeleine_bench.data.bags import read_bag_file, read_bag_header
from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.slides.bag_folder import BagFolder
from madeleine_bench.slides.extraction import EncoderChoice, ExtractionSettings, extract_bags
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.patch_encoders import (
    PatchEncoder,
    find_patch_encoder,
)
from madeleine_bench.slides.patches import (
    ChosenPatches,
    PatchSettings,
    choose_patches,
    read_patches,
)
from madeleine_bench.slides.pictures import write_pyramid
from madeleine_bench.slides.reader import Slide
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.types import Silence

RESULTS = Path(__file__).resolve().parent / "results" / "extraction_speed.json"
ENCODERS = ("efficientnet-lite0", "stain-texture")
WORKERS = (1, 2)
CASES = 12


def phantom_slides(work: Path, cases: int = CASES) -> Path:
    """Return the folder of some phantom slides, drawn where they are not there."""
    script = Path(__file__).resolve().parents[1] / "examples" / "phantom_slides"
    command = [sys.executable, script, "bcnb", "--cases", str(cases), "--out", work / "bcnb"]
    subprocess.run(command, check=True)
    return work / "bcnb" / "slides"


class NoEncoder:
    """Stands in for an encoder of some card, and does nothing."""

    def __init__(self, card: PatchEncoderCard) -> None:
        self.card = card

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros((len(patches), self.card.dim), np.float32)


def encode_alone(batches: Sequence[Any], encoder: PatchEncoder) -> None:
    """Encode batches that are in memory."""
    for pixels in batches:
        encoder.encode(pixels)


def sequential(
    slides: Sequence[Path], encoder: PatchEncoder, folder: BagFolder, settings: ExtractionSettings
) -> list[Any]:
    """Make the same files, but read a batch, encode it, read the next. Returns the pixels."""
    kept: list[NDArray[np.uint8]] = []
    for path in slides:
        with Slide(path, settings.slide_mpp) as slide:
            chosen = choose_patches(slide, settings.patches)
            folder.write_tissue(slide, chosen)
            features = []
            for start in range(0, len(chosen.coords), settings.batch):
                pixels = read_patches(slide, chosen, slice(start, start + settings.batch))
                features.append(encoder.encode(pixels))
                kept.append(pixels)
            folder.write_bag(slide, chosen, np.concatenate(features), "speed")
    return kept


@dataclass(frozen=True)
class Spent:
    """Wall time and processor time of some work, in seconds."""

    wall: float
    processor: float


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Spent, Any]:
    """Return the time that some work took, and what it gave."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work(*arguments)
    return Spent(time.perf_counter() - wall, time.process_time() - processor), found


def measure(
    slides: Sequence[Path], name: str, settings: ExtractionSettings, work: Path, repeats: int
) -> dict[str, Any]:
    """Return one row of the table: medians over repeats that take turns."""
    choice = EncoderChoice(find_patch_encoder(name))
    encoder = choice.load(settings.workers)
    nothing = SimpleNamespace(key="speed", load=lambda threads: NoEncoder(encoder.card))
    loaded = SimpleNamespace(key="speed", load=lambda threads: encoder)
    folder = BagFolder(work / "bags", settings.patches, name)
    spent: dict[str, list[Spent]] = {key: [] for key in ("sequential", "read", "encode", "extract")}
    encoder.encode(np.zeros((settings.batch, 256, 256, 3), np.uint8))  # warm
    for _ in range(repeats):
        seconds, batches = timed(sequential, slides, encoder, folder, settings)
        spent["sequential"].append(seconds)
        spent["encode"].append(timed(encode_alone, batches, encoder)[0])
        for key, one in (("read", nothing), ("extract", loaded)):
            shutil.rmtree(folder.root, ignore_errors=True)
            seconds, outcomes = timed(extract_bags, slides, one, folder, settings, Silence())
            spent[key].append(seconds)
    patches = sum(outcome.patches for outcome in outcomes)
    assert patches == sum(map(len, batches))
    assert all(read_bag_header(folder.bag(one.slide_id)).patches == one.patches for one in outcomes)
    wall = {key: statistics.median(one.wall for one in found) for key, found in spent.items()}
    busy = sum(statistics.median(one.processor for one in spent[key]) for key in ("read", "encode"))
    return {
        "patch_encoder": name,
        "workers": settings.workers,
        "slides": len(slides),
        "patches": patches,
        "read_per_s": round(patches / wall["read"], 1),
        "encode_per_s": round(patches / wall["encode"], 1),
        "extract_per_s": round(patches / wall["extract"], 1),
        "overlap": round(wall["extract"] / max(wall["read"], wall["encode"]), 3),
        "busy": round(busy / (wall["extract"] * (os.cpu_count() or 1)), 3),
        "times_sequential": round(wall["sequential"] / wall["extract"], 2),
        "wall_s": {key: [round(one.wall, 3) for one in found] for key, found in spent.items()},
    }


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table that docs/slides.md shows, a line each."""
    names = ("read", "encode", "extract")
    lines = [
        "| patch encoder | workers | read | encode | extract | overlap | busy | times sequential |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = " | ".join(f"{row[f'{name}_per_s']:.0f}" for name in names)
        lines.append(
            f"| {row['patch_encoder']} | {row['workers']} | {speeds} | {row['overlap']:.2f} | "
            f"{row['busy']:.2f} | {row['times_sequential']:.2f} |"
        )
    return lines


def single_level(slide: Path, out: Path) -> Path:
    """Return a copy of a slide with level 0 alone, in JPEG tiles, made where it is not there."""
    if not out.exists():
        with openslide.OpenSlide(slide) as opened:
            picture = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
            per_cm = 10_000 / float(opened.properties["openslide.mpp-x"])
        out.parent.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
        tifffile.imwrite(out, picture, resolution=(per_cm,) * 2, resolutionunit="CENTIMETER", **how)
    return out


def mosaic(slide: Path, out: Path) -> Path:
    """Return a pyramid of 3 x 3 copies of a slide in JPEG tiles, made where it is not there."""
    if not out.exists():
        with openslide.OpenSlide(slide) as opened:
            picture = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
            mpp = float(opened.properties["openslide.mpp-x"])
        copies = np.tile(picture, (3, 3, 1))
        write_pyramid(out, copies, mpp=mpp, description="copies", jpeg_quality=90)
    return out


def plain(slide: Path, chosen: ChosenPatches, encoder: PatchEncoder) -> NDArray[np.float32]:
    """Return the features of chosen patches by a plain loop over OpenSlide."""
    plan, features = chosen.plan, []
    with openslide.OpenSlide(slide) as opened:
        for start in range(0, len(chosen.coords), 32):
            patches = []
            for place in chosen.coords[start : start + 32].tolist():
                region = opened.read_region(place, plan.level, (plan.level_px,) * 2).convert("RGB")
                if not plan.is_exact:
                    region = region.resize((plan.patch_px,) * 2, Image.Resampling.BOX)
                patches.append(np.asarray(region))
            features.append(encoder.encode(np.stack(patches)))
    return np.concatenate(features)


def measure_processor(
    what: str, slides: Sequence[Path], patches: PatchSettings, name: str, work: Path, repeats: int
) -> dict[str, Any]:
    """Return processor time of the plain loop, the encoder alone and `extract`, least of repeats.

    They take turns.
    """
    settings = ExtractionSettings(patches=patches)
    encoder = EncoderChoice(find_patch_encoder(name)).load(1)
    loaded = SimpleNamespace(key="speed", load=lambda threads: encoder)
    folder = BagFolder(work / "bags", patches, name)
    chosen = [choose_patches(Slide(path), patches) for path in slides]
    batches = [
        read_patches(Slide(path), each, slice(start, start + 32))
        for path, each in zip(slides, chosen, strict=True)
        for start in range(0, len(each.coords), 32)
    ]
    spent: dict[str, list[float]] = {key: [] for key in ("plain", "encode", "extract")}
    encoder.encode(batches[0])  # warm
    for _ in range(repeats):
        seconds, features = timed(
            lambda: [plain(p, each, encoder) for p, each in zip(slides, chosen, strict=True)]
        )
        spent["plain"].append(seconds.processor)
        spent["encode"].append(timed(encode_alone, batches, encoder)[0].processor)
        shutil.rmtree(folder.root, ignore_errors=True)
        seconds, _ = timed(extract_bags, slides, loaded, folder, settings, Silence())
        spent["extract"].append(seconds.processor)
        for path, expected in zip(slides, features, strict=True):
            assert read_bag_file(folder.bag(path.stem)).features.tobytes() == expected.tobytes()
    least = {key: min(found) for key, found in spent.items()}
    count = sum(len(each.coords) for each in chosen)
    return {
        "slides": what,
        "patch": f"{patches.patch_px} px, {patches.mpp:g} um a pixel",
        "patch_encoder": name,
        "patches": count,
        **{f"{key}_ms": round(1000 * value / count, 2) for key, value in least.items()},
        "times_plain": round(least["extract"] / least["plain"], 2),
        "times_encode": round(least["extract"] / least["encode"], 2),
        "processor_s": {key: [round(one, 3) for one in found] for key, found in spent.items()},
    }


def processor_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of processor times that docs/slides.md shows, a line each."""
    lines = [
        "| slides | patch | patch encoder | patches | plain, ms | encode, ms | extract, ms | "
        "times plain | times encode |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = [row[f"{key}_ms"] for key in ("plain", "encode", "extract")]
        told = " | ".join([*(f"{ms:.1f}" for ms in shown), f"{row['times_plain']:.2f}"])
        lines.append(
            f"| {row['slides']} | {row['patch']} | {row['patch_encoder']} | {row['patches']} | "
            f"{told} | {row['times_encode']:.2f} |"
        )
    return lines


def main_processor(wanted: argparse.Namespace) -> None:
    """Measure processor times, print the table, and write it."""
    kinds = {}
    if wanted.slides:
        yours = list_slides(wanted.slides)
        copies = [mosaic(path, wanted.work / "mosaic" / f"{path.stem}.tif") for path in yours]
        kinds[wanted.about] = (yours, PatchSettings(224, 0.5))
        kinds["nine copies of it, pyramid"] = (copies, PatchSettings(224, 0.5))
    pyramids = list_slides(phantom_slides(wanted.work, 3))[-1:]
    singles = [single_level(path, wanted.work / "single" / path.name) for path in pyramids]
    kinds["PHANTOM, pyramid"] = (pyramids, PatchSettings())
    kinds["PHANTOM, one level"] = (singles, PatchSettings())
    rows = []
    for what, (slides, patches) in kinds.items():
        for name in ENCODERS:
            rows.append(measure_processor(what, slides, patches, name, wanted.work, wanted.repeats))
            print(processor_rows(rows)[-1], flush=True)
    content = {**machine_provenance(), "threads": 1, "repeats": wanted.repeats, "rows": rows}
    path = wanted.results.with_name("extraction_processor.json")
    write_text(path, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Measure, print the table, and write it."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for slides and bags")
    parser.add_argument("--slides", type=Path, help="a folder of your slides, not phantoms")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--processor", action="store_true", help="processor time, one thread")
    parser.add_argument("--about", default="yours", help="with --processor: what --slides are")
    wanted = parser.parse_args()
    # As `extract_bags` does for itself, so that the parts alone do not count threads that spin.
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)
    if wanted.processor:
        main_processor(wanted)
        return
    place = wanted.slides or phantom_slides(wanted.work)
    slides = list_slides(place)
    load_before = os.getloadavg()[0]
    rows = []
    for name in ENCODERS:
        for workers in WORKERS:
            settings = ExtractionSettings(workers=workers)
            rows.append(measure(slides, name, settings, wanted.work, wanted.repeats))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "wall_s"}))
    kept = {
        **machine_provenance(),
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

"""Memory and time to convert a picture and to choose patches, against a plain loop.

Each measurement is a process of its own, and the two ways take turns. `plain` holds the whole
picture, as a script of a few lines does:

convert   Pillow opens the picture, an array of it is written as a pyramid with the same settings
choose    OpenSlide reads level 0 of a slide of one level as a whole, which is averaged down

`memory` is the peak of the resident set beyond that of a process that has loaded all it needs, in
bytes a pixel and in MB; `time` is processor time. Medians over repeats.

    python benchmarks/convert_memory.py --work /tmp/convert-memory
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
from PIL import Image

from madeleine_bench.files import write_text
from madeleine_bench.provenance import machine_provenance
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.patches import PatchSettings, choose_patches
from madeleine_bench.slides.pictures import convert_picture
from madeleine_bench.slides.reader import Slide

RESULTS = Path(__file__).resolve().parent / "results" / "convert_memory.json"
SIDES = (2_000, 6_000, 20_000)
MPP = 0.5


def make_picture(path: Path, side: int, kind: str) -> None:
    """Write a striped TIFF (convert) or a slide of one level (choose), the same block repeated."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = rng_for("convert-memory", kind)
    block = rng.integers(150, 256, (256, 256, 3), dtype=np.uint8)
    shape = (side, side, 3)
    if kind == "choose":
        tiles = (block for _ in range((-(-side // 256)) ** 2))
        tifffile.imwrite(
            path, tiles, shape=shape, dtype=np.uint8, tile=(256, 256), photometric="rgb",
            compression="jpeg",
        )  # fmt: skip
        return
    stored = tifffile.memmap(path, shape=shape, dtype=np.uint8, photometric="rgb")
    for top in range(0, side, 256):
        rows = stored[top : top + 256]
        rows[:] = np.tile(block, (1, -(-side // 256), 1))[: len(rows), :side]
    stored.flush()


def convert_plainly(path: Path, out: Path) -> None:
    """Write the pyramid of a picture that is in memory as a whole."""
    Image.MAX_IMAGE_PIXELS = None
    level = Image.open(path).convert("RGB")
    with tifffile.TiffWriter(out, bigtiff=True) as file:
        while True:
            file.write(
                np.asarray(level), tile=(256, 256), photometric="rgb", compression="zlib",
                metadata=None,
            )  # fmt: skip
            if max(level.size) <= 256:
                return
            level = level.reduce(2)


def work(kind: str, way: str, path: Path) -> None:
    """Do one piece of work and print its peak of memory and its processor time."""
    before, started = _peak(), time.process_time()
    if kind == "convert" and way == "streamed":
        convert_picture(path, path.parent / "slides", MPP, overwrite=True)
    elif kind == "convert":
        convert_plainly(path, path.parent / "plain.tif")
    elif way == "streamed":
        choose_patches(Slide(path, MPP), PatchSettings())
    else:
        slide = openslide.OpenSlide(path)
        slide.read_region((0, 0), 0, slide.dimensions).convert("RGB").reduce(16)
    print(json.dumps({"bytes": _peak() - before, "seconds": time.process_time() - started}))


def measure(kind: str, side: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Return one row: medians of both ways, which take turns."""
    path = folder / f"{kind}-{side}.tif"
    make_picture(path, side, kind)
    spent: dict[str, list[dict[str, float]]] = {"streamed": [], "plain": []}
    for _ in range(repeats):
        for way, runs in spent.items():
            command = [sys.executable, __file__, "--one", kind, way, str(path)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs.append(json.loads(output))
    path.unlink()
    memory, seconds = (
        {way: statistics.median(run[key] for run in runs) for way, runs in spent.items()}
        for key in ("bytes", "seconds")
    )
    return {
        "work": kind,
        "side_px": side,
        "streamed_mb": round(memory["streamed"] / 1e6, 1),
        "plain_mb": round(memory["plain"] / 1e6, 1),
        "streamed_bytes_per_pixel": round(memory["streamed"] / side**2, 2),
        "plain_bytes_per_pixel": round(memory["plain"] / side**2, 2),
        "memory_ratio": round(memory["streamed"] / memory["plain"], 3),
        "time_ratio": round(seconds["streamed"] / seconds["plain"], 2),
    }


def markdown_rows(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table that docs/slide-formats.md shows, a line each."""
    lines = [
        "| work | side (px) | memory (MB) | plain (MB) | time ratio |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['work']} | {row['side_px']} | {row['streamed_mb']:.0f} | {row['plain_mb']:.0f} | "
        f"{row['time_ratio']:.2f} |"
        for row in rows
    ]


def main() -> None:
    """Measure every size both ways and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/convert-memory"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        work(wanted.one[0], wanted.one[1], Path(wanted.one[2]))
        return
    rows = [
        measure(kind, side, wanted.work, wanted.repeats)
        for kind in ("convert", "choose")
        for side in wanted.sides
    ]
    print("\n".join(markdown_rows(rows)))
    kept = {**machine_provenance(), "repeats": wanted.repeats, "rows": rows}
    write_text(wanted.results, json.dumps(kept, indent=1) + "\n")


def _peak() -> int:
    """Return the peak of the resident set in bytes; that of getrusage starts at the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()

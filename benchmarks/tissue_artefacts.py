"""Pen, coverslip edge, dark glass and label: how much is taken for tissue, how much tissue is lost.

    python benchmarks/tissue_artefacts.py --data ../shared/data [--method hed] [--label NAME]

Writes benchmarks/results/tissue_artefacts.json, a part for each label; "before" is the code before
ink of one even hue was looked for.

Each artefact is drawn on pictures of real tissue and of drawn sections, all brought to one pixel
size. Two shares are measured for each drawing:

* taken: of the pixels of the artefact that lie on glass, those that the mask calls tissue.
* lost: of the tissue that the mask of the clean picture has outside of the artefact, the part that
  the mask of the drawn picture lacks; where an artefact covers more than .7 of it, not counted.

Pictures are numbered in the order of their names. The settings were tuned on the even ones; what is
reported is of the odd ones, the first two of each data set. Only numbers are written, no pixels.
"""

import argparse
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.overlay import tissue_contours, tissue_overlay
from madeleine_bench.slides.reader import Slide, Thumbnail
from madeleine_bench.slides.tissue import segment_tissue

MPP = 8.0
GLASS = np.array([243.0, 242.0, 244.0])
RESULTS = Path(__file__).parent / "results" / "tissue_artefacts.json"
# Folder, pattern and micrometres per pixel. Those of serial_ihc and ucsb_pictures are assumed.
SOURCES = (
    ("multistain_lung", "*-les3.jpg", 3.48),
    ("lung_lesion_1", "*-les1.jpg", 2.58),
    ("serial_ihc", "*.png", 4.0),
    ("wsi", "CMU-1-Small-Region.svs", 0.499),
    ("ucla_kidney", "*.jpeg", 0.59),
    ("ucsb_pictures", "*.jpg", 0.23),
)
# Ground colour, colour of nuclei or fibres, and share of these.
STAINS = {
    "H&E": ((222, 150, 190), (95, 60, 140), 0.2),
    "DAB": ((214, 208, 222), (120, 75, 40), 0.3),
    "haematoxylin": ((205, 205, 225), (80, 80, 150), 0.2),
    "PAS": ((215, 150, 200), (170, 40, 130), 0.3),
    "trichrome": ((120, 155, 210), (150, 50, 75), 0.3),
    "silver": ((150, 140, 128), (40, 34, 28), 0.3),
}
STRAY = 0.03  # share of light that reaches the camera past the artefact
# Optical density of red, green and blue at full strength.
INKS = {
    "black": (1.25, 1.2, 1.15),
    "blue": (1.2, 0.75, 0.15),
    "green": (1.1, 0.35, 0.75),
    "red": (0.06, 1.1, 0.8),
}
Floats = NDArray[np.float64]


def noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Floats:
    """Return smooth noise of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return (field - field.mean()) / field.std()


def section(stain: str) -> Floats:
    """Return a drawn section of a stain on glass, 5 x 6 mm, RGB."""
    rng = rng_for("tissue artefacts", "section", stain)
    shape = (625, 750)
    y, x = (np.linspace(-1, 1, side) for side in shape)
    inside = np.hypot(y[:, None] / 0.6, x / 0.55) + 0.12 * noise(rng, shape, 40) < 1
    ground, nuclei, share = STAINS[stain]
    fine = noise(rng, shape, 0.8) + 0.6 * noise(rng, shape, 12)
    dark = fine > np.quantile(fine, 1 - share)
    colour = np.where(dark[..., None], nuclei, ground)
    light = np.exp(0.1 * noise(rng, shape, 25))[..., None]
    picture = np.where(inside[..., None], 255 * (colour / 255) ** light, GLASS)
    return ndimage.gaussian_filter(picture, (0.6, 0.6, 0))


def on_glass(rgb: Floats) -> Floats:
    """Return a picture in the middle of glass that is 2 mm wider on each side."""
    border = round(2000 / MPP)
    canvas = np.broadcast_to(GLASS, (*(side + 2 * border for side in rgb.shape[:2]), 3)).copy()
    canvas[border:-border, border:-border] = np.minimum(rgb, GLASS)
    return canvas


def real_pictures(data: Path) -> Iterator[tuple[str, Floats]]:
    """Yield the pictures of the data sets that are there at 8 micrometres a pixel, on glass."""
    for folder, pattern, mpp in SOURCES:
        paths = sorted((data / folder).glob(pattern))
        if folder == "ucsb_pictures":  # fields of 0.2 mm: those of one microarray are one picture
            slides = sorted({path.stem.rsplit("_", 2)[0] for path in paths})
            for name in slides:
                fields = [small(path, mpp) for path in paths if path.stem.startswith(f"{name}_")]
                gap = np.broadcast_to(GLASS, (fields[0].shape[0], 12, 3))
                row = [part for field in fields for part in (field, gap)]
                yield f"{folder}/{name}", on_glass(np.hstack(row[:-1]))
        else:
            for path in paths:
                yield f"{folder}/{path.stem}", on_glass(small(path, mpp))


def small(path: Path, mpp: float) -> Floats:
    """Return a picture or slide at the common pixel size."""
    if path.suffix == ".svs":
        with Slide(path) as slide:
            picture = Image.fromarray(slide.thumbnail().rgb)
    else:
        picture = Image.open(path).convert("RGB")
    width, height = (max(1, round(side * mpp / MPP)) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), dtype=float)


def line_mask(shape: tuple[int, int], points: list[tuple[float, float]], width: float) -> Floats:
    """Return a line with round ends, 0-1."""
    canvas = Image.new("L", shape[::-1])
    draw = ImageDraw.Draw(canvas)
    draw.line(points, fill=255, width=max(1, round(width)), joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return np.asarray(canvas, dtype=float) / 255


def pen(colour: str, strength: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the density of strokes of a pen, (height, width, 3); strength 1 is opaque ink."""
    height, width = shape
    ink = np.zeros(shape)
    for _ in range(2):
        points = np.column_stack([rng.uniform(0, width, 3), rng.uniform(0, height, 3)])
        places = [(float(x), float(y)) for x, y in points]
        ink = np.maximum(ink, line_mask(shape, places, rng.uniform(250, 600) / MPP))
    ink = ndimage.gaussian_filter(ink, rng.uniform(10, 25) / MPP)
    streaks = np.clip(1 + 0.12 * noise(rng, shape, 6) + 0.1 * noise(rng, shape, 1.2), 0.3, 1.4)
    tint = np.array(INKS[colour]) * rng.uniform(0.85, 1.15, 3)
    drift = np.stack(
        [0.05 * noise(rng, shape, 25) + 0.015 * noise(rng, shape, 3) for _ in "rgb"], 2
    )
    return (ink * streaks * strength)[..., None] * tint * (1 + drift)


def coverslip(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the density of the edge of a coverslip: a dark line, a light one, darker glass."""
    height, width = shape
    at, tilt = rng.uniform(0.1, 0.25) * width, rng.uniform(-0.03, 0.03)
    away = (np.arange(width) - at) - tilt * (np.arange(height)[:, None] - height / 2)
    thick = rng.uniform(25, 80) / MPP
    waves = 1 + 0.3 * noise(rng, shape, 15)
    dark = rng.uniform(0.15, 0.8) * np.exp(-((away / thick) ** 2)) * waves
    dark += 0.12 * np.exp(-(((away - 3 * thick) / thick) ** 2))
    outside = rng.uniform(0.01, 0.05) * (away < 0)
    return np.repeat((dark + outside)[..., None], 3, axis=2)


def dark_glass(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the density of a neutral grey area along one side, such as a frosted end."""
    width = shape[1]
    reach = rng.uniform(0.1, 0.25) * width
    soft = rng.uniform(2, 40)
    step = 1 / (1 + np.exp((np.arange(width) - reach) / soft))
    grain = 1 + 0.04 * noise(rng, shape, 1.0)
    grey = rng.uniform(0.08, 0.5) * step * grain
    return grey[..., None] * rng.uniform(0.95, 1.05, 3)


def barcode(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the density of a paper label with a barcode and lines of text, at one corner."""
    height, width = shape
    density = np.zeros((*shape, 3))
    tall, wide = round(0.3 * height), round(0.22 * width)
    paper = density[:tall, :wide]
    paper += rng.uniform(0.02, 0.15) * rng.uniform(0.7, 1.3, 3)
    column = 6
    while column < wide - 8:
        bar = int(rng.integers(1, 6))
        paper[8 : tall // 2, column : column + bar] = 1.1
        column += bar + int(rng.integers(1, 6))
    for row in range(tall // 2 + 6, tall - 8, 12):
        letters = rng.random((7, wide - 12)) < 0.45
        paper[row : row + 7, 6:-6][letters] = 1.0
    return ndimage.gaussian_filter(density, (0.7, 0.7, 0))


def artefacts(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    """Yield each kind of artefact and its optical density on a picture."""
    for colour in INKS:
        for name, strength in (("", 1.0), (", translucent", 0.4)):
            yield f"{colour} pen{name}", pen(colour, strength, shape, rng)
    yield "coverslip edge", coverslip(shape, rng)
    yield "dark glass", dark_glass(shape, rng)
    yield "barcode label", barcode(shape, rng)


def sensed(picture: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return what a camera sees: noise and whole grey levels."""
    noisy = picture + rng.normal(0, 1.5, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def measure(name: str, picture: Floats, method: str) -> list[dict[str, Any]]:
    """Return what is taken and what is lost for each artefact drawn on a picture."""
    rng = rng_for("tissue artefacts", name)
    options = {} if method == "otsu" else {"method": method}
    clean = segment_tissue(sensed(picture, rng), MPP, **options).mask
    rows = []
    for artefact, density in artefacts(picture.shape[:2], rng):
        drawn = sensed(picture * (STRAY + (1 - STRAY) * 10**-density), rng)
        mask = segment_tissue(drawn, MPP, **options).mask
        where = density.max(axis=2) > 0.05
        if artefact == "barcode label":
            where = density.max(axis=2) > 0.01
        glass, tissue = where & ~clean, clean & ~where
        left = tissue.sum() > 0.3 * clean.sum()  # of tissue that is nearly covered little is left
        rows.append(
            {
                "picture": name,
                "artefact": artefact,
                "taken": round(float(mask[glass].mean()), 4) if glass.any() else None,
                "lost": round(float((~mask[tissue]).mean()), 4) if left else None,
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each artefact the means of both shares, and the number of pictures."""
    table = []
    for artefact in dict.fromkeys(row["artefact"] for row in rows):
        shares = {
            name: [
                row[name] for row in rows if row["artefact"] == artefact and row[name] is not None
            ]
            for name in ("taken", "lost")
        }
        means = {name: round(float(np.mean(values)), 3) for name, values in shares.items()}
        table.append({"artefact": artefact, **means, "pictures": len(shares["taken"])})
    return table


def reported_pictures(data: Path) -> list[tuple[str, Floats]]:
    """Return the odd half of all pictures, at most two of each data set."""
    drawn = [(f"drawn/{stain}", section(stain)) for stain in STAINS]
    half = sorted([*drawn, *real_pictures(data)], key=lambda each: each[0])[1::2]
    by_set: dict[str, list[tuple[str, Floats]]] = {}
    for name, picture in half:
        by_set.setdefault(name.split("/")[0], []).append((name, picture))
    return [each for pictures in by_set.values() for each in pictures[:2]]


def markdown_rows(results: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table in docs/slides.md."""
    parts = [results[label]["rows"] for label in ("before", "otsu", "hed")]
    lines = []
    for rows in zip(*parts, strict=True):
        shares = [f"{row[name]:.3f}" for row in rows for name in ("taken", "lost")]
        lines.append(f"| {rows[0]['artefact']} | {' | '.join(shares)} |")
    return lines


def draw_montage(data: Path, path: Path) -> None:
    """Draw the tissue of the H&E section of multistain_lung under each artefact, as a JPEG."""
    section_path = next((data / "multistain_lung").glob("*-He-les3.jpg"))
    picture, rng = on_glass(small(section_path, 3.48)), rng_for("tissue artefacts", "montage")
    panels = []
    for name, density in artefacts(picture.shape[:2], rng):
        if "pen" not in name or "translucent" in name:
            drawn = sensed(picture * (STRAY + (1 - STRAY) * 10**-density), rng)
            contours = tissue_contours(segment_tissue(drawn, MPP).mask)
            thumbnail = Thumbnail(drawn, MPP, (1.0, 1.0))
            panels.append(tissue_overlay(thumbnail, contours, np.empty((0, 4))))
    width, height = panels[0].size
    sheet = Image.new("RGB", (4 * (width + 8) - 8, 2 * (height + 8) - 8), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place % 4 * (width + 8), place // 4 * (height + 8)))
    sheet.thumbnail((1600, 1600))
    content = io.BytesIO()
    sheet.save(content, format="JPEG", quality=85)
    write_bytes(path, content.getvalue())


def main() -> None:
    """Measure one method and write its part of the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", choices=("otsu", "hed"), default="otsu")
    parser.add_argument("--label", help="name of this part of the results; the method by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--montage", type=Path, help="draw this JPEG instead of measuring")
    given = parser.parse_args()
    if given.montage:
        draw_montage(given.data, given.montage)
        return
    pictures = reported_pictures(given.data)
    rows = [row for name, picture in pictures for row in measure(name, picture, given.method)]
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    results[given.label or given.method] = {
        "mpp": MPP,
        "pictures": [name for name, _ in pictures],
        "rows": summary(rows),
        "each": rows,
    }
    write_text(given.results, json.dumps(results, indent=1, sort_keys=True) + "\n")
    for row in summary(rows):
        print(row)


if __name__ == "__main__":
    main()

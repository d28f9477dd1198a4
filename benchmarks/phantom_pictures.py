"""What phantom slides look like: one case in five stains, whole and close; written to docs/.

    python benchmarks/phantom_pictures.py

No case of phantom acrobat has all five stains, so a table with five sections of one is made up.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from madeleine_bench.files import write_bytes
from madeleine_bench.phantoms import PhantomCohort
from madeleine_bench.specs.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "phantom_slides"))

from phantom_rendering import RENDERED_STAINS, SectionRenderer  # noqa: E402

OUT = ROOT / "docs" / "phantom_slides.jpg"
COHORT, CASE = "acrobat", "acrobat-phantom-0070"
MPP = 0.5
CLOSE_UM = 250
WIDTH, GAP, HEADING = 380, 8, 28


def five_sections() -> PhantomCohort:
    """Return a phantom cohort of one case that has a section of every stain."""
    catalogue = load_catalogue()
    spec, tasks = catalogue.cohorts[COHORT], catalogue.tasks_of(COHORT)
    known = PhantomCohort(spec, tasks).slides
    site = known.loc[known["case_id"] == CASE, "site"].iloc[0]
    rows = [(f"{CASE}-{stain}", CASE, stain, site) for stain in RENDERED_STAINS]
    table = pd.DataFrame(rows, columns=["slide_id", "case_id", "stain", "site"])
    return PhantomCohort(spec, tasks, table=table)


def column(picture: NDArray[np.uint8]) -> tuple[Image.Image, Image.Image]:
    """Return a section at low power, and a part of it at the middle close up."""
    whole = Image.fromarray(picture)
    side = round(CLOSE_UM / MPP)
    left, top = (whole.width - side) // 2 - side, (whole.height - side) // 2
    close = whole.crop((left, top, left + side, top + side)).resize((WIDTH, WIDTH))
    height = round(WIDTH * whole.height / whole.width)
    return whole.resize((WIDTH, height), Image.Resampling.BOX), close


def main() -> None:
    """Draw the five sections and write the sheet."""
    cohort = five_sections()
    renderer = SectionRenderer(cohort, MPP)
    columns = {s: column(renderer.render(f"{CASE}-{s}")) for s in RENDERED_STAINS}
    tallest = max(low.height for low, _ in columns.values())
    size = (len(columns) * (WIDTH + GAP) - GAP, HEADING + tallest + GAP + WIDTH)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for place, (stain, (low, close)) in enumerate(columns.items()):
        left = place * (WIDTH + GAP)
        text = f"{stain} (PHANTOM)"
        draw.text((left + 4, 4), text, fill="black", font=ImageFont.load_default(17))
        sheet.paste(low, (left, HEADING + (tallest - low.height) // 2))
        sheet.paste(close, (left, HEADING + tallest + GAP))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=84)
    write_bytes(OUT, out.getvalue())
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()

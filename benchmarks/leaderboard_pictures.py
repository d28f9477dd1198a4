"""Pictures of the first screen of a built leaderboard for docs/, taken in a real browser.

    mbench leaderboard build --results results --out site
    python benchmarks/leaderboard_pictures.py --site site

writes docs/board/after_{width}_{colours}.png, in 48 colours so that they stay small, and
docs/leaderboard_desktop.png. docs/board/before_*.png are of the page before it was redesigned.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = ((1440, 900), (1280, 800), (820, 1180), (390, 844))


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    page_address = (parser.parse_args().site / "index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for width, height in SIZES:
            for colours in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=colours
                )
                page.goto(page_address)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(48)
                picture.save(DOCS / "board" / f"after_{width}_{colours}.png", optimize=True)
                page.close()
        browser.close()
    shutil.copy(DOCS / "board" / "after_1440_light.png", DOCS / "leaderboard_desktop.png")


if __name__ == "__main__":
    main()

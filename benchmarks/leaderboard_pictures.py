"""Pictures of a built leaderboard for docs/, taken in a real browser.

    mbench leaderboard build --results results --out site
    python benchmarks/leaderboard_pictures.py --site site

writes docs/leaderboard_{desktop,dark,phone}.png, in 64 colours so that they stay small.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
# Name, width and height of the window, colours, and how far down the page.
VIEWS = (
    ("desktop", 1400, 1250, "light", 0),
    ("dark", 1400, 1000, "dark", 1480),
    ("phone", 375, 1000, "light", 760),
)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    page_address = (parser.parse_args().site / "index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, width, height, colours, down in VIEWS:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=colours
            )
            page.goto(page_address)
            page.evaluate(f"window.scrollTo(0, {down})")
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.quantize(64).save(DOCS / f"leaderboard_{name}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()

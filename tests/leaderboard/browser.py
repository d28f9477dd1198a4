"""The leaderboard's pages in a real browser: what its tests look at and press."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
NEEDS_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]
MAIN, HEAT = "section.board:not([hidden]) [data-table=main]", "[data-table=heat]"
CELL = "section.board:not([hidden]) a.cell:visible"


@contextmanager
def running_chromium() -> Iterator[Any]:
    """A browser until the block ends; skips where there is no playwright."""
    # Chromium refuses its sandbox to root, as in many containers.
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


class Opened:
    """A page, with what it asked for and what it complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))


def labels(page: Any, table: str = MAIN, group: str = "") -> list[str]:
    """The encoders a table shows, top to bottom."""
    body = f"tbody[data-group={group}]" if group else "tbody"
    rows = page.locator(f"{table} {body} tr[data-encoder]:visible th a")
    return [text.strip() for text in rows.all_text_contents()]


def column(page: Any, key: str) -> dict[str, str]:
    """One column of the main table by encoder, the first line of each cell."""
    rows = page.locator(f"{MAIN} tbody tr[data-encoder]:visible").all()
    found = {}
    for row in rows:
        cell = row.locator(f'td[data-col="{key}"] > span')
        found[row.locator("th a").inner_text()] = cell.first.text_content() if cell.count() else ""
    return found


def view_of(page: Any) -> str:
    """Return the view in the address, as the page has it.

    `page.url` is a copy that follows the page a moment later, not a place to read it.
    """
    return page.evaluate("location.hash")


def sort_button(page: Any, key: str, table: str = MAIN) -> Any:
    return page.locator(f'{table} thead [data-col="{key}"] button.sort').first


def compare(page: Any, *names: str) -> Any:
    """Tick encoders to compare; return the box of the comparison."""
    for name in names:
        box = page.get_by_label(f"Compare {name}", exact=True).locator("visible=true")
        box.check()
    return page.locator("section.board:not([hidden]) [data-compare]")


def choose(page: Any, field: str, value: str) -> None:
    """Choose a value of a filter; the filters are folded at first."""
    if field != "Family of tasks" and page.locator("#filters[open]").count() == 0:
        page.locator("#filters summary").click()
    page.get_by_role("combobox", name=field, exact=True).select_option(value)


def encoders(document: dict[str, Any], board: int = 0) -> dict[str, dict[str, Any]]:
    return {e["label"]: e for e in document["boards"][board]["encoders"]}


def saved_csv(page: Any) -> tuple[str, list[dict[str, str]]]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    return waiting.value.suggested_filename, list(csv.DictReader(io.StringIO(text)))

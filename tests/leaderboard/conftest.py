"""A browser, a site built of a made-up document, and a way to look at it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from madeleine_bench.leaderboard.page import write_site
from tests.leaderboard.board_document import board_document
from tests.leaderboard.browser import Opened, running_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_chromium() as running:
        yield running


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return board_document()


@pytest.fixture(scope="module")
def site(document, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(document, folder)
    return folder


@pytest.fixture
def look(browser, site) -> Iterator[Callable[..., Opened]]:
    """Open a page of the site, by default its index; at the end it must not have complained."""
    contexts, opened = [], []

    def call(
        name: str = "index.html", folder: Path = site, hash: str = "", **options: Any
    ) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        found = Opened(context.new_page())
        opened.append(found)
        found.page.set_default_timeout(6_000)
        found.page.goto((folder / name).as_uri() + hash)
        return found

    yield call
    for context in contexts:
        context.close()
    assert [c for found in opened for c in found.complaints] == []

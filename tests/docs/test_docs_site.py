"""The site as built: no warning, nothing asked of the network, readable by everybody."""

import re

import pytest

from tests.docs.page_commands import ROOT
from tests.docs.site_pages import generated_pages
from tests.leaderboard.browser import CHROMIUM, Opened

pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
PAGES = (
    "index.html", "statistics.html", "architecture.html", "faq.html", "bring-your-data.html",
    "new-user.html", "notebooks/bring_your_cohort.html", "retrieval.html",
    "tasks/bcnb-er.html", "commands/run.html", "api/formulas.html",
)  # fmt: skip
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 800}


QUESTION = re.compile(r"^\| .+\? \| \[.+\]\(([^)]+)\) \| (.+) \|$", re.M)
QUESTIONS = [
    (target.partition("#")[0].replace(".md", ".html") or "faq.html", words)
    for target, words in QUESTION.findall((ROOT / "docs" / "faq.md").read_text(encoding="utf-8"))
]


@pytest.fixture
def look(chromium, built_site):
    contexts = []

    def call(name, scheme="light", size=DESKTOP):
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme))
        opened = Opened(contexts[-1].new_page())
        opened.page.set_default_timeout(20_000)
        opened.page.goto((built_site / name).as_uri())
        opened.page.wait_for_load_state("networkidle")
        return opened

    yield call
    for context in contexts:
        context.close()


def test_every_page_is_built(built_site):
    for name in generated_pages():
        assert (built_site / name).with_suffix(".html").is_file(), name


def test_no_page_loads_anything_from_elsewhere(built_site):
    """What a page loads by itself: scripts, styles, pictures, frames. Links are the reader's."""
    loads = re.compile(
        r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(https?:)?//"""
    )
    styles = re.compile(
        r"""<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|prefetch)[^>]*"""
    )
    found = list(built_site.rglob("*.html"))
    assert len(found) > 100
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert not loads.search(text), path
        assert not [link for link in styles.findall(text) if "//" in link], path
    for path in built_site.rglob("*.css"):
        remote = re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text(encoding="utf-8"))
        assert remote is None, path


def test_every_formula_is_typeset(built_site):
    """LaTeX that the converter does not know would be left in the page as it is."""
    formulas = [
        formula
        for path in built_site.glob("*.html")
        for formula in re.findall(r"<math.*?</math>", path.read_text(encoding="utf-8"))
    ]
    assert len(formulas) > 40
    assert not [formula for formula in formulas if "\\" in formula or "<mi>&<" in formula]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_nobody_and_complains_of_nothing(look, name, scheme):
    opened = look(name, scheme)
    outside = [u for u in opened.requests if not u.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert opened.complaints == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(look, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(look(name, scheme).page, options=AXE)
    told = [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found.response["violations"]]
    assert told == []


@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_phone_never_scrolls_sideways(look, name):
    page = look(name, size=PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    code = "document.querySelectorAll('.highlight:not(.printed) code')"
    assert page.evaluate(f"[...{code}].every(c => c.scrollWidth <= c.clientWidth)")


@needs_browser
def test_dark_follows_the_system_and_the_button_overrides_it(look):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = look("index.html").page, look("index.html", "dark").page
    assert light.evaluate(paper) != dark.evaluate(paper)
    wanted = dark.evaluate(paper)
    light.get_by_title("Dark colours").locator("visible=true").click()
    light.wait_for_function(f"{paper} === '{wanted}'")


@needs_browser
@pytest.mark.parametrize(("target", "words"), QUESTIONS)
def test_search_finds_the_page_that_answers_first(look, target, words):
    """The search of the site, from disk, with the words that the table of questions gives."""
    opened = look("index.html")
    query = opened.page.locator("[data-md-component=search-query]")
    query.fill(words)
    query.press("End")  # the site searches when a key is released
    first = opened.page.locator(".md-search-result__item a").first
    first.wait_for()
    assert f"/{target}?" in first.get_attribute("href")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)


@pytest.mark.parametrize(("target", "words"), QUESTIONS)
def test_two_clicks_lead_from_the_start_to_the_answer(built_site, target, words):
    """Links in the text alone count: the start, or a page it links to, links to the answer."""
    first = text_links(built_site / "index.html")
    assert built_site / target in first | {link for page in first for link in text_links(page)}


def text_links(page):
    article = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article")[0]
    links = re.findall(r'href="?([\w./-]+\.html)', article)
    return {(page.parent / link).resolve() for link in links}


@needs_browser
def test_the_imports_are_drawn(look):
    page = look("architecture.html").page
    assert page.locator("svg.layers text").count() > 20
    assert page.locator("svg.layers").bounding_box()["width"] > 500

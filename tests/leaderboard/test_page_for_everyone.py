"""The leaderboard's pages for everyone: dark, small, printed, by keyboard, read aloud, attacked."""

import copy
import json
import re
from typing import Any

import pytest

from madeleine_bench.leaderboard.page import write_site
from madeleine_bench.leaderboard.page.text import interval, number
from tests.leaderboard.board_document import board_document
from tests.leaderboard.browser import (
    CELL,
    HEAT,
    MAIN,
    NEEDS_BROWSER,
    compare,
    labels,
    saved_csv,
)

pytestmark = NEEDS_BROWSER
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


# ---- colours, small screens, no script, no network ----------------------------------------------


def test_dark_follows_the_system_and_the_button_overrides_it(look):
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = look().page, look(color_scheme="dark").page
    assert light.evaluate(paper) != dark.evaluate(paper)
    wanted = dark.evaluate(paper)
    light.get_by_role("button", name="Dark colours").click()
    assert light.evaluate(paper) == wanted
    light.reload()
    assert light.evaluate(paper) == wanted
    light.get_by_role("button", name="Light colours").click()
    assert light.evaluate(paper) != wanted


def test_a_browser_that_refuses_storage_still_works(look):
    opened = look()
    opened.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    )
    opened.page.reload()
    opened.page.get_by_role("button", name="Dark colours").click()
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert len(labels(opened.page)) == 9


PAGES = (
    "index.html",
    "tasks/phantom/few-shot-v2/tcga-os.html",
    "encoders/phantom/few-shot-v2/madeleine.html",
)


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_never_scrolls_sideways(look, name):
    page = look(name, viewport={"width": 375, "height": 700}).page
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    if name == "index.html":
        compare(page, "madeleine", "mean-pool").locator("table").first.wait_for()
        page.locator(CELL).first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_the_first_column_stays_when_a_table_is_scrolled(look):
    page = look(viewport={"width": 375, "height": 700}).page
    region = page.locator("section.board:not([hidden]) .scroll").first
    cells = [page.locator(f"{MAIN} tbody tr[data-encoder] {cell}").first for cell in ("td", "th")]
    before = [cell.bounding_box()["x"] for cell in cells]
    region.evaluate("node => { node.scrollLeft = 400; }")
    assert [cell.bounding_box()["x"] for cell in cells] == pytest.approx(before, abs=2)
    assert region.get_attribute("tabindex") == "0"


def test_without_javascript_the_numbers_are_there_and_the_controls_are_not(look, document):
    page = look(java_script_enabled=False).page
    text = page.locator("body").inner_text()
    for board in document["boards"]:
        for encoder in board["encoders"]:
            for cell in encoder["cells"].values():
                assert number(cell["value"]) in text
                assert interval(cell["ci95"]) in text
    assert page.locator("section.board:visible").count() == 2
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    page.locator(f"{HEAT} a.cell").first.click()
    page.wait_for_url("**/encoders/local/primary/madeleine.html#score-bcnb-er")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_anybody(look, site, name):
    opened = look(name)
    if name == "index.html":
        saved_csv(opened.page)
    opened.page.wait_for_load_state("networkidle")
    page_itself = (site / name).as_uri()
    asked = [u for u in opened.requests if not u.startswith(("data:", "blob:"))]
    assert asked == [page_itself]
    if name == "index.html":
        compare(opened.page, "madeleine", "mean-pool").locator("table").first.wait_for()
        asked = [u for u in opened.requests if not u.startswith(("data:", "blob:"))]
        assert asked[1:] == [(site / "details/local/primary/madeleine.js").as_uri()]


def test_a_print_has_no_controls_and_every_row(look):
    page = look(color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#controls").is_visible()
    assert len(labels(page)) == 9
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light"


def test_motion_is_not_forced_on_who_asked_for_none(look):
    page = look(reduced_motion="reduce").page
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


# ---- everyone can use it -----------------------------------------------------------------------


def serious(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page, options=AXE).response["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary']}"
        for v in found if v["impact"] in ("serious", "critical")
    ]  # fmt: skip


VIEWS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 700}},
}


@pytest.mark.parametrize("scheme", VIEWS)
@pytest.mark.parametrize(
    "name",
    [
        *("index.html", "index.html#b1"),
        *("tasks/local/primary/tcga-os.html", "encoders/local/primary/intra-ssl.html"),
        "tasks/phantom/few-shot-v2/tcga-os.html",
    ],
)
def test_axe_finds_nothing_serious(look, name, scheme):
    file, _, anchor = name.partition("#")
    page = look(file, hash=f"#{anchor}" if anchor else "", **VIEWS[scheme]).page
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    assert serious(page) == []


@pytest.mark.parametrize("scheme", VIEWS)
def test_axe_finds_nothing_serious_in_the_dialog_and_the_comparison(look, scheme):
    page = look(**VIEWS[scheme]).page
    compare(page, "madeleine", "mean-pool", "stranger").locator("table").first.wait_for()
    assert serious(page) == []
    page.locator(CELL).last.click()
    page.get_by_role("dialog").get_by_label("The record as JSON").wait_for()
    assert serious(page) == []


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(look):
    page = look().page
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    wanted = page.evaluate(
        """() => {
          const all = document.querySelectorAll('a[href], button, input, select, summary, .scroll');
          const seen = Array.from(all).filter((node) => node.offsetParent !== null);
          seen.forEach((node, i) => { node.dataset.walk = i; });
          return seen.length;
        }"""
    )
    reached, unmarked = set(), []
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        at, style = page.evaluate(
            "() => [document.activeElement.dataset.walk,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if at is not None and style == "none":
            unmarked.append(at)
        reached.add(at)
        if len(reached - {None}) == wanted:
            break
    assert wanted > 100
    assert len(reached - {None}) == wanted
    assert unmarked == []


def test_the_skip_link_is_first_and_leads_to_the_content(look):
    page = look().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'main'")


def test_tables_and_results_are_announced(look):
    page = look().page
    shown = page.locator("section.board:not([hidden]) table:visible")
    for table in shown.all():
        assert table.locator("caption").count() == 1
        assert table.locator("th:not([scope])").count() == 0
    assert page.locator("#status").get_attribute("aria-live") == "polite"


# ---- hostile documents ---------------------------------------------------------------------------

ATTACK = (
    "</script><script>window.hit=1;alert('x')</script><img src=x onerror=\"window.hit=1;alert(1)\">"
    "'\"><svg onload=alert(1)>\u2028\u2029`${alert(1)}` javascript:alert(1)"
)


def attacked(value: Any, kept: set[str]) -> Any:
    """The document with every text replaced or led by an attack, but for names that are checked."""
    if isinstance(value, dict):
        return {k: v if k in kept else attacked(v, kept) for k, v in value.items()}
    if isinstance(value, list):
        return [attacked(item, kept) for item in value]
    return f"{ATTACK}{value}" if isinstance(value, str) else value


def hostile_document() -> dict[str, Any]:
    kept = {"name", "slug", "protocol", "id", "kind", "verification", "boards", "survival", "pairs"}
    kept |= {"baseline", "families", "family", "task", "critical_difference", "label"}
    kept |= {"first", "second", "higher"}
    source = board_document()
    document = attacked(source, kept)
    for board in source["boards"]:
        new = attacked(copy.deepcopy(board), kept)
        old = board["encoders"][0]["label"]
        text = json.dumps(new).replace(json.dumps(old), json.dumps(ATTACK))
        board.clear()
        board.update(json.loads(text))
        leader = next(e for e in board["encoders"] if e["label"] == ATTACK)
        leader["slug"] = "leader"
    document["boards"] = source["boards"]
    return document


def test_a_hostile_document_runs_nothing_and_leads_nowhere(look, tmp_path):
    write_site(hostile_document(), tmp_path)
    opened = look(folder=tmp_path)
    page = opened.page
    assert labels(page)[0] == ATTACK.strip()
    for name in page.locator("section.board:not([hidden]) button.sort").all()[:4]:
        name.click()
    for box in page.locator(f"{MAIN} input.pin").all()[:2]:
        box.check()
    page.locator("[data-compare] table").first.wait_for()
    page.locator(CELL).first.click()
    assert ATTACK in page.get_by_label("The record as JSON").input_value().replace('\\"', '"')
    page.keyboard.press("Escape")
    saved_csv(page)
    for path in sorted(p for p in tmp_path.rglob("*.html") if "leader" in p.name or "os" in p.name):
        page.goto(path.as_uri())
        safe_page(page)
    page.goto((tmp_path / "index.html").as_uri())
    safe_page(page)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)


SIZES = {(1440, 900): 5, (1280, 800): 5, (820, 1180): 5, (390, 844): 3}


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_shows_ranked_rows(look, size):
    page = look(viewport={"width": size[0], "height": size[1]}, hash="#b1").page
    rows = page.locator(f"{MAIN} tbody[data-group=ranked] tr[data-encoder]").all()
    ends = [row.bounding_box() for row in rows]
    assert sum(box["y"] + box["height"] <= size[1] for box in ends) >= SIZES[size]
    head = page.locator(f"{MAIN} thead [data-col=encoder]")
    assert head.evaluate("node => getComputedStyle(node).position") == "sticky"


def safe_page(page: Any) -> None:
    assert page.evaluate("window.hit") is None
    assert page.locator("img, iframe, object, [onerror], [onload]").count() == 0
    schemes = page.evaluate("Array.from(document.links, (a) => a.protocol)")
    assert set(schemes) <= {"file:", "https:", "http:"}


def test_the_policy_stops_a_script_that_got_in(look, site, tmp_path):
    text = (site / "index.html").read_text(encoding="utf-8")
    broken = text.replace("</main>", "<script>window.hit = 1;</script></main>")
    (tmp_path / "index.html").write_text(broken, encoding="utf-8")
    opened = look(folder=tmp_path)
    assert opened.page.evaluate("window.hit") is None
    assert any(re.search("Content Security Policy", c) for c in opened.complaints)
    opened.complaints.clear()

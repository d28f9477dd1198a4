"""The leaderboard's pages in a real browser: sorting, choosing, explaining, and asking nobody."""

import copy
import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from madeleine_bench.leaderboard.page import write_site
from madeleine_bench.leaderboard.page.wording import interval, number
from tests.leaderboard.board_document import board_document, make_board, summarise

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]
MAIN, HEAT = "section.board:not([hidden]) [data-table=main]", "[data-table=heat]"
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Chromium refuses its sandbox to root, as in many containers.
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return board_document()


@pytest.fixture(scope="module")
def site(document, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(document, folder)
    return folder


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
        found.page.set_default_timeout(20_000)
        found.page.goto((folder / name).as_uri() + hash)
        return found

    yield call
    for context in contexts:
        context.close()
    assert [c for found in opened for c in found.complaints] == []


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


def sort_button(page: Any, key: str, table: str = MAIN) -> Any:
    return page.locator(f'{table} thead [data-col="{key}"] button.sort').first


def encoders(document: dict[str, Any], board: int = 0) -> dict[str, dict[str, Any]]:
    return {e["label"]: e for e in document["boards"][board]["encoders"]}


# ---- sorting, filters, search ------------------------------------------------------------------


def test_sorts_within_groups_and_says_which_way(look, document):
    page = look().page
    header = page.locator(f"{MAIN} thead [data-col=rank]")
    assert header.get_attribute("aria-sort") == "ascending"
    ranked = [e["label"] for e in document["boards"][0]["encoders"] if e["rank"]]
    assert labels(page, group="ranked") == ranked
    sort_button(page, "encoder").click()
    assert labels(page, group="ranked") == sorted(ranked)
    assert header.get_attribute("aria-sort") is None
    sort_button(page, "encoder").click()
    assert labels(page, group="ranked") == sorted(ranked, reverse=True)
    cell = page.locator(f"{MAIN} thead [data-col=encoder]")
    assert cell.get_attribute("aria-sort") == "descending"
    assert labels(page, group="control") == ["random-projection", "case-id"]
    assert page.locator("section.board:not([hidden]) th[aria-sort]").count() == 1


def test_sorting_by_a_task_orders_both_tables_by_its_score(look, document):
    page = look().page
    heat = f"section.board:not([hidden]) {HEAT}"
    sort_button(page, "task:kidney-ifta", heat).click()
    ranked = [e for e in document["boards"][0]["encoders"] if e["rank"]]
    expected = sorted(ranked, key=lambda e: -e["cells"]["kidney-ifta"]["value"])
    assert labels(page, heat, "ranked") == [e["label"] for e in expected]
    assert labels(page, MAIN, "ranked") == [e["label"] for e in expected]
    assert [e["label"] for e in expected] != [e["label"] for e in ranked]


def test_missing_values_come_last_both_ways(look):
    page = look().page
    page.get_by_label("Mix the groups").check()
    page.locator("#columns summary").click()
    page.get_by_label("Parameters").check()
    for _ in range(2):
        sort_button(page, "parameters").click()
        assert set(labels(page)[-2:]) == {"stranger", "case-id"}


def test_groups_are_mixed_only_when_asked(look, document):
    page = look().page
    sort_button(page, "mean").click()
    assert labels(page)[0] == "madeleine"
    page.get_by_label("Mix the groups").check()
    means = {k: e["mean"] for k, e in encoders(document).items() if e["mean"] is not None}
    assert labels(page)[:-1] == sorted(means, key=lambda label: -means[label])
    assert labels(page)[0] == "said-so"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Kind", "control", {"random-projection", "case-id"}),
        ("Verification", "V0", {"said-so"}),
        ("Completeness", "no", {"half-done"}),
        ("Contamination", "contaminated", {"intra-ssl", "said-so"}),
        ("Contamination", "unknown", {"stranger", "half-done"}),
        ("Contamination", "clean",
         {"madeleine", "mean-pool", "max-pool", "random-projection", "case-id"}),
    ],
)  # fmt: skip
def test_filters_show_who_passes(look, field, value, expected):
    page = look().page
    page.get_by_role("combobox", name=field, exact=True).select_option(value)
    assert set(labels(page)) == expected
    assert set(labels(page, f"section.board:not([hidden]) {HEAT}")) == expected
    assert page.locator("#status").inner_text().startswith(f"{len(expected)} of 9 encoders shown")


def test_family_and_organ_choose_the_tasks_that_are_shown(look):
    page = look().page
    heads = page.locator(f"section.board:not([hidden]) {HEAT} thead th[data-task]:visible .label")
    assert heads.count() == 8
    page.get_by_role("combobox", name="Organ").select_option("kidney")
    assert heads.all_text_contents() == ["kidney-amr", "kidney-ifta"]
    before = column(page, "mean")
    page.get_by_role("combobox", name="Family of tasks").select_option("prognosis")
    assert heads.count() == 0
    assert column(page, "mean") == before


def test_search_is_by_words_and_says_when_nobody_is_left(look):
    page = look().page
    page.get_by_label("Search encoders").fill("POOL slide")
    assert labels(page) == ["mean-pool", "max-pool"]
    page.get_by_label("Search encoders").fill("nobody")
    assert labels(page) == []
    assert "No encoder passes" in page.locator("#status").inner_text()
    page.get_by_role("button", name="Reset").click()
    assert len(labels(page)) == 9


def test_columns_can_be_left_out_and_brought_in(look):
    page = look().page
    shown = page.locator(f"{MAIN} [data-col=dim]:visible")
    assert shown.count() == 0
    page.locator("#columns summary").click()
    page.get_by_label("Dimension").check()
    assert shown.count() == 10
    page.get_by_label("Win rate").uncheck()
    assert page.locator(f"{MAIN} [data-col=win_rate]:visible").count() == 0


# ---- numbers of chosen tasks ---------------------------------------------------------------------

CHOICES = (
    ["bcnb-er"],
    ["bcnb-er", "bcnb-her2", "kidney-amr"],
    ["tcga-er", "tcga-subtype", "mgh-er-quant"],
    ["bcnb-er", "bcnb-her2", "tcga-er", "tcga-subtype", "mgh-er-quant", "kidney-amr", "tcga-os"],
)


@pytest.mark.parametrize("tasks", CHOICES, ids=len)
def test_numbers_of_chosen_tasks_equal_the_definitions(look, document, tasks):
    page = look().page
    page.locator("#tasks summary").click()
    page.get_by_role("button", name="No task").click()
    for task in tasks:
        page.locator(f'[data-tick="task:{task}"]').check()
    same_numbers(page, summarise(document["boards"][0], tasks))


def same_numbers(page: Any, expected: dict[str, dict[str, Any]]) -> None:
    shown = {key: column(page, key) for key in ("rank", "mean", "mean_rank", "win_rate")}
    assert set(labels(page, group="ranked")) == set(expected)
    for label, own in expected.items():
        assert shown["rank"][label] == str(own["rank"])
        assert shown["mean"][label] == number(own["mean"])
        assert shown["mean_rank"][label] == number(own["mean_rank"], 2)
        assert shown["win_rate"][label] == number(own["win_rate"], 2)
    for label in set(shown["rank"]) - set(expected):
        assert shown["rank"][label] == "–"


def test_ties_share_ranks_as_in_the_definitions(look, tmp_path):
    document = board_document(boards=[make_board("local")])
    board = document["boards"][0]
    by = {e["label"]: e for e in board["encoders"]}
    # The same scores in another order: the sums differ in their last digit unless rounded once.
    order = ["bcnb-er", "bcnb-her2", "tcga-er"]
    for task, value, other in zip(order, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1), strict=True):
        by["madeleine"]["cells"][task].update(value=value, corrected=value)
        by["stranger"]["cells"][task].update(value=other, corrected=other)
        by["intra-ssl"]["cells"][task].update(value=other, corrected=other)
    write_site(document, tmp_path)
    page = look(folder=tmp_path).page
    page.locator("#tasks summary").click()
    page.get_by_role("button", name="No task").click()
    for task in order:
        page.locator(f'[data-tick="task:{task}"]').check()
    expected = summarise(board, order)
    assert len({expected[label]["rank"] for label in ("madeleine", "stranger", "intra-ssl")}) == 1
    same_numbers(page, expected)


def test_numbers_are_rounded_as_the_server_rounds_them(look, tmp_path):
    values = [0.625, 0.375, 0.125, -0.625, 0.6255, 0.0005, 0.0625, 0.1875, -0.0001, 0.8125]
    document = board_document(boards=[make_board("local")])
    leader = document["boards"][0]["encoders"][0]
    for task, value in zip(document["boards"][0]["tasks"], values, strict=False):
        leader["cells"][task["id"]].update(value=value, ci95=[value - 1, value + 0.0625])
    write_site(document, tmp_path)
    page = look(folder=tmp_path).page
    page.get_by_role("button", name="Pin madeleine to compare").locator("visible=true").click()
    shown = page.locator("section.board:not([hidden]) [data-compare] tbody td").all_text_contents()
    expected = [f"{number(c['value'])} ({interval(c['ci95'])})" for c in leader["cells"].values()]
    assert shown == expected


def test_a_score_on_other_data_takes_its_encoder_out_of_the_choice(look, tmp_path):
    document = board_document(boards=[make_board("local")])
    board = document["boards"][0]
    next(e for e in board["encoders"] if e["label"] == "stranger")["cells"]["kidney-amr"].update(
        comparable=False
    )
    write_site(document, tmp_path)
    page = look(folder=tmp_path).page
    page.get_by_role("combobox", name="Organ").select_option("kidney")
    page.locator("#tasks summary").click()
    page.get_by_role("button", name="Rank on the shown tasks only").click()
    same_numbers(page, summarise(board, ["kidney-amr", "kidney-ifta"]))
    assert "stranger" in labels(page, group="incomplete")
    assert (
        "lacks 1 of 2 chosen tasks"
        in page.locator(f"{MAIN} tbody[data-group=incomplete]").inner_text()
    )


def test_what_holds_for_all_core_tasks_only_is_left_out_and_comes_back(look, document):
    page = look().page
    leader = page.locator(f"{MAIN} tbody[data-group=ranked] tr[data-encoder]").first
    before = leader.inner_text()
    assert interval(document["boards"][0]["encoders"][0]["mean_ci95"]) in before
    page.locator("#tasks summary").click()
    page.locator('[data-tick="task:bcnb-er"]').uncheck()
    assert column(page, "gain")["madeleine"] == "–"
    assert column(page, "tie")["madeleine"] == "–"
    assert page.locator(f"{MAIN} svg.strip:visible").count() == 1
    assert "left out" in page.locator("#status").inner_text()
    page.get_by_role("button", name="All core tasks").click()
    assert leader.inner_text() == before


# ---- the address, the file, the pins -----------------------------------------------------------


def test_the_address_restores_the_view_in_a_new_page(look):
    first = look().page
    first.locator("#tasks summary").click()
    first.locator('[data-tick="task:bcnb-er"]').uncheck()
    first.locator("#columns summary").click()
    first.get_by_label("Dimension").check()
    sort_button(first, "win_rate").click()
    sort_button(first, "win_rate").click()
    first.get_by_role("button", name="Pin madeleine to compare").locator("visible=true").click()
    first.get_by_role("combobox", name="Kind").select_option("encoder")
    first.get_by_role("combobox", name="Family of tasks").select_option("molecular-status")
    first.get_by_label("Search encoders").fill("a")
    second = look(hash="#" + first.url.split("#")[1]).page
    for read in (
        labels,
        lambda page: column(page, "win_rate"),
        lambda page: page.locator("#status").inner_text(),
        lambda page: page.locator(f"{MAIN} th[aria-sort]").get_attribute("data-col"),
        lambda page: page.locator("section.board:not([hidden]) [data-compare] h3").inner_text(),
        lambda page: page.locator(f"{MAIN} thead [data-col]:visible").count(),
        lambda page: page.locator(f"section.board:not([hidden]) {HEAT} thead th:visible").count(),
        lambda page: page.get_by_label("Search encoders").input_value(),
        lambda page: page.get_by_role("combobox", name="Kind").input_value(),
    ):
        assert read(second) == read(first)
    assert "theme" not in first.url
    second.get_by_role("button", name="Reset").click()
    assert "#" not in second.url.replace("#v=1&board=local%2Fprimary", "")
    assert len(labels(second)) == 9


def test_an_address_with_nonsense_opens_the_plain_view(look):
    page = look(
        hash="#v=1&board=nowhere&sort=__proto__&pin=ghost&task=ghost&hide=ghost&dir=up&q="
    ).page
    assert len(labels(page)) == 9
    assert page.locator("[data-compare]:visible").count() == 0


def test_switching_boards_by_link_and_by_address(look):
    page = look().page
    page.get_by_role("navigation", name="Boards").get_by_role("link").last.click()
    assert page.locator("section.board:visible h2").inner_text().startswith("PHANTOM Board phantom")
    assert page.title().startswith("PHANTOM")
    again = look(hash="#" + page.url.split("#")[1]).page
    assert again.locator("section.board:visible").get_attribute("data-board") == "1"
    assert again.locator("section.board:visible .banner").is_visible()
    again.locator("section.board:visible button.cell").first.click()
    assert again.get_by_role("dialog").locator("h2").inner_text().startswith("PHANTOM")
    again.keyboard.press("Escape")
    mark = again.evaluate(
        "getComputedStyle(document.querySelector('section.phantom'), '::after').backgroundImage"
    )
    assert "PHANTOM" in mark
    by_anchor = look(hash="#b1").page
    assert by_anchor.locator("section.board:visible").get_attribute("data-board") == "1"


def saved_csv(page: Any) -> tuple[str, list[dict[str, str]]]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    return waiting.value.suggested_filename, list(csv.DictReader(io.StringIO(text)))


def test_the_csv_is_this_view_with_full_precision(look, document):
    page = look().page
    page.get_by_role("combobox", name="Kind").select_option("baseline")
    page.get_by_role("combobox", name="Organ").select_option("kidney")
    sort_button(page, "encoder").click()
    name, rows = saved_csv(page)
    assert name == "local-primary.csv"
    assert [row["encoder"] for row in rows] == ["max-pool", "mean-pool"]
    assert {row["data"] for row in rows} == {"real data"}
    for row in rows:
        own = encoders(document)[row["encoder"]]
        assert float(row["mean"]) == own["mean"]
        assert float(row["mean_ci95_high"]) == own["mean_ci95"][1]
        assert float(row["kidney-amr"]) == own["cells"]["kidney-amr"]["value"]
        assert float(row["kidney-amr_ci95_low"]) == own["cells"]["kidney-amr"]["ci95"][0]
    assert "bcnb-er" not in rows[0]
    assert "dim" not in rows[0]


def test_the_csv_of_a_phantom_says_so_in_every_row(look):
    page = look(hash="#b1").page
    name, rows = saved_csv(page)
    assert name.startswith("PHANTOM-")
    assert len(rows) == 9
    assert all(row["data"].startswith("PHANTOM") for row in rows)


@pytest.mark.parametrize("label", ['=HYPERLINK("x")', "+1", "-1", "@a", "\t=1", " =1", 'a "b", c'])
def test_no_text_of_the_csv_is_a_formula(look, tmp_path, label):
    document = board_document(boards=[make_board("local")])
    document["boards"][0]["encoders"][-1].update(label=label, slug="odd")
    document["boards"][0]["encoders"][0]["mean"] = -0.25
    write_site(document, tmp_path)
    _, rows = saved_csv(look(folder=tmp_path).page)
    expected = label if label.startswith("a") else f"'{label}"
    assert rows[-1]["encoder"] == expected
    assert rows[0]["mean"] == "-0.25"


def test_pinned_encoders_are_compared_task_by_task(look, document):
    page = look().page
    for label in ("madeleine", "half-done"):
        page.get_by_role("button", name=f"Pin {label} to compare").locator("visible=true").click()
    box = page.locator("section.board:not([hidden]) [data-compare]")
    assert box.locator("h3").inner_text() == "Pinned: madeleine, half-done"
    assert box.locator("svg g line").count() == 8 + 7
    text = box.locator("table").inner_text()
    for label, missing in (("madeleine", 0), ("half-done", 1)):
        for cell in encoders(document)[label]["cells"].values():
            assert f"{number(cell['value'])} ({interval(cell['ci95'])})" in text
        assert text.count("absent") == 1 or not missing
    pin = page.get_by_role("button", name="Pin madeleine to compare").locator("visible=true")
    assert pin.get_attribute("aria-pressed") == "true"
    box.get_by_role("button", name="Unpin all").click()
    assert not box.is_visible()


def test_a_comparison_on_a_phantom_says_so(look):
    page = look(hash="#b1").page
    page.get_by_role("button", name="Pin madeleine to compare").locator("visible=true").click()
    box = page.locator("section.board:not([hidden]) [data-compare]")
    assert box.locator("svg title").text_content().startswith("PHANTOM")
    assert box.locator("caption").inner_text().startswith("PHANTOM")


# ---- one score in full ---------------------------------------------------------------------------


def test_a_score_opens_by_keyboard_closes_with_escape_and_gives_the_focus_back(look, document):
    page = look().page
    cell = encoders(document)["madeleine"]["cells"]["tcga-os"]
    open_it = page.get_by_role("button", name="madeleine on tcga-os, details").locator(
        "visible=true"
    )
    open_it.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert page.evaluate("document.getElementById('drill').contains(document.activeElement)")
    text = dialog.inner_text()
    said = [
        number(cell["value"]),
        interval(cell["ci95"]),
        cell["method"],
        cell["record_id"],
        "1058",
    ]
    said += [*cell["hashes"].values(), *(number(f["value"]) for f in cell["folds"]), "made up"]
    said += ["clean", "made here", "balanced accuracy", "hazard ratio 2.10"]
    assert [s for s in said if s not in text] == []
    assert dialog.locator("svg path.curve").count() == 4
    record = json.loads(dialog.get_by_label("The record as JSON").input_value())
    assert {key: record[key] for key in cell} == cell
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert open_it.evaluate("node => node === document.activeElement")


def test_the_dialog_keeps_the_focus_inside(look):
    page = look().page
    page.locator("section.board:not([hidden]) button.cell").first.click()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body ||"
            " document.getElementById('drill').contains(document.activeElement)"
        )
    page.get_by_role("button", name="Close").click()
    assert not page.get_by_role("dialog").is_visible()


def test_headings_explain_themselves_to_keyboard_and_pointer(look):
    page = look().page
    tip = page.locator("#tip")
    assert not tip.is_visible()
    sort_button(page, "gain").focus()
    assert "less that of the baseline" in tip.inner_text()
    assert sort_button(page, "gain").get_attribute("aria-describedby") == "about-gain"
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    sort_button(page, "win_rate").hover()
    assert "Share of duels" in tip.inner_text()


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
    "tasks/phantom/few-shot-v1/tcga-os.html",
    "encoders/phantom/few-shot-v1/madeleine.html",
)


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_never_scrolls_sideways(look, name):
    page = look(name, viewport={"width": 375, "height": 700}).page
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    if name == "index.html":
        page.get_by_role("button", name="Pin madeleine to compare").locator("visible=true").click()
        page.locator("section.board:not([hidden]) button.cell").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_the_first_column_stays_when_a_table_is_scrolled(look):
    page = look(viewport={"width": 375, "height": 700}).page
    region = page.locator("section.board:not([hidden]) .scroll").first
    name = page.locator(f"{MAIN} tbody tr[data-encoder] th").first
    region.evaluate("node => { node.scrollLeft = 400; }")
    assert abs(name.bounding_box()["x"] - region.bounding_box()["x"]) < 2
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
    assert page.url.endswith("encoders/local/primary/madeleine.html#score-bcnb-er")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_anybody(look, site, name):
    opened = look(name)
    if name == "index.html":
        saved_csv(opened.page)
        opened.page.locator("section.board:not([hidden]) button.cell").first.click()
    opened.page.wait_for_load_state("networkidle")
    page_itself = (site / name).as_uri()
    outside = [u for u in opened.requests if not u.startswith(("data:", "blob:"))]
    assert outside == [page_itself]


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
        "tasks/phantom/few-shot-v1/tcga-os.html",
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
    for label in ("madeleine", "mean-pool"):
        page.get_by_role("button", name=f"Pin {label} to compare").locator("visible=true").click()
    assert serious(page) == []
    page.get_by_role("button", name="madeleine on tcga-os, details").locator("visible=true").click()
    assert serious(page) == []


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(look):
    page = look().page
    for details in page.locator("section.board:not([hidden]) details, #controls details").all():
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
    page.locator(f"{MAIN} button.pin").first.click()
    page.locator("section.board:not([hidden]) button.cell").first.click()
    assert ATTACK in page.get_by_label("The record as JSON").input_value().replace('\\"', '"')
    page.keyboard.press("Escape")
    saved_csv(page)
    for path in sorted(p for p in tmp_path.rglob("*.html") if "leader" in p.name or "os" in p.name):
        page.goto(path.as_uri())
        safe_page(page)
    page.goto((tmp_path / "index.html").as_uri())
    safe_page(page)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)


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

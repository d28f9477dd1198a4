"""The leaderboard's pages in a real browser: sorting, choosing, comparing, explaining."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.aggregate import summarise as summaries
from madeleine_bench.leaderboard.comparison import compare as compared_encoders
from madeleine_bench.leaderboard.document import leaderboard_document
from madeleine_bench.leaderboard.page import write_site
from madeleine_bench.leaderboard.page.text import interval, number, p_value, signed
from tests.leaderboard.board_document import board_document, make_board, summarise
from tests.leaderboard.browser import (
    CELL,
    HEAT,
    MAIN,
    NEEDS_BROWSER,
    choose,
    column,
    compare,
    encoders,
    labels,
    saved_csv,
    sort_button,
    view_of,
)
from tests.leaderboard.records import CATALOGUE, draws_of, varied_row

pytestmark = NEEDS_BROWSER


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
    page.locator("#filters summary").click()
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
    page.locator("#filters summary").click()
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
    choose(page, field, value)
    assert set(labels(page)) == expected
    assert set(labels(page, f"section.board:not([hidden]) {HEAT}")) == expected
    assert page.locator("#status").inner_text().startswith(f"{len(expected)} of 9 encoders")


def test_a_family_and_an_organ_choose_the_tasks_that_are_shown_and_ranked_on(look, document):
    page, board = look().page, document["boards"][0]
    heads = page.locator(f"section.board:not([hidden]) {HEAT} thead th[data-task]:visible .label")
    assert heads.count() == 8
    choose(page, "Organ", "kidney")
    assert heads.all_text_contents() == ["kidney-amr", "kidney-ifta"]
    same_numbers(page, summarise(board, ["kidney-amr", "kidney-ifta"]))
    choose(page, "Family of tasks", "prognosis")
    assert heads.count() == 0
    choose(page, "Organ", "")
    same_numbers(page, summarise(board, ["tcga-os"]))


def test_a_family_has_intervals_and_letters_of_its_own(look, document):
    page, board = look().page, document["boards"][0]
    choose(page, "Family of tasks", "molecular-status")
    for label, own in board["subsets"]["molecular-status"]["standings"].items():
        row = page.locator(f"{MAIN} tr[data-encoder]").filter(
            has=page.get_by_text(label, exact=True)
        )
        text = row.inner_text()
        assert interval(own["mean"]["ci95_cases"]) in text
        assert f"{own['rank_ci95'][0]} to {own['rank_ci95'][1]}" in text
    assert set(column(page, "letters").values()) == {"a", "–"}
    assert "fewer than 6 tasks" in page.locator("#status").inner_text()
    shown = page.locator(f"{MAIN} thead [data-col^='family:']:visible")
    assert shown.all_inner_texts() == ["Molecular status"]


def test_the_best_of_each_column_is_marked_and_follows_the_choice(look, document):
    page = look().page
    means = {k: e["mean"] for k, e in encoders(document).items() if e["rank"]}
    best = page.locator(f"{MAIN} td.best[data-col=mean] > span")
    assert best.all_inner_texts() == [number(max(means.values()))]
    choose(page, "Family of tasks", "prognosis")
    scores = {k: encoders(document)[k]["cells"]["tcga-os"]["corrected"] for k in means}
    assert best.all_inner_texts() == [number(max(scores.values()))]


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
    page.get_by_label("Gain").uncheck()
    assert page.locator(f"{MAIN} [data-col=gain]:visible").count() == 0


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
    table = compare(page, leader["label"], "mean-pool").locator("table").last
    shown = table.locator("tbody td:nth-child(3)").all_text_contents()
    expected = [f"{number(c['value'])} ({interval(c['ci95'])})" for c in leader["cells"].values()]
    assert sorted(shown) == sorted(expected)


def test_a_score_on_other_data_takes_its_encoder_out_of_the_choice(look, tmp_path):
    document = board_document(boards=[make_board("local")])
    board = document["boards"][0]
    next(e for e in board["encoders"] if e["label"] == "stranger")["cells"]["kidney-amr"].update(
        comparable=False
    )
    write_site(document, tmp_path)
    page = look(folder=tmp_path).page
    choose(page, "Organ", "kidney")
    same_numbers(page, summarise(board, ["kidney-amr", "kidney-ifta"]))
    assert "stranger" in labels(page, group="incomplete")
    assert (
        "no comparable score on 1 of 2 chosen tasks"
        in page.locator(f"{MAIN} tbody[data-group=incomplete]").inner_text()
    )


def test_what_holds_for_all_core_tasks_only_is_left_out_and_comes_back(look, document):
    page = look().page
    leader = page.locator(f"{MAIN} tbody[data-group=ranked] tr[data-encoder]").first
    before = leader.inner_text()
    assert interval(document["boards"][0]["encoders"][0]["mean_ci95_cases"]) in before
    page.locator("#tasks summary").click()
    page.locator('[data-tick="task:bcnb-er"]').uncheck()
    assert column(page, "gain")["madeleine"] == "–"
    assert column(page, "letters")["madeleine"] == "–"
    assert page.locator(f"{MAIN} svg.strip:visible").count() == 1
    assert "not for this choice" in page.locator("#status").inner_text()
    page.get_by_role("button", name="All core tasks").click()
    assert leader.inner_text() == before


def test_encoders_rank_on_the_core_tasks_whose_cohorts_can_be_had(look, tmp_path):
    document = board_document(boards=[make_board("local")])
    board = document["boards"][0]
    for task in board["tasks"]:
        task["access"] = "private" if task["cohort"].startswith(("bwh", "mgh")) else "open"
    chosen = [t["id"] for t in board["tasks"] if t["access"] == "open" and t["ranked"]]
    assert 0 < len(chosen) < len(board["tasks"])
    write_site(document, tmp_path)
    page = look(folder=tmp_path).page
    page.locator("#tasks summary").click()
    page.get_by_role("button", name="Core tasks on available cohorts").click()
    same_numbers(page, summarise(board, chosen))


# ---- the address, the file, the pins -----------------------------------------------------------


def test_the_address_restores_the_view_in_a_new_page(look):
    first = look().page
    first.locator("#tasks summary").click()
    first.locator('[data-tick="task:bcnb-er"]').uncheck()
    first.locator("#columns summary").click()
    first.get_by_label("Dimension").check()
    first.get_by_label("Win rate").check()
    sort_button(first, "win_rate").click()
    sort_button(first, "win_rate").click()
    compare(first, "madeleine", "intra-ssl")
    choose(first, "Kind", "encoder")
    first.get_by_label("Search encoders").fill("a")
    second = look(hash=view_of(first)).page
    for read in (
        labels,
        lambda page: column(page, "win_rate"),
        lambda page: page.locator("#status").inner_text(),
        lambda page: page.locator(f"{MAIN} th[aria-sort]").get_attribute("data-col"),
        lambda page: page.locator("section.board:not([hidden]) [data-compare] h3").inner_text(),
        lambda page: page.locator(f"{MAIN} thead [data-col]:visible").count(),
        lambda page: page.locator(f"section.board:not([hidden]) {HEAT} thead th:visible").count(),
        lambda page: page.get_by_label("Search encoders").input_value(),
        lambda page: page.locator("#filter-kind").input_value(),
    ):
        assert read(second) == read(first)
    assert "theme" not in view_of(first)
    second.get_by_role("button", name="Reset").click()
    assert view_of(second) in ("", "#v=1&board=local%2Fprimary")
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
    assert page.locator("section.board:visible h2").inner_text().startswith("Board phantom")
    assert page.title().startswith("PHANTOM")
    again = look(hash=view_of(page)).page
    assert again.locator("section.board:visible").get_attribute("data-board") == "1"
    assert again.locator("section.board:visible .banner").is_visible()
    by_anchor = look(hash="#b1").page
    assert by_anchor.locator("section.board:visible").get_attribute("data-board") == "1"


def test_the_csv_is_this_view_with_full_precision_and_every_interval(look, document):
    page = look().page
    choose(page, "Kind", "baseline")
    sort_button(page, "encoder").click()
    name, rows = saved_csv(page)
    assert name == "local-primary.csv"
    assert [row["encoder"] for row in rows] == ["max-pool", "mean-pool"]
    assert {row["data"] for row in rows} == {"real data"}
    for row in rows:
        own = encoders(document)[row["encoder"]]
        assert float(row["mean"]) == own["mean"]
        ends = {"mean_ci95": own["mean_ci95"], "mean_ci95_cases": own["mean_ci95_cases"]}
        ends |= {
            "rank_ci95": own["rank_ci95"],
            "kidney-amr_ci95": own["cells"]["kidney-amr"]["ci95"],
        }
        if own["gain"]:
            ends |= {f"gain_{key}": own["gain"][key] for key in ("ci95", "ci95_cases")}
        for key, pair in ends.items():
            assert [float(row[f"{key}_low"]), float(row[f"{key}_high"])] == pair
        assert float(row["kidney-amr"]) == own["cells"]["kidney-amr"]["value"]
    assert "dim" not in rows[0]
    choose(page, "Organ", "kidney")
    _, rows = saved_csv(page)
    assert "bcnb-er" not in rows[0]
    expected = summarise(document["boards"][0], ["kidney-amr", "kidney-ifta"])
    assert {r["encoder"]: float(r["mean"]) for r in rows} == {
        label: expected[label]["mean"] for label in ("max-pool", "mean-pool")
    }


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


def test_two_encoders_are_compared_task_by_task_with_the_numbers_of_the_document(look, document):
    page, board = look().page, document["boards"][0]
    box = compare(page, "madeleine", "mean-pool")
    assert box.locator("h3").inner_text() == "Comparison of madeleine, mean-pool"
    (pair,) = (
        p for p in board["comparisons"] if (p["first"], p["second"]) == ("madeleine", "mean-pool")
    )
    rows = box.locator("table tbody tr")
    assert rows.count() == len(pair["tasks"]) == 8
    for row in rows.all():
        task = pair["tasks"][row.locator("th").inner_text()]
        said = row.locator("td").all_inner_texts()
        assert said[3:5] == [signed(task["difference"]), interval(task["ci95"])]
        assert said[6:] == [p_value(task["p_holm"]), task["higher"] or "not significant"]
    assert box.locator("li").all_inner_texts() == pair["conclusions"]
    assert box.locator("svg.figure g line").count() == 8 + 8
    box.get_by_role("button", name="Close the comparison").click()
    assert not box.is_visible()


def test_several_encoders_are_compared_pair_by_pair_by_keyboard(look, document):
    page = look().page
    box = compare(page, "stranger", "madeleine", "half-done")
    pairs = box.locator("table").first.locator("tbody tr")
    assert pairs.count() == 3
    over = next(
        p for p in document["boards"][0]["pairs"]
        if {p["first"], p["second"]} == {"madeleine", "stranger"}
    )  # fmt: skip
    assert signed(over["mean"]) in pairs.first.inner_text()
    assert "one is not ranked" in pairs.last.inner_text()
    pairs.last.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert box.locator("li").all_inner_texts() == ["Conclusion about stranger and half-done."]
    assert box.locator("table").last.locator("tbody tr").count() == 7


def test_one_encoder_alone_waits_for_another_and_seven_are_too_many(look):
    page = look().page
    assert not compare(page, "madeleine").is_visible()
    assert "one more" in page.locator("#status").inner_text()
    names = ("intra-ssl", "stranger", "mean-pool", "max-pool", "case-id")
    assert compare(page, *names).is_visible()
    page.get_by_label("Compare half-done").locator("visible=true").click()
    assert "At most 6" in page.locator("#status").inner_text()
    assert not page.get_by_label("Compare half-done").locator("visible=true").is_checked()


def test_a_comparison_without_the_folder_beside_the_page_says_so(look, tmp_path):
    write_site(board_document(boards=[make_board("local")]), tmp_path)
    shutil.rmtree(tmp_path / "details")
    opened = look(folder=tmp_path)
    said = compare(opened.page, "madeleine", "mean-pool").locator("div").first
    said.get_by_text("mbench compare madeleine mean-pool").wait_for()
    assert all("ERR_FILE_NOT_FOUND" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


def test_figures_show_the_compared_encoders_alone_when_asked(look):
    page = look().page
    figure = page.locator("section.board:not([hidden]) [data-pictured=rows]")
    assert figure.locator("g[data-encoder]:visible").count() == 5
    compare(page, "mean-pool", "madeleine")
    page.locator("#filters summary").click()
    page.get_by_label("Figures show compared encoders only").check()
    assert figure.locator("g[data-encoder]:visible").count() == 2


# ---- one score in full ---------------------------------------------------------------------------


def test_a_score_opens_by_keyboard_closes_with_escape_and_gives_the_focus_back(look, document):
    page = look().page
    cell = encoders(document)["madeleine"]["cells"]["tcga-os"]
    open_it = page.locator(f"{CELL}[href$='madeleine.html#score-tcga-os']")
    open_it.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert page.evaluate("document.getElementById('drill').contains(document.activeElement)")
    dialog.get_by_text("Folds").first.wait_for()
    text = dialog.inner_text()
    said = [
        number(cell["value"]),
        interval(cell["ci95"]),
        cell["method"],
        cell["record_id"],
        "1058",
    ]
    said += [*cell["hashes"].values(), *(number(f["value"]) for f in cell["folds"]), "made up"]
    said += ["clean", "computed locally", "balanced accuracy"]
    assert [s for s in said if s not in text] == []
    record = json.loads(dialog.get_by_label("The record as JSON").input_value())
    assert {key: record[key] for key in cell} == cell
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert open_it.evaluate("node => node === document.activeElement")


def test_the_dialog_keeps_the_focus_inside(look):
    page = look().page
    page.locator(CELL).first.click()
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
    assert "less that of mean-pool" in tip.inner_text()
    assert sort_button(page, "gain").get_attribute("aria-describedby") == "about-gain"
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    sort_button(page, "mean").hover()
    assert "over families" in tip.inner_text()


def test_numbers_of_chosen_tasks_equal_those_of_the_records(look, tmp_path):
    records = [
        *varied_row("mean-pool", 0.7, 1, kind="baseline"),
        *varied_row("b", 0.72, 2),
        *varied_row("c", 0.72, 3),
        *[r for r in varied_row("d", 0.74, 4) if r.task.id != "bcnb-er"],
    ]
    (board,) = build_boards(records, CATALOGUE)
    compared = (board, compared_encoders(board, draws_of))
    sources = SimpleNamespace(
        catalogue=CATALOGUE, predictions=survival_predictions, card=lambda _: None,
        draws=draws_of, units=no_units,
    )  # fmt: skip
    found = leaderboard_document([compared], sources)
    write_site(found, tmp_path)
    for chosen in (["bcnb-er", "mgh-breast-er-quant"], ["tcga-breast-os", "bcnb-pr", "bcnb-aln"]):
        page = look(folder=tmp_path).page
        page.locator("#tasks summary").click()
        page.get_by_role("button", name="No task").click()
        for task in chosen:
            page.locator(f'[data-tick="task:{task}"]').check()
        found = summaries(board.columns, [CATALOGUE.tasks[task] for task in chosen])
        assert ("d" in found) == ("bcnb-er" not in chosen)
        same_numbers(page, {label: vars(summary) for label, summary in found.items()})


def no_units(record: Any) -> None:
    raise InputError("no predictions")


def survival_predictions(record: Any) -> pd.DataFrame:
    days = [100.0, 200.0, 300.0, 400.0]
    high = [True, True, False, False]
    event = [True, False, True, False]
    return pd.DataFrame({"repeat": 0, "time_days": days, "event": event, "high_risk": high})

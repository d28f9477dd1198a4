"""The leaderboard's pages without a browser: what they say and escape, how they are served."""

import copy
import html
import json
import re
from typing import Any

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard.page import page_files, write_site
from madeleine_bench.leaderboard.page.text import csp_hash, interval, number, signed
from tests.leaderboard.board_document import ENCODERS, TASKS, board_document, make_board

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\u2028\u2029\'"&'


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return board_document()


@pytest.fixture(scope="module")
def pages(document) -> dict[str, str]:
    return page_files(document)


def without_data(page: str) -> str:
    """The page as a reader without JavaScript has it."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def html_of(pages: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, page) for name, page in pages.items() if name.endswith(".html")]


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def small(**parts: Any) -> dict[str, Any]:
    """A document of one real board with two encoders: enough to break in one place."""
    return board_document(boards=[make_board("local", encoders=ENCODERS[:2])], **parts)


# ---- what is written ----------------------------------------------------------------------------


def test_one_page_for_the_index_each_task_and_each_encoder(document, pages):
    expected = {"index.html"}
    for board in document["boards"]:
        where = f"{board['name']}/{board['protocol'].replace('/', '-')}"
        expected |= {f"tasks/{where}/{task['id']}.html" for task in board["tasks"]}
        expected |= {f"encoders/{where}/{e['slug']}.html" for e in board["encoders"]}
        expected |= {f"details/{where}/{e['slug']}.js" for e in board["encoders"]}
    assert set(pages) == expected


def test_equal_documents_give_equal_bytes_whatever_the_order_of_their_keys(document, pages):
    assert list(page_files(reversed_keys(document)).items()) == list(pages.items())


def test_the_document_is_left_as_it_was(document):
    before = copy.deepcopy(document)
    page_files(document)
    assert document == before


def test_what_is_written_is_what_is_returned(tmp_path):
    pages = page_files(small())
    written = write_site(small(), tmp_path)
    assert written[0] == tmp_path / "index.html"
    assert {p.relative_to(tmp_path).as_posix(): p.read_text("utf-8") for p in written} == pages


def test_relative_links_of_a_site_lead_to_its_own_pages(pages):
    for name, page in html_of(pages):
        for link in re.findall(r'href="([^"]+)"', without_data(page)):
            target = link.split("#")[0]
            if not target or target.startswith(("https://", "data:")):
                continue
            parts = [*name.split("/")[:-1]]
            for part in target.split("/"):
                parts = parts[:-1] if part == ".." else [*parts, part]
            path = "/".join(parts)
            assert path in pages or path in ("leaderboard.json", "leaderboard.csv"), (name, link)


def test_an_anchor_that_a_page_links_to_is_there(pages):
    for name, page in html_of(pages):
        for anchor in re.findall(r'href="#([^"]+)"', without_data(page)):
            assert f'id="{anchor}"' in page, (name, anchor)


# ---- everything can be read without JavaScript --------------------------------------------------


def test_every_number_of_every_encoder_is_on_the_index_without_javascript(document, pages):
    text = html.unescape(without_data(pages["index.html"]))
    for board in document["boards"]:
        for encoder in board["encoders"]:
            texts = [number(encoder["mean"]), interval(encoder["mean_ci95"])]
            texts += [interval(encoder["mean_ci95_cases"]), number(encoder["mean_rank"], 2)]
            texts += [number(value) for value in encoder["families"].values()]
            if encoder["gain"]:
                gain = encoder["gain"]
                texts += [signed(gain["value"]), interval(gain["ci95_cases"])]
            for cell in encoder["cells"].values():
                texts += [number(cell["value"]), interval(cell["ci95"])]
            if encoder["unranked"]:
                texts.append(encoder["unranked"])
            assert [t for t in texts if t not in text] == [], encoder["label"]


def test_every_pair_is_on_the_index_and_its_tests_are_on_the_pages_of_encoders(document, pages):
    text = without_data(pages["index.html"])
    for pair in document["boards"][0]["pairs"]:
        assert f"{pair['wins']}-{pair['ties']}-{pair['losses']}" in text
        assert f"{pair['losses']}-{pair['ties']}-{pair['wins']}" in text
        assert signed(pair["mean"]) in text
        assert signed(-pair["mean"]) in text
        higher = pair["first"] if pair["better"] else "not significant"
        for label in (pair["first"], pair["second"]):
            page = pages[f"encoders/local/primary/{label}.html"]
            assert f"<td>0.006</td><td>{higher}</td>" in page


def test_the_script_of_an_encoder_has_its_scores_and_the_pairs_with_those_below(document, pages):
    board = document["boards"][0]
    found = set()
    for encoder in board["encoders"]:
        script = pages[f"details/local/primary/{encoder['slug']}.js"]
        assert script.startswith('mbenchDetails("b0","')
        content = json.loads(script.split(",", 2)[2].removesuffix(");\n"))
        assert content["cells"] == encoder["cells"]
        assert {pair["first"] for pair in content["comparisons"]} <= {encoder["label"]}
        found |= {(pair["first"], pair["second"]) for pair in content["comparisons"]}
    assert len(found) == len(board["comparisons"]) == 28


def test_a_large_board_shows_its_first_encoders_in_figures_and_pairs():
    many = [(f"e{i:02}", "encoder", 0.9 - i / 50, [], 10**6 + i, "none") for i in range(25)]
    document = board_document(boards=[make_board("local", encoders=[*many, *ENCODERS[3:4]])])
    text = page_files(document)["index.html"]
    ranks = text.split('data-pictured="rows"')[1].split("</svg>")[0]
    assert ranks.count("<g ") == 26
    assert ranks.count("data-more") == 6
    matrix = text.split('<table class="matrix">')[1].split("</table>")[0]
    assert matrix.count("<tr>") == 13
    assert "The first 12 encoders" in matrix


def test_the_win_matrix_marks_both_sides():
    document = board_document(boards=[make_board("local")])
    board = document["boards"][0]
    pair = board["pairs"][0]
    for each in board["pairs"]:
        each["better"] = False
    plain = page_files(document)["index.html"]
    assert "&#9650;</i>" not in plain
    assert 'class="unseen">significantly' not in plain
    pair.update(better=True, mean=0.25, wins=5, ties=1, losses=2)
    table = page_files(document)["index.html"].split('<table class="matrix">')[1]
    rows = re.findall(r"<tr>.*?</tr>", table.split("</table>")[0], re.DOTALL)[1:]
    ranked = [e["label"] for e in board["encoders"] if e["rank"] is not None]
    assert [re.search(r'class="sticky">(.*?)<', row).group(1) for row in rows] == ranked
    cells = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in rows]
    first, second = ranked.index(pair["first"]), ranked.index(pair["second"])
    assert all("itself" in cells[i][i] for i in range(len(ranked)))
    said = '<span class="unseen">significantly {}, </span>'
    won = '<i aria-hidden="true">&#9650;</i>' + said.format("higher") + " +0.250"
    assert won in cells[first][second]
    assert "<small>5-1-2</small>" in cells[first][second]
    assert 'class="better"' in cells[first][second]
    lost = '<i aria-hidden="true">&#9660;</i>' + said.format("lower") + " \u22120.250"
    assert lost in cells[second][first]
    assert "<small>2-1-5</small>" in cells[second][first]
    assert 'class="worse"' in cells[second][first]
    assert table.count('class="unseen">significantly') == 2


def test_a_risk_group_without_anybody_has_no_curve():
    document = board_document(boards=[make_board("local")])
    curves = document["boards"][0]["survival"]["tcga-os"]["madeleine"]
    curves.update(low=None, logrank_p=None, hazard_ratio=None, hazard_ratio_ci95=None)
    text = page_files(document)["encoders/local/primary/madeleine.html"]
    assert "Low risk: nobody; high risk: 40 events in 500; log-rank p –; hazard ratio –." in text
    assert text.count('class="curve high"') == 2
    assert 'class="curve low"' not in text


def test_calibration_stands_beside_the_curves_where_survival_was_predicted():
    document = board_document(boards=[make_board("local")])
    curves = document["boards"][0]["survival"]["tcga-os"]["madeleine"]
    groups = [
        {"n": 50, "events": 9, "predicted": 0.8, "observed": 0.82, "ci95": [0.7, 0.9]},
        {"n": 50, "events": 0, "predicted": 0.9, "observed": 1.0, "ci95": None},
        {"n": 50, "events": 4, "predicted": 0.95, "observed": None, "ci95": None},
    ]
    curves["calibration"] = {
        "day": 730, "groups": groups, "slope": 0.75, "slope_ci95": [0.5, 1.0],
        "observed_over_expected": 1.1, "observed_over_expected_ci95": None,
    }  # fmt: skip
    text = page_files(document)["encoders/local/primary/madeleine.html"]
    said = "Calibration slope 0.75 (95% 0.50 to 1.00); observed over expected events 1.10;"
    assert text.count(said) == 2  # the caption, and the drawing's own text
    drawing = re.search(r"<svg[^>]*><title>Calibration of madeleine.*?</svg>", text, re.DOTALL)
    assert drawing.group().count("<circle") == 2
    assert "at 2.0 years" in drawing.group()
    other = page_files(document)["encoders/local/primary/intra-ssl.html"]
    assert "Calibration" not in other


def test_a_case_without_a_label_is_counted_but_not_held_against_the_encoder(pages):
    text = html.unescape(pages["encoders/local/primary/stranger.html"])
    assert "<td>3 missing</td>" in text
    assert "43 missing" not in text
    assert "3 no features; 40 no label: empty" in text


def test_who_has_no_number_is_listed_as_unknown_and_nobody_else(pages):
    text = without_data(pages["index.html"]).split('<section class="board phantom"')[0]
    said = re.findall(r"<b>Unknown number of parameters</b>: ([^.]*)\.", text)
    assert said == ["stranger, case-id"]
    zero = re.findall(r"<b>None, so not on a log scale</b>: ([^.]*)\.", text)
    assert zero == ["mean-pool, max-pool, random-projection"]


def test_an_encoder_page_has_its_folds_hashes_and_provenance(document, pages):
    encoder = document["boards"][0]["encoders"][0]
    text = html.unescape(pages[f"encoders/local/primary/{encoder['slug']}.html"])
    for cell in encoder["cells"].values():
        for fold in cell["folds"]:
            assert f"<td>{number(fold['value'])}</td>" in text
        assert all(digest in text for digest in cell["hashes"].values())
        assert cell["record_id"] in text
    assert 'cpu: "made up"' in text


def test_a_task_page_has_every_score_and_the_published_numbers(document, pages):
    text = without_data(pages["tasks/local/primary/bcnb-er.html"])
    for encoder in document["boards"][0]["encoders"]:
        assert number(encoder["cells"]["bcnb-er"]["value"]) in text
        assert number(encoder["cells"]["bcnb-er"]["secondary"]["balanced-accuracy"]) in text
    assert "not recomputed" in text
    assert "0.818" in text
    other = without_data(pages["tasks/local/primary/tcga-os.html"])
    assert "None for this task" in other
    assert "Low risk: 40 events in 500; high risk: 40 events in 500" in other
    assert "log-rank p 0.012; hazard ratio 2.10 (95% 1.50 to 3.00)" in other


def test_the_page_of_a_task_has_its_title_counts_dataset_and_drops():
    document = board_document(boards=[make_board("local")])
    drop = {
        "encoder": "madeleine", "task": "bcnb-er", "trained_on": "tcga-er", "metric": "auroc",
        "internal": 0.9, "internal_ci95": [0.85, 0.95], "external": 0.8, "external_ci95": None,
        "drop": 0.1, "drop_ci95": None,
    }  # fmt: skip
    document["boards"][0]["external"] = [drop]
    pages = page_files(document)
    for task in ("bcnb-er", "tcga-er"):
        text = html.unescape(pages[f"tasks/local/primary/{task}.html"])
        assert f"<h1>The title of {task}</h1>" in text
        assert "<dd>negative 258, positive 800</dd>" in text
        assert "<dd>1,020; 1,058 slides</dd>" in text
        assert '<a href="https://example.org/data"' in text
        assert "<td>0.900</td><td>0.850 to 0.950</td><td>0.800</td><td>–</td>" in text
        assert "<b>+0.100</b>" in text
    other = pages["tasks/local/primary/tcga-os.html"]
    assert "External validation" not in other
    assert all(text in other for text in ("number at risk", ">230<", "probability of survival"))


def test_the_means_over_time_are_drawn_by_day_and_not_for_one_day():
    document = board_document(boards=[make_board("local")])
    assert "Means by the date of scoring" in page_files(document)["index.html"]
    for encoder in document["boards"][0]["encoders"]:
        encoder["made"] = "2026-11-30T10:00:00+00:00"
    text = page_files(document)["index.html"]
    assert "scored on one day, 2026-11-30" in text
    assert "scores up to 2026-11-30" in text


def test_contamination_is_marked_where_a_score_is_not_clean_and_unknown_is_not_clean(
    document, pages
):
    text = without_data(pages["index.html"])
    said = {"clean": 0, "contaminated": 0, "unknown": 0}
    for board in document["boards"]:
        for encoder in board["encoders"]:
            for cell in encoder["cells"].values():
                said[cell["contamination"]] += 1
    for state, times in said.items():
        assert times > 0
        shown = 0 if state == "clean" else times
        assert text.count(f'<span class="mark {state}">') == shown


def test_unranked_rows_stand_in_groups_of_their_own_with_their_reason(pages):
    text = without_data(pages["index.html"])
    table = text[text.index('data-table="main"') : text.index('data-table="heat"')]
    groups = dict(re.findall(r'<tbody data-group="(\w+)"[^>]*>(.*?)</tbody>', table, re.DOTALL))
    where = {
        label: key for key, body in groups.items()
        for label in re.findall(r'<a href="[^"]+">([^<]+)</a>', body)
    }  # fmt: skip
    assert where == {
        "madeleine": "ranked", "intra-ssl": "ranked", "stranger": "ranked", "mean-pool": "ranked",
        "max-pool": "ranked", "half-done": "incomplete", "said-so": "reported",
        "random-projection": "control", "case-id": "control",
    }  # fmt: skip
    assert "Not ranked: incomplete: 6 of 7 tasks" in groups["incomplete"]
    assert "Not ranked: V0: not recomputed" in groups["reported"]


def test_letters_stand_beside_the_ranked(pages):
    text = without_data(pages["index.html"]).split('data-table="heat"')[0]
    found = re.findall(r'<td data-col="letters"><span>([^<]+)', text)
    assert found == ["a", "a", "b", "b", "c", *["–"] * 4]


def test_published_rows_and_decisions_have_sections_of_their_own(pages):
    text = without_data(pages["index.html"])
    section = text[text.index('id="published"') : text.index('id="adjudications"')]
    assert "Published results, not recomputed" in section
    assert "0.664" in section
    assert '<a href="https://example.org/paper"' in section
    assert "Not accepted." in text[text.index('id="adjudications"') : text.index('id="legend"')]
    assert "None so far" in page_files(small(adjudications=[]))["index.html"]


def test_every_column_is_explained_in_the_legend(pages):
    text = without_data(pages["index.html"])
    about = set(re.findall(r'data-about="([^"]+)"', text))
    assert len(about) > 15
    for anchor in about:
        assert f'id="{anchor}"' in text


# ---- PHANTOM ------------------------------------------------------------------------------------


def test_a_phantom_says_so_once_at_the_top_and_in_the_title(pages):
    for name, page in html_of(pages):
        if "/phantom/" in name:
            assert "<title>PHANTOM" in page
            assert '<body class="phantom">' in page
            assert without_data(page).count("PHANTOM") == 2
        elif name != "index.html":
            assert "PHANTOM" not in page
    index = without_data(pages["index.html"])
    assert index.count("PHANTOM") == 2
    assert "real and PHANTOM boards" in index.split("</title>")[0]
    real, phantom = index.split('<section class="board phantom"')
    assert "<strong>PHANTOM</strong>: synthetic data." in phantom
    assert "synthetic data" not in real


def test_an_index_of_phantoms_alone_says_so_above_the_first_board():
    document = board_document(boards=[make_board("phantom", encoders=ENCODERS[:2])])
    index = without_data(page_files(document)["index.html"])
    assert "(PHANTOM) |" in index.split("</title>")[0]
    assert index.index("<strong>PHANTOM") < index.index('<section class="board')
    assert index.count("PHANTOM") == 2
    assert "PHANTOM" not in without_data(page_files(small())["index.html"])


# ---- hostile text -------------------------------------------------------------------------------


def hostile_document() -> dict[str, Any]:
    document = small()
    board = document["boards"][0]
    for encoder in board["encoders"]:
        for key in ("title", "description", "citation", "licence", "device", "revision"):
            encoder[key] = HOSTILE
        for cell in encoder["cells"].values():
            cell["method"] = cell["status"] = HOSTILE
            cell["provenance"] = {HOSTILE: HOSTILE}
            cell["missing"] = {HOSTILE: 1}
    for task in board["tasks"]:
        task["title"], task["stains"], task["citation"] = HOSTILE, [HOSTILE], "javascript:alert(1)"
    document["published"][0]["citation"] = f"javascript:alert(1) {HOSTILE}"
    document["published"][0]["encoder"] = HOSTILE
    document["adjudications"][0]["reason"] = HOSTILE
    return document


def test_hostile_text_is_escaped_everywhere():
    for name, page in html_of(page_files(hostile_document())):
        outside = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
        assert "<img" not in outside, name
        assert "alert(&#34;x&#34;)" in outside or "alert(\\&#34;x" in outside, name
        assert not re.search(r"""(href|src)\s*=\s*["']?\s*javascript""", page, re.IGNORECASE), name
        assert page.count("<script>") == (2 if name == "index.html" else 1), name


def test_the_data_block_cannot_be_left_and_is_still_the_data():
    page = page_files(hostile_document())["index.html"]
    block = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(block)
    board = json.loads(block)["boards"][0]
    assert board["encoders"][0]["title"] == HOSTILE
    assert board["tasks"][0]["stains"] == [HOSTILE]


def test_the_policy_lets_through_exactly_the_texts_of_the_page(pages):
    for name, page in html_of(pages):
        policy = html.unescape(
            re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[0]
        )
        texts = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
        assert sorted(re.findall(r"'sha256-[^']+'", policy)) == sorted(map(csp_hash, texts)), name
        assert ("'self'" in policy) == (name == "index.html")
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert not re.search(r'<[^>]+ (style|on\w+)="', without_data(page)), name


def test_nothing_in_a_page_names_another_host(pages):
    for name, page in pages.items():
        for tag in re.findall(r"<(?:link|script|img|iframe|source|use|object)\b[^>]*>", page):
            assert "http" not in tag.replace("http://www.w3.org/2000/svg", ""), name
        assert "url(" not in page.replace('url("data:', "").replace("url(data:", ""), name


@pytest.mark.parametrize(
    "slug",
    ["../up", "a/b", "", ".hidden", "A", "a b", "a\0", "ä", "x" * 121, "a\n", None, "con", "nul.1"],
)
def test_a_slug_that_cannot_name_a_file_is_refused(slug):
    document = small()
    document["boards"][0]["encoders"][0]["slug"] = slug
    with pytest.raises(InputError, match="cannot name a page"):
        page_files(document)


@pytest.mark.parametrize(("where", "name"), [("name", "../x"), ("protocol", "../../etc")])
def test_a_board_that_would_write_elsewhere_is_refused(where, name):
    document = small()
    document["boards"][0][where] = name
    with pytest.raises(InputError, match="cannot name a page"):
        page_files(document)


def test_a_task_id_that_cannot_name_a_file_is_refused():
    document = small()
    document["boards"][0]["tasks"][0]["id"] = "../index"
    with pytest.raises(InputError, match="task id"):
        page_files(document)


def test_two_encoders_with_one_slug_are_refused():
    document = small()
    for encoder in document["boards"][0]["encoders"]:
        encoder["slug"] = "same"
    with pytest.raises(InputError, match="share the name"):
        page_files(document)


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"package": float("nan")}])
def test_another_kind_of_document_is_refused(change):
    with pytest.raises(InputError, match="board document"):
        page_files(board_document(**change))


# ---- documents with little in them --------------------------------------------------------------

THIN = {
    "no board": [],
    "one encoder": [make_board("local", encoders=ENCODERS[:1])],
    "nobody ranked": [make_board("local", encoders=ENCODERS[5:])],
    "controls alone": [make_board("phantom", encoders=ENCODERS[7:])],
    "no encoder": [make_board("local", encoders=[])],
    "no survival": [make_board("local", tasks=TASKS[:4])],
}


@pytest.mark.parametrize("name", THIN)
def test_a_document_with_little_in_it_still_gives_its_pages(name):
    document = board_document(boards=THIN[name], published=[], adjudications=[])
    pages = page_files(document)
    encoders = sum(len(board["encoders"]) for board in THIN[name])
    tasks = sum(len(board["tasks"]) for board in THIN[name])
    assert len(pages) == 1 + 2 * encoders + tasks
    assert "None so far" in pages["index.html"]


def test_one_board_needs_no_switcher(pages):
    assert 'aria-label="Boards"' in pages["index.html"]
    assert 'aria-label="Boards"' not in page_files(small())["index.html"]


def test_a_control_beyond_the_axis_is_an_arrow_at_its_edge(pages):
    strips = re.findall(r'<svg[^>]*class="strip">.*?</svg>', pages["index.html"])
    assert sum('class="arrow"' in strip for strip in strips) >= 2
    for strip in strips:
        for x in re.findall(r'x1="([-\d.]+)"', strip):
            assert 0 <= float(x) <= 150


def test_a_page_of_who_left_does_not_stay_and_other_folders_are_let_alone(tmp_path):
    site = tmp_path / "site"
    before = write_site(small(), site)
    gone = next(p for p in before if p.parent.parent.parent.name == "encoders")
    stale = gone.with_name("left-the-board.html")
    stale.write_text("old")
    assert write_site(small(), site) == before
    assert not stale.exists()
    assert all(path.is_file() for path in before)
    (tmp_path / "mine" / "tasks").mkdir(parents=True)
    (tmp_path / "mine" / "tasks" / "a.html").write_text("mine")
    (tmp_path / "mine" / "index.html").write_text("<p>somebody's page</p>")
    with pytest.raises(InputError, match="no leaderboard"):
        write_site(small(), tmp_path / "mine")
    assert (tmp_path / "mine" / "tasks" / "a.html").read_text() == "mine"


def test_a_score_without_an_interval_says_why():
    document = board_document(boards=[make_board("local")])
    encoder = document["boards"][0]["encoders"][0]
    cell = next(iter(encoder["cells"].values()))
    cell |= {"ci95": None, "method": "too few cases for an interval: <7> of the rarest"}
    pages = page_files(document)
    assert '<small class="ci">too few cases for an interval</small>' in pages["index.html"]
    assert (
        "(too few cases for an interval)" in pages[f"encoders/local/primary/{encoder['slug']}.html"]
    )
    assert "&lt;7&gt;" in pages[f"encoders/local/primary/{encoder['slug']}.html"]

"""The hook of the site: where generated pages stand, and links that lead out of docs/."""

import re
from collections import Counter

import pytest
from mkdocs.config import load_config

import madeleine_bench
from tests.docs.page_commands import ROOT
from tests.docs.site_pages import generated_pages, inward_links, on_config, on_page_content


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("[examples/me](../examples/me)", "`examples/me`"),
        ("see [its card](../encoders/a.yaml).", "see its card (`encoders/a.yaml`)."),
        ("![ranks](../benchmarks/a.svg)", "![ranks](repository/benchmarks/a.svg)"),
        ("![a figure](figure.svg)", "![a figure](figure.svg)"),
        ("[page](data.md#splits)", "[page](data.md#splits)"),
        ("`[a](../b)`", "`[a](../b)`"),
        ("```\n[a](../b)\n```\n[b](../b)", "```\n[a](../b)\n```\n`b`"),
    ],
)
def test_links_lead_inward(markdown, expected):
    assert inward_links(markdown, "page.md") == expected


def test_links_between_folders_of_the_site_stay():
    link = "[bcnb](../cohorts/bcnb.md)"
    assert inward_links(link, "tasks/bcnb-er.md") == link
    assert inward_links("[code](../../a/b)", "tasks/bcnb-er.md") == "code (`a/b`)"


@pytest.mark.parametrize(
    ("marked", "typeset"),
    [
        (r'<span class="arithmatex">\(a &lt; b_1\)</span>', "<msub><mi>b</mi><mn>1</mn></msub>"),
        (r'<div class="arithmatex">\[\begin{split} a &amp;= b \end{split}\]</div>', "<mtable"),
    ],
)
def test_formulas_become_mathml(marked, typeset):
    content = on_page_content(marked)
    assert typeset in content
    assert "\\" not in content


def test_the_python_reference_holds_the_public_names():
    headings = re.findall(r"heading: mb\.(\w+),", generated_pages()["api/index.md"])
    assert sorted(headings) == sorted(madeleine_bench.__all__)


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [page for item in items for page in pages_of(item)]


def test_every_page_stands_in_the_navigation_once():
    config = on_config(load_config(str(ROOT / "mkdocs.yml")))
    written = [path.name for path in (ROOT / "docs").glob("*.md")]
    counted = Counter(pages_of(config.nav))
    assert {page for page, count in counted.items() if count > 1} == set()
    assert set(written) | set(generated_pages()) <= set(counted)


def test_the_site_has_no_remote_and_no_font_of_a_stranger():
    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.theme["font"] is False
    assert not config.repo_url
    assert not [script for script in config.extra["polyfills"] if "//" in script]

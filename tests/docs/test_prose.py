"""Words that the vocabulary replaces occur neither in the README and the docs nor in help texts."""

import re

import pytest

from madeleine_bench.cli.main import command
from tests.docs.page_commands import ROOT

VOCABULARY = ROOT / "docs" / "vocabulary.md"


def replaced_words():
    rows = [line.split("|")[1:-1] for line in VOCABULARY.read_text().splitlines() if "|" in line]
    heads = ("instead of", "---")
    cells = [row[-1].strip() for row in rows]
    return sorted(
        {word.strip() for cell in cells if not cell.startswith(heads) for word in cell.split(",")}
        - {""}
    )


def help_texts():
    waiting, texts = [command()], []
    while waiting:
        one = waiting.pop()
        texts += [one.help or "", *(getattr(option, "help", None) or "" for option in one.params)]
        waiting += getattr(one, "commands", {}).values()
    return texts


PATTERN = re.compile(r"\b(" + "|".join(map(re.escape, replaced_words())) + r")\b", re.IGNORECASE)
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path != VOCABULARY),
]


def found_in(text):
    return [match.group() for match in PATTERN.finditer(text)]


def test_the_vocabulary_is_read():
    assert {"passed over", "made here"} <= set(replaced_words())
    assert found_in("A slide is passed over, made\nhere.") == ["passed over"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_uses_the_terms_of_the_vocabulary(page):
    plain = " ".join(page.read_text().split())
    assert found_in(plain) == []


def test_the_leaderboard_page_uses_the_terms_of_the_vocabulary():
    page = ROOT / "madeleine_bench" / "leaderboard" / "page"
    for path in [*sorted((page / "templates").iterdir()), page / "board.js"]:
        assert found_in(" ".join(path.read_text().split())) == [], path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_has_no_marks_of_an_unfinished_merge(page):
    lines = page.read_text().splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<<", ">>>>>>>", "======="))]


def test_help_uses_the_terms_of_the_vocabulary():
    assert [found_in(text) for text in help_texts() if found_in(text)] == []


def test_summaries_of_commands_fit_80_columns():
    waiting = [(command(), "")]
    while waiting:
        one, name = waiting.pop()
        for sub_name, sub in getattr(one, "commands", {}).items():
            waiting.append((sub, sub_name))
        summary = (one.help or "").partition("\n")[0]
        longest = 80 - 2 - len("phantom-slides") - 2
        assert len(summary) <= longest, f"{name}: {summary}"

"""The size of the package has a budget; docs/architecture.md has the table of its results."""

import json

import pytest

from benchmarks.package_size import BEGIN, END, PAGE, RESULTS, ROOT, code_lines, measure, table

# Later work may raise this only with a line of CHANGELOG.md that says what for.
MOST_CODE_LINES = 26_800


def test_the_package_keeps_to_its_budget():
    sizes = measure(ROOT / "madeleine_bench")
    lines = sizes["total"]["code lines"]
    largest = sorted(sizes, key=lambda room: -sizes[room]["code lines"])[1:4]
    assert lines <= MOST_CODE_LINES, f"largest rooms: {', '.join(largest)}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ('"""Doc."""\n', 0),
        ("# why\n\nx = 1  # what\n", 1),
        ('def f():\n    """Doc.\n\n    More.\n    """\n    return """two\nlines"""\n', 3),
    ],
)
def test_code_lines_are_counted_without_blanks_comments_and_docstrings(text, lines):
    assert code_lines(text) == lines


def test_counts_of_a_small_package(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "__init__.py").write_text('VERSION = "1"\n')
    (room / "a.py").write_text(
        "@dataclass(frozen=True)\nclass A:\n    x: int\n\n    def f(self):\n        pass\n\n\n"
        "def _g():\n    pass\n\n\ny: int = 1\n"
    )
    sizes = measure(tmp_path)
    assert list(sizes["(top)"].values()) == [1, 1, 0, 1, 0]
    assert list(sizes["room"].values()) == [8, 1, 1, 2, 2]
    assert list(sizes["total"].values()) == [9, 2, 1, 3, 2]


def test_the_page_has_the_table_of_the_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip() == table(results)

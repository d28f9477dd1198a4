"""The notebooks run, print what is stored in them, and say nothing that only one machine knows."""

import re

import pytest

from tests.docs.notebooks import NOTEBOOKS, executed, notebook_page, outputs, printed, read

NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]\d+)?")
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def parts(text: str) -> tuple[list[str], list[float]]:
    """The words of a text, and its numbers; how a table is padded hangs on their signs."""
    plain = text.replace("\u2212", "-").replace(",", "")
    return NUMBER.sub("#", plain).split(), [float(number) for number in NUMBER.findall(plain)]


@pytest.mark.slow
@notebooks
def test_a_notebook_prints_what_is_stored_in_it(path, tmp_path):
    stored, now = printed(read(path)), printed(executed(path, tmp_path))
    assert len(now) == len(stored)
    for new, old in zip(now, stored, strict=True):
        (words, numbers), (expected_words, expected) = parts(new), parts(old)
        assert words == expected_words
        assert numbers == pytest.approx(expected, abs=1e-6)


@notebooks
def test_a_notebook_is_short_complete_and_of_no_machine(path):
    notebook = read(path)
    assert len(notebook.cells) <= 25
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for text in printed(notebook):
        assert not re.search(r"/(?:home|root|tmp|work|Users)/|\x1b|\d (?:s|seconds)\b", text), text
    figures = [n for n, output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert figures
    assert all(notebook.cells[number].metadata["alt"] for number in figures)


@notebooks
def test_the_page_of_a_notebook_has_its_text_code_outputs_and_figures(path):
    page = notebook_page(path)
    assert page.startswith("# ")
    assert f"[Download this notebook]({path.name})" in page
    assert "](data:image/png;base64," in page
    assert "import madeleine_bench as mb" in page
    assert "<style" not in page
    assert ".ipynb)" not in page.replace(f"({path.name})", "")


def test_a_number_that_moved_is_seen_and_padding_is_not():
    assert parts("a  0.50 b") == parts("a 0.50\nb")
    assert parts("p = 0.50")[1] != parts("p = 0.51")[1]
    assert parts("95% CI \u22120.1 to +1,578") == (
        ["#%", "CI", "#", "to", "#"],
        [95.0, -0.1, 1578.0],
    )

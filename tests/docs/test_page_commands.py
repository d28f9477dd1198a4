"""How commands and files are read off a page."""

import pytest

from tests.docs.page_commands import pages, steps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```bash\nmbench a \\\n  --b\n# why\nls x\n```", ["mbench a --b", "ls x"]),
        ("```console\n$ mbench a\nmbench says\n```", ["mbench a"]),
        ("```\nmbench a  # so\nwhat it says\n```", ["mbench a  # so"]),
        ("    mbench a\n    mbenched", ["mbench a"]),
        ("```text\nmbench a\n```\n```toml\nmbench = 1\n```", []),
        ("- it\n\n  ```bash\n  mbench a\n  ```", ["mbench a"]),
    ],
)
def test_commands(text, expected, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text + "\n")
    assert [step.text for step in steps(page)] == expected


def test_a_mark_holds_for_one_fence_and_a_title_is_a_file(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: a GPU -->\n```bash\nmbench a\nmbench b\n```\n"
        '```toml title="x.toml"\na = 1\n```\n```bash\nmbench c\n```\n'
    )
    found = [(step.text, step.file, step.not_run) for step in steps(page)]
    assert found == [
        ("mbench a", "", "a GPU"), ("mbench b", "", "a GPU"), ("a = 1\n", "x.toml", ""),
        ("mbench c", "", ""),
    ]  # fmt: skip


def test_the_pages_of_a_newcomer_have_commands():
    found = {
        page.name: [s for s in steps(page) if not s.file and not s.not_run] for page in pages()
    }
    for name in ("quickstart.md", "bring-your-data.md", "add-an-encoder.md", "read-the-board.md"):
        assert len(found[name]) >= 3

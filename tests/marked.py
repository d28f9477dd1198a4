"""Tables that a program writes into a page of docs, between two marks."""

from pathlib import Path


def read_marked(page: Path, name: str) -> str:
    """Return what a page shows between the marks of a name."""
    return _parts(page, name)[1]


def write_marked(page: Path, name: str, made: str) -> None:
    """Put text between the marks of a name."""
    before, _, after = _parts(page, name)
    page.write_text(before + made + after, encoding="utf-8")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    shown, after = rest.split(end)
    return before + begin, shown, end + after

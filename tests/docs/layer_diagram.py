"""The packages and who imports whom: a drawing and a table, from the code and its contract."""

import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "madeleine_bench"
WIDTH, ROW, BOX, HEIGHT = 860, 74, 116, 34


def layers() -> list[list[str]]:
    """The layers of the import contract in pyproject.toml, from the top down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [c for c in contracts["contracts"] if c["type"] == "layers"]
    return [[name.strip() for name in line.split("|")] for line in contract["layers"]]


@cache
def imports() -> Counter[tuple[str, str]]:
    """How many modules of one part import how many of another, counted as single imports."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            pair = (_part(module), _part(target))
            if all(pair) and pair[0] != pair[1]:
                found[pair] += 1
    return found


def diagram() -> str:
    """An SVG for the page: one row a layer, a line for each pair of parts, thicker for more."""
    places = {
        part: (WIDTH * (column + 1) / (len(row) + 1), 28 + ROW * line)
        for line, row in enumerate(layers())
        for column, part in enumerate(row)
    }
    lines = [
        f'<path d="M{x:.0f} {y + HEIGHT / 2:.0f} C{x:.0f} {y + 50:.0f} {p:.0f} {q - 50:.0f} '
        f'{p:.0f} {q - HEIGHT / 2:.0f}" stroke-width="{min(5, 0.6 + count / 8):.1f}"/>'
        for (upper, lower), count in sorted(imports().items())
        for (x, y), (p, q) in [(places[upper], places[lower])]
    ]
    boxes = [
        f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" '
        f'rx="6"/><text x="{x:.0f}" y="{y + 5:.0f}">{part}</text>'
        for part, (x, y) in places.items()
    ]
    height = 28 + ROW * (len(layers()) - 1) + HEIGHT
    return (
        f'<svg class="layers" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The layers of '
        f'the package, and which part imports which; the table below says the same">'
        f"<g>{''.join(lines)}</g>{''.join(boxes)}</svg>"
    )


def table() -> str:
    """The same in words, as Markdown."""
    rows = ["| part | imports |", "| --- | --- |"]
    for part in (part for row in layers() for part in row):
        to = sorted((t, n) for (f, t), n in imports().items() if f == part)
        rows.append(f"| `{part}` | {', '.join(f'`{t}` ({n})' for t, n in to) or 'nothing'} |")
    return "\n".join(rows)


def _part(module: str) -> str:
    """The part of the package that a module belongs to; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]

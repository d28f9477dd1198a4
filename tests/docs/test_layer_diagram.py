"""The drawing of the imports shows what the code does and the contract allows."""

import re
from itertools import chain

from tests.docs.layer_diagram import diagram, imports, layers, table


def test_every_part_is_drawn_once_and_every_import_is_a_line():
    parts = list(chain.from_iterable(layers()))
    drawn = diagram()
    assert re.findall(r"<text[^>]*>([^<]+)</text>", drawn) == parts
    assert drawn.count("<path ") == len(imports()) > len(parts)
    for (upper, lower), count in imports().items():
        row = next(line for line in table().splitlines() if line.startswith(f"| `{upper}` |"))
        assert f"`{lower}` ({count})" in row


def test_lines_lead_down():
    row = {part: number for number, line in enumerate(layers()) for part in line}
    assert all(row[upper] < row[lower] for upper, lower in imports())


def test_known_imports_are_there():
    assert ("cli", "specs") in imports()
    assert ("pretrain", "protocols") not in imports()

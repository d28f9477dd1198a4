"""What a command found, in one form: tables to read, numbers as JSON, and charts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from madeleine_bench.errors import MbenchError

PHANTOM_NOTICE = (
    "PHANTOM: synthetic data. It shows that code works, not that a method helps patients."
)


def sorted_json(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with sorted keys, ending in a newline."""
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; an empty title prints none."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """What a command found; the command line prints it, writes it and raises its problem.

    Attributes:
        document: every number, ready for JSON.
        body: what a person reads, in order; a string is a paragraph.
        charts: Altair charts, or drawings as SVG, by file name without ending; each is written as
            SVG and PNG.
        texts: further files by name, such as a Markdown report.
        problem: raised once all is printed and written, such as a failed check.
    """

    document: Mapping[str, Any]
    body: Sequence[Table | str]
    charts: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    problem: MbenchError | None = None

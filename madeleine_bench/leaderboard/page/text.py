"""Text of the pages: numbers and states as a reader sees them, and hostile text made harmless."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows

_SLUG = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,119}")
_LINK = re.compile(r"(https?://[^\s<>\"'`{}|\\^]*[^\s<>\"'`{}|\\^.,;:)\]])")
_ANCHOR = Markup('<a href="{0}" rel="noopener noreferrer external">{0}</a>')
NONE, MINUS = "\u2013", "\u2212"

# What a reader sees for a name of the vocabulary; all other names are plain words. Contamination is
# a mark and a word, so that neither colour nor shape is alone.
NAMES = {
    "clean": "\u25cb clean",
    "contaminated": "\u25b2 contaminated",
    "unknown": "? unknown",
    "none": "computed locally",
    "V0": "V0 reported only",
    "V1": "V1 recomputed",
    "V2": "V2 spot re-encoded",
    "V3": "V3 reproduced",
    "auroc": "AUROC",
    "harrell-c": "Harrell's C",
    "uno-c": "Uno's C",
    "td-auc": "time-dependent AUC",
    "logrank-p": "log-rank p",
    "macro-f1": "macro F1",
    "quadratic-kappa": "quadratic kappa",
    "ihc-quantification": "IHC quantification",
}


@cache
def page_file(name: str) -> str:
    """Return the text of a file of this package: a style, a script, a template."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a true minus sign; a dash where there is none.

    Examples:
        >>> number(0.8125), number(None), number(2, 1)
        ('0.812', '–', '2.0')
    """
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign.

    Examples:
        >>> signed(0.06), signed(-0.0001)
        ('+0.060', '0.000')
    """
    if value is None:
        return NONE
    text = number(value, digits)
    return f"+{text}" if float(f"{value:.{digits}f}") > 0 else text


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """Return an interval as text, low end first.

    Examples:
        >>> interval([0.1, 0.25])
        '0.100 to 0.250'
    """
    return NONE if ends is None else " to ".join(number(end, digits) for end in ends)


def score_interval(cell: dict[str, Any]) -> str:
    """Return the interval of a score, or why it has none.

    Examples:
        >>> score_interval({"ci95": None, "method": "too few cases for an interval: 7 of ..."})
        'too few cases for an interval'
    """
    if cell["ci95"] is not None:
        return interval(cell["ci95"])
    return str(cell["method"]).partition(":")[0][:40]


def p_value(value: float | None) -> str:
    """Return a p value to three digits, never as zero.

    Examples:
        >>> p_value(0.00001), p_value(0.0312)
        ('<0.001', '0.031')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Return a count with groups of thousands; "unknown" where nobody counted."""
    return "unknown" if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """Return a number of parameters as 5.0 M; "unknown" where nobody counted."""
    if value is None:
        return "unknown"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def seconds(value: float | None) -> str:
    """Return seconds to three significant digits; "unknown" where nobody measured."""
    return "unknown" if value is None else f"{value:.3g} s"


def tally(states: Iterable[str]) -> list[str]:
    """Return how often each contamination occurs, the worst first."""
    counts = Counter(states)
    return [f"{NAMES[s]}: {counts[s]}" for s in ("contaminated", "unknown", "clean") if counts[s]]


def words(name: object) -> str:
    """Return a name of the vocabulary as words: molecular-status -> molecular status."""
    return NAMES.get(str(name), str(name).replace("-", " "))


def names(labels: Sequence[str], most: int = 20) -> str:
    """Return labels in one line; of very many the first, and how many more there are.

    Examples:
        >>> names(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    more = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {more} more" if more > 0 else "")


def checked_slug(text: object, what: str) -> str:
    """Return the text if it can name a file on any system.

    Raises:
        InputError: it is not made of [a-z0-9._-], starts with a dot, is too long, or Windows
            reserves it.

    Examples:
        >>> checked_slug("bcnb-er", "task id")
        'bcnb-er'
    """
    if isinstance(text, str) and _SLUG.fullmatch(text) and not reserved_on_windows(text):
        return text
    raise InputError(
        f"the {what} {text!r} cannot name a page: use a-z, 0-9, '.', '_' and '-', "
        "not starting or ending with a dot, at most 120 characters, and no name that Windows "
        "reserves, such as con"
    )


def script_json(value: Any) -> Markup:
    """Return a value as JSON that cannot leave a `<script type="application/json">`."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # what could end the block; JSON in ASCII has no odd line ends
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def csp_hash(text: str) -> str:
    """Return the source expression that lets exactly this inline style or script through."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def content_policy(style: str, scripts: Sequence[str], beside: str = "") -> str:
    """Return a policy under which a page runs only these inline texts, and scripts `beside` it."""
    allowed = " ".join(csp_hash(script) for script in scripts)
    return (
        f"default-src 'none'; style-src {csp_hash(style)}; script-src {allowed}{beside}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def fold_rows(folds: Iterable[dict[str, Any]]) -> Markup:
    """Return the folds of a score as rows of a table; a template takes four times as long."""
    rows = []
    for fold in folds:
        key = " ".join(f"{name} {place}" for name, place in fold["key"].items())
        remark = " ".join(filter(None, (fold["reason"], fold["flag"])))
        converged = "yes" if fold["converged"] else "no"
        cells = number(fold["value"]), fold["n_train"], fold["n_test"], converged, remark
        texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(key)}</th>{texts}</tr>')
    return Markup("".join(rows))


def linked(text: object) -> Markup:
    """Return text with its http and https addresses as links; other schemes stay text."""
    parts = enumerate(_LINK.split(str(text)))  # every second part is an address
    return Markup("").join(_ANCHOR.format(p) if i % 2 else escape(p) for i, p in parts)


def pretty(value: dict[str, Any]) -> str:
    """Return a mapping as a reader sees it, one key a line.

    Examples:
        >>> print(pretty({"cpus": 2, "cpu": "EPYC"}))
        cpu: "EPYC"
        cpus: 2
    """
    lines = sorted(value.items())
    return "\n".join(
        f"{key}: {json.dumps(each, sort_keys=True, ensure_ascii=False)}" for key, each in lines
    )

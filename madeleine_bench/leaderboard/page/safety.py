"""Everything in a board document is hostile text: slugs, links, and JSON inside HTML."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows

_SLUG = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,119}")
_LINK = re.compile(r"https?://[^\s<>\"'`{}|\\^]+")
# What could end a <script> block or break a line of JavaScript, as JSON escapes.
_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


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


def protocol_slug(protocol: object) -> str:
    """Return a board's protocol as a folder name: few-shot/v1 -> few-shot-v1."""
    return checked_slug(str(protocol).replace("/", "-"), "protocol")


def script_json(value: Any) -> Markup:
    """Return a value as JSON that cannot leave a `<script type="application/json">`."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_IN_SCRIPT))


def csp_hash(text: str) -> str:
    """Return the source expression that lets exactly this inline style or script through."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def content_policy(style: str, scripts: Sequence[str]) -> str:
    """Return a policy under which a page loads nothing, and runs only these inline texts."""
    allowed = " ".join(csp_hash(script) for script in scripts)
    return (
        f"default-src 'none'; style-src {csp_hash(style)}; script-src {allowed}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def linked(text: object) -> Markup:
    """Return text with its http and https addresses as links; other schemes stay text."""
    source, parts, end = str(text), [], 0
    for match in _LINK.finditer(source):
        address = match.group().rstrip(".,;:)]")
        parts += [escape(source[end : match.start()]), _anchor(address)]
        end = match.start() + len(address)
    return Markup("").join([*parts, escape(source[end:])])


def _anchor(address: str) -> Markup:
    return Markup('<a href="{0}" rel="noopener noreferrer external">{0}</a>').format(address)

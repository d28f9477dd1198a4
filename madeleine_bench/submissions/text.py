"""Text from a stranger made inert: for a terminal, and for Markdown that becomes HTML."""

import unicodedata

_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "`": "'", "|": "¦", "@": "＠"})


def plain(text: str, most: int = 200) -> str:
    r"""Return text on one line without control characters, cut to a length.

    Control and format characters (escape sequences of terminals, marks that turn the direction of
    writing) become spaces, so that what is printed is what is read.

    Examples:
        >>> plain("a\x1b[31mb\nc")
        'a [31mb c'
    """
    kept = "".join(" " if _hidden(character) else character for character in text[: most + 1])
    return kept[:most] + "..." if len(text) > most else kept


def _hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")


def shown(text: str, most: int = 80) -> str:
    r"""Return text in quotes for a message, ASCII alone.

    Examples:
        >>> shown("../é")
        "'../\\xe9'"
    """
    quoted = ascii(text[:most])
    return quoted + "..." if len(text) > most else quoted


def inert(text: str, most: int = 120) -> str:
    """Return text as a code span of Markdown: no markup, HTML, link, picture or mention works.

    Inside a code span Markdown reads nothing. Angle brackets, backticks, bars and @ are replaced
    by characters that look alike, so the span cannot be left, a table cell cannot be ended, and
    the text stays inert where somebody pastes it without the span.

    Examples:
        >>> inert("<script>alert(1)</script> @all `x` | ![](http://a/b)")
        "`‹script›alert(1)‹/script› ＠all 'x' ¦ ![](http://a/b)`"
        >>> inert("")
        '`(empty)`'
    """
    cleaned = plain(text, most).translate(_LOOKALIKES).strip()
    return f"`{cleaned or '(empty)'}`"

"""A new encoder, ready to run: card, class, test and what to do next."""

import re
from pathlib import Path

from madeleine_bench.encoders.registry import shipped_encoders
from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows, write_text

_TEMPLATES = Path(__file__).parent / "scaffold"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MOST = 64


def new_encoder(name: str, parent: Path) -> Path:
    """Write the files of a new encoder to a folder of its name and return its card.

    Raises:
        InputError: the name cannot be one of an encoder or is taken, or the folder is there.
    """
    if not _NAME.fullmatch(name) or len(name) > _MOST:
        hint = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST]
        raise InputError(
            f"{name[:80]!r} cannot name an encoder: lower-case letters and digits, in words joined "
            f"by single hyphens, at most {_MOST}" + (f"; say, {hint}" if hint else "")
        )
    if reserved_on_windows(name):
        raise InputError(f"'{name}' cannot name an encoder: Windows reserves it; choose another")
    if name in shipped_encoders():
        raise InputError(f"'{name}' is an encoder of madeleine-bench; choose another name")
    folder = parent / name
    if folder.exists():
        raise InputError(f"{folder} is there already; choose another name or another --folder")
    for template in sorted(_TEMPLATES.glob("*.template")):
        text = template.read_text(encoding="utf-8")
        filled = text.replace("@NAME@", name).replace("@CLASS@", class_name(name))
        write_text(folder / template.stem, filled)
    return folder / "card.yaml"


def class_name(name: str) -> str:
    """Return the name of the class of an encoder.

    Examples:
        >>> [class_name(n) for n in ("my-net", "2d-net", "none")]
        ['MyNetEncoder', 'Encoder2dNet', 'NoneEncoder']
    """
    words = "".join(word.capitalize() for word in name.split("-"))
    return f"Encoder{words}" if words[0].isdigit() else f"{words}Encoder"

"""Text and files of third parties: JSON, YAML and safetensors read as data, text made inert.

The libraries parse. What they let through is refused here: keys that stand twice, NaN and infinity,
deep nesting, and in YAML aliases, tags and dates.
"""

import json
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import safetensors
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import canonical_json, hash_array

MAX_DEPTH = 32
MAX_YAML_EVENTS = 5_000
MAX_HEADER = 4 * 1024 * 1024
MAX_DIM = 16_384
MAX_ID = 200
_KEY = "madeleine_bench"
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


def parse_json(data: bytes, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        InputError: it is not JSON in UTF-8, is nested deeper than 32, repeats a key, or holds NaN,
            infinity, a number too long to read or half of a surrogate pair.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
        if _depth(value) > MAX_DEPTH:
            raise RecursionError
        canonical_json(value).encode()  # refuses NaN, infinity and half of a surrogate pair
    except RecursionError as error:
        raise InputError(f"{where}: not strict JSON: nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise InputError(f"{where}: not strict JSON: {shown(str(error), 160)}") from error
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(mapping := dict(pairs)) < len(pairs):
        raise ValueError(f"the key '{_repeated(key for key, _ in pairs)}' stands twice")
    return mapping


def _repeated(words: Any) -> str:
    return str(Counter(words).most_common(1)[0][0])


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


def parse_yaml(data: bytes, where: str) -> dict[str, Any]:
    """Return the mapping of a YAML 1.2 text, of plain values alone.

    Aliases are refused: nine lines of them can stand for a billion values.

    Raises:
        InputError: it is not YAML in UTF-8, has an anchor, an alias or a tag, is nested deeper
            than 32, is long, or its top level is no mapping from text to plain values.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        text = data.decode("utf-8")
        depth = 0
        for number, event in enumerate(yaml.parse(text)):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if number >= MAX_YAML_EVENTS or depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_YAML_EVENTS} parts, or nested too deep")
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise ValueError("anchors, aliases and tags (&, * and !) are not read in a bundle")
        value = json.dumps(yaml.load(text), allow_nan=False)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise InputError(f"{where}{line}: not valid YAML: {shown(str(reason))}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: not plain YAML: {shown(str(error))}") from error
    mapping = parse_json(value.encode(), where)
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: expected keys and values, found {type(mapping).__name__}")
    return mapping


def parse_safetensors(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors of a safetensors file as the library describes them, and its metadata.

    Raises:
        InputError: it is none, its header has more than 4 MiB, or a tensor stands twice in it.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        if size > MAX_HEADER:
            raise ValueError(f"its header has {size:,} bytes, and may have {MAX_HEADER:,}")
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError) as error:
        reason = shown(str(error), 160)
        raise InputError(
            f"{where}: not a safetensors file ({reason}). Is it a pickle under another name?"
        ) from error
    # The library reads a header in which a tensor stands twice.
    header = parse_json(data[8 : 8 + size], f"{where}, header")
    return tensors, header.get("__metadata__") or {}


def parse_embeddings(data: bytes, where: str) -> tuple[Embeddings, str]:
    """Return the embeddings of a safetensors file, and the content hash that the file claims.

    Ids are in their normal form (`canonical_id`).

    Raises:
        InputError: it is no safetensors file with one float32 matrix `embeddings`, one row for
            each id, all finite; or an id stands twice.
    """
    tensors, metadata = parse_safetensors(data, where)
    kinds = {name: tensor["dtype"] for name, tensor in tensors.items()}
    if kinds != {"embeddings": "F32"}:
        raise InputError(
            f"{where}: expected one tensor, 'embeddings', which must be float32; found "
            f"{shown(str(kinds))}"
        )
    ids, stated = _ids(metadata, where)
    shape = tensors["embeddings"]["shape"]
    if len(shape) != 2 or shape[0] != len(ids) or not 1 <= shape[1] <= MAX_DIM or not ids:
        raise InputError(
            f"{where}: the matrix is {shape} for {len(ids)} ids; expected one row for each id and "
            f"1 to {MAX_DIM:,} columns"
        )
    matrix = (
        np.frombuffer(tensors["embeddings"]["data"], dtype="<f4").astype(np.float32).reshape(shape)
    )
    if (broken := ~np.isfinite(matrix).all(axis=1)).any():
        first = shown(ids[int(np.argmax(broken))])
        raise InputError(
            f"{where}: {int(broken.sum())} row(s) hold NaN or infinity, first slide {first}"
        )
    # The hash is of the ids as they are written, as the file claims it.
    return Embeddings(tuple(map(canonical_id, ids)), matrix, hash_array(ids, matrix)), stated


def _ids(metadata: dict[str, str], where: str) -> tuple[tuple[str, ...], str]:
    """Return the ids of the rows, and the content hash that the file states."""
    if _KEY not in metadata:
        raise InputError(f"{where}: its metadata has no '{_KEY}' with the ids of the rows")
    match parse_json(metadata[_KEY].encode(), f"{where}, metadata"):
        case {"ids": [*ids], "hash": str(stated), **more} if not more and all(map(_is_id, ids)):
            spellings = [canonical_id(i) for i in ids]
        case _:
            raise InputError(
                f"{where}: metadata '{_KEY}' must hold alone the ids, a list of texts of which "
                f"none is empty, not printable or longer than {MAX_ID} characters, and the hash "
                "of the content, a text"
            )
    if len(set(spellings)) < len(ids):
        raise InputError(f"{where}: the id {shown(_repeated(spellings))} stands twice")
    return tuple(ids), stated


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()

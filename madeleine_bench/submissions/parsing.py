"""JSON, YAML and safetensors from a stranger, read as data: strict, bounded, nothing is run."""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import canonical_json, hash_array
from madeleine_bench.submissions.text import shown

MAX_DEPTH = 32
MAX_YAML_EVENTS = 5_000
MAX_HEADER = 4 * 1024 * 1024
MAX_DIM = 16_384
MAX_ROWS = 200_000
MAX_ID = 200
_KEY = "madeleine_bench"


def parse_json(data: bytes, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        InputError: it is not JSON in UTF-8, is nested deeper than 32, repeats a key, or holds NaN,
            infinity, a number too long to read or half of a surrogate pair.
    """
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        canonical_json(value).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not strict JSON: {shown(str(error), 160)}") from error
    return value


def parse_yaml(data: bytes, where: str) -> dict[str, Any]:
    """Return the mapping of a YAML 1.2 text, of plain values alone.

    Aliases are refused: nine lines of them can stand for a billion values.

    Raises:
        InputError: it is not YAML in UTF-8, has an anchor, an alias or a tag, is nested deeper
            than 32, is long, or its top level is no mapping from text to plain values.
    """
    try:
        text = data.decode("utf-8")
        _check_events(text)
        value = YAML(typ="safe", pure=True).load(text)
        plain = parse_json(json.dumps(value, allow_nan=False).encode(), where)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise InputError(f"{where}{line}: not valid YAML: {shown(str(reason))}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: not plain YAML: {shown(str(error))}") from error
    if not isinstance(plain, dict):
        raise InputError(f"{where}: expected keys and values, found {type(plain).__name__}")
    return plain


def parse_embeddings(data: bytes, where: str) -> tuple[Embeddings, str]:
    """Return the embeddings of a safetensors file, and the content hash that the file claims.

    Ids are in their normal form (`canonical_id`).

    Raises:
        InputError: it is no safetensors file with one float32 matrix `embeddings`, one row for
            each id, all finite; or an id stands twice.
    """
    header, body = safetensors_header(data, where)
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    if set(tensors) != {"embeddings"}:
        raise InputError(f"{where}: expected one tensor, 'embeddings'; found {len(tensors)} others")
    tensor = tensors["embeddings"]
    if tensor["dtype"] != "F32":
        raise InputError(f"{where}: the matrix is {shown(tensor['dtype'])}; it must be float32")
    ids, claimed = _ids(header, where)
    shape = tensor["shape"]
    if len(shape) != 2 or shape[0] != len(ids) or not 1 <= shape[1] <= MAX_DIM or not ids:
        raise InputError(
            f"{where}: the matrix is {shape} for {len(ids)} ids; expected one row for each id and "
            f"1 to {MAX_DIM:,} columns"
        )
    matrix = np.frombuffer(body, dtype="<f4").astype(np.float32).reshape(shape)
    if (broken := ~np.isfinite(matrix).all(axis=1)).any():
        row = int(np.flatnonzero(broken)[0])
        raise InputError(
            f"{where}: {int(broken.sum())} row(s) hold NaN or infinity, first slide "
            f"{shown(ids[row])}"
        )
    # The hash is of the ids as they are written, as the file claims it.
    return Embeddings(tuple(map(canonical_id, ids)), matrix, hash_array(ids, matrix)), claimed


def safetensors_header(data: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file and its body, every length checked before use.

    Raises:
        InputError: it is none: a length does not fit, tensors overlap or leave gaps.
    """
    fault = f"{where}: not a safetensors file"
    if len(data) < 8:
        raise InputError(f"{fault}: {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER, len(data) - 8):
        raise InputError(
            f"{fault}: it says that its header has {length:,} bytes; the file has {len(data):,} "
            f"and a header may have {MAX_HEADER:,}. Is it a pickle under another name?"
        )
    header = parse_json(data[8 : 8 + length], f"{where}, header")
    if not isinstance(header, dict):
        raise InputError(f"{fault}: its header is no object")
    body = data[8 + length :]
    end = 0
    for name, start, stop in sorted(
        (_place(name, value, fault) for name, value in header.items() if name != "__metadata__"),
        key=lambda place: place[1:],
    ):
        if start != end:
            raise InputError(f"{fault}: tensor {shown(name)} does not begin where the last ends")
        end = stop
    if end != len(body):
        raise InputError(f"{fault}: its tensors take {end:,} bytes, the file has {len(body):,}")
    return header, body


_WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}


def _place(name: str, value: Any, fault: str) -> tuple[str, int, int]:
    """Return the name of a tensor and where its bytes lie, checked against its shape."""
    named = f"{fault}: tensor {shown(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{named} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    whole = all(
        isinstance(part, list) and all(type(n) is int and 0 <= n < 2**48 for n in part)
        for part in (shape, offsets)
    )
    if not whole or len(offsets) != 2 or len(shape) > 8 or not isinstance(dtype, str):
        raise InputError(f"{named} has no usable dtype, shape or data_offsets")
    if dtype not in _WIDTH or offsets[1] - offsets[0] != math.prod(shape) * _WIDTH[dtype]:
        raise InputError(f"{named}: its shape and its bytes do not agree")
    return name, offsets[0], offsets[1]


def _ids(header: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], str]:
    metadata = header.get("__metadata__")
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{where}: its metadata has no '{_KEY}' with the ids of the rows")
    content = parse_json(text.encode(), f"{where}, metadata")
    if not isinstance(content, dict) or set(content) != {"ids", "hash"}:
        raise InputError(f"{where}: metadata '{_KEY}' must hold 'ids' and 'hash' alone")
    ids = content["ids"]
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise InputError(f"{where}: the ids must be a list of texts")
    if len(ids) > MAX_ROWS or not all(0 < len(i) <= MAX_ID and i.isprintable() for i in ids):
        raise InputError(
            f"{where}: an id is empty, longer than {MAX_ID} characters or not printable, or there "
            f"are more than {MAX_ROWS:,}"
        )
    spellings = Counter(map(canonical_id, ids))
    if len(spellings) < len(ids):
        (twice, _), *_ = spellings.most_common(1)
        raise InputError(f"{where}: the id {shown(twice)} stands twice")
    if not isinstance(content["hash"], str):
        raise InputError(f"{where}: the hash of the content must be a text")
    return tuple(ids), content["hash"]


# A string, closed or not (so that each character is looked at once), or a bracket outside of one.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text: str) -> None:
    """Raise ValueError for JSON nested too deep, before a recursive parser sees it."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group()[:1], 0)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _check_events(text: str) -> None:
    """Raise ValueError for YAML with aliases or tags, too deep or too long, before it is built."""
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text), start=1):
        if count > MAX_YAML_EVENTS:
            raise ValueError(f"more than {MAX_YAML_EVENTS} parts")
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("anchors and aliases (& and *) are not read in a bundle")
        if isinstance(event, NodeEvent) and getattr(event, "tag", None) is not None:
            raise ValueError("tags (!) are not read in a bundle")
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key '{twice}' stands twice")
    return found


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word} is too large")
    return number

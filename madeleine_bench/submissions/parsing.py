"""Files of third parties: zip, JSON, YAML and safetensors read as data, and text made inert.

Nothing is written or run. The libraries parse; what they let through is refused here: keys that
occur twice, NaN and infinity, deep nesting, in YAML aliases, tags and dates. Of a zip nothing is
believed that it says of itself: its directory is checked before zipfile reads it, name and kind of
each member before it is opened, and sizes are counted while the bytes stream.
"""

import io
import json
import re
import stat
import struct
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.embeddings.store import Embeddings
from madeleine_bench.errors import InputError
from madeleine_bench.files import reserved_on_windows
from madeleine_bench.hashing import canonical_json, hash_array

MAX_DEPTH = 32
MAX_YAML_EVENTS = 5_000
MAX_HEADER = 4 * 1024 * 1024
MAX_DIM = 16_384
MAX_ID = 200
_KEY = "madeleine_bench"
_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "`": "'", "|": "¦", "@": "＠"})
KIB, MIB = 1024, 1024 * 1024

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}"
# What may lie in a bundle, and how large each may be. A pickle has no place in the list.
MEMBER_KINDS: dict[str, tuple[str, int]] = {
    "manifest": (r"submission\.json", MIB),
    "card": (r"card\.yaml", 64 * KIB),
    "embeddings": (rf"embeddings/{_NAME}\.safetensors", 256 * MIB),
    "record": (rf"records/{_NAME}\.json", MIB),
    "code": (rf"code/{_NAME}\.py", MIB),
    "weights": (rf"weights/{_NAME}\.safetensors", 400 * MIB),
}


# The most a bundle may hold: bytes of the zip, bytes of all members together, and members.
MAX_BUNDLE = 512 * MIB
MAX_UNPACKED = 640 * MIB
MAX_MEMBERS = 256
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_END = struct.Struct("<4s4H2LH")


def plain(text: str, most: int = 200) -> str:
    r"""Return text on one line without control characters, cut to a length.

    Control and format characters (escape sequences of terminals, marks that turn the direction of
    writing) become spaces, so that what is printed is what is read.

    Examples:
        >>> plain("a\x1b[31mb\nc")
        'a [31mb c'
    """
    kept = "".join(" " if unicodedata.category(c) in _HIDDEN else c for c in text[:most])
    return kept + "..." if len(text) > most else kept


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
        raise ValueError(f"the key '{_repeated(key for key, _ in pairs)}' occurs twice")
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
        for number, event in enumerate(yaml.parse(text)):
            if number >= MAX_YAML_EVENTS:
                raise ValueError(f"more than {MAX_YAML_EVENTS} parts")
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
        InputError: it is none, its header has more than 4 MiB, or a tensor occurs twice in it.
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
    # The library reads a header in which a tensor occurs twice.
    header = parse_json(data[8 : 8 + size], f"{where}, header")
    return tensors, header.get("__metadata__") or {}


def parse_embeddings(data: bytes, where: str) -> tuple[Embeddings, str]:
    """Return the embeddings of a safetensors file, and the content hash that the file claims.

    Ids are in their normal form (`canonical_id`).

    Raises:
        InputError: it is no safetensors file with one float32 matrix `embeddings`, one row for
            each id, all finite; or an id occurs twice.
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
        raise InputError(f"{where}: the id {shown(_repeated(spellings))} occurs twice")
    return tuple(ids), stated


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()


def kind_of(name: str) -> str | None:
    """Return what kind of member a name is of, or None where it has no place in a bundle.

    Examples:
        >>> [kind_of(n) for n in ("card.yaml", "weights/w.pt", "embeddings/../bcnb.safetensors")]
        ['card', None, None]
    """
    if ".." in name or reserved_on_windows(name.rsplit("/", 1)[-1]):
        return None
    kinds = (kind for kind, (pattern, _) in MEMBER_KINDS.items() if re.fullmatch(pattern, name))
    return next(kinds, None)


def read_zip(path: Path) -> bytes:
    """Return the bytes of a zip.

    Raises:
        InputError: the file is absent or larger than the limit.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BUNDLE + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; name the zip that mbench submit pack made") from error
    if len(data) > MAX_BUNDLE:
        raise InputError(f"{path}: larger than {MAX_BUNDLE // MIB} MiB, the most allowed")
    return data


def unpack(path: Path, data: bytes) -> dict[str, bytes]:
    """Return the members of a zip by name.

    Raises:
        InputError: it is no zip, damaged, larger than the limits, or holds anything but plain files
            of the expected names.
    """
    _check_directory(path, data)
    members: dict[str, bytes] = {}
    left = MAX_UNPACKED
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                where = f"{path}: member {shown(info.orig_filename)}"
                most = min(_most_bytes(where, info, {name.lower() for name in members}), left)
                with archive.open(info) as handle:
                    content = handle.read(most + 1)
                if len(content) > most:
                    raise InputError(
                        f"{where} unpacks to more than {most:,} bytes, the most allowed"
                    )
                members[info.filename] = content
                left -= len(content)
    except InputError:
        raise
    except Exception as error:  # a damaged zip makes zipfile raise many things
        reason = shown(str(error), 160)
        raise InputError(f"{path}: a damaged zip ({reason}); pack it again") from error
    return members


def _check_directory(path: Path, data: bytes) -> None:
    """Check the directory at the end of a zip before zipfile makes an object of each entry.

    A plain zip ends in its directory and has nothing before its first member. So there is one
    reading of it, and a directory of a million entries never becomes a million objects.
    """
    start = max(0, len(data) - _END.size)
    mark, *disks, entries, size, offset, comment = _END.unpack(data[start:].ljust(_END.size))
    whole = mark == b"PK\x05\x06" and disks == [0, 0, entries] and offset + size == start
    zip64 = data[start - 20 :].startswith(b"PK\x06\x07")
    if not data.startswith(b"PK\x03\x04") or not whole or comment or zip64:
        raise InputError(
            f"{path}: not a plain zip file; make it with mbench submit pack (it is cut off, "
            "something follows its end, its directory is not where it says, or it is zip64)"
        )
    if entries > MAX_MEMBERS or size > MAX_MEMBERS * (46 + 3 * 256):
        raise InputError(
            f"{path}: {entries} members, a directory of {size:,} bytes; a bundle has at most "
            f"{MAX_MEMBERS} members"
        )


def _most_bytes(where: str, info: zipfile.ZipInfo, earlier: set[str]) -> int:
    """Return how large a member may be, by its kind; zipfile itself refuses what is encrypted.

    Raises:
        InputError: the directory says of it what no member of a bundle has.
    """
    name, member_kind = info.filename, kind_of(info.filename)
    if name != info.orig_filename or member_kind is None:
        raise InputError(
            f"{where} has no place in a bundle, which holds submission.json, card.yaml, "
            "embeddings/*.safetensors, records/*.json and, with --code, code/*.py and "
            "weights/*.safetensors. Pickles and names that Windows reserves, such as nul, are "
            "never read"
        )
    if name.lower() in earlier:
        raise InputError(f"{where} occurs twice, perhaps in another case")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG) or info.external_attr & 0x10:
        raise InputError(f"{where} is a link, a folder or a device, not a plain file")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where} is compressed by method {info.compress_type}, not deflate")
    return MEMBER_KINDS[member_kind][1]

"""Content hashes: of bytes, files, code, JSON-like values and arrays, all SHA-256 in hex."""

import ast
import hashlib
import json
import os
import random
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCKS, _BLOCK_BYTES = 1024, 4096  # what is sampled of a file
_WITHOUT_EFFECT = ("kind", "type_comment", "ctx")  # the u of u"", a comment, what the place tells


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, NaN and infinity refused.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def hash_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value, 64 hex digits."""
    return hash_bytes(canonical_json(value).encode())


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_state(path: Path) -> tuple[int, ...]:
    """Return size, times, inode and device of a file; nothing where it cannot be looked at.

    It tells cheaply that a file is as it was when it was last read: one unpacked again with the
    same size and times has another inode or change time. What it misses: a change by a program that
    also sets back the clock of the system, or writes to the disk itself.
    """
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def hash_sample(path: Path) -> str:
    """Return the hash of a file's size and of 1024 blocks of 4 kB, its first and last among them.

    A file of up to 4 MB is hashed whole. The other blocks lie at random places, the same for all
    files of one size: at a regular distance they could all fall on the glass beside the tissue. A
    change of 1% of the bytes is missed with a chance of 0.99^1022, below 0.0001.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as handle:
        size = os.fstat(handle.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        if size <= _BLOCKS * _BLOCK_BYTES:
            digest.update(handle.readall())
            return digest.hexdigest()
        rng, last = random.Random(size), size - _BLOCK_BYTES
        places = (int(rng.random() * last) for _ in range(_BLOCKS - 2))
        for place in sorted([0, *places, last]):
            handle.seek(place)
            digest.update(handle.read(_BLOCK_BYTES))
    return digest.hexdigest()


def hash_code(paths: Iterable[Path]) -> str:
    """Return one hash of what some Python files do; a folder stands for the Python files in it.

    Comments, docstrings, layout and the order and names of the files do not change it, so two files
    that swap their names go unnoticed. A module with a new name does change it where other files
    import that module. The hash is the same for all Python versions from 3.11 that can read a file.
    A file that is not valid Python for this version, such as a compiled module, counts with its
    bytes.

    Raises:
        OSError: a file cannot be read.
    """
    files = [file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])]
    return hash_json(sorted(_hash_source(file.read_bytes()) for file in files))


@lru_cache(maxsize=256)
def _hash_source(source: bytes) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):  # such as that of an unknown escape
            return hash_bytes(_syntax(ast.parse(source)).encode())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser raises
        return hash_bytes(source)


def _syntax(node: object) -> str:
    """Return a syntax tree as text; that of `ast.dump` differs between versions of Python.

    Left out are positions, statements without effect (docstrings and other lone constants, `pass`),
    and empty fields, because a new version of Python adds fields that older code leaves empty.
    """
    if isinstance(node, list):
        return f"[{','.join([_syntax(item) for item in node if not _without_effect(item)])}]"
    if not isinstance(node, ast.AST):
        return ascii(node)  # repr depends on which characters this version of Python can print
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 adds empty strings to format specifications
        node.values = [v for v in node.values if not isinstance(v, ast.Constant) or v.value]
    fields = [
        f"{name}={_syntax(value)}"
        for name in node._fields
        if name not in _WITHOUT_EFFECT and (value := getattr(node, name)) not in (None, [])
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _without_effect(node: object) -> bool:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant or isinstance(node, ast.Pass)


def hash_array(ids: Iterable[str], matrix: NDArray[Any]) -> str:
    """Return the hash of a matrix together with the ids of its rows, its dtype and its shape."""
    digest = hashlib.sha256()
    digest.update(canonical_json([list(ids), str(matrix.dtype), list(matrix.shape)]).encode())
    digest.update(np.ascontiguousarray(matrix).data)
    return digest.hexdigest()

"""Content hashes: of bytes, files, JSON-like values and arrays, all SHA-256 in hex."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def hash_files(paths: Iterable[Path]) -> str:
    """Return one hash over the names and contents of files, in the order of their names."""
    return hash_json(sorted((path.name, hash_file(path)) for path in paths))


def hash_array(ids: Iterable[str], matrix: NDArray[Any]) -> str:
    """Return the hash of a matrix together with the ids of its rows, its dtype and its shape."""
    digest = hashlib.sha256()
    digest.update(canonical_json([list(ids), str(matrix.dtype), list(matrix.shape)]).encode())
    digest.update(np.ascontiguousarray(matrix).data)
    return digest.hexdigest()

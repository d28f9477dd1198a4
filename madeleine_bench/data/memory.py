"""What is known of feature files, remembered between runs until a file's size or time changes."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.data.bags import read_bag_header
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file, hash_json


@dataclass(frozen=True)
class FileFacts:
    """Shape, origin and patches of a bag file, as its header states them; None is not stated."""

    patches: int
    width: int
    patch_encoder: str | None
    phantom: str | None = None
    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None


class FileMemory:
    """An append-only file of JSON lines: one fact of one file a line, the last one counts.

    Any number of processes may append at once: each line is one write. A line carries a check of
    its own; one that was cut short or changed is passed over, which costs reading that file again
    and nothing else.
    """

    def __init__(self, path: Path) -> None:
        """Remember in `path`, which is made when first needed."""
        self.path = path
        self._known: dict[str, Any] | None = None

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            InputError: the file cannot be read.
        """
        key = _key(path, "sha256")
        known = self._recall(key)
        if not isinstance(known, str):
            try:
                known = hash_file(path)
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror}") from error
            self._keep(key, known)
        return known

    def facts(self, path: Path, encoder: str | None) -> FileFacts:
        """Return the facts of a bag file; `encoder` chooses among several in one file.

        Raises:
            InputError: the file is not a bag file.
        """
        # The number counts the kinds of facts there have been: lines of fewer facts are left alone.
        key = _key(path, f"facts-2:{encoder or ''}")
        known = self._recall(key)
        if not isinstance(known, dict):
            header = read_bag_header(path, encoder)
            facts = FileFacts(
                header.patches,
                header.width,
                header.patch_encoder,
                header.phantom,
                **asdict(header.geometry),
            )
            self._keep(key, asdict(facts))
            return facts
        return FileFacts(**known)

    def _recall(self, key: str) -> Any:
        if self._known is None:
            self._known = _read_lines(self.path)
        return self._known.get(key)

    def _keep(self, key: str, value: Any) -> None:
        if self._known is not None:
            self._known[key] = value
        line = json.dumps([key, value, _check(key, value)], ensure_ascii=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            target = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # A line begun by a process that was killed must not swallow this one.
                os.write(target, f"\n{line}".encode())
            finally:
                os.close(target)
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}. Choose a results folder you may "
                "write to, with room on the disk"
            ) from error


def _key(path: Path, what: str) -> str:
    """Return what names one fact of one state of a file."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return f"{what}|{stat.st_size}|{stat.st_mtime_ns}|{path.absolute()}"


def _check(key: str, value: Any) -> str:
    return hash_json([key, value])[:12]


def _read_lines(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = {}
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return known
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for line in lines:
        try:
            key, value, check = json.loads(line)
            if isinstance(key, str) and check == _check(key, value):
                known[key] = value
        except (ValueError, TypeError, RecursionError):
            continue
    return known

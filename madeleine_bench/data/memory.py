"""What is known of feature files, remembered while the fingerprint of a file is the same."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.data.bags import read_bag_header
from madeleine_bench.errors import InputError
from madeleine_bench.files import looking_at, unreadable
from madeleine_bench.hashing import file_fingerprint, file_state, hash_file, hash_json

# The number counts the kinds of facts there have been: lines of fewer facts are left alone.
_SHA256, _FACTS = "sha256", "facts-2"
_Place = tuple[str, str]  # the kind of a fact, and the path of the file


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

    A line holds the fingerprint that the file had when it was read (`hashing.file_fingerprint`),
    and counts only while the file has that fingerprint; else the file is read again. Any number of
    processes may append at once: each line is one write. A line carries a check of its own; one
    that was cut short, changed or written by an earlier release is skipped, which costs reading
    that file again and nothing else.
    """

    def __init__(self, path: Path) -> None:
        """Remember in `path`, which is made when first needed."""
        self.path = path
        self._known: dict[_Place, tuple[str, Any]] | None = None
        self._sampled: dict[Path, tuple[tuple[int, ...], str]] = {}

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            InputError: the file cannot be read.
        """
        return str(self._remembered(_SHA256, path, str, lambda: _hash(path)))

    def confirm(self, path: Path) -> bool:
        """Hash a file whole and return whether that is the SHA-256 that was remembered, if any.

        Where it is not, what was remembered of the file is forgotten.

        Raises:
            InputError: the file cannot be read.
        """
        name = str(path.absolute())
        then, before = self._read().get((_SHA256, name), ("", None))
        fingerprint, now = self._fingerprint(path), _hash(path)
        if before not in (None, now):
            for place in [place for place in self._read() if place[1] == name]:
                self._keep(place, "", None)
        if (then, before) != (fingerprint, now) and self._fingerprint(path) == fingerprint:
            self._keep((_SHA256, name), fingerprint, now)
        return before in (None, now)

    def facts(self, path: Path, encoder: str | None) -> FileFacts:
        """Return the facts of a bag file; `encoder` chooses among several in one file.

        Raises:
            InputError: the file is not a bag file.
        """

        def read() -> dict[str, Any]:
            header = read_bag_header(path, encoder)
            facts = FileFacts(
                header.patches,
                header.width,
                header.patch_encoder,
                header.phantom,
                **asdict(header.geometry),
            )
            return asdict(facts)

        return FileFacts(**self._remembered(f"{_FACTS}:{encoder or ''}", path, dict, read))

    def _remembered(self, kind: str, path: Path, form: type, read: Callable[[], Any]) -> Any:
        """Return what was remembered of a file as it is now, or else what `read` returns."""
        place, fingerprint = (kind, str(path.absolute())), self._fingerprint(path)
        then, value = self._read().get(place, ("", None))
        if then == fingerprint and isinstance(value, form):
            return value
        value = read()
        if self._fingerprint(path) == fingerprint:  # nobody has written to it meanwhile
            self._keep(place, fingerprint, value)
        return value

    def _fingerprint(self, path: Path) -> str:
        """Return the fingerprint of a file, sampled once for each state that the system tells."""
        state = file_state(path)
        then, fingerprint = self._sampled.get(path, ((), ""))
        if not state or then != state:
            with looking_at(path):
                fingerprint = file_fingerprint(path)
            self._sampled[path] = state, fingerprint
        return fingerprint

    def _read(self) -> dict[_Place, tuple[str, Any]]:
        if self._known is None:
            self._known = _read_lines(self.path)
        return self._known

    def _keep(self, place: _Place, fingerprint: str, value: Any) -> None:
        self._read()[place] = fingerprint, value
        content = [*place, fingerprint, value]
        line = json.dumps([*content, _check(content)], ensure_ascii=False) + "\n"
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


def _hash(path: Path) -> str:
    with looking_at(path):
        return hash_file(path)


def _check(content: list[Any]) -> str:
    return hash_json(content)[:12]


def _read_lines(path: Path) -> dict[_Place, tuple[str, Any]]:
    known: dict[_Place, tuple[str, Any]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return known
    except OSError as error:
        raise unreadable(path, error) from error
    for line in lines:
        try:
            kind, name, fingerprint, value, check = json.loads(line)
            if check == _check([kind, name, fingerprint, value]):
                known[kind, name] = fingerprint, value
        except (ValueError, TypeError, RecursionError):
            continue
    return known

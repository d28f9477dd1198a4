"""Whether a packed store is what was packed: sizes of files, and the SHA-256 of every slide.

A full check is remembered in `checked.json` beside the index by the fingerprint of every file
(`hashing.file_fingerprint`), so that it is done again only after something has touched one of them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from madeleine_bench.data.packed.index import (
    INDEX,
    Piece,
    StoreIndex,
    coords_path,
    shard_path,
)
from madeleine_bench.data.packed.numbers import ITEM_BYTES
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.hashing import file_fingerprint

CHECKED = "checked.json"
States = dict[str, str]
_BLOCK_BYTES = 1 << 20
_AHEAD = 256  # slides that wait for a thread
_THREADS = 8
_SHOWN = 3


class DamagedStore(InputError):
    """Files of a store are not what was packed; packing the cohort again mends them."""


@dataclass(frozen=True)
class Damage:
    """A slide whose bytes on disk are not those that were packed.

    Attributes:
        slide_id: the slide.
        file: where it lies.
        what: what was found there.
    """

    slide_id: str
    file: Path
    what: str

    @classmethod
    def of(cls, piece: Piece) -> "Damage":
        """Return the damage of a piece whose hash is not what it was."""
        what = f"bytes {piece.begin} to {piece.begin + piece.size} are not what was packed"
        return cls(piece.slide_id, piece.file, what)

    def __str__(self) -> str:
        """Say which slide of which file, and what was found."""
        return f"{self.file}: slide '{self.slide_id}': {self.what}"


def expected_sizes(folder: Path, index: StoreIndex) -> dict[Path, int]:
    """Return the bytes that each file of a store has."""
    sizes: dict[Path, int] = {}
    for shard in index.head.shards:
        path = shard_path(folder, shard.file)
        sizes[path] = ITEM_BYTES * index.head.dim * shard.rows
        if shard.coords_bytes:
            sizes[coords_path(path)] = shard.coords_bytes
    return sizes


def check_sizes(folder: Path, index: StoreIndex) -> None:
    """Check that every file is there and has its size.

    Raises:
        DamagedStore: one has not.
    """
    for path, expected in expected_sizes(folder, index).items():
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DamagedStore(f"{path}: {error.strerror}. {index.mend(folder)}") from error
        if found != expected:
            what = "cut short" if found < expected else "longer than what was packed"
            raise DamagedStore(
                f"{path} is {what}, or of another store: it has {found} bytes, the index of "
                f"{folder} says {expected}. {index.mend(folder)}"
            )


def check_rows(
    folder: Path, index: StoreIndex, advance: Callable[[str], None] = lambda slide_id: None
) -> None:
    """Check the SHA-256 of every slide.

    Raises:
        DamagedStore: a slide is not what was packed.
    """
    damage = list(damaged(index.pieces(folder), advance))
    if damage:
        told = "; ".join(str(one) for one in damage[:_SHOWN])
        more = f"; and {len(damage) - _SHOWN} more" if len(damage) > _SHOWN else ""
        raise DamagedStore(f"{told}{more}. {index.mend(folder)}")


def remember(folder: Path, index: StoreIndex, states: States | None = None) -> None:
    """Note that a full check has passed, where the folder is writable.

    Args:
        folder: of the store.
        index: of the store.
        states: of its files before the check (`file_states`); None takes them as they are now.
    """
    noted = file_states(folder, index) if states is None else states
    with contextlib.suppress(InputError):  # a folder one may only read is checked each time
        write_text(folder / CHECKED, json.dumps(noted) + "\n")


def is_remembered(folder: Path, index: StoreIndex) -> bool:
    """Return whether a full check has passed and no file has been touched since."""
    try:
        known = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
        return bool(known == file_states(folder, index))
    except (OSError, ValueError):
        return False


def damaged(
    slides: Iterable[list[Piece]], advance: Callable[[str], None] = lambda slide_id: None
) -> Iterator[Damage]:
    """Yield the slides whose pieces are not what was packed, in their order.

    Files are read by several threads: hashing leaves them to one another. No memory map is used,
    as a fault of the disk would then end the process and not this check alone.

    Args:
        slides: the pieces of each slide.
        advance: called with each slide id once it is checked.
    """
    todo = iter(slides)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        while batch := list(islice(todo, _AHEAD)):
            for pieces, found in zip(batch, threads.map(_damage, batch), strict=True):
                if found is not None:
                    yield found
                advance(pieces[0].slide_id)


def _damage(pieces: list[Piece]) -> Damage | None:
    for piece in pieces:
        try:
            found = _sha256(piece)
        except OSError as error:
            return Damage(piece.slide_id, piece.file, error.strerror or str(error))
        if found != piece.sha256:
            return Damage.of(piece)
    return None


def _sha256(piece: Piece) -> str:
    """Return the SHA-256 of a piece, or of what there is of it."""
    digest, left = hashlib.sha256(), piece.size
    block = memoryview(bytearray(min(_BLOCK_BYTES, max(left, 1))))
    with piece.file.open("rb", buffering=0) as handle:
        handle.seek(piece.begin)
        while left and (count := handle.readinto(block[: min(left, len(block))])):
            digest.update(block[:count])
            left -= count
    return digest.hexdigest()


def file_states(folder: Path, index: StoreIndex) -> States:
    """Return what tells one state of each file of a store from another."""
    found: States = {}
    for path in (folder / INDEX, *expected_sizes(folder, index)):
        found[str(path)] = file_fingerprint(path)
    return found

"""Where the bags of a local cohort lie: a folder of feature files, or a packed store."""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.bags import BagFile, feature_files, read_bag_file
from madeleine_bench.data.memory import FileFacts, FileMemory
from madeleine_bench.data.packed.checking import Damage, check_sizes
from madeleine_bench.data.packed.index import (
    INDEX,
    Piece,
    StoreIndex,
    is_packed_store,
    read_index,
    shard_path,
    slide_pieces,
)
from madeleine_bench.data.packed.numbers import disk_dtype, read_rows
from madeleine_bench.errors import InputError
from madeleine_bench.files import looking_at
from madeleine_bench.hashing import file_state

# What the index calls the facts of patches, and what bag files call them.
_GEOMETRY = {
    "magnification": "target_magnification",
    "patch_size": "patch_size",
    "patch_size_level0": "patch_size_level0",
}


class BagSource(Protocol):
    """Bags by name: the stem of a file, or the slide id in a packed store."""

    @property
    def found(self) -> Mapping[str, Path]:
        """The file in which each bag lies, by the name of the bag."""
        ...

    def facts(self, name: str) -> FileFacts:
        """Return what is stated of a bag, without reading its numbers.

        Raises:
            InputError: the file is damaged.
        """
        ...

    def read(self, name: str) -> BagFile:
        """Return a bag.

        Raises:
            InputError: the file is damaged.
        """
        ...

    def content_key(self, name: str) -> str:
        """Return a hash that changes when the bag changes.

        Raises:
            InputError: the file cannot be read.
        """
        ...

    def confirm(self, name: str) -> bool:
        """Return whether a bag is the one that is remembered, every byte of it read again.

        Raises:
            InputError: the file cannot be read.
        """
        ...

    def part(self, names: Iterable[str]) -> "BagSource":
        """Return a source of some of the bags, which takes little to send to another process."""
        ...


class FolderBags:
    """A folder with one feature file a slide; implements `BagSource`."""

    def __init__(self, folder: Path, encoder: str | None, cache: Path) -> None:
        """List the files.

        Args:
            folder: of the files, nested ones too.
            encoder: which patch encoder to take from files that hold several.
            cache: folder where sizes and hashes of files are remembered.

        Raises:
            InputError: there is no such folder, or two files have one name.
        """
        self.found: Mapping[str, Path] = feature_files(folder)
        self._encoder = encoder
        self._memory = FileMemory(cache / "files.jsonl")

    def facts(self, name: str) -> FileFacts:
        """Return what the header of a file states, remembered as `content_key` is."""
        return self._memory.facts(self.found[name], self._encoder)

    def read(self, name: str) -> BagFile:
        """Return the bag of a file."""
        return read_bag_file(self.found[name], self._encoder)

    def content_key(self, name: str) -> str:
        """Return the SHA-256 of a file, remembered while its fingerprint is the same."""
        digest = self._memory.sha256(self.found[name])
        # Which of several encoders is read from the file is part of what the bag is.
        return f"{digest}:{self._encoder}" if self._encoder else digest

    def confirm(self, name: str) -> bool:
        """Hash a file whole; where it is not what was remembered, forget that."""
        return self._memory.confirm(self.found[name])

    def part(self, names: Iterable[str]) -> "FolderBags":
        """Return a source of some of the files."""
        own = copy.copy(self)
        own.found = {name: self.found[name] for name in names}
        own._memory = FileMemory(self._memory.path)  # without what is known of all the others
        return own


class PackedBags:
    """The slides of a packed store; implements `BagSource`.

    Each bag is checked by its SHA-256 when it is read, so that the store need not be read as a
    whole before.
    """

    def __init__(self, path: Path) -> None:
        """Read the index.

        Raises:
            InputError: the folder holds no whole store.
        """
        self.path = path
        check_sizes(path, self.index)

    def __getstate__(self) -> dict[str, Any]:
        """Return the path alone: another process reads the index once for all of its jobs."""
        return {"path": self.path}

    @property
    def index(self) -> StoreIndex:
        """The index, read once for each process until it changes."""
        return self._opened.index

    @property
    def found(self) -> Mapping[str, Path]:
        """The file in which each slide lies."""
        return self._opened.files

    def facts(self, name: str) -> FileFacts:
        """Return what the index states of a slide."""
        opened, head = self._opened, self.index.head
        place = opened.positions[name]
        return FileFacts(
            opened.column("count")[place],
            head.dim,
            head.patch_encoder,
            head.variant if head.source == "phantom" else None,
            **{key: opened.column(key)[place] for key in _GEOMETRY},
        )

    def read(self, name: str) -> BagFile:
        """Return the bag of a slide, its numbers float16, or float32 where bfloat16 is stored."""
        opened, head = self._opened, self.index.head
        row = opened.row(name)
        rows, *coords = (
            self._checked(piece) for piece in slide_pieces(row, self.found[name], head.dim)
        )
        features = rows.view(disk_dtype(head.dtype)).reshape(row["count"], head.dim)
        stated = {attribute: row[key] for key, attribute in _GEOMETRY.items()}
        return BagFile(
            read_rows(features, head.dtype),
            coords[0].view(row["coords_dtype"]).reshape(-1, 2) if coords else None,
            "px0" if coords else None,
            head.patch_encoder,
            {attribute: value for attribute, value in stated.items() if value is not None},
        )

    def content_key(self, name: str) -> str:
        """Return the content key of the bag that was packed; another where it was rounded."""
        opened = self._opened
        return opened.index.content_keys[opened.positions[name]]

    def confirm(self, name: str) -> bool:
        """Return True: `read` checks every byte of a bag by the hash in the index."""
        return True

    def part(self, names: Iterable[str]) -> "PackedBags":
        """Return the source itself, which is sent as a path."""
        return self

    def _checked(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the bytes of a piece."""
        try:
            found = np.fromfile(piece.file, np.uint8, piece.size, offset=piece.begin)
        except OSError as error:
            raise InputError(f"cannot read {piece.file}: {error.strerror or error}") from error
        if hashlib.sha256(found.data).hexdigest() != piece.sha256:
            raise InputError(f"{Damage.of(piece)}. {self.index.mend(self.path)}")
        return found

    @property
    def _opened(self) -> "_OpenIndex":
        return _opened(str(self.path), file_state(self.path / INDEX))


class _OpenIndex:
    """An index as it is looked up by slide id."""

    def __init__(self, path: Path) -> None:
        self.index = read_index(path)
        names = self.index.column("slide_id")
        self.positions = {name: place for place, name in enumerate(names)}
        files = [shard_path(path, shard.file) for shard in self.index.head.shards]
        shards = self.index.column("shard")
        self.files = {name: files[shard] for name, shard in zip(names, shards, strict=True)}
        self._columns: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """Return a column, made once."""
        if name not in self._columns:
            self._columns[name] = self.index.column(name)
        return self._columns[name]

    def row(self, name: str) -> dict[str, Any]:
        """Return the row of a slide."""
        rows: list[dict[str, Any]] = self.index.slides.slice(self.positions[name], 1).to_pylist()
        return rows[0]


def open_bags(folder: Path, encoder: str | None, cache: Path) -> BagSource:
    """Return the bags of a folder: a packed store, or feature files.

    Args:
        folder: what mbench.toml calls `features`.
        encoder: which patch encoder to take from files that hold several.
        cache: folder where sizes and hashes of files are remembered.

    Raises:
        InputError: there is no such folder, it holds no whole store, or two files of one name.
    """
    with looking_at(folder):
        is_packed = is_packed_store(folder)
    if is_packed:
        return PackedBags(folder)
    return FolderBags(folder, encoder, cache)


@lru_cache(maxsize=4)
def _opened(path: str, state: tuple[int, ...]) -> _OpenIndex:
    return _OpenIndex(Path(path))

"""Where the bags of a local cohort lie: a folder of feature files, or a packed store."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from madeleine_bench.data.bags import (
    SUFFIXES,
    BagFacts,
    BagFile,
    read_bag_file,
    read_bag_header,
)
from madeleine_bench.data.packed import (
    INDEX,
    check_sizes,
    is_packed_store,
    read_index,
)
from madeleine_bench.errors import InputError
from madeleine_bench.files import files_under, looking_at, unreadable
from madeleine_bench.hashing import file_state, hash_file, hash_json

# The number counts the kinds of facts there have been: lines of fewer facts are left alone.
_SHA256, _FACTS = "sha256", "facts-2"
_Place = tuple[str, str]  # the kind of a fact, and the path of the file


class FileFactsCache:
    """An append-only file of JSON lines: one fact of one file a line, the last one counts.

    A line holds the state that the file had when it was read (`hashing.file_state`), and counts
    only while the file has that state; else the file is read again. Any number of processes may
    append at once: each line is one write. A line carries a check of its own; one that was cut
    short, changed or written by an earlier release is skipped, which costs reading that file again
    and nothing else.
    """

    def __init__(self, path: Path) -> None:
        """Remember in `path`, which is made when first needed."""
        self.path = path

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            InputError: the file cannot be read.
        """
        return str(self._remembered(_SHA256, path, lambda: hash_file(path)))

    def facts(self, path: Path, encoder: str | None) -> BagFacts:
        """Return the facts of a bag file; `encoder` chooses among several in one file.

        Raises:
            InputError: the file is not a bag file.
        """

        def read() -> dict[str, Any]:
            facts = asdict(read_bag_header(path, encoder))
            del facts["attributes"]
            return facts

        return BagFacts(**self._remembered(f"{_FACTS}:{encoder or ''}", path, read))

    def _remembered(self, kind: str, path: Path, read: Callable[[], Any]) -> Any:
        """Return what was remembered of a file as it is now, or else what `read` returns."""
        place, state = (kind, str(path.absolute())), [*file_state(path)]
        then, value = self._entries.get(place, ([], None))
        if not state or then != state:
            with looking_at(path):
                value = read()
            if [*file_state(path)] == state:  # nobody has written to it meanwhile
                self._keep(place, state, value)
        return value

    @cached_property
    def _entries(self) -> dict[_Place, tuple[list[int], Any]]:
        return _read_lines(self.path)

    def _keep(self, place: _Place, state: list[int], value: Any) -> None:
        self._entries[place] = state, value
        content = [*place, state, value]
        line = json.dumps([*content, _check(content)], ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as handle:
                # A line begun by a process that was killed must not swallow this one.
                handle.write(f"\n{line}\n".encode())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}. Choose a results folder you may "
                "write to, with room on the disk"
            ) from error


def _check(content: list[Any]) -> str:
    return hash_json(content)[:12]


def _read_lines(path: Path) -> dict[_Place, tuple[list[int], Any]]:
    entries: dict[_Place, tuple[list[int], Any]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return entries
    except OSError as error:
        raise unreadable(path, error) from error
    for line in lines:
        try:
            kind, name, state, value, check = json.loads(line)
            if check == _check([kind, name, state, value]):
                entries[kind, name] = state, value
        except (ValueError, TypeError, RecursionError):
            continue
    return entries


class FolderBags:
    """The bags of a folder with one feature file a slide, by the stem of the file."""

    def __init__(self, folder: Path, encoder: str | None, cache: Path) -> None:
        """List the files.

        Args:
            folder: of the files, nested ones too.
            encoder: which patch encoder to take from files that hold several.
            cache: folder where sizes and hashes of files are remembered.

        Raises:
            InputError: there is no such folder, or two files have one name.
        """
        self.files: Mapping[str, Path] = feature_files(folder)
        self._encoder = encoder
        self._cache = FileFactsCache(cache / "files.jsonl")

    def facts(self, name: str) -> BagFacts:
        """Return what the header of a file states, remembered as `content_key` is.

        Raises:
            InputError: the file is damaged.
        """
        return self._cache.facts(self.files[name], self._encoder)

    def read(self, name: str) -> BagFile:
        """Return the bag of a file.

        Raises:
            InputError: the file is damaged.
        """
        return read_bag_file(self.files[name], self._encoder)

    def content_key(self, name: str) -> str:
        """Return the SHA-256 of a file, remembered while its state is the same.

        Raises:
            InputError: the file cannot be read.
        """
        digest = self._cache.sha256(self.files[name])
        # Which of several encoders is read from the file is part of what the bag is.
        return f"{digest}:{self._encoder}" if self._encoder else digest

    def part(self, names: Iterable[str]) -> "FolderBags":
        """Return a source of some of the files, which takes little to send to another process."""
        some = copy.copy(self)
        some.files = {name: self.files[name] for name in names}
        some._cache = FileFactsCache(self._cache.path)  # without what is known of all the others
        return some


class PackedBags:
    """The slides of a packed store, by slide id, with the methods of `FolderBags`.

    Each bag is checked by its SHA-256 when it is read, so that the store need not be read as a
    whole before.

    Attributes:
        path: the folder.
        store: its index.
        files: the file in which each slide lies.
    """

    def __init__(self, path: Path) -> None:
        """Read the index.

        Raises:
            InputError: the folder holds no whole store.
        """
        self.path, self.store = path, read_index(path)
        check_sizes(self.store)
        self._slides = {slide.slide_id: slide for slide in self.store.slides}
        parts = self.store.files
        self.files: Mapping[str, Path] = {s.slide_id: parts[s.part] for s in self.store.slides}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the path: another process reads the index once for all of its jobs."""
        return _packed_bags, (self.path, file_state(self.path / INDEX))

    def facts(self, name: str) -> BagFacts:
        """Return what the index states of a slide."""
        store, slide = self.store, self._slides[name]
        phantom = store.variant if store.source == "phantom" else None
        geometry = slide.magnification, slide.patch_size, slide.patch_size_level0
        return BagFacts(slide.patches, store.dim, store.patch_encoder, phantom, *geometry)

    def read(self, name: str) -> BagFile:
        """Return the bag of a slide, its numbers float16.

        Raises:
            InputError: it is not what was packed.
        """
        rows, coords = self.store.read(self._slides[name])
        return BagFile(rows, coords, self.facts(name))

    def content_key(self, name: str) -> str:
        """Return the content key of the bag that was packed; another where it was rounded."""
        return self.store.content_key(self._slides[name])

    def part(self, names: Iterable[str]) -> "PackedBags":
        """Return the source itself, which is sent as a path."""
        return self


@lru_cache(maxsize=4)
def _packed_bags(path: Path, state: tuple[int, ...]) -> PackedBags:
    return PackedBags(path)


BagSource = FolderBags | PackedBags


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
    return PackedBags(folder) if is_packed else FolderBags(folder, encoder, cache)


def feature_files(folder: Path) -> dict[str, Path]:
    """Return every bag file under a folder, nested ones too, by slide id (the name's stem).

    Only the last suffix is cut, so dotted ids such as those of TCGA stay whole. Hidden files and
    files of other kinds are skipped; links are followed.

    Raises:
        InputError: there is no such folder, a folder under it cannot be read, or two files have
            the same stem.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; 'features' must name the folder of the bag files")
    files: dict[str, Path] = {}
    for path in files_under(folder):
        if path.suffix not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise InputError(
                f"slide '{path.stem}' has two feature files: {files[path.stem]} and {path}. "
                "Point 'features' to the folder that holds one of them, or remove one"
            )
        files[path.stem] = path
    return files

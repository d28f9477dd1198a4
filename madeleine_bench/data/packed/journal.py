"""The journal of a packing that has not ended: a line for each slide whose rows are written.

A line says what a slide's bytes are to be, not that they are: whoever goes on from a journal
checks them by their hash. A line that a crash cut short, and whatever follows it, does not count.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from madeleine_bench.data.packed.index import (
    JOURNAL,
    PREFIX,
    Piece,
    Shard,
    StoreIndex,
    coords_bytes,
    coords_path,
    shard_files,
    shard_path,
    slide_pieces,
)
from madeleine_bench.data.packed.numbers import ITEM_BYTES, PackedDtype
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text


@dataclass(frozen=True)
class PackingHead:
    """What is settled by the first bag.

    Attributes:
        content: hash of what is being packed.
        dtype: of the rows.
        prefix: names of the shards begin with it.
        first: the slide whose bag came first.
        dim: number of dimensions of its patches.
        patch_encoder: that made them, or None (unknown).
    """

    content: str
    dtype: PackedDtype
    prefix: str
    first: str
    dim: int
    patch_encoder: str | None


@dataclass(frozen=True, slots=True)  # there may be a million
class PackedSlide:
    """One slide as it was written; the attributes are columns of the index."""

    slide_id: str
    shard: int
    offset: int
    count: int
    sha256: str
    source_key: str
    rounded: bool
    coords_dtype: str = ""
    coords_offset: int = 0
    coords_sha256: str = ""
    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None

    @property
    def coords_end(self) -> int:
        """Where its coords end in their file, in bytes."""
        return self.coords_offset + coords_bytes(self.coords_dtype, self.count)


class Journal:
    """Head, shards and slides of a packing, in memory and in the file.

    Attributes:
        folder: of the store.
        head: what is settled.
        shards: the files begun so far.
        slides: the slides written so far, in order.
    """

    def __init__(
        self,
        folder: Path,
        head: PackingHead,
        shards: Sequence[str] = (),
        slides: Sequence[PackedSlide] = (),
    ) -> None:
        """Hold a journal in memory; `save` writes it."""
        self.folder, self.head = folder, head
        self.shards, self.slides = list(shards), list(slides)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / JOURNAL

    def save(self) -> None:
        """Write the whole journal anew, without any line that was cut short.

        Raises:
            InputError: the folder cannot be written.
        """
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines()))

    def add_shard(self, file: str) -> None:
        """Note, on the disk, that a file is about to be made."""
        self._append(file, lasting=True)
        self.shards.append(file)

    def add(self, slide: PackedSlide) -> None:
        """Note that the rows of a slide are written."""
        self._append(asdict(slide))
        self.slides.append(slide)

    def keep(self, slide_ids: Sequence[str]) -> None:
        """Keep the slides up to the first that is not the expected one, and their shards.

        Raises:
            InputError: a file that is not needed cannot be removed.
        """
        for position, (slide, expected) in enumerate(zip(self.slides, slide_ids, strict=False)):
            if slide.slide_id != expected:
                del self.slides[position:]
                break
        used = self.slides[-1].shard + 1 if self.slides else 0
        remove_files(shard_files(self.folder, self.shards[used:]))
        del self.shards[used:]

    def remove(self) -> None:
        """Delete the file of the journal."""
        self.path.unlink(missing_ok=True)

    def sizes(self) -> dict[Path, int]:
        """Return how long each file is up to the end of the last slide noted."""
        found: dict[Path, int] = {}
        for shard in self.index_shards():
            path = shard_path(self.folder, shard.file)
            found[path] = ITEM_BYTES * self.head.dim * shard.rows
            coords = coords_path(path)
            if shard.coords_bytes or coords.exists():
                found[coords] = shard.coords_bytes
        return found

    def index_shards(self) -> tuple[Shard, ...]:
        """Return the shards as the index lists them."""
        rows, coords = [0] * len(self.shards), [0] * len(self.shards)
        for slide in self.slides:
            rows[slide.shard] = slide.offset + slide.count
            coords[slide.shard] = max(coords[slide.shard], slide.coords_end)
        return tuple(map(Shard, self.shards, rows, coords))

    def pieces(self, slide: PackedSlide) -> list[Piece]:
        """Return what a slide's bytes are to be."""
        file = shard_path(self.folder, self.shards[slide.shard])
        return slide_pieces(asdict(slide), file, self.head.dim)

    def files(self) -> set[Path]:
        """Return every file that the packing may have begun."""
        return shard_files(self.folder, self.shards)

    def _lines(self) -> Iterator[Any]:
        """Yield the lines, each shard before its first slide, as when it was begun."""
        yield asdict(self.head)
        begun = 0
        for slide in self.slides:
            yield from self.shards[begun : slide.shard + 1]
            begun = max(begun, slide.shard + 1)
            yield asdict(slide)
        yield from self.shards[begun:]

    def _append(self, line: Any, *, lasting: bool = False) -> None:
        target = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(target, (json.dumps(line) + "\n").encode())
            if lasting:
                os.fsync(target)
        finally:
            os.close(target)


def read_journal(folder: Path) -> Journal | None:
    """Return the journal in a folder as far as it can be trusted to be whole, or None.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / JOURNAL
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        journal = Journal(folder, PackingHead(**json.loads(lines[0])))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is no journal of a packing; remove {folder}, or choose another folder"
        ) from error
    for line in lines[1:-1]:  # the last line has its end, so that nothing follows it
        try:
            found = json.loads(line)
            if isinstance(found, str):
                journal.shards.append(found)
                continue
            slide = PackedSlide(**found)
        except (ValueError, TypeError):
            break
        if not _follows(journal, slide):
            break
        journal.slides.append(slide)
    return journal


def journal_of(folder: Path, index: StoreIndex) -> Journal:
    """Return the journal that a finished store had at its end, to mend the store by."""
    head = index.head
    names = list(PackedSlide.__dataclass_fields__)
    slides = [PackedSlide(**row) for row in index.slides.select(names).to_pylist()]
    first = slides[0].slide_id
    settled = PackingHead(head.content, head.dtype, PREFIX, first, head.dim, head.patch_encoder)
    return Journal(folder, settled, [shard.file for shard in head.shards], slides)


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files, as far as they are there.

    Raises:
        InputError: one cannot be deleted.
    """
    for path in sorted(paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from error


def _follows(journal: Journal, slide: PackedSlide) -> bool:
    """Return whether a slide lies where the one before it ends, or at the start of a new shard."""
    last = journal.slides[-1] if journal.slides else None
    if last is None or slide.shard != last.shard:
        before, begin = (-1, 0) if last is None else (last.shard, 0)
        return slide.shard == len(journal.shards) - 1 > before and slide.offset == begin
    return slide.offset == last.offset + last.count

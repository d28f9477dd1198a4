"""Writing the files of a packed store: rows at the end of the last shard, or in their old place."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.packed.index import coords_path, shard_path
from madeleine_bench.data.packed.journal import Journal, PackedSlide
from madeleine_bench.data.packed.numbers import packed_rows, read_rows
from madeleine_bench.errors import InputError
from madeleine_bench.types import Bag


class ShardWriter:
    """Appends slides to the shards of a journal.

    A new shard is begun where the last one would grow past `shard_bytes`, or its disk has no room
    for the next slide. It goes into the first folder with room for a whole shard, or else into the
    one with most room.
    """

    def __init__(self, journal: Journal, shard_bytes: int, folders: Sequence[Path]) -> None:
        """Go on where the journal ends.

        Args:
            journal: of the packing; its files end where it says.
            shard_bytes: the most that the rows of one file take.
            folders: where files go; empty for the folder of the store.
        """
        self._journal = journal
        self._shard_bytes = shard_bytes
        # A folder may serve many stores, so each has one of its own in it.
        own = journal.folder
        self._folders = [folder.absolute() / own.name for folder in folders] or [own]
        self._rows: IO[bytes] | None = None
        self._coords: IO[bytes] | None = None
        self._end = 0  # of the last shard, in rows

    def append(self, bag: Bag, source_key: str) -> None:
        """Write the rows and coords of a slide and note them in the journal.

        Raises:
            InputError: one slide is larger than a shard may be, or a file cannot be made.
            OSError: the disk is full or broken.
        """
        rows = packed_rows(bag.features, self._journal.head.dtype)
        coords = stored_coords(bag)
        self._open(rows.nbytes, coords.nbytes, bag.slide_id)
        assert self._rows is not None
        assert self._coords is not None
        slide = described(
            bag, rows, coords, source_key, len(self._journal.shards) - 1, self._end,
            self._coords.tell(), self._journal.head.dtype,
        )  # fmt: skip
        self._rows.write(rows.data)
        self._coords.write(coords.data)
        self._rows.flush()
        self._coords.flush()
        self._journal.add(slide)
        self._end += len(rows)

    def rewrite(self, bag: Bag, slide: PackedSlide) -> None:
        """Write a slide that was packed before and is damaged, in its old place.

        Raises:
            InputError: the bag is not the one that was packed.
            OSError: the disk is full or broken.
        """
        rows, coords = packed_rows(bag.features, self._journal.head.dtype), stored_coords(bag)
        pieces = self._journal.pieces(slide)
        for piece, data in zip(pieces, (rows, coords), strict=False):
            if hashlib.sha256(data.data).hexdigest() != piece.sha256:
                raise InputError(
                    f"slide '{bag.slide_id}': its bag is not the one that was packed, though its "
                    f"key says so. Remove {self._journal.folder} and pack it anew"
                )
            with piece.file.open("r+b") as handle:
                handle.seek(piece.begin)
                handle.write(data.data)
                handle.flush()
                _settle(handle)

    def close(self) -> None:
        """Write everything to the disk and let go of the files.

        Raises:
            OSError: the disk is full or broken.
        """
        handles = [handle for handle in (self._rows, self._coords) if handle is not None]
        self._rows = self._coords = None
        with contextlib.ExitStack() as closed:  # whatever fails
            for handle in handles:
                closed.enter_context(handle)
            for handle in handles:
                handle.flush()
                _settle(handle)
        for path in (Path(handle.name) for handle in handles[1:]):
            if not path.stat().st_size:  # no slide of the shard has coords
                path.unlink()

    def _open(self, size: int, coords_size: int, slide_id: str) -> None:
        """Have a shard open with room for a slide."""
        if size > self._shard_bytes:
            raise InputError(
                f"slide '{slide_id}' takes {size} bytes, a file of the store may have "
                f"{self._shard_bytes}, and no slide lies in two files; allow larger files "
                "(--shard-gb)"
            )
        if self._rows is None and self._journal.shards:
            self._go_on()
        if self._rows is not None and self._has_room(size, coords_size):
            return
        self.close()
        self._begin()

    def _has_room(self, size: int, coords_size: int) -> bool:
        assert self._rows is not None
        if self._rows.tell() + size > self._shard_bytes:
            return False
        here = Path(self._rows.name).parent
        return _free(here) >= size + coords_size or here == self._roomiest()

    def _go_on(self) -> None:
        last = shard_path(self._journal.folder, self._journal.shards[-1])
        self._rows, self._coords = last.open("ab"), coords_path(last).open("ab")
        self._end = self._journal.index_shards()[-1].rows

    def _begin(self) -> None:
        journal = self._journal
        with_room = (place for place in self._folders if _free(place) >= self._shard_bytes)
        place = next(with_room, self._roomiest())
        path = place / f"{journal.head.prefix}-{len(journal.shards):04d}.bin"
        own = path.parent == journal.folder  # where nothing but this packing writes
        if not own and (path.exists() or coords_path(path).exists()):
            raise InputError(
                f"{path} is there already and belongs to no packing that is going on; remove it, "
                "or choose another folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.add_shard(path.name if own else str(path))
        self._rows, self._coords = path.open("wb"), coords_path(path).open("wb")
        self._end = 0

    def _roomiest(self) -> Path:
        return max(self._folders, key=_free)


def described(
    bag: Bag,
    rows: NDArray[Any],
    coords: NDArray[Any],
    source_key: str,
    shard: int,
    offset: int,
    coords_offset: int,
    dtype: Any,
) -> PackedSlide:
    """Return what journal and index say of a slide that lies at a place."""
    has_coords = bag.coords is not None
    return PackedSlide(
        slide_id=bag.slide_id,
        shard=shard,
        offset=offset,
        count=len(rows),
        sha256=hashlib.sha256(rows.data).hexdigest(),
        source_key=source_key,
        rounded=not np.array_equal(read_rows(rows, dtype), bag.features),
        coords_dtype=coords.dtype.str if has_coords else "",
        coords_offset=coords_offset if has_coords else 0,
        coords_sha256=hashlib.sha256(coords.data).hexdigest() if has_coords else "",
        magnification=bag.magnification,
        patch_size=bag.patch_size,
        patch_size_level0=bag.patch_size_level0,
    )


def stored_coords(bag: Bag) -> NDArray[Any]:
    """Return the coords of a bag as they are stored, of their own type; empty where it has none."""
    if bag.coords is None:
        return np.empty((0, 2), np.int32)
    return np.ascontiguousarray(bag.coords)


def _settle(handle: IO[bytes]) -> None:
    """Have the disk hold what was written, and memory no more, so that reading back reads it."""
    os.fsync(handle.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free

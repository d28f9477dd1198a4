"""Packing: every bag of a cohort read once, its rows written to a packed store.

Killed at any time, the same call goes on: slides that the journal notes are checked by their hash
and kept, the others written. The index comes last, after everything has been read back.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from madeleine_bench.data.packed.acceptance import check_bag
from madeleine_bench.data.packed.checking import (
    DamagedStore,
    check_rows,
    damaged,
    remember,
)
from madeleine_bench.data.packed.index import (
    COLUMNS,
    INDEX,
    PREFIX,
    StoreHead,
    StoreIndex,
    is_packed_store,
    read_index,
    shard_files,
    write_index,
)
from madeleine_bench.data.packed.journal import (
    Journal,
    PackingHead,
    journal_of,
    read_journal,
    remove_files,
)
from madeleine_bench.data.packed.numbers import PackedDtype
from madeleine_bench.data.packed.shards import ShardWriter
from madeleine_bench.data.packed.staleness import content_hash, differences
from madeleine_bench.data.packed.store import FeatureStore, open_store
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer
from madeleine_bench.types import Bag, CohortData, Progress, Silence

SHARD_BYTES = 64 * 10**9
_SHOWN = 3


def pack_cohort(
    data: CohortData,
    path: Path,
    progress: Progress | None = None,
    *,
    dtype: PackedDtype | None = "float16",
    shard_bytes: int = SHARD_BYTES,
    shard_folders: Sequence[Path] = (),
) -> FeatureStore:
    """Return the store of a cohort, packed into the folder `path` unless it lies there already.

    Slides without a bag are left out and named in `missing`. Packing holds one bag at a time and
    needs no more room than the store. A store of the cohort as it was before is replaced once the
    new one is whole; slides of a damaged one are written again. Nothing else is touched.

    Args:
        data: the cohort.
        path: the folder.
        progress: told of every slide packed, then of every slide read back.
        dtype: of the rows; None takes that of the store that is there, or float16.
        shard_bytes: the most that the rows of one file take; a slide lies in one file.
        shard_folders: where files of rows go, filled in turn; empty for `path`.

    Raises:
        InputError: `path` holds something else, is being written by another process, or cannot be
            written; no slide has a bag, a bag is broken, empty, not finite or out of the range of
            `dtype`, two slides differ in width or patch encoder; or a bag changed meanwhile.
    """
    packing = _Packing(data, path, progress or Silence(), dtype)
    if (store := packing.finished()) is not None:
        return store
    if not packing.slide_ids:
        raise InputError(f"no slide of cohort {data.cohort_id} has a bag; there is nothing to pack")
    with sole_writer(path):
        # Another process may have packed it before this one had the folder to itself.
        if (store := packing.finished()) is not None:
            return store
        try:
            packing.run(shard_bytes, shard_folders)
        except OSError as error:
            raise InputError(
                f"cannot write {error.filename or path}: {error.strerror or error}. What is packed "
                "is kept; the same command goes on from there (--shard-folder adds a disk)"
            ) from error
        return open_store(path, verify=False)


class _Packing:
    """One call of `pack_cohort`."""

    def __init__(
        self, data: CohortData, path: Path, progress: Progress, dtype: PackedDtype | None
    ) -> None:
        self.data, self.path, self.progress, self.wanted = data, path, progress, dtype
        no_bag = data.no_bag
        self.slide_ids = [slide for slide in data.slides["slide_id"] if slide not in no_bag]
        self.damage = ""
        self._first: Bag | None = None

    def finished(self) -> FeatureStore | None:
        """Return the store if it is whole and that of the cohort."""
        index = _index_in(self.path, self.data.cohort_id)
        if index is None or any(differences(index, self.data, self.wanted)):
            return None
        try:
            return open_store(self.path, progress=self.progress)
        except DamagedStore as error:
            self.damage = str(error)
            return None

    def run(self, shard_bytes: int, shard_folders: Sequence[Path]) -> None:
        """Write the store."""
        before = _index_in(self.path, self.data.cohort_id)
        journal, bad = self._begun(before)
        prefix = PREFIX
        if journal is None:
            content = content_hash(self.data, self.wanted or "float16")
            if before is not None:  # whose files stay as they are until the new ones are whole
                prefix = f"{PREFIX}-{content[:8]}"
            journal = self._start(content, prefix)
        writer = ShardWriter(journal, shard_bytes, shard_folders)
        try:
            self._write(journal, writer, bad)
        finally:
            writer.close()
        index = self._index(journal)
        if changed := list(islice(differences(index, self.data), _SHOWN)):
            raise InputError(
                f"cohort {self.data.cohort_id} changed while it was packed: {'; '.join(changed)}. "
                "Pack it again once nothing writes to it"
            )
        self._publish(index, before)
        journal.remove()

    def _begun(self, before: StoreIndex | None) -> tuple[Journal | None, frozenset[str]]:
        """Return the journal to go on from, if any, and which of its slides are damaged."""
        journal = read_journal(self.path)
        if before is not None and not any(differences(before, self.data, self.wanted)):
            # Whole once, and damaged: its own slides say what is to be where.
            self._forget(journal, before)
            journal = journal_of(self.path, before)
            self.progress.say(f"{self.damage} (done now)")
        elif journal is not None:
            content = content_hash(self.data, self.wanted or journal.head.dtype)
            if journal.head.content != content:
                self._forget(journal, before)
                journal = None
        if journal is None:
            return None, frozenset()
        journal.keep(self.slide_ids)
        journal.save()
        _set_sizes(journal.sizes())
        self.progress.phase(f"check {self.data.cohort_id}", len(journal.slides))
        pieces = (journal.pieces(slide) for slide in journal.slides)
        found = damaged(pieces, self.progress.advance)
        return journal, frozenset(one.slide_id for one in found)

    def _forget(self, journal: Journal | None, before: StoreIndex | None) -> None:
        """Remove what a packing of something else has left."""
        if journal is not None:
            remove_files(journal.files() - _files_of(self.path, before))
            journal.remove()

    def _start(self, content: str, prefix: str) -> Journal:
        dtype = self.wanted or "float16"
        self._first = first = self._bag(self.slide_ids[0], dtype, None)
        dim = first.features.shape[1]
        head = PackingHead(content, dtype, prefix, first.slide_id, dim, first.patch_encoder)
        journal = Journal(self.path, head)
        journal.save()
        return journal

    def _write(self, journal: Journal, writer: ShardWriter, bad: frozenset[str]) -> None:
        """Write the slides that the journal does not have, and those that are damaged."""
        done = len(journal.slides)
        self.progress.phase(f"pack {self.data.cohort_id}", len(self.slide_ids))
        for position, slide_id in enumerate(self.slide_ids):
            if position >= done or slide_id in bad:
                bag = self._bag(slide_id, journal.head.dtype, journal.head)
                if position < done:
                    writer.rewrite(bag, journal.slides[position])
                else:
                    writer.append(bag, self.data.content_key(slide_id))
            self.progress.advance(slide_id)

    def _bag(self, slide_id: str, dtype: PackedDtype, head: PackingHead | None) -> Bag:
        bag, self._first = self._first or self.data.read_bag(slide_id), None
        check_bag(bag, dtype, head, self.data.cohort_id)
        return bag

    def _index(self, journal: Journal) -> StoreIndex:
        data, head = self.data, journal.head
        table = data.slides.set_index("slide_id").loc[self.slide_ids]
        rows = {"case_id": list(table["case_id"]), "stain": list(table["stain"])}
        for name in (name for name in COLUMNS.names if name not in rows):
            rows[name] = [getattr(slide, name) for slide in journal.slides]
        known = StoreHead(
            cohort_id=data.cohort_id,
            source=data.source,
            variant=data.variant,
            patch_encoder=head.patch_encoder,
            dtype=head.dtype,
            dim=head.dim,
            content=head.content,
            missing=tuple(sorted(set(data.slides["slide_id"]) & data.no_bag)),
            shards=journal.index_shards(),
        )
        return StoreIndex(known, pa.table(rows, schema=COLUMNS))

    def _publish(self, index: StoreIndex, before: StoreIndex | None) -> None:
        """Read everything back, write the index, and remove the files of the store before it."""
        self.progress.phase(f"check {self.data.cohort_id}", len(index))
        check_rows(self.path, index, self.progress.advance)
        write_index(self.path, index)
        remember(self.path, index)
        remove_files(_files_of(self.path, before) - _files_of(self.path, index))


def _index_in(path: Path, cohort_id: str) -> StoreIndex | None:
    """Return the index in a folder, if any; refuse what is no store of the cohort."""
    if path.exists() and not path.is_dir():
        raise InputError(f"cannot write to {path}: it is a file; a packed store is a folder")
    if not (path / INDEX).is_file():
        if path.is_dir() and not is_packed_store(path):
            others = (one.name for one in path.iterdir() if not one.name.startswith("."))
            if (other := min(others, default=None)) is not None:
                raise InputError(
                    f"{path} is no packed store, it holds {other}. Remove it, or choose another "
                    "place"
                )
        return None
    try:
        index = read_index(path)
    except InputError as error:
        raise InputError(f"{error}. Remove {path}, or choose another place") from error
    if index.head.cohort_id != cohort_id:
        raise InputError(
            f"{path} is the packed store of cohort {index.head.cohort_id}, not of {cohort_id}. "
            "Remove it, or choose another place"
        )
    return index


def _files_of(path: Path, index: StoreIndex | None) -> set[Path]:
    return set() if index is None else shard_files(path, [s.file for s in index.head.shards])


def _set_sizes(sizes: Mapping[Path, int]) -> None:
    """Cut files to where their last slide ends, and make those that are gone."""
    for path, size in sizes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)

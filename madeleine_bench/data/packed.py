"""The packed store: all bags of a cohort in safetensors files whose rows are memory-mapped.

    <store>/features-<hash>-0000.safetensors   of each slide `features/<id>`, patch x dim, and
                                               `coords/<id>` where its bag has any
    <store>/index.json                         what lies where, and hashes of it; written last

Slides lie by slide id, one behind the other, so that the features of a file are one matrix: a
sample of a slide's patches is read at the speed of memory, and the whole store can be put on a GPU
in one pass. Numbers are float16.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, looking_at, write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.types import Progress, Silence

FORMAT, VERSION, DTYPE = "madeleine-bench packed store", 2, "float16"
INDEX = "index.json"
PARTS = "features-*-*.safetensors"
ITEM_BYTES = 2
_HASH = ', "hash": "'  # ends the index, with the hash of all before it
_THREADS = 8
_UM_PER_PX0 = 0.25
_UM_AT_1X = 10.0  # side of a pixel at 1x, by the usual convention (.5 micrometres at 20x)


class DamagedStore(InputError):
    """Files of a store are not what was packed; packing the cohort again repairs them."""


class PackedSlide(NamedTuple):  # there may be a million, and these are made fast
    """One slide of a store.

    Attributes:
        slide_id: of the slide.
        case_id: of its case.
        stain: of the slide.
        patches: number of patches.
        sha256: of its rows and then its coords, as they lie on the disk.
        source_key: content key of the bag that was packed.
        rounded: whether the numbers stored are not those of the bag.
        coords_dtype: of its coords; "" where the bag has none.
        magnification: of its patches, or None (not stated).
        patch_size: of its patches, or None (not stated).
        patch_size_level0: of its patches, or None (not stated).
        part: number of the file.
        begin: the byte of the file at which its rows begin.
        coords_begin: the byte at which its coords begin.
    """

    slide_id: str
    case_id: str
    stain: str
    patches: int
    sha256: str = ""
    source_key: str = ""
    rounded: bool = False
    coords_dtype: str = ""
    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None
    part: int = 0
    begin: int = 0
    coords_begin: int = 0


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """The bags of a cohort, as the index of a store has them, memory-mapped by `open_store`.

    Attributes:
        path: the folder.
        cohort_id: id of the cohort.
        source: "phantom" or "local".
        variant: "" or what sets a phantom apart from the declared one.
        content: hash of what was packed; equal for equal bags of equal slides.
        missing: slides of the cohort without a bag, sorted.
        patch_encoder: that made the features, or None (unknown).
        dim: number of dimensions of a patch.
        dtype: of the numbers, float16.
        parts: name and bytes of each file, in the order of their slides.
        slides: sorted by slide id.
        shards: for each file patch x dim, read-only, float16; empty where nothing is mapped.
    """

    path: Path
    cohort_id: str
    source: str
    variant: str
    content: str
    missing: Sequence[str] = field(repr=False)
    patch_encoder: str | None
    dim: int
    dtype: str
    parts: Sequence[tuple[str, int]] = field(repr=False)
    slides: list[PackedSlide] = field(repr=False)
    shards: Sequence[NDArray[Any]] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Return the number of slides."""
        return len(self.slides)

    @cached_property
    def slide_ids(self) -> tuple[str, ...]:
        """The id of each slide, sorted."""
        return tuple(slide.slide_id for slide in self.slides)

    @cached_property
    def case_ids(self) -> tuple[str, ...]:
        """The case of each slide."""
        return tuple(slide.case_id for slide in self.slides)

    @cached_property
    def stains(self) -> tuple[str, ...]:
        """The stain of each slide."""
        return tuple(slide.stain for slide in self.slides)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Slide + 1: slide i has the rows from `offsets[i]` to `offsets[i + 1]` of all shards."""
        return np.cumsum([0, *(slide.patches for slide in self.slides)], dtype=np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of patches of each slide."""
        return np.diff(self.offsets)

    @property
    def patches(self) -> int:
        """Number of patches of all slides."""
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        """Size of all rows."""
        return ITEM_BYTES * self.patches * self.dim

    def rows(self, slide_index: int) -> slice:
        """Return the rows of a slide, counted through all shards."""
        return slice(int(self.offsets[slide_index]), int(self.offsets[slide_index + 1]))

    def bag(self, slide_index: int) -> NDArray[Any]:
        """Return the rows of a slide as they lie in its shard, patch x dim, nothing copied."""
        rows = self.rows(slide_index)
        shard = int(np.searchsorted(self._begins, rows.start, side="right")) - 1
        begin = int(self._begins[shard])
        return self.shards[shard][rows.start - begin : rows.stop - begin]

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """The first row of each shard, counted through all of them."""
        return np.cumsum([0, *(len(shard) for shard in self.shards[:-1])], dtype=np.int64)

    @property
    def files(self) -> list[Path]:
        """The paths of the files with the rows."""
        return [self.path / name for name, _ in self.parts]

    @property
    def repair(self) -> str:
        """What to do about damage: packing writes the damaged files again and keeps the rest."""
        return f"To repair it from the bags: mbench data pack {self.cohort_id} --out {self.path}"

    def content_key(self, slide: PackedSlide) -> str:
        """Return the key of a slide's numbers: that of the bag packed, or another if rounded."""
        return f"{slide.source_key}:{self.dtype}" if slide.rounded else slide.source_key

    def positions_um(self, slide_index: int) -> NDArray[np.float64] | None:
        """Return where the patches of a slide lie, patch x 2 (x, y), in micrometres.

        Where the bag does not state its resolution, a level-0 pixel is taken for .25 micrometres
        (40x). None where the bag has no coordinates in level-0 pixels, or one for all patches.
        """
        slide = self.slides[slide_index]
        if not slide.coords_dtype:
            return None
        path = self.path / self.parts[slide.part][0]
        with looking_at(path):
            size = 2 * slide.patches
            coords = np.fromfile(path, slide.coords_dtype, size, offset=slide.coords_begin)
        positions = coords.reshape(-1, 2).astype(np.float64)
        if not np.isfinite(positions).all() or (positions == positions[0]).all():
            return None
        scale = _UM_PER_PX0
        if slide.magnification and slide.patch_size and slide.patch_size_level0:
            side_um = slide.patch_size * _UM_AT_1X / slide.magnification
            scale = side_um / slide.patch_size_level0
        return positions * scale

    def read(self, slide: PackedSlide) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return rows and coords of a slide, checked by their hash.

        No memory map is used, as a fault of the disk would then end the process.

        Raises:
            DamagedStore: they are not what was packed; the message has slide, file and command.
        """
        path, coords = self.path / self.parts[slide.part][0], None
        try:
            size = slide.patches * self.dim
            rows = np.fromfile(path, np.float16, size, offset=slide.begin)
            if slide.coords_dtype:
                size = 2 * slide.patches
                coords = np.fromfile(path, slide.coords_dtype, size, offset=slide.coords_begin)
            damage = "" if slide_hash(rows, coords) == slide.sha256 else "is not what was packed"
        except OSError as error:
            damage = f"cannot be read: {error.strerror or error}"
        if damage:
            raise DamagedStore(f"{path}: slide '{slide.slide_id}' {damage}. {self.repair}")
        return rows.reshape(-1, self.dim), None if coords is None else coords.reshape(-1, 2)


_HEAD = [one.name for one in fields(FeatureStore) if one.name not in ("path", "slides", "shards")]


def slide_hash(rows: NDArray[Any], coords: NDArray[Any] | None) -> str:
    """Return the SHA-256 of a slide's rows and coords."""
    digest = hashlib.sha256(rows.data)
    if coords is not None:
        digest.update(coords.data)
    return digest.hexdigest()


def is_packed_store(folder: Path) -> bool:
    """Return whether a folder holds a packed store, whole or not yet."""
    return (folder / INDEX).is_file() or any(folder.glob(PARTS))


def write_index(store: FeatureStore) -> None:
    """Write the index, which makes the folder a store.

    Raises:
        InputError: the folder cannot be written.
    """
    document = {name: getattr(store, name) for name in _HEAD}
    document |= {"format": FORMAT, "version": VERSION, "slides": columns_of(store.slides)}
    text = json.dumps(document).removesuffix("}")
    write_text(store.path / INDEX, f'{text}{_HASH}{hash_bytes(text.encode())}"}}\n')


def columns_of(slides: Sequence[PackedSlide]) -> dict[str, list[Any]]:
    """Return slides by column, which takes less room in JSON than a mapping for each slide."""
    return dict(zip(PackedSlide._fields, map(list, zip(*slides, strict=True)), strict=True))


def slides_of(columns: Mapping[str, list[Any]]) -> list[PackedSlide]:
    """Return the slides of columns."""
    values = (columns[name] for name in PackedSlide._fields)
    return [PackedSlide._make(row) for row in zip(*values, strict=True)]


def read_index(folder: Path) -> FeatureStore:
    """Return a store as its index has it, which is checked against its hash; nothing is mapped.

    Raises:
        InputError: there is none, or it is damaged, of another format or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        if any(folder.glob(PARTS)):
            raise InputError(
                f"{folder}: packing has not ended; the same mbench data pack continues from there"
            )
        raise InputError(
            f"no packed store {folder} (a packed store is a folder with {INDEX} in it); "
            f"mbench data pack COHORT --out {folder} makes one"
        )
    try:
        content = path.read_bytes()
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError("its format is another")
        version, dtype = document["version"], document["dtype"]
        intact = document["hash"] == hash_bytes(content[: content.rindex(_HASH.encode())])
    except (OSError, MemoryError, RecursionError, LookupError, TypeError, ValueError) as error:
        check_readable(path, error)
        raise InputError(
            f"{path} is damaged or is not an index of a packed store; mbench data pack makes one"
        ) from error
    if (version, dtype) != (VERSION, DTYPE):
        raise InputError(
            f"{path} is of version {version}; this release reads version {VERSION} in {DTYPE}"
        )
    if not intact:
        raise InputError(f"{path} is damaged: it is not what was written (its hash differs)")
    head = {name: document[name] for name in _HEAD} | {"missing": tuple(document["missing"])}
    return FeatureStore(folder, slides=slides_of(document["slides"]), **head)


def open_store(
    path: Path, *, verify: bool = False, progress: Progress | None = None
) -> FeatureStore:
    """Return a packed store, its rows memory-mapped; its index and the sizes of files are checked.

    Args:
        path: its folder.
        verify: whether every slide is read and checked by its SHA-256 besides.
        progress: told of the slides checked.

    Raises:
        InputError: there is no store, or its index cannot be used.
        DamagedStore: a file is absent, of another size, or not what was packed; the message names
            slide and file, and the command that repairs them.
    """
    store = read_index(path)
    check_sizes(store)
    if verify:
        _check_slides(store, progress or Silence())
    shards = []
    parts = groupby(store.slides, lambda slide: slide.part)
    for file, (_, members) in zip(store.files, parts, strict=True):
        slides = list(members)
        shape = (sum(slide.patches for slide in slides), store.dim)
        with looking_at(file):
            rows = np.memmap(file, np.float16, "r", slides[0].begin, shape)
        shards.append(np.asarray(rows))  # slices of numpy's memmap class take longer to make
    return replace(store, shards=shards)


def check_sizes(store: FeatureStore) -> None:
    """Check that every file is there and has its size.

    Raises:
        DamagedStore: one has not.
    """
    for path, (_, expected) in zip(store.files, store.parts, strict=True):
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise DamagedStore(
                f"{path} is truncated, missing or of another store: it has {size} bytes, the "
                f"index of "
                f"{store.path} says {expected}. {store.repair}"
            )


def _check_slides(store: FeatureStore, progress: Progress) -> None:
    """Check the SHA-256 of every slide; files are read by several threads.

    Raises:
        DamagedStore: a slide is not what was packed.
    """
    progress.phase(f"check {store.cohort_id}", len(store))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        checks = threads.map(lambda slide: bool(store.read(slide)), store.slides)
        for slide, _ in zip(store.slides, checks, strict=True):
            progress.advance(slide.slide_id)

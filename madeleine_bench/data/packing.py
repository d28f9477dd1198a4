"""Packing: every bag of a cohort read once, its rows written to a packed store.

Killed at any time, the same call goes on: a file of the store is renamed into place once it is
whole, and says in its metadata which slides it holds, so that whole files are checked and kept and
the others written. Every file is read back. The index comes last.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from madeleine_bench.data.bag_sources import PackedBags
from madeleine_bench.data.local import LocalCohort
from madeleine_bench.data.packed import (
    DTYPE,
    FORMAT,
    INDEX,
    PARTS,
    DamagedStore,
    FeatureStore,
    PackedSlide,
    columns_of,
    is_packed_store,
    open_store,
    read_index,
    slide_hash,
    slides_of,
    write_index,
)
from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing, sole_writer
from madeleine_bench.hashing import canonical_json, hash_json
from madeleine_bench.types import Bag, CohortData, Progress, Silence, board_name

_KEY = "madeleine_bench"  # of a file's metadata; the only one, as several have no order
PART_BYTES = 10**9  # held in memory while it is packed
_STATED = ("content", "dim", "patch_encoder")  # in the metadata of a file, besides its slides
# The smallest normal and the largest finite number.
_SMALLEST, _LARGEST = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)


def pack_cohort(
    data: CohortData,
    path: Path,
    progress: Progress | None = None,
    *,
    part_bytes: int = PART_BYTES,
) -> FeatureStore:
    """Return the store of a cohort, packed into the folder `path` unless it lies there already.

    Slides without a bag are left out and named in `missing`. A store of the cohort as it was before
    is replaced once the new one is whole; damaged files of a store are written again. Nothing else
    is touched.

    Args:
        data: the cohort.
        path: the folder.
        progress: told of every slide that is packed and read back.
        part_bytes: the most that the rows of one file take, unless it holds a single slide; the
            file being written is held in memory.

    Raises:
        InputError: `path` holds something else, is being written by another process, or cannot be
            written; no slide has a bag, a bag is broken, not finite or out of the range of float16;
            or a bag changed meanwhile.
    """
    progress = progress or Silence()
    before = _current_index(path, data)
    if before is not None:
        try:
            return open_store(path, verify=True, progress=progress)
        except DamagedStore as error:
            progress.say(str(error))
    no_bag = data.no_bag
    slide_ids = [slide for slide in data.slides["slide_id"] if slide not in no_bag]
    if not slide_ids:
        raise InputError(f"no slide of cohort {data.cohort_id} has a bag; there is nothing to pack")
    store = FeatureStore(
        path=path,
        cohort_id=data.cohort_id,
        source=data.source,
        variant=data.variant,
        content=before.content if before else content_hash(data),
        missing=tuple(sorted(set(data.slides["slide_id"]) & no_bag)),
        patch_encoder=None,
        dim=0,
        dtype=DTYPE,
        parts=[],
        slides=[],
    )
    with sole_writer(path):
        packing = _Packing(data, store, progress)
        progress.phase(f"pack {data.cohort_id}", len(slide_ids))
        while todo := slide_ids[len(packing.store) :]:
            if packing.take(todo):  # there is no such file yet, or no sound one
                packing.write(todo, part_bytes)
                if problem := packing.take(todo):
                    raise InputError(f"a file in {path} is not what was written: {problem}")
        store = packing.store
        if content_hash(data) != store.content:
            raise InputError(
                f"the table or the bags of cohort {data.cohort_id} changed while it was packed. "
                "Pack it again once nothing writes to it"
            )
        write_index(store)
        for file in set(path.glob(PARTS)).difference(store.files):
            file.unlink()  # of the store before
    return open_store(path)


class _Packing:
    """A store being packed.

    Attributes:
        store: the files that are whole, and their slides.
    """

    def __init__(self, data: CohortData, store: FeatureStore, progress: Progress) -> None:
        self.store = store
        self._data, self._progress = data, progress
        self._ahead: dict[str, Bag] = {}  # read, and too large for the file before it

    def take(self, todo: list[str]) -> str:
        """Take on the next file if it is there, whole, and holds the next slides.

        Args:
            todo: the slides that are not packed yet.

        Returns:
            Why it cannot be taken; "" where it was.
        """
        try:
            part = self._part(self._next_file)
            ids = [slide.slide_id for slide in part.slides]
            if part.content != self.store.content or not ids or ids != todo[: len(ids)]:
                return "it holds other slides"
            for slide in part.slides:
                part.read(slide)
        except (OSError, SafetensorError, InputError, LookupError, TypeError, ValueError) as error:
            return str(error) or repr(error)
        self.store.slides.extend(part.slides)
        self.store = replace(part, slides=self.store.slides)
        for slide_id in ids:
            self._progress.advance(slide_id)
        return ""

    def write(self, todo: list[str], part_bytes: int) -> None:
        """Read the next bags and write them to a file.

        Raises:
            InputError: a bag cannot be packed, or the folder cannot be written.
        """
        tensors: dict[str, NDArray[Any]] = {}
        slides: list[PackedSlide] = []
        size = 0
        try:
            for slide_id in todo:
                bag = self._ahead.pop(slide_id, None) or self._data.read_bag(slide_id)
                self._check(bag)
                rows, coords = np.ascontiguousarray(bag.features, np.float16), bag.coords
                size += rows.nbytes
                if slides and size > part_bytes:
                    self._ahead = {slide_id: bag}
                    break
                tensors[f"features/{slide_id}"] = rows
                if coords is not None:
                    native = coords.dtype.newbyteorder("=")
                    tensors[f"coords/{slide_id}"] = coords = np.ascontiguousarray(coords, native)
                slides.append(
                    PackedSlide(
                        slide_id,
                        bag.case_id,
                        bag.stain,
                        patches=len(rows),
                        sha256=slide_hash(rows, coords),
                        source_key=self._data.content_key(slide_id),
                        rounded=not np.array_equal(rows, bag.features),
                        coords_dtype="" if coords is None else coords.dtype.str,
                        magnification=bag.magnification,
                        patch_size=bag.patch_size,
                        patch_size_level0=bag.patch_size_level0,
                    )
                )
        finally:  # what is sound is kept, whatever the next bag is
            if slides:
                self._save(tensors, slides)

    def _save(self, tensors: dict[str, NDArray[Any]], slides: list[PackedSlide]) -> None:
        path = self._next_file
        stated = {name: getattr(self.store, name) for name in _STATED}
        stated["slides"] = columns_of(slides)
        metadata = {_KEY: json.dumps(stated | {"hash": hash_json(stated)})}
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata)
        except (InputError, SafetensorError) as error:
            raise InputError(
                f"{path} cannot be written ({error}). What is packed is kept; the same command "
                "continues from there"
            ) from error

    @property
    def _next_file(self) -> Path:
        # Two stores share no file, so that one stays whole until the next one is.
        name = f"features-{self.store.content[:8]}-{len(self.store.parts):04d}.safetensors"
        return self.store.path / name

    def _part(self, path: Path) -> FeatureStore:
        """Return the store with one more file, and of the slides those of this file alone."""
        with safe_open(path, "np") as part:  # which checks the header against the size of the file
            stated = json.loads(part.metadata()[_KEY])
        if stated.pop("hash") != hash_json(stated):
            raise ValueError("the metadata is not what was written")
        with path.open("rb") as handle:
            begin = 8 + int.from_bytes(handle.read(8), "little")
            tensors = json.loads(handle.read(begin - 8))
        del tensors["__metadata__"]
        begins = {name: begin + one["data_offsets"][0] for name, one in tensors.items()}
        number, parts = len(self.store.parts), [*self.store.parts, (path.name, path.stat().st_size)]
        slides = [
            slide._replace(
                part=number,
                begin=begins[f"features/{slide.slide_id}"],
                coords_begin=begins.get(f"coords/{slide.slide_id}", 0),
            )
            for slide in slides_of(stated.pop("slides"))
        ]
        return replace(self.store, **stated, parts=parts, slides=slides)

    def _check(self, bag: Bag) -> None:
        """Check that the numbers of a bag are finite and in the range of the store.

        Raises:
            InputError: they are not.
        """
        # Extremes are NaN where any number is; two passes are cheaper than a mask of every number,
        # and in float32, which processors compare, than in float16, which they do not.
        numbers = bag.features.astype(np.float32, copy=False)
        extreme = max(-float(numbers.min()), float(numbers.max()))
        if not extreme <= _LARGEST or 0.0 < extreme < _SMALLEST:
            raise InputError(
                f"cohort {self.store.cohort_id}, slide '{bag.slide_id}': its features hold NaN, "
                f"infinity or numbers outside the range of float16 ({_SMALLEST:.1g} to "
                f"{_LARGEST:g}); the largest is {extreme:g} in size. Extract them again, or scale "
                "the features of the whole cohort by one factor"
            )
        if not self.store.dim:
            self.store = replace(
                self.store, dim=bag.features.shape[1], patch_encoder=bag.patch_encoder
            )


def _current_index(path: Path, data: CohortData) -> FeatureStore | None:
    """Return the index in a folder if it is that of the cohort as it is now.

    Raises:
        InputError: the folder holds what is no store of the cohort, and is not to be replaced.
    """
    if not (path / INDEX).is_file():
        others = [] if is_packed_store(path) else sorted(p.name for p in path.glob("[!.]*"))
        if others:
            raise InputError(
                f"{path} is not a packed store; it holds {others[0]}. Remove it, or choose another "
                "place"
            )
        return None
    try:
        index = read_index(path)
        if index.cohort_id != data.cohort_id:
            raise InputError(
                f"{path} is the packed store of cohort {index.cohort_id}, not of {data.cohort_id}"
            )
    except InputError as error:
        raise InputError(f"{error}. Remove {path}, or choose another place") from error
    return index if index.content == content_hash(data) else None


def packed_folder(data: CohortData, results: Path, name: str = "") -> Path:
    """Return the folder of the packed store of a cohort, which may not be there yet.

    The store that the cohort is read from, if it has exactly the slides of the cohort's table; else
    one among the results, where `run` and `pretrain` look. `name` is that of the feature folder,
    where the cohort has several.
    """
    bags = data.bags if isinstance(data, LocalCohort) else None
    if isinstance(bags, PackedBags) and bags.store.content == content_hash(data):
        return bags.path
    folder = results / "features" / board_name(data.source, data.variant)
    return folder / "-".join(filter(None, [data.cohort_id, name]))


def pack_into(data: CohortData, path: Path, progress: Progress, part_bytes: int) -> str:
    """Pack a cohort as `pack_cohort` does, and say what the store holds and how it is read.

    Raises:
        InputError: as `pack_cohort`.
    """
    store = pack_cohort(data, path, progress, part_bytes=part_bytes)
    phantom = "PHANTOM " if store.source == "phantom" else ""
    count = len(store.parts)
    missing = f", {len(store.missing)} slides without a bag skipped" if store.missing else ""
    return (
        f"{phantom}{store.cohort_id}: {len(store)} slides, {store.patches} patches x {store.dim} "
        f"{store.dtype} ({store.nbytes / 1e9:.3g} GB in {count} file{'s' * (count > 1)}) in "
        f'{store.path}{missing}\nin mbench.toml: features = "{path.absolute()}"'
    )


def content_hash(data: CohortData) -> str:
    """Return the hash of all bags of a cohort and of what is known of their slides.

    Of a cohort that is read from a store it is the hash of the bags that were packed.

    Raises:
        InputError: a feature file cannot be read.
    """
    bags = data.bags if isinstance(data, LocalCohort) else None
    slides = bags.store.slides if isinstance(bags, PackedBags) else ()
    packed = {slide.slide_id: slide.source_key for slide in slides}
    # The number is that of the first form of a store: equal bags keep their hash.
    head = [FORMAT, 1, DTYPE, data.cohort_id, data.source, data.variant]
    digest = hashlib.sha256(canonical_json(head).encode())
    columns = data.slides[["slide_id", "case_id", "stain"]].itertuples(index=False)
    no_bag = data.no_bag
    for slide_id, case_id, stain in columns:
        key = None
        if slide_id not in no_bag:
            key = packed.get(slide_id) or data.content_key(slide_id)
        digest.update(canonical_json([slide_id, case_id, stain, key]).encode())
    return digest.hexdigest()

"""All bags of a cohort in one HDF5 file, rows in one piece, so that they can be memory-mapped.

A sample of a slide's patches is then read at the speed of memory, and the whole store can be put
on a GPU in one pass. Rows are float16, slide after slide in the order of slide ids.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.files import replacing
from madeleine_bench.hashing import hash_json
from madeleine_bench.types import Bag, CohortData

FORMAT = "madeleine-bench feature store"
VERSION = 1
_LARGEST, _SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)
_BLOCK_BYTES = 1 << 26
_NAMES = ("slide_ids", "case_ids", "stains", "missing")
_TEXTS = ("cohort_id", "source", "variant", "patch_encoder", "content")


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """The bags of a cohort, memory-mapped.

    Attributes:
        path: the file.
        features: patch x dim, float16, read-only; the rows of a slide lie together.
        offsets: slide + 1, int64: slide i has the rows from `offsets[i]` to `offsets[i + 1]`.
        slide_ids: sorted.
        case_ids: of each slide.
        stains: of each slide.
        missing: slides of the cohort without a bag.
        patch_encoder: that made the features, or None (unknown).
        cohort_id: id of the cohort.
        source: "phantom" or "local".
        variant: "" or what sets a phantom apart from the declared one.
        content: hash of what was packed; equal for equal bags of equal slides.
    """

    path: Path
    features: NDArray[np.float16] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    slide_ids: tuple[str, ...] = field(repr=False)
    case_ids: tuple[str, ...] = field(repr=False)
    stains: tuple[str, ...] = field(repr=False)
    missing: tuple[str, ...] = field(repr=False)
    patch_encoder: str | None
    cohort_id: str
    source: str
    variant: str
    content: str

    def __len__(self) -> int:
        """Return the number of slides."""
        return len(self.slide_ids)

    @property
    def dim(self) -> int:
        """Number of dimensions of a patch."""
        return int(self.features.shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of patches of each slide."""
        return np.diff(self.offsets)

    def rows(self, slide_index: int) -> slice:
        """Return the rows of a slide in `features`."""
        return slice(int(self.offsets[slide_index]), int(self.offsets[slide_index + 1]))


def pack_cohort(
    data: CohortData, path: Path, advance: Callable[[str], None] = lambda note: None
) -> FeatureStore:
    """Return the store of a cohort, packed into `path` unless it lies there already.

    Slides without a bag are left out and named in `missing`. Packing reads each bag once and
    holds one at a time; for a while it needs twice the room of the store on the disk. The file
    appears when it is whole.

    Args:
        data: the cohort.
        path: the file; a store of other bags in it is replaced, nothing else is.
        advance: called with each slide id once its bag is packed.

    Raises:
        InputError: `path` holds something else or cannot be written, no slide has a bag, a bag is
            broken, empty, not finite or out of float16's range, or two slides differ in width or
            patch encoder.
    """
    content = content_hash(data)
    if path.exists():
        try:
            store = open_store(path)
        except InputError as error:
            raise InputError(f"{error}. Remove it, or choose another place") from error
        if store.content == content:
            return store
    rows = data.slides[~data.slides["slide_id"].isin(data.no_bag)]
    if rows.empty:
        raise InputError(f"no slide of cohort {data.cohort_id} has a bag; there is nothing to pack")
    slide_ids = list(rows["slide_id"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as raw:
            first, lengths = _append_bags(data, slide_ids, raw, advance)
            texts = {
                "cohort_id": data.cohort_id,
                "source": data.source,
                "variant": data.variant,
                "patch_encoder": first.patch_encoder or "",
                "content": content,
            }
            names = {
                "slide_ids": slide_ids,
                "case_ids": list(rows["case_id"]),
                "stains": list(rows["stain"]),
                "missing": sorted(set(data.slides["slide_id"]) & data.no_bag),
            }
            _write_store(path, raw, lengths, first.features.shape[1], texts, names)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return open_store(path)


def open_store(path: Path) -> FeatureStore:
    """Return a store, its features memory-mapped; what is read lies in the page cache.

    Raises:
        InputError: the file is absent, cut short, damaged, or no feature store.
    """
    try:
        with h5py.File(path, "r") as handle:
            _check_format(handle, path)
            dataset = handle["features"]
            shape, dtype, begin = dataset.shape, dataset.dtype, dataset.id.get_offset()
            offsets = np.asarray(handle["offsets"][...])
            names = {name: tuple(handle[name].asstr()[...].tolist()) for name in _NAMES}
            texts = {name: str(handle.attrs[name]) for name in _TEXTS}
    except FileNotFoundError as error:
        raise InputError(f"no feature store {path}") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged or no feature store ({str(error).splitlines()[0][:200]})"
        ) from error
    slides = len(names["slide_ids"])
    whole = (
        dtype == np.float16
        and len(shape) == 2
        and begin is not None
        and begin + 2 * shape[0] * shape[1] <= path.stat().st_size
        and offsets.shape == (slides + 1,)
        and offsets.dtype == np.int64
        and offsets[0] == 0
        and offsets[-1] == shape[0]
        and (np.diff(offsets) > 0).all()
        and len(names["case_ids"]) == len(names["stains"]) == slides
    )
    if not whole:
        raise InputError(f"{path} is a damaged feature store: its parts do not fit one another")
    features = np.memmap(path, np.float16, mode="r", offset=begin, shape=shape)
    return FeatureStore(
        path=path,
        features=features,
        offsets=offsets,
        slide_ids=names["slide_ids"],
        case_ids=names["case_ids"],
        stains=names["stains"],
        missing=names["missing"],
        patch_encoder=texts["patch_encoder"] or None,
        cohort_id=texts["cohort_id"],
        source=texts["source"],
        variant=texts["variant"],
        content=texts["content"],
    )


def content_hash(data: CohortData) -> str:
    """Return the hash of all bags of a cohort and of what is known of their slides.

    Raises:
        InputError: a feature file cannot be read.
    """
    columns = data.slides[["slide_id", "case_id", "stain"]].itertuples(index=False)
    slides = [
        [slide_id, case_id, stain, None if slide_id in data.no_bag else data.content_key(slide_id)]
        for slide_id, case_id, stain in columns
    ]
    return hash_json([FORMAT, VERSION, data.cohort_id, data.source, data.variant, slides])


def _append_bags(
    data: CohortData, slide_ids: Sequence[str], raw: IO[bytes], advance: Callable[[str], None]
) -> tuple[Bag, list[int]]:
    """Write every bag to `raw`; return the first bag and the number of patches of each."""
    first: Bag | None = None
    lengths: list[int] = []
    for slide_id in slide_ids:
        bag = data.read_bag(slide_id)
        first = first or bag
        _check_bag(bag, first, data.cohort_id)
        raw.write(np.ascontiguousarray(bag.features, dtype=np.float16).data)
        lengths.append(len(bag.features))
        advance(slide_id)
    assert first is not None
    return first, lengths


def _check_bag(bag: Bag, first: Bag, cohort_id: str) -> None:
    where = f"cohort {cohort_id}, slide '{bag.slide_id}'"
    advice = "One cohort has one patch encoder: extract the features of one of them again"
    if bag.features.ndim != 2 or bag.features.shape[0] == 0 or bag.features.shape[1] == 0:
        raise InputError(
            f"{where}: its bag is empty (shape {bag.features.shape}); extract it again"
        )
    dim, expected = bag.features.shape[1], first.features.shape[1]
    if dim != expected:
        raise InputError(
            f"{where} has patches of {dim} dimensions, slide '{first.slide_id}' of {expected}. "
            f"{advice}"
        )
    if bag.patch_encoder != first.patch_encoder:
        raise InputError(
            f"{where} was made by patch encoder '{bag.patch_encoder}', slide '{first.slide_id}' "
            f"by '{first.patch_encoder}'. {advice}"
        )
    # Extremes are NaN where any number is; two passes are cheaper than a mask of every number.
    low, high = float(bag.features.min()), float(bag.features.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{where}: its features hold NaN or infinity; extract them again")
    largest = max(-low, high)
    if largest > _LARGEST or 0.0 < largest < _SMALLEST:
        raise InputError(
            f"{where}: its largest feature is {largest:g} in size, outside the range of the "
            f"store's float16 ({_SMALLEST:.1g} to {_LARGEST:g}); scale the features of the "
            "whole cohort by one factor"
        )


def _write_store(
    path: Path,
    raw: IO[bytes],
    lengths: Sequence[int],
    dim: int,
    texts: dict[str, str],
    names: dict[str, list[str]],
) -> None:
    total = sum(lengths)
    # Whole cache lines: rows that begin inside one are slower to copy.
    lines = {"alignment_threshold": 1, "alignment_interval": 64}
    with replacing(path) as temporary, h5py.File(temporary, "w", **lines) as handle:
        handle.attrs.update({"format": FORMAT, "version": VERSION, **texts})
        handle["offsets"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        for name, values in names.items():
            text = np.array(values, dtype=object)
            handle.create_dataset(name, data=text, dtype=h5py.string_dtype())
        dataset = handle.create_dataset("features", (total, dim), np.float16)
        raw.seek(0)
        for start, block in _blocks(raw, total, dim):
            dataset[start : start + len(block)] = block


def _blocks(raw: IO[bytes], total: int, dim: int) -> Iterator[tuple[int, NDArray[Any]]]:
    step = max(1, _BLOCK_BYTES // (2 * dim))
    for start in range(0, total, step):
        rows = min(step, total - start)
        yield start, np.frombuffer(raw.read(2 * rows * dim), np.float16).reshape(rows, dim)


def _check_format(handle: Any, path: Path) -> None:
    if handle.attrs.get("format") != FORMAT:
        raise InputError(f"{path} is no feature store; one is made from a cohort by packing it")
    if handle.attrs.get("version") != VERSION:
        raise InputError(
            f"{path} is a feature store of version {handle.attrs.get('version')}; this release "
            f"reads version {VERSION}"
        )

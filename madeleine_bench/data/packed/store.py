"""A packed store, opened: the rows of every slide, memory-mapped."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.packed.checking import (
    check_rows,
    check_sizes,
    file_states,
    is_remembered,
    remember,
)
from madeleine_bench.data.packed.index import StoreIndex, read_index, shard_path
from madeleine_bench.data.packed.numbers import ITEM_BYTES, PackedDtype, disk_dtype, read_rows
from madeleine_bench.errors import InputError
from madeleine_bench.types import Progress, Silence

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """The bags of a cohort, memory-mapped.

    Attributes:
        path: the folder.
        shards: for each file patch x dim, read-only, float16, or uint16 that holds the bits of
            bfloat16; the rows of a slide lie together, slides in the order of their ids.
        offsets: slide + 1, int64: slide i has the rows from `offsets[i]` to `offsets[i + 1]`,
            counted through all shards.
        slide_ids: sorted.
        case_ids: of each slide.
        stains: of each slide.
        missing: slides of the cohort without a bag.
        patch_encoder: that made the features, or None (unknown).
        cohort_id: id of the cohort.
        source: "phantom" or "local".
        variant: "" or what sets a phantom apart from the declared one.
        content: hash of what was packed; equal for equal bags of equal slides in one dtype.
        dtype: of the numbers.
    """

    path: Path
    shards: tuple[NDArray[Any], ...] = field(repr=False)
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
    dtype: PackedDtype = "float16"

    def __len__(self) -> int:
        """Return the number of slides."""
        return len(self.slide_ids)

    @property
    def dim(self) -> int:
        """Number of dimensions of a patch."""
        return int(self.shards[0].shape[1])

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

    def numbers(self, rows: NDArray[Any]) -> NDArray[np.floating]:
        """Return rows of `bag` as numbers of numpy: float16 as they lie, bfloat16 as float32."""
        return read_rows(rows, self.dtype)

    def tensor(self, rows: NDArray[Any]) -> "torch.Tensor":
        """Return rows taken from `bag` as a tensor of the store's dtype; memory is shared.

        Args:
            rows: writable, so a copy of rows, as PyTorch has no read-only tensors.
        """
        import torch

        found = torch.from_numpy(rows)
        return found.view(torch.bfloat16) if self.dtype == "bfloat16" else found

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """The first row of each shard, counted through all of them."""
        return np.cumsum([0, *(len(shard) for shard in self.shards[:-1])], dtype=np.int64)


def open_store(
    path: Path, *, verify: bool | None = None, progress: Progress | None = None
) -> FeatureStore:
    """Return a packed store, checked, its rows memory-mapped.

    Args:
        path: its folder.
        verify: whether the SHA-256 of every slide is checked: None where no such check is
            remembered since the files were last touched, True always, False never. Index and
            sizes of files are always checked.
        progress: told of the slides checked.

    Raises:
        InputError: there is no store, or its index cannot be used.
        DamagedStore: a file is absent, of another size, or not what was packed; the message names
            slide and file, and the command that mends them.
    """
    index = read_index(path)
    check_sizes(path, index)
    if verify or (verify is None and not is_remembered(path, index)):
        progress = progress or Silence()
        progress.phase(f"check {index.head.cohort_id}", len(index))
        states = file_states(path, index)
        check_rows(path, index, progress.advance)
        remember(path, index, states)
    return mapped(path, index)


def mapped(path: Path, index: StoreIndex) -> FeatureStore:
    """Return the store of an index, its files memory-mapped; they have the sizes of the index.

    Raises:
        InputError: a file cannot be read.
    """
    head, dtype = index.head, disk_dtype(index.head.dtype)
    shards = []
    for shard in head.shards:
        file, shape = shard_path(path, shard.file), (shard.rows, head.dim)
        try:
            rows = np.memmap(file, dtype, mode="r", shape=shape)
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error
        # A plain array: slices of numpy's memmap class take several times longer to make.
        shards.append(np.asarray(rows))
    return FeatureStore(
        path=path,
        shards=tuple(shards),
        offsets=np.concatenate([[0], np.cumsum(index.numbers("count"), dtype=np.int64)]),
        slide_ids=tuple(index.column("slide_id")),
        case_ids=tuple(index.column("case_id")),
        stains=tuple(index.column("stain")),
        missing=head.missing,
        patch_encoder=head.patch_encoder,
        cohort_id=head.cohort_id,
        source=head.source,
        variant=head.variant,
        content=head.content,
        dtype=head.dtype,
    )

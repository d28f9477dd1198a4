"""The index of a packed store: what it holds and where each slide lies, one parquet file.

One row a slide, sorted by slide id; what is true of the whole store is JSON in the metadata of the
file, with a hash over everything, so that no part of the index can change unseen. It is written
last: a folder with an index is a whole store.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from madeleine_bench.data.packed.numbers import ITEM_BYTES, PackedDtype
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, replacing
from madeleine_bench.hashing import canonical_json, hash_json

FORMAT = "madeleine-bench packed store"
VERSION = 1
INDEX, JOURNAL = "index.parquet", "packing.jsonl"
PREFIX, COORDS = "features", "coords"  # what names of files begin with
_KEY = b"madeleine_bench"
COLUMNS = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("stain", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # first row, counted within the shard
        pa.field("count", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of its rows, as they lie on disk
        pa.field("source_key", pa.string(), nullable=False),  # content key of the bag packed
        pa.field("rounded", pa.bool_(), nullable=False),  # the numbers stored are not the bag's
        pa.field("coords_dtype", pa.string(), nullable=False),  # "" where the bag has no coords
        pa.field("coords_offset", pa.int64(), nullable=False),  # bytes, within the coords file
        pa.field("coords_sha256", pa.string(), nullable=False),
        pa.field("magnification", pa.float64()),
        pa.field("patch_size", pa.int64()),
        pa.field("patch_size_level0", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """One file of rows, and the file of their coords beside it where there are any.

    Attributes:
        file: path, relative to the folder of the index where it lies in there.
        rows: number of patches.
        coords_bytes: size of the file of coords; 0 where there is none.
    """

    file: str
    rows: int
    coords_bytes: int


@dataclass(frozen=True)
class StoreHead:
    """What is true of a whole store.

    Attributes:
        cohort_id: id of the cohort.
        source: "phantom" or "local".
        variant: "" or what sets a phantom apart from the declared one.
        patch_encoder: that made the features, or None (unknown).
        dtype: of the rows.
        dim: number of dimensions of a patch.
        content: hash of what was packed; equal for equal bags of equal slides in one dtype.
        missing: slides of the cohort without a bag, sorted.
        shards: the files, in the order of their slides.
    """

    cohort_id: str
    source: str
    variant: str
    patch_encoder: str | None
    dtype: PackedDtype
    dim: int
    content: str
    missing: tuple[str, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Piece:
    """Some bytes of a file, and the SHA-256 they had when they were packed."""

    slide_id: str
    file: Path
    begin: int
    size: int
    sha256: str


@dataclass(frozen=True, eq=False)
class StoreIndex:
    """The index of a store.

    Attributes:
        head: what is true of the whole store.
        slides: an Arrow table with the columns of `COLUMNS`, sorted by slide id.
    """

    head: StoreHead
    slides: Any

    def __len__(self) -> int:
        """Return the number of slides."""
        return int(self.slides.num_rows)

    def column(self, name: str) -> list[Any]:
        """Return a column, a value for each slide."""
        return list(self.slides.column(name).to_pylist())

    def numbers(self, name: str) -> NDArray[np.int64]:
        """Return a column of whole numbers without gaps."""
        return np.asarray(self.slides.column(name).to_numpy(), dtype=np.int64)

    @cached_property
    def content_keys(self) -> list[str]:
        """The content key of each slide's rows: that of the bag packed, or another if rounded."""
        return [
            f"{key}:{self.head.dtype}" if rounded else key
            for key, rounded in zip(self.column("source_key"), self.column("rounded"), strict=True)
        ]

    def pieces(self, folder: Path) -> Iterator[list[Piece]]:
        """Yield of each slide its rows, and its coords where it has any."""
        paths = [shard_path(folder, shard.file) for shard in self.head.shards]
        for batch in self.slides.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                yield slide_pieces(row, paths[row["shard"]], self.head.dim)

    def mend(self, folder: Path) -> str:
        """Return what to do about damage: packing mends what differs and keeps the rest."""
        return f"To mend it from the bags: mbench data pack {self.head.cohort_id} --out {folder}"


def slide_pieces(row: dict[str, Any], file: Path, dim: int) -> list[Piece]:
    """Return the rows of a slide, and its coords where it has any, as pieces of their files."""
    width = ITEM_BYTES * dim
    found = [
        Piece(row["slide_id"], file, width * row["offset"], width * row["count"], row["sha256"])
    ]
    if row["coords_dtype"]:
        size = coords_bytes(row["coords_dtype"], row["count"])
        coords = (coords_path(file), row["coords_offset"], size, row["coords_sha256"])
        found.append(Piece(row["slide_id"], *coords))
    return found


def coords_bytes(dtype: str, count: int) -> int:
    """Return the bytes that the coords of a slide take; 0 where it has none (dtype "")."""
    return 2 * count * np.dtype(dtype).itemsize if dtype else 0


def shard_path(folder: Path, file: str) -> Path:
    """Return the path of a shard of the store in `folder`."""
    return folder / file


def coords_path(shard: Path) -> Path:
    """Return the path of the coords of a shard's rows."""
    return shard.with_name(COORDS + shard.name.removeprefix(PREFIX))


def shard_files(folder: Path, files: Sequence[str]) -> set[Path]:
    """Return the paths of shards and of their coords."""
    paths = {shard_path(folder, file) for file in files}
    return paths | {coords_path(path) for path in paths}


def is_packed_store(path: Path) -> bool:
    """Return whether a folder holds a packed store, whole or not yet."""
    return (path / INDEX).is_file() or (path / JOURNAL).is_file()


def write_index(folder: Path, index: StoreIndex) -> None:
    """Write the index, which makes the folder a store.

    Raises:
        InputError: the folder cannot be written.
    """
    head = {"format": FORMAT, "version": VERSION, **asdict(index.head)}
    text = canonical_json({**head, "hash": _hash(head, index.slides)})
    table = index.slides.replace_schema_metadata({_KEY: text.encode()})
    with replacing(folder / INDEX) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_index(folder: Path) -> StoreIndex:
    """Return the index of a store, checked against its hash.

    Raises:
        InputError: there is none, it is damaged, of another format or version, or its parts do not
            fit one another.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(_no_store(folder))
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        head = _parsed(metadata[_KEY]) if _KEY in metadata else {}
    except (OSError, MemoryError, pa.ArrowException, TypeError, ValueError) as error:
        check_readable(path, error)
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} is damaged or no index of a packed store ({reason})") from error
    if head.get("format") != FORMAT:
        raise InputError(f"{path} is no index of a packed store; mbench data pack makes one")
    if head.get("version") != VERSION:
        raise InputError(
            f"{path} is of version {head.get('version')}; this release reads version {VERSION}"
        )
    stated = head.pop("hash", None)
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(COLUMNS) or stated != _hash(head, table):
        raise InputError(f"{path} is damaged: it is not what was written (its hash differs)")
    shards = tuple(Shard(**shard) for shard in head["shards"])
    known = {name: head[name] for name in StoreHead.__dataclass_fields__}
    index = StoreIndex(
        StoreHead(**known | {"shards": shards, "missing": tuple(head["missing"])}), table
    )
    if not _fits(index):
        raise InputError(f"{path} is damaged: its parts do not fit one another")
    return index


def _parsed(text: bytes) -> dict[str, Any]:
    head = json.loads(text)
    if not isinstance(head, dict):
        raise TypeError("its metadata is no mapping")
    return head


def _hash(head: dict[str, Any], table: Any) -> str:
    """Return the hash of all that an index says."""
    columns = (hash_json(table.column(name).to_pylist()) for name in table.column_names)
    return hash_json([head, *columns])


def _fits(index: StoreIndex) -> bool:
    """Return whether slides are sorted and lie one after the other, and fill the shards."""
    ids, head = index.column("slide_id"), index.head
    shard, offset, count = (index.numbers(name) for name in ("shard", "offset", "count"))
    begins = np.cumsum([0, *(one.rows for one in head.shards)])
    inside = bool(len(ids)) and ((shard >= 0) & (shard < len(head.shards))).all()
    if not inside or head.dtype not in get_args(PackedDtype) or head.dim < 1:
        return False
    laid = np.concatenate([[0], np.cumsum(count)])
    return bool(
        (count > 0).all()
        and laid[-1] == begins[-1]
        and (offset + begins[shard] == laid[:-1]).all()
        and (np.diff(shard) >= 0).all()
        and all(a < b for a, b in pairwise(ids))
    )


def _no_store(folder: Path) -> str:
    if folder.is_file():
        return (
            f"{folder} is a file; a packed store is a folder (an HDF5 file was the form of earlier "
            "releases: it can be removed). mbench data pack COHORT makes a store"
        )
    if (folder / JOURNAL).is_file():
        return f"{folder}: packing has not ended; the same mbench data pack goes on from there"
    return f"no packed store {folder} (no {INDEX} in it); mbench data pack COHORT makes one"

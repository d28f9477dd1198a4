"""Embeddings on disk: one safetensors file per encoder and cohort, named by what it came from.

    embeddings/<board>/<encoder>/<cohort>.<key>.safetensors         slide x dim, float32
    embeddings/<board>/<encoder>/<cohort>.<key>.json                what it cost to make
    embeddings/<board>/<encoder>/<cohort>.<key>.parts/<shard>.safetensors   while it is being made

The key hashes the encoder's fingerprint and the content of every bag, so a changed bag, weight or
line of code leads to another file, and a cut-off run goes on where it stopped.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import check_readable, replacing, write_text
from madeleine_bench.hashing import hash_array

# One key: safetensors writes several in an order that changes from process to process.
_KEY = "madeleine_bench"
_UNREADABLE = (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError)
# Rows of one encoder on two machines differ by less: float32 rounding that adds up in a network.
ROW_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of slides: ids, slide x dim float32 in the order of ids, and a content hash."""

    ids: tuple[str, ...]
    matrix: NDArray[np.float32]
    hash: str


@dataclass(frozen=True)
class EncodingCost:
    """What embeddings cost to make.

    Attributes:
        slides: how many were encoded.
        seconds: spent in the encoder, on one thread, without reading bags.
        parameters: of the encoder's network; None where it does not say.
    """

    slides: int
    seconds: float
    parameters: int | None


class EmbeddingStore:
    """Reads and writes the embeddings of one results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, board: str, encoder: str, cohort: str, key: str) -> Path:
        """Return where the whole matrix lies once it is made."""
        return self.folder / "embeddings" / board / encoder / f"{cohort}.{key[:16]}.safetensors"

    def find(self, board: str, encoder: str, cohort: str, content: str) -> Path | None:
        """Return the file with embeddings of this content hash; None where there is none."""
        folder = self.path(board, encoder, cohort, "").parent
        files = sorted(folder.glob(f"{cohort}.*.safetensors"))
        return next((path for path in files if self.content_hash(path) == content), None)

    def content_hash(self, path: Path) -> str | None:
        """Return the content hash a finished file carries, without reading the matrix; or None."""
        try:
            with safe_open(path, framework="numpy") as handle:
                return str(json.loads(handle.metadata()[_KEY])["hash"])
        except _UNREADABLE:
            return None

    def ids(self, path: Path) -> tuple[str, ...]:
        """Return what a finished file has rows of, without reading the matrix; else nothing."""
        try:
            with safe_open(path, framework="numpy") as handle:
                return tuple(json.loads(handle.metadata()[_KEY])["ids"])
        except _UNREADABLE:
            return ()

    def write(self, path: Path, ids: Sequence[str], matrix: NDArray[np.float32]) -> str:
        """Write a matrix with its ids and return its content hash.

        Raises:
            InputError: the folder cannot be written.
        """
        content = hash_array(ids, matrix)
        metadata = {_KEY: json.dumps({"ids": list(ids), "hash": content})}
        with replacing(path) as temporary:
            save_file({"embeddings": np.ascontiguousarray(matrix)}, temporary, metadata)
        return content

    def write_cost(self, path: Path, cost: EncodingCost) -> None:
        """Write down what a matrix cost, beside it: it differs from run to run, the matrix not.

        Raises:
            InputError: the folder cannot be written.
        """
        write_text(path.with_suffix(".json"), json.dumps(asdict(cost)) + "\n")

    def cost(self, path: Path) -> EncodingCost | None:
        """Return what a matrix cost, or None where that was not written down."""
        try:
            return EncodingCost(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def part(self, path: Path, shard: int) -> Path:
        """Return where one shard of a matrix lies while the matrix is being made."""
        return path.with_suffix(".parts") / f"{shard:05d}.safetensors"

    def join(self, path: Path, shards: int) -> str:
        """Put the shards together, delete them, and return the content hash of the whole.

        Another process may do the same at the same time: both write equal bytes.

        Raises:
            CheckFailed: the shards are of different widths, or none has a row.
            InputError: a shard cannot be read, or the folder cannot be written.
        """
        parts = [self.part(path, shard) for shard in range(shards)]
        try:
            read = [read_embeddings(part) for part in parts]
        except InputError:
            if (done := self.content_hash(path)) is not None:
                return done
            raise
        read = [part for part in read if part.ids]
        if not read:
            raise CheckFailed(f"{path}: no slide could be encoded because memory ran out")
        if len(widths := {part.matrix.shape[1:] for part in read}) > 1:
            raise CheckFailed(f"{path}: the encoder made embeddings of different widths {widths}")
        ids = [slide_id for part in read for slide_id in part.ids]
        content = self.write(path, ids, np.concatenate([part.matrix for part in read]))
        if costs := [cost for part in parts if (cost := self.cost(part)) is not None]:
            slides, seconds, parameters = zip(*map(astuple, costs), strict=True)
            self.write_cost(path, EncodingCost(sum(slides), sum(seconds), parameters[-1]))
        self.drop_parts(path)
        return content

    def drop_parts(self, path: Path) -> None:
        """Delete the shards of a matrix that is whole; a run may have been killed before that."""
        shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)


def relative_gaps(rows: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each slide the distance of two rows, as a share of the length of the second."""
    distance = np.linalg.norm(rows.astype(np.float64) - reference, axis=1)
    length = np.maximum(np.linalg.norm(reference.astype(np.float64), axis=1), 1e-12)
    gaps: NDArray[np.float64] = distance / length
    return gaps


def read_embeddings(path: Path) -> Embeddings:
    """Return the embeddings of a safetensors file, checked against the hash it carries.

    Raises:
        InputError: the file is absent, truncated, of another format, or was altered.
    """
    try:
        with safe_open(path, framework="numpy") as handle:
            metadata = json.loads(handle.metadata()[_KEY])
            matrix = handle.get_tensor("embeddings")
        ids = tuple(metadata["ids"])
        content = hash_array(ids, matrix)
        if content != metadata["hash"] or matrix.shape[0] != len(ids):
            raise ValueError("its content does not match its hash")
    except _UNREADABLE as error:
        check_readable(path, error)
        raise InputError(
            f"{path}: not readable embeddings ({error}); delete the file and run again"
        ) from error
    return Embeddings(ids, matrix, content)

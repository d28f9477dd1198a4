"""Files of slide or case embeddings that other tools wrote: .npz, .parquet, .csv, .h5 and .pt.

===========================  =================================================================
.npz, .h5, .pt (dict)        ids (`ids`, `slide_id`, `case_id`, `filenames`, ...) and one matrix;
                             or a vector for each id
.parquet, .csv               a column of ids, or the index; every other column is a dimension
folder of .h5, .pt or .npy   one vector a file, named by the id: slide features of TRIDENT, STAMP,
                             Patho-Bench and slide2vec
===========================  =================================================================
"""

import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.hdf5 import opened
from madeleine_bench.data.ids import canonical_id
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, files_under
from madeleine_bench.hashing import hash_array

By = Literal["slide", "case"]
_IDS = ("ids", "id", "filenames", "filename")
_ROLES = ("slide_id", "case_id", "slide_ids", "case_ids", "slide", "case")
_MATRIX = ("embeddings", "features", "feats", "embedding")
_IN_FOLDER = (".h5", ".hdf5", ".pt", ".npy")
_SUFFIXES = ".npz, .parquet, .csv, .h5, .pt, or a folder of .h5, .pt or .npy files"


class EmbeddingTable(NamedTuple):
    """Embeddings by id, sorted by id.

    Attributes:
        ids: of slides or cases, in their normal form.
        matrix: id x dim, float32, finite.
        where: the file or folder, for messages.
    """

    ids: tuple[str, ...]
    matrix: NDArray[np.float32]
    where: str

    @property
    def hash(self) -> str:
        """The hash of ids and numbers: the same for every kind of file."""
        return hash_array(self.ids, self.matrix)


def read_embedding_file(path: Path, by: By = "slide") -> EmbeddingTable:
    """Return the embeddings of a file or folder; the same numbers are the same in every kind.

    Args:
        path: the file or folder.
        by: what an id is of, where a file has ids of slides and of cases.

    Raises:
        InputError: the file cannot be read, would have to be unpickled, or holds something else
            than one finite vector of one width for each id.
    """
    if path.is_dir():
        files = [file for file in files_under(path) if file.suffix in _IN_FOLDER]
        if not files:
            raise InputError(f"{path}: no files of embeddings in the folder; expected {_SUFFIXES}")
        return embedding_table(
            [file.stem for file in files], [_only_vector(file) for file in files], str(path)
        )
    if not path.is_file():
        raise InputError(f"no file or folder {path}; --embeddings takes {_SUFFIXES}")
    if path.suffix in (".pkl", ".pickle"):
        raise _pickled(path)
    if path.suffix in (".parquet", ".csv"):
        return table_of_frame(_read_frame(path), by, str(path))
    if path.suffix not in (".npz", ".h5", ".hdf5", ".pt"):
        raise InputError(f"{path}: no known kind of file; --embeddings takes {_SUFFIXES}")
    arrays = _arrays(path)
    key = next((key for key in (f"{by}_id", *_IDS, *_ROLES) if key in arrays), None)
    if key is None:
        return embedding_table(list(arrays), list(arrays.values()), str(path))
    others = [name for name in arrays if name not in (*_IDS, *_ROLES)]
    name = next((n for n in _MATRIX if n in others), others[0] if len(others) == 1 else None)
    if name is None:
        there = ", ".join(arrays)
        raise InputError(f"{path} has '{key}' but no 'embeddings' beside it; it holds {there}")
    return embedding_table(_texts(arrays[key]), arrays[name], str(path))


def table_of_frame(frame: pd.DataFrame, by: By, where: str) -> EmbeddingTable:
    """Return the embeddings of a table: a row each; ids are a column, or else the index.

    Raises:
        InputError: there is no id, a cell is no number, or as `embedding_table`.
    """
    ids = next((name for name in (f"{by}_id", *_ROLES, *_IDS) if name in frame), None)
    if ids is not None:
        index: Iterable[Any] = frame[ids]
    elif isinstance(frame.index, pd.RangeIndex):
        names = ", ".join(map(str, frame.columns[:5]))
        raise InputError(
            f"{where}: no column of ids; name it '{by}_id' (the first columns are {names})"
        )
    else:
        index = frame.index
    numbers = frame.drop(columns=[name for name in (*_ROLES, *_IDS) if name in frame])
    for name, dtype in numbers.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            wrong = pd.to_numeric(numbers[name], errors="coerce").isna().to_numpy()
            row = int(wrong.argmax())
            raise InputError(
                f"{where}: column '{name}', row {row + 2}: '{numbers[name].iloc[row]}' is no "
                f"number; beside the column of ids every column is a dimension of the embedding"
            )
    return embedding_table([str(one) for one in index], numbers.to_numpy(), where)


def embedding_table(
    ids: Sequence[str], rows: NDArray[Any] | Sequence[NDArray[Any]], where: str
) -> EmbeddingTable:
    """Return embeddings by id, checked.

    Args:
        ids: one a row.
        rows: id x dim, or a vector (dim,) or (1, dim) for each id.
        where: begins messages.

    Raises:
        InputError: there is none, an id stands twice, widths differ, or a number is not finite.
    """
    names = [canonical_id(one) for one in ids]
    if not len(names) or not len(rows):
        raise InputError(f"{where}: no embedding in it")
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2:
            raise InputError(f"{where}: embeddings have shape {rows.shape}; expected (ids, dim)")
    else:
        rows = [_vector(row, f"{where}: '{name}'") for name, row in zip(ids, rows, strict=True)]
        widths = {len(row): name for name, row in zip(ids, rows, strict=True)}
        if len(widths) > 1:
            (one, first), (other, second) = list(widths.items())[:2]
            raise InputError(
                f"{where}: '{first}' has {one} dimensions, '{second}' has {other}; embeddings of "
                "one encoder have one width"
            )
        rows = np.stack(rows)
    if len(names) != len(rows):
        raise InputError(f"{where}: {len(names)} ids and {len(rows)} embeddings; expected as many")
    if twice := pd.Index(names)[pd.Index(names).duplicated()].tolist():
        raise InputError(f"{where}: id '{twice[0]}' stands twice; give each id one embedding")
    if "" in names:
        raise InputError(f"{where}: the id of row {names.index('')} is empty")
    if rows.dtype.kind not in "fiu" or not rows.shape[1]:
        raise InputError(f"{where}: embeddings are of type {rows.dtype}, {rows.shape[1]} wide")
    order = np.argsort(np.array(names), kind="stable")
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(rows[order], dtype=np.float32)
    if len(bad := np.argwhere(~np.isfinite(matrix))):
        row, column = bad[0]
        raise InputError(
            f"{where}: embedding of '{names[order[row]]}': dimension {column} is "
            f"{rows[order[row], column]}; leave it out, or make it again"
        )
    return EmbeddingTable(tuple(names[place] for place in order), matrix, where)


def _vector(values: NDArray[Any], what: str) -> NDArray[Any]:
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 1:
        raise InputError(
            f"{what} has shape {values.shape}; expected one vector, (dim,) or (1, dim). Features "
            "of patches are for mbench run"
        )
    return values


def _only_vector(path: Path) -> NDArray[Any]:
    """Return the vector of a file that holds one."""
    arrays = _arrays(path)
    names = [name for name in (*_MATRIX, *arrays) if name in arrays]
    if not names or (len(arrays) > 1 and names[0] not in _MATRIX):
        there = ", ".join(arrays) or "nothing"
        raise InputError(f"{path}: expected one vector, 'features'; it holds {there}")
    return arrays[names[0]]


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of a file by name; nothing in it is unpickled."""
    if path.suffix == ".pt":
        return _tensors(path)
    if path.suffix in (".h5", ".hdf5"):
        with opened(path) as handle:
            return {name: d[...] for name, d in handle.items() if isinstance(d, h5py.Dataset)}
    try:
        read = np.load(path, allow_pickle=False)
        return {"embeddings": read} if path.suffix == ".npy" else {n: read[n] for n in read.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        check_readable(path, error)
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise _pickled(path) from error
        raise InputError(f"{path} is not a {path.suffix} file, or it is damaged") from error


def _tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # what torch advises leads to running code
            read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        check_readable(path, error)
        raise _pickled(path) from error
    members = read if isinstance(read, dict) else {"embeddings": read}
    arrays = {}
    for name, value in members.items():
        if isinstance(value, torch.Tensor):
            tensor = value.detach()
            arrays[str(name)] = (
                tensor.float() if tensor.dtype == torch.bfloat16 else tensor
            ).numpy()
        elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            arrays[str(name)] = np.array(value)
    return arrays


def _pickled(path: Path) -> InputError:
    """Return the refusal of a file that would run code when read, with the line that converts."""
    load = "torch.load(p, weights_only=False)" if path.suffix == ".pt" else "pandas.read_pickle(p)"
    load = "numpy.load(p, allow_pickle=True)" if path.suffix in (".npz", ".npy") else load
    line = (
        f"import sys, numpy, pandas{', torch' * (path.suffix == '.pt')}; p = sys.argv[1]; "
        f"d = {load}; numpy.savez(p + '.plain.npz', "
        "**{str(k): numpy.array(list(d[k])) for k in d.keys()})"
    )
    return InputError(
        f"{path} holds pickled Python objects, which could run code, so it is not read (or it is "
        f'damaged). If you trust the file, write its arrays alone: python -c "{line}" '
        f"{shlex.quote(str(path))}"
    )


def _texts(values: NDArray[Any]) -> list[str]:
    """Return ids as text; HDF5 stores them as bytes."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        names = pd.read_csv(path, nrows=0).columns
        texts = {name: str for name in names if name in (*_ROLES, *_IDS) or name == "Unnamed: 0"}
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")
    except Exception as error:  # pandas and pyarrow each raise their own
        check_readable(path, error)
        raise InputError(f"{path} cannot be read as a {path.suffix} table: {error}") from error
    return frame.set_index("Unnamed: 0") if "Unnamed: 0" in frame else frame

"""Files of slide or case embeddings that other tools wrote: .npz, .parquet, .csv, .h5 and .pt.

===========================  =================================================================
.npz, .h5, .pt (dict)        ids (`ids`, `slide_id`, `case_id`, `filenames`, ...) and one matrix;
                             or a vector for each id
.parquet, .csv               a column of ids, or the index; every other column is a dimension
folder of .h5 or .pt         one vector a file, named by the id: slide features of TRIDENT, STAMP,
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
_NAMES = ("slide_id", "case_id", "ids", "id", "slide_ids", "case_ids", "filenames", "filename")
_MATRIX = ("embeddings", "features", "feats", "embedding")
_IN_FOLDER = (".h5", ".hdf5", ".pt")
_SUFFIXES = ".npz, .parquet, .csv, .h5, .pt, or a folder of .h5 or .pt files"


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
    key = next((key for key in (f"{by}_id", *_NAMES) if key in arrays), None)
    if key is None:
        return embedding_table(list(arrays), list(arrays.values()), str(path))
    others = [name for name in (*_MATRIX, *arrays) if name in arrays and name not in _NAMES]
    if not others or (len(set(others)) > 1 and others[0] not in _MATRIX):
        there = ", ".join(arrays)
        raise InputError(f"{path} has '{key}' but no 'embeddings' beside it; it holds {there}")
    ids = [v.decode() if isinstance(v, bytes) else str(v) for v in arrays[key].ravel()]
    return embedding_table(ids, arrays[others[0]], str(path))


def table_of_frame(frame: pd.DataFrame, by: By, where: str) -> EmbeddingTable:
    """Return the embeddings of a table: a row each; ids are a column, or else the index.

    Raises:
        InputError: there is no id, a cell is no number, or as `embedding_table`.
    """
    ids = next((name for name in (f"{by}_id", *_NAMES) if name in frame), None)
    if ids is not None:
        index: Iterable[Any] = frame[ids]
    elif isinstance(frame.index, pd.RangeIndex):
        names = ", ".join(map(str, frame.columns[:5]))
        raise InputError(
            f"{where}: no column of ids; name it '{by}_id' (the first columns are {names})"
        )
    else:
        index = frame.index
    numbers = frame.drop(columns=[name for name in _NAMES if name in frame])
    for name, dtype in numbers.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            wrong = pd.to_numeric(numbers[name], errors="coerce").isna().to_numpy()
            row = int(wrong.argmax())
            raise InputError(
                f"{where}: column '{name}', row {row + 2}: '{numbers[name].iloc[row]}' is not a "
                f"number; beside the column of ids every column is a dimension of the embedding"
            )
    return embedding_table([str(one) for one in index], numbers.to_numpy(), where)


def embedding_table(
    ids: Sequence[str], rows: NDArray[Any] | Sequence[NDArray[Any]], where: str
) -> EmbeddingTable:
    """Return embeddings by id, checked.

    Args:
        ids: one a row.
        rows: id x dim, or a vector, (dim,) or (1, dim), for each id.
        where: begins messages.

    Raises:
        InputError: there is none, an id occurs twice, widths differ, or a number is not finite.
    """
    names = [canonical_id(one) for one in ids]
    if len(names) != len(rows):
        raise InputError(
            f"{where}: {len(names)} ids and {len(rows)} embeddings; expected equal numbers"
        )
    if not names:
        raise InputError(f"{where}: no embedding in it")
    widths: dict[int, str] = {}
    vectors = []
    for name, row in zip(ids, rows, strict=True):
        vector = row[0] if row.ndim == 2 and len(row) == 1 else row
        if vector.ndim != 1 or vector.dtype.kind not in "fiu" or not vector.size:
            raise InputError(
                f"{where}: '{name}' has shape {row.shape}, {row.dtype}; expected one vector of "
                "numbers. Features of patches are for mbench run"
            )
        widths.setdefault(len(vector), name)
        vectors.append(vector)
    if len(widths) > 1:
        shown = " and ".join(f"'{name}' has {width}" for width, name in list(widths.items())[:2])
        raise InputError(f"{where}: widths differ: {shown} dimensions")
    if twice := pd.Index(names)[pd.Index(names).duplicated()].tolist():
        raise InputError(f"{where}: id '{twice[0]}' occurs twice; give each id one embedding")
    order = np.argsort(np.array(names), kind="stable")
    with np.errstate(over="ignore"):
        matrix = np.array([vectors[place] for place in order], dtype=np.float32)
    if len(bad := np.argwhere(~np.isfinite(matrix))):
        row, column = bad[0]
        raise InputError(
            f"{where}: embedding of '{names[order[row]]}': dimension {column} is "
            f"{vectors[order[row]][column]}; leave it out, or make it again"
        )
    return EmbeddingTable(tuple(names[place] for place in order), matrix, where)


def _only_vector(path: Path) -> NDArray[Any]:
    """Return the vector of a file that holds one."""
    arrays = _arrays(path)
    name = next((name for name in (*_MATRIX, *arrays) if name in arrays), None)
    if name is None or (len(arrays) > 1 and name not in _MATRIX):
        raise InputError(f"{path}: expected one vector, 'features'; it holds {[*arrays]}")
    return arrays[name]


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of a file by name; nothing in it is unpickled."""
    if path.suffix == ".pt":
        return _tensors(path)
    if path.suffix in (".h5", ".hdf5"):
        with opened(path) as handle:
            return {name: d[...] for name, d in handle.items() if isinstance(d, h5py.Dataset)}
    try:
        return dict(np.load(path, allow_pickle=False))
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        check_readable(path, error)
        raise _pickled(path) from error


def _tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # what torch advises leads to running code
            read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        check_readable(path, error)
        raise _pickled(path) from error
    members = read if isinstance(read, dict) else {"embeddings": read}
    return {
        str(name): (
            np.asarray(value)
            if not isinstance(value, torch.Tensor)
            else value.float().numpy()
            if value.dtype == torch.bfloat16
            else value.numpy()
        )
        for name, value in members.items()
    }


def _pickled(path: Path) -> InputError:
    """Return the refusal of a file that would run code when read, with the line that converts."""
    load = {
        ".pt": "torch.load(p, weights_only=False)",
        ".npz": "numpy.load(p, allow_pickle=True)",
    }.get(path.suffix, "pandas.read_pickle(p)")
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


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        names = pd.read_csv(path, nrows=0).columns
        texts = {name: str for name in names if name in _NAMES or name == "Unnamed: 0"}
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, float_precision="round_trip")
    except Exception as error:  # pandas and pyarrow each raise their own
        check_readable(path, error)
        raise InputError(f"{path} cannot be read as a {path.suffix} table: {error}") from error
    return frame.set_index("Unnamed: 0") if "Unnamed: 0" in frame else frame

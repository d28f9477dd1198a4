"""Bag files: patch features of one slide in HDF5, `.npz` or `.pt`.

Layouts read (dataset names and attributes as the tools write them):

=============  ==========================  ================================  =====================
tool           features                    coords                            patch encoder
=============  ==========================  ================================  =====================
CLAM           `features`, float32         `coords` (x, y), level-0 pixels   not stated
TRIDENT        `features`, float16/32      `coords` (x, y), level-0 pixels   `savetodir` attribute
STAMP          `feats`, float16            `coords` (x, y), micrometres      `extractor` attribute
AtlasPatch     `features/<encoder>`        `coords` (x, y, w, h, level)      name of the dataset
others         `patch_embeddings`          `coords`                          `patch_encoder`
NumPy `.npz`   the one float matrix        `coords` (x, y), level-0 pixels   name of the array
=============  ==========================  ================================  =====================
"""

import re
import shlex
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.hdf5 import (
    coords_of,
    opened,
    read_attributes,
    read_coords,
    stated_geometry,
    writing,
)
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable
from madeleine_bench.specs.loader import did_you_mean

SUFFIXES = (".h5", ".hdf5", ".npz", ".pt")
PHANTOM_ATTRIBUTE = "phantom"
_FLAT = ("features", "feats", "patch_embeddings")
_FLOATS = ("float16", "float32", "float64")
_ENCODER_ATTRIBUTES = ("patch_encoder", "extractor", "encoder")


@dataclass(frozen=True)
class BagFacts:
    """What the header of a bag file states; None is not stated.

    Attributes:
        patches: number of rows.
        width: number of dimensions; an empty bag may not state it and has 0.
        patch_encoder: what made the features.
        phantom: the kind of phantom its slide is, such as "rendered"; None for a real slide.
        magnification: objective power of the patches.
        patch_size: side of a patch in pixels at that magnification.
        patch_size_level0: side of a patch in level-0 pixels.
        attributes: of the file, of the features and of the coords, in one mapping.
    """

    patches: int
    width: int
    patch_encoder: str | None
    phantom: str | None = None
    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class BagFile:
    """The content of one bag file.

    Attributes:
        features: patch x dim, float16 or float32 (float64 is cast to float32), finite.
        coords: patch x 2 (x, y), level-0 pixels; None where there are none, or in another unit.
        facts: what the file states.
    """

    features: NDArray[Any]
    coords: NDArray[Any] | None
    facts: BagFacts


def read_bag_file(path: Path, encoder: str | None = None) -> BagFile:
    """Return the bag of one file in any layout; a bag of 0 patches comes back empty.

    Args:
        path: an .h5, .hdf5, .npz or .pt file.
        encoder: which patch encoder to take from a file that holds several (AtlasPatch, .npz).

    Raises:
        InputError: the file is not readable, holds no features in a known place, or the features
            are not a finite floating-point matrix. The message names the file.
    """
    if path.suffix == ".pt":
        features = _finite(_matrix(_load_pt(path), path, "the tensor"), path)
        patches, width = features.shape
        return BagFile(features, None, BagFacts(patches, width, None))
    if path.suffix == ".npz":
        with _opened_npz(path) as arrays:
            name, facts = _npz_facts(path, arrays, encoder)
            features = _finite(_matrix(arrays[name], path, f"'{name}'"), path)
            coords = None
            if "coords" in arrays:
                coords = coords_of(arrays["coords"], path, len(features))
        return BagFile(features, coords, facts)
    with opened(path) as handle:
        name = _features_name(handle, path, encoder)
        facts = _facts(handle, path, name)
        features = _matrix(handle[name][...], path, f"'{name}'")
        coords = read_coords(handle, path, len(features))
    # STAMP stores micrometres; its early files state no unit and used several.
    is_px0 = facts.attributes.get("unit") is None and name != "feats"
    return BagFile(_finite(features, path), coords if is_px0 else None, facts)


def read_bag_header(path: Path, encoder: str | None = None) -> BagFacts:
    """Return what the header of a bag file states, without reading its numbers.

    Raises:
        InputError: as `read_bag_file`, save for NaN and infinity, which only reading can find.
    """
    if path.suffix == ".pt":
        return BagFacts(*_shape(_load_pt(path).shape, path, "the tensor"), None)
    if path.suffix == ".npz":
        with _opened_npz(path) as arrays:
            return _npz_facts(path, arrays, encoder)[1]
    with opened(path) as handle:
        return _facts(handle, path, _features_name(handle, path, encoder))


def _facts(handle: Any, path: Path, name: str) -> BagFacts:
    """Return what the header states of the features in a dataset."""
    dataset, attributes = handle[name], read_attributes(handle, name)
    if dataset.dtype.name not in _FLOATS:
        raise InputError(
            f"{path}: '{name}' is of type {dataset.dtype}; features are float16, float32 or float64"
        )
    rows, width = _shape(dataset.shape, path, f"'{name}'")
    kind = attributes.get(PHANTOM_ATTRIBUTE)
    encoder, phantom = _patch_encoder(name, attributes), None if kind is None else str(kind)
    geometry = stated_geometry(attributes)
    return BagFacts(rows, width, encoder, phantom, *geometry, attributes=attributes)


def write_bag_file(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[Any] | None = None,
    *,
    patch_encoder: str | None = None,
    coords_attributes: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a bag atomically under the names and attributes that TRIDENT uses.

    Rows are stored in one piece, which reads several times faster than the tools' small chunks.

    Args:
        path: the .h5 file, replaced when it exists.
        features: patch x dim, float16 or float32, stored in that type.
        coords: patch x 2 (x, y) in level-0 pixels.
        patch_encoder: name of the patch encoder.
        coords_attributes: what else to say of the coords, such as the size of a patch.
        attributes: what else to say of the file.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(path) as handle:
        data = handle.create_dataset("features", data=features)
        data.attrs["name"] = path.stem
        if patch_encoder is not None:
            data.attrs["savetodir"] = f"features_{patch_encoder}"
        if coords is not None:
            stored = np.asarray(coords, np.int32)
            handle.create_dataset("coords", data=stored).attrs.update(coords_attributes or {})
        handle.attrs.update(attributes or {})


def _features_name(handle: Any, path: Path, encoder: str | None) -> str:
    """Return the name of the dataset with the features."""
    for name in _FLAT:
        if isinstance(handle.get(name), h5py.Dataset):
            return name
    group = handle.get("features", {})
    names = sorted(n for n in group if isinstance(group[n], h5py.Dataset) and n[:2] != "__")
    if encoder in names or (encoder is None and len(names) == 1):
        return f"features/{encoder or names[0]}"
    if not names:
        inside = ", ".join(sorted(handle)) or "nothing"
        raise InputError(
            f"{path}: no features found. Expected a dataset features, feats, patch_embeddings or "
            f"features/<encoder>; the file holds {inside}"
        )
    if encoder is None:
        raise InputError(
            f"{path} holds the features of several patch encoders ({', '.join(names)}); "
            "say which with patch_encoder = in mbench.toml"
        )
    raise InputError(f"{path}: no features of '{encoder}'{did_you_mean(encoder, names)}")


def _shape(shape: tuple[int, ...], path: Path, what: str) -> tuple[int, int]:
    """Return (patch, dim) of a shape, a leading axis of one taken off.

    TRIDENT 0.3 writes the shape (0,) for a slide without patches: it has 0 dimensions here.
    """
    if tuple(shape) == (0,):
        return 0, 0
    kept = tuple(shape[1:]) if len(shape) == 3 and shape[0] == 1 else tuple(shape)
    if len(kept) != 2 or kept[1] == 0:
        one = len(kept) == 1 and kept[0] > 0
        hint = ". If it is the embedding of a slide: mbench evaluate --embeddings FOLDER" * one
        raise InputError(
            f"{path}: {what} has shape {tuple(shape)}; expected (patches, dimensions), at "
            f"least one dimension{hint}"
        )
    return int(kept[0]), int(kept[1])


def _matrix(values: NDArray[Any], path: Path, what: str) -> NDArray[Any]:
    matrix = values.reshape(_shape(values.shape, path, what))
    dtype = np.dtype(np.float32) if matrix.dtype.itemsize == 8 else matrix.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):
        return matrix.astype(dtype, copy=False)


def _finite(features: NDArray[Any], path: Path) -> NDArray[Any]:
    # The sum of finite float32 rows can overflow in float16, so each number is looked at.
    if len(bad := np.argwhere(~np.isfinite(features))):
        row, column = bad[0]
        raise InputError(
            f"{path}: {features[row, column]} in row {row}, dimension {column} "
            f"({len(set(bad[:, 0]))} of {len(features)} rows are not finite in float32). Extract "
            "the features of this slide again"
        )
    return features


def check_alike(one: tuple[str, int, str | None], other: tuple[str, int, str | None]) -> None:
    """Check that two bags have one width and one patch encoder.

    Args:
        one: the name of a bag, its number of dimensions, and what made it.
        other: the same of a bag before it.

    Raises:
        InputError: they differ.
    """
    difference = ""
    if one[1] != other[1]:
        difference = f"{one[0]} has patches of {one[1]} dimensions, {other[0]} of {other[1]}"
    elif one[2] != other[2]:
        difference = f"{one[0]} was made by patch encoder '{one[2]}', {other[0]} by '{other[2]}'"
    if difference:
        raise InputError(
            f"{difference}. One cohort has one patch encoder: extract the features of one of them "
            "again (mbench data verify lists every file)"
        )


def _patch_encoder(name: str, attributes: Mapping[str, Any]) -> str | None:
    if name.startswith("features/"):
        return name.removeprefix("features/")
    for key in _ENCODER_ATTRIBUTES:
        value = attributes.get(key)
        if isinstance(value, str) and value and value != "None":
            return value
    folder = PurePosixPath(str(attributes.get("savetodir", "")).replace("\\", "/")).name
    return folder.removeprefix("features_") if folder.startswith("features_") else None


@contextmanager
def _opened_npz(path: Path) -> Iterator[Any]:
    """Open a NumPy archive; what goes wrong inside the block becomes an InputError.

    Arrays of Python objects, which are pickled and could run code, are refused.
    """
    try:
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as arrays:
            yield arrays
    except FileNotFoundError as error:
        raise InputError(f"no feature file {path}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, AttributeError) as error:  # fmt: skip
        check_readable(path, error)
        raise InputError(
            f"{path} cannot be read as .npz ({error}): it is cut short, damaged, or of another "
            "format. Extract the features of this slide again"
        ) from error


def _npz_facts(path: Path, arrays: Any, encoder: str | None) -> tuple[str, BagFacts]:
    """Return the name of the array with the features, and its facts.

    It is called as datasets of .h5 files are, or as the patch encoder; or it is the one array of
    floating-point rows beside `coords`.
    """
    headers = {name: _npz_header(arrays, name) for name in arrays.files}
    matrices = [
        name
        for name, (shape, kind) in headers.items()
        if name != "coords" and len(shape) > 1 and kind in _FLOATS
    ]
    named = [name for name in (encoder, *_FLAT) if name in matrices] or matrices
    if not named or (len(named) > 1 and named is matrices):
        inside = ", ".join(f"{name} ({kind} {shape})" for name, (shape, kind) in headers.items())
        raise InputError(
            f"{path}: expected one array of floating-point features beside 'coords', or one called "
            f"{', '.join(_FLAT)} or as patch_encoder_in_files in mbench.toml; the file holds "
            f"{inside or 'nothing'}"
        )
    name = str(named[0])
    patches, width = _shape(headers[name][0], path, f"'{name}'")
    return name, BagFacts(patches, width, encoder if name == encoder else None)


def _npz_header(arrays: Any, name: str) -> tuple[tuple[int, ...], str]:
    """Return shape and type of an array of an archive, without reading its numbers."""
    with arrays.zip.open(f"{name}.npy") as handle:
        version = np.lib.format.read_magic(handle)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(handle)
    return shape, dtype.name


def _load_pt(path: Path) -> NDArray[Any]:
    """Return the tensor of a .pt file; only tensors are read, no other object is built."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # what torch advises leads to running code
            tensor = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"no feature file {path}") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        check_readable(path, error)
        raise InputError(_no_tensor(path, str(error))) from error
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        is_tensor = isinstance(tensor, torch.Tensor)
        what = f"tensor of type {tensor.dtype}" if is_tensor else type(tensor).__name__
        raise InputError(f"{path} holds a {what}; expected one tensor of floating-point numbers")
    tensor = tensor.detach()
    if tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # numpy has no bfloat16
    matrix: NDArray[Any] = tensor.numpy()
    return matrix


def _no_tensor(path: Path, reason: str) -> str:
    """Return why a .pt file is not read, from what torch says of it, and what to do."""
    kind = re.search(r"Unsupported global: GLOBAL ([\w.]+)", reason)
    if kind is None:
        text = (
            "torch.save did not write it, or it is truncated or damaged. Extract the features of "
            "this slide again"
        )
    elif not kind.group(1).startswith("numpy."):
        text = (
            f"it holds a Python object ({kind.group(1)}) that could run code, so it was not built. "
            "Save the features alone, as a tensor"
        )
    else:
        line = (
            "import sys, numpy, torch; p = sys.argv[1]; a = torch.load(p, weights_only=False); "
            "torch.save(torch.as_tensor(numpy.asarray(a)), p)"
        )
        text = (
            "it holds a NumPy array, which is pickled and could run code. If you trust the file, "
            f'write the array as a tensor: python -c "{line}" {shlex.quote(str(path))} (where the '
            "file holds a dict, take the array out of it: a = torch.load(...)['features'])"
        )
    return f"{path} cannot be read as a .pt file of one tensor: {text}"

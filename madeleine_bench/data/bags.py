"""Bag files: patch features of one slide in HDF5 or `.pt`.

Layouts read (dataset names and attributes as the tools write them):

=============  ==========================  ================================  =====================
tool           features                    coords                            patch encoder
=============  ==========================  ================================  =====================
CLAM           `features`, float32         `coords` (x, y), level-0 pixels   not stated
TRIDENT        `features`, float16/32      `coords` (x, y), level-0 pixels   `savetodir` attribute
STAMP          `feats`, float16            `coords` (x, y), micrometres      `extractor` attribute
AtlasPatch     `features/<encoder>`        `coords` (x, y, w, h, level)      name of the dataset
others         `patch_embeddings`          `coords`                          `patch_encoder`
=============  ==========================  ================================  =====================
"""

import math
import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.hdf5 import opened, read_attributes, read_coords, writing
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable
from madeleine_bench.specs.loader import did_you_mean

BagLayout = Literal["clam", "trident", "stamp", "atlaspatch"]
CoordsUnit = Literal["px0", "um"]
SUFFIXES = (".h5", ".hdf5", ".pt")
PHANTOM_ATTRIBUTE = "phantom"
# An objective of 20x is a pixel of half a micrometre: how TRIDENT too turns one into the other.
_UM_AT_1X = 10.0
_FLAT = ("features", "feats", "patch_embeddings")
_FLOATS = ("float16", "float32", "float64")
_ENCODER_ATTRIBUTES = ("patch_encoder", "extractor", "encoder")


@dataclass(frozen=True)
class BagFacts:
    """What the header of a bag file states; None is not stated.

    Attributes:
        patches: number of rows.
        width: number of dimensions.
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
        coords: patch x 2 (x, y), or None.
        coords_unit: "px0" level-0 pixels, "um" micrometres, None where unknown.
        facts: what the file states.
    """

    features: NDArray[Any]
    coords: NDArray[Any] | None
    coords_unit: CoordsUnit | None
    facts: BagFacts


def read_bag_file(path: Path, encoder: str | None = None) -> BagFile:
    """Return the bag of one file in any layout; a bag of 0 patches comes back empty.

    Args:
        path: an .h5, .hdf5 or .pt file.
        encoder: which patch encoder to take from a file that holds several (AtlasPatch).

    Raises:
        InputError: the file is not readable, holds no features in a known place, or the features
            are not a finite floating-point matrix. The message names the file.
    """
    if path.suffix == ".pt":
        features = _finite(_matrix(_load_pt(path), path, "the tensor"), path)
        patches, width = features.shape
        return BagFile(features, None, None, BagFacts(patches, width, None))
    with opened(path) as handle:
        name = _features_name(handle, path, encoder)
        facts = _facts(handle, path, name)
        features = _matrix(handle[name][...], path, f"'{name}'")
        coords = read_coords(handle, path, len(features))
    unit = None if coords is None else _coords_unit(name, facts.attributes)
    return BagFile(_finite(features, path), coords, unit, facts)


def read_bag_header(path: Path, encoder: str | None = None) -> BagFacts:
    """Return what the header of a bag file states, without reading its numbers.

    Raises:
        InputError: as `read_bag_file`, save for NaN and infinity, which only reading can find.
    """
    if path.suffix == ".pt":
        return BagFacts(*_shape(_load_pt(path).shape, path, "the tensor"), None)
    with opened(path) as handle:
        return _facts(handle, path, _features_name(handle, path, encoder))


def _facts(handle: Any, path: Path, name: str) -> BagFacts:
    """Return what the header states of the features in a dataset."""
    rows, width = _check_header(handle[name], path, name)
    attributes = read_attributes(handle, name)
    kind = attributes.get(PHANTOM_ATTRIBUTE)
    encoder, phantom = _patch_encoder(name, attributes), None if kind is None else str(kind)
    geometry = stated_geometry(attributes)
    return BagFacts(rows, width, encoder, phantom, *geometry, attributes=attributes)


def write_bag_file(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[Any] | None = None,
    *,
    layout: BagLayout,
    patch_encoder: str | None = None,
    mpp: float | None = None,
    coords_attributes: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a bag atomically under the names and attributes that a tool uses.

    Rows are stored in one piece, which reads several times faster than the tools' small chunks.

    Args:
        path: the .h5 file, replaced when it exists.
        features: patch x dim, float16 or float32, stored in that type.
        coords: patch x 2 (x, y) in level-0 pixels.
        layout: whose names to use.
        patch_encoder: name of the patch encoder; AtlasPatch needs one.
        mpp: micrometres per level-0 pixel; STAMP stores coords in micrometres and needs it.
        coords_attributes: what else to say of the coords, see `hdf5.patch_attributes`.
        attributes: what else to say of the file.

    Raises:
        InputError: the folder cannot be written, or the layout needs what was not given.
    """
    if layout == "atlaspatch" and patch_encoder is None:
        raise InputError(f"cannot write {path}: the AtlasPatch layout needs a patch encoder name")
    if layout == "stamp" and coords is not None and mpp is None:
        raise InputError(f"cannot write {path}: the STAMP layout stores micrometres; give mpp")
    names = {"stamp": "feats", "atlaspatch": f"features/{patch_encoder}"}
    with writing(path) as handle:
        data = handle.create_dataset(names.get(layout, "features"), data=features)
        if coords is not None:
            # Only AtlasPatch has five columns: size of the region read and its level come after.
            kept = _as_stored(coords, layout, mpp)
            places = handle.create_dataset("coords", data=kept)
            places.attrs.update(coords_attributes or {})
        if layout == "stamp":
            handle.attrs["unit"] = "um"
            if patch_encoder is not None:
                handle.attrs["extractor"] = patch_encoder
        elif layout == "trident":
            data.attrs["name"] = path.stem
            if patch_encoder is not None:
                data.attrs["savetodir"] = f"features_{patch_encoder}"
        elif layout == "atlaspatch":
            handle.attrs["num_patches"] = len(features)
        elif patch_encoder is not None:
            handle.attrs["patch_encoder"] = patch_encoder
        handle.attrs.update(attributes or {})


def _as_stored(coords: NDArray[Any], layout: BagLayout, mpp: float | None) -> NDArray[Any]:
    if layout == "stamp":
        return np.asarray(coords, np.float32) * np.float32(mpp)
    if layout == "atlaspatch":
        rest = np.zeros((len(coords), 3), np.int32)
        return np.hstack([np.asarray(coords, np.int32), rest])
    return np.asarray(coords, np.int32)


def _features_name(handle: Any, path: Path, encoder: str | None) -> str:
    """Return the name of the dataset with the features."""
    for name in _FLAT:
        if isinstance(handle.get(name), h5py.Dataset):
            return name
    group = handle.get("features")
    if not isinstance(group, h5py.Group):
        inside = ", ".join(sorted(handle)) or "nothing"
        raise InputError(
            f"{path}: no features found. Expected a dataset features, feats, patch_embeddings or "
            f"features/<encoder>; the file holds {inside}"
        )
    names = sorted(n for n in group if isinstance(group[n], h5py.Dataset) and n[:2] != "__")
    if encoder is not None and encoder in names:
        return f"features/{encoder}"
    if encoder is None and len(names) == 1:
        return f"features/{names[0]}"
    if not names:
        raise InputError(f"{path}: the group 'features' holds no dataset")
    if encoder is None:
        raise InputError(
            f"{path} holds the features of several patch encoders ({', '.join(names)}); "
            "say which with patch_encoder = in mbench.toml"
        )
    raise InputError(f"{path}: no features of '{encoder}'{did_you_mean(encoder, names)}")


def _check_header(dataset: Any, path: Path, name: str) -> tuple[int, int]:
    if dataset.dtype.name not in _FLOATS:
        raise InputError(
            f"{path}: '{name}' is of type {dataset.dtype}; features are float16, float32 or float64"
        )
    return _shape(dataset.shape, path, f"'{name}'")


def _shape(shape: tuple[int, ...], path: Path, what: str) -> tuple[int, int]:
    """Return (patch, dim) of a shape, a leading axis of one taken off."""
    kept = tuple(shape[1:]) if len(shape) == 3 and shape[0] == 1 else tuple(shape)
    if len(kept) != 2:
        raise InputError(f"{path}: {what} has shape {tuple(shape)}; expected (patches, dimensions)")
    if kept[1] == 0:
        raise InputError(f"{path}: {what} has shape {tuple(shape)}: its rows have no dimensions")
    return int(kept[0]), int(kept[1])


def _matrix(values: NDArray[Any], path: Path, what: str) -> NDArray[Any]:
    matrix = values.reshape(_shape(values.shape, path, what))
    if matrix.dtype.byteorder not in "=|":
        matrix = matrix.astype(matrix.dtype.newbyteorder("="))
    if matrix.dtype != np.float64:
        return matrix
    with np.errstate(over="ignore"):
        return matrix.astype(np.float32)


def _finite(features: NDArray[Any], path: Path) -> NDArray[Any]:
    # The sum of finite float32 rows can overflow in float16, so each number is looked at.
    finite = np.isfinite(features)
    if not finite.all():
        row, column = (int(axis[0]) for axis in np.nonzero(~finite))
        rows = int((~finite).any(axis=1).sum())
        raise InputError(
            f"{path}: {features[row, column]} in row {row}, dimension {column} ({rows} of "
            f"{len(features)} rows are not finite in float32). Extract the features of this slide "
            "again"
        )
    return features


def stated_geometry(
    attributes: Mapping[str, Any],
) -> tuple[float | None, int | None, int | None]:
    """Return what the attributes of a bag file state of its patches, in the words of any tool.

    TRIDENT states `target_magnification`, `patch_size`, `patch_size_level0` and
    `level0_magnification`; AtlasPatch the same, and 0 where it does not know; STAMP `tile_size_um`
    and `tile_size_px`; CLAM `patch_size` in pixels of `patch_level`, and `downsample` of that
    level. What follows from these is worked out: the level-0 size from two magnifications or from
    a downsample. An attribute that is not one positive number states nothing.

    Examples:
        >>> stated_geometry({"patch_size": 512, "target_magnification": 20,
        ...                  "level0_magnification": 40})
        (20.0, 512, 1024)
        >>> stated_geometry({"tile_size_um": 256.0, "tile_size_px": 512})
        (20.0, 512, None)
    """
    side = _positive(attributes, "patch_size")
    power = _positive(attributes, "target_magnification")
    side_px0 = _positive(attributes, "patch_size_level0")
    level0_power = _positive(attributes, "level0_magnification")
    side_um, stamp_side = (_positive(attributes, key) for key in ("tile_size_um", "tile_size_px"))
    if side is None and stamp_side is not None:
        side = stamp_side
        if power is None and side_um is not None:
            power = _UM_AT_1X * side / side_um
    if side_px0 is None and side is not None:
        if power is not None and level0_power is not None:
            side_px0 = side * level0_power / power
        elif "patch_level" in attributes and (downsample := _positive(attributes, "downsample")):
            side_px0 = side * downsample
    return power, _whole(side), _whole(side_px0)


def _positive(attributes: Mapping[str, Any], key: str) -> float | None:
    """Return one positive number; CLAM's `downsample` is a pair (x, y), of which the mean."""
    try:
        value = float(np.asarray(attributes[key], dtype=np.float64).mean())
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _coords_unit(name: str, attributes: Mapping[str, Any]) -> CoordsUnit | None:
    unit = attributes.get("unit")
    if unit == "um":
        return "um"
    # Early STAMP files state no unit and used several, so theirs stays unknown.
    return None if unit is not None or name == "feats" else "px0"


def _patch_encoder(name: str, attributes: Mapping[str, Any]) -> str | None:
    if name.startswith("features/"):
        return name.removeprefix("features/")
    for key in _ENCODER_ATTRIBUTES:
        value = attributes.get(key)
        if isinstance(value, str) and value and value != "None":
            return value
    folder = PurePosixPath(str(attributes.get("savetodir", "")).replace("\\", "/")).name
    return folder.removeprefix("features_") if folder.startswith("features_") else None


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
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{path} holds a {type(tensor).__name__}; expected one tensor")
    if not tensor.is_floating_point():
        raise InputError(
            f"{path}: the tensor is of type {tensor.dtype}; features are floating point"
        )
    tensor = tensor.detach()
    if tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # numpy has no bfloat16
    matrix: NDArray[Any] = tensor.numpy()
    return matrix


def _no_tensor(path: Path, reason: str) -> str:
    """Return why a .pt file is not read, from what torch says of it, and what to do."""
    other = re.search(r"Unsupported global: GLOBAL ([\w.]+)", reason)
    if other is None:
        return (
            f"{path} cannot be read as a .pt file of one tensor: torch.save did not write it, or "
            "it is cut short or damaged. Extract the features of this slide again"
        )
    name = other.group(1)
    if not name.startswith("numpy."):
        return (
            f"{path} cannot be read as a .pt file of one tensor: it holds a Python object ({name}) "
            "that could run code, so it was not built. Save the features alone, as a tensor"
        )
    line = (
        "import sys, numpy, torch; p = sys.argv[1]; a = torch.load(p, weights_only=False); "
        "torch.save(torch.as_tensor(numpy.asarray(a)), p)"
    )
    return (
        f"{path} cannot be read as a .pt file of one tensor: it holds a NumPy array, which is "
        "pickled and could run code. If you trust the file, write the array as a tensor: "
        f'python -c "{line}" {shlex.quote(str(path))} (where the file holds a dict, take the '
        "array out of it: a = torch.load(...)['features'])"
    )

"""Fits on disk: one safetensors file each, with the network, its predictions and how it went.

    fits/<board>/<encoder>/<task>@<version>/<protocol>.<key>/<first>-<second>.safetensors

A run that is cut off goes on with the fits that are not there yet.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from madeleine_bench.files import write_bytes
from madeleine_bench.hashing import hash_array, hash_json
from madeleine_bench.protocols.fits import FitReport, FoldPrediction

_KEY = "mbench-fit"  # the only one: safetensors writes several keys in an order that changes
_COLUMN, _NETWORK, _SCALE = "column/", "network/", "scale/"


@dataclass(frozen=True)
class Fit:
    """One trained network.

    Attributes:
        prediction: the columns of the test units, and the report.
        network: parameters and buffers by name; empty where the fit failed.
        scale: "centre" and "factor" of the patches, each (dim,).
    """

    prediction: FoldPrediction
    network: Mapping[str, NDArray[Any]]
    scale: Mapping[str, NDArray[Any]]


def fit_path(folder: Path, key: tuple[int, int]) -> Path:
    """Return where the fit of a key lies."""
    return folder / f"{key[0]:04d}-{key[1]:04d}.safetensors"


def write_fit(path: Path, fit: Fit) -> None:
    """Write a fit, the same bytes for the same fit.

    Raises:
        InputError: the folder cannot be written.
    """
    columns = fit.prediction.columns
    tensors: dict[str, NDArray[Any]] = {
        f"{_COLUMN}{name}": np.ascontiguousarray(values) for name, values in columns.items()
    }
    tensors |= {f"{_NETWORK}{name}": np.ascontiguousarray(v) for name, v in fit.network.items()}
    tensors |= {f"{_SCALE}{name}": np.ascontiguousarray(v) for name, v in fit.scale.items()}
    report = asdict(fit.prediction.report)
    said = {"report": report, "columns": list(columns), "hash": _hash(fit.prediction)}
    write_bytes(path, save(dict(sorted(tensors.items())), {_KEY: json.dumps(said)}))


def read_fit(path: Path) -> Fit | None:
    """Return a fit, or None where there is none, or one that is damaged: it is made again then."""
    try:
        with safe_open(path, framework="numpy") as handle:
            said = json.loads(handle.metadata()[_KEY])
            names = list(handle.keys())
            tensors = {name: handle.get_tensor(name) for name in names}
        report = said["report"]
        report["key"] = (int(report["key"][0]), int(report["key"][1]))
        columns = {name: tensors[f"{_COLUMN}{name}"] for name in said["columns"]}
        prediction = FoldPrediction(FitReport(**report), columns)
        if _hash(prediction) != said["hash"]:
            return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError):
        return None
    return Fit(prediction, _under(tensors, _NETWORK), _under(tensors, _SCALE))


def _under(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _hash(prediction: FoldPrediction) -> str:
    columns = [[name, hash_array([], values)] for name, values in prediction.columns.items()]
    return hash_json([asdict(prediction.report), columns])

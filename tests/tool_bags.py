"""Bag files as the tools write them: CLAM, TRIDENT, STAMP and AtlasPatch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from madeleine_bench.data import bags

BagLayout = Literal["clam", "trident", "stamp", "atlaspatch"]


def write_bag_file(
    path: Path,
    features: np.ndarray,
    coords: np.ndarray | None = None,
    *,
    layout: BagLayout = "trident",
    patch_encoder: str | None = None,
    mpp: float | None = None,
    coords_attributes: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a bag under the names and attributes that a tool uses; `mpp` is for STAMP."""
    if layout == "trident":
        bags.write_bag_file(
            path, features, coords, patch_encoder=patch_encoder,
            coords_attributes=coords_attributes, attributes=attributes,
        )  # fmt: skip
        return
    layouts: dict[str, tuple[str, dict[str, Any]]] = {
        "clam": ("features", {"patch_encoder": patch_encoder}),
        "stamp": ("feats", {"unit": "um", "extractor": patch_encoder}),
        "atlaspatch": (f"features/{patch_encoder}", {"num_patches": len(features)}),
    }
    name, stated = layouts[layout]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as handle:
        handle.create_dataset(name, data=features)
        if coords is not None:
            stored = np.asarray(coords, np.int32)
            if layout == "stamp":
                stored = np.asarray(coords, np.float32) * np.float32(mpp)
            elif layout == "atlaspatch":  # the size of the region read and its level come after
                stored = np.pad(stored, ((0, 0), (0, 3)))
            handle.create_dataset("coords", data=stored).attrs.update(coords_attributes or {})
        handle.attrs.update({key: value for key, value in stated.items() if value is not None})
        handle.attrs.update(attributes or {})

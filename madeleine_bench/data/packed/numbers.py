"""The number types of packed rows: float16, and bfloat16 kept as its 16 bits.

numpy has no bfloat16. Its numbers are the upper half of float32's, so they lie on disk as uint16
and come back as float32 by a shift.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PackedDtype = Literal["float16", "bfloat16"]
ITEM_BYTES = 2

# The smallest normal and the largest finite number of each.
RANGES: dict[PackedDtype, tuple[float, float]] = {
    "float16": (float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)),
    "bfloat16": (2.0**-126, (2.0 - 2.0**-7) * 2.0**127),
}


def disk_dtype(dtype: PackedDtype) -> np.dtype[Any]:
    """Return the numpy type of packed rows: float16, or uint16 that holds the bits of bfloat16."""
    return np.dtype(np.float16 if dtype == "float16" else np.uint16)


def packed_rows(features: NDArray[Any], dtype: PackedDtype) -> NDArray[Any]:
    """Return features as they are stored, patch x dim in one piece, rounded to nearest, ties even.

    Args:
        features: patch x dim, finite and within the range of `dtype`.
        dtype: of the store.
    """
    if dtype == "float16":
        return np.ascontiguousarray(features, dtype=np.float16)
    bits = np.ascontiguousarray(features, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: NDArray[Any] = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return rounded


def read_rows(rows: NDArray[Any], dtype: PackedDtype) -> NDArray[np.floating]:
    """Return stored rows as numbers: float16 as they lie, bfloat16 as float32."""
    if dtype == "float16":
        return rows
    return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)

"""What a bag file states of its patches: at which magnification, how large, how large at level 0.

=============  =================================================================================
tool           attributes
=============  =================================================================================
TRIDENT        `target_magnification`, `patch_size`, `patch_size_level0`, `level0_magnification`
AtlasPatch     the same, of the file (TRIDENT: of `coords`); 0 where it does not know
STAMP          `tile_size_um`, `tile_size_px`
CLAM           `patch_size` (pixels of `patch_level`), `downsample` of that level; no magnification
=============  =================================================================================

References:
    github.com/mahmoodlab/TRIDENT, AtlasAnalyticsLab/AtlasPatch, KatherLab/STAMP, mahmoodlab/CLAM:
    where each writes its HDF5 files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# An objective of 20x is a pixel of half a micrometre: how TRIDENT too turns one into the other.
_UM_AT_1X = 10.0


@dataclass(frozen=True)
class PatchGeometry:
    """What is stated of the patches of a bag; None is not stated.

    Attributes:
        magnification: objective power of the patches, such as 20.
        patch_size: side of a patch in pixels, at `magnification` where that is known.
        patch_size_level0: side of a patch in level-0 pixels.
    """

    magnification: float | None = None
    patch_size: int | None = None
    patch_size_level0: int | None = None


def stated_geometry(attributes: Mapping[str, Any]) -> PatchGeometry:
    """Return what the attributes of a bag file state, in the words of any of the tools.

    What follows from what is stated is worked out: the level-0 size from two magnifications or
    from a downsample. An attribute that is not one positive number states nothing.

    Examples:
        >>> stated_geometry({"patch_size": 512, "target_magnification": 20,
        ...                  "level0_magnification": 40})
        PatchGeometry(magnification=20.0, patch_size=512, patch_size_level0=1024)
        >>> stated_geometry({"tile_size_um": 256.0, "tile_size_px": 512})
        PatchGeometry(magnification=20.0, patch_size=512, patch_size_level0=None)
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
    return PatchGeometry(power, _whole(side), _whole(side_px0))


def _positive(attributes: Mapping[str, Any], key: str) -> float | None:
    """Return one positive number; CLAM's `downsample` is a pair (x, y), of which the mean."""
    try:
        value = float(np.asarray(attributes[key], dtype=np.float64).mean())
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)

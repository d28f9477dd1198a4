"""Patch files: which patches of a slide are taken, as CLAM and TRIDENT write and read them.

Both keep a dataset `coords` (patch x 2: x, y of the upper left corner in level-0 pixels) and say
what a patch is in its attributes, each in its own words:

=======  =====================================================================================
CLAM     `patch_level`, `patch_size` (pixels of that level), `downsample`, `level_dim`, `name`
TRIDENT  `patch_size` (pixels at `target_magnification`), `patch_size_level0`,
         `level0_magnification`, `overlap`, `level0_width`, `level0_height`, `name`
=======  =====================================================================================

`patch_size` means the same in both only where a level of the slide has exactly the resolution of
the patches. Elsewhere the words of CLAM are left out, since they would name another region.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.bags import opened, read_attributes, read_coords, writing
from madeleine_bench.errors import InputError


@dataclass(frozen=True)
class PatchFile:
    """The patches of one slide.

    Attributes:
        coords: patch x 2 (x, y), level-0 pixels, int32.
        size_px0: side of a patch in level-0 pixels, or None where only CLAM's words say it and
            the size of its level is not in the file.
        patch_px: side of a patch in pixels at the resolution it is read at, or None.
        level: pyramid level of CLAM, or None.
    """

    coords: NDArray[np.int32]
    size_px0: int | None
    patch_px: int | None
    level: int | None


@dataclass(frozen=True)
class PatchPlace:
    """What the attributes of `coords` say of the patches of a slide.

    Attributes:
        slide_id: the slide.
        folder: the folder of the patches, as `savetodir`.
        patch_px: side of a patch in pixels at its own resolution.
        size_px0: the same in level-0 pixels.
        overlap_px: pixels that neighbours share.
        mpp: micrometres per pixel of a patch.
        slide_mpp: micrometres per level-0 pixel.
        slide_size_px0: (width, height) of level 0.
        exact_level: (number, downsample, (width, height)) of the level of the same resolution, or
            None where there is none.
    """

    slide_id: str
    folder: str
    patch_px: int
    size_px0: int
    overlap_px: int
    mpp: float
    slide_mpp: float
    slide_size_px0: tuple[int, int]
    exact_level: tuple[int, float, tuple[int, int]] | None

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of `coords`: TRIDENT's, and CLAM's where they hold too."""
        found: dict[str, Any] = {
            "name": self.slide_id,
            "savetodir": self.folder,
            "patch_size": self.patch_px,
            "patch_size_level0": self.size_px0,
            "level0_magnification": _power(self.slide_mpp),
            "target_magnification": _power(self.mpp),
            "overlap": self.overlap_px,
            "level0_width": self.slide_size_px0[0],
            "level0_height": self.slide_size_px0[1],
            "mpp": self.mpp,
            "level0_mpp": self.slide_mpp,
        }
        if self.exact_level is not None:
            level, downsample, size = self.exact_level
            found |= {
                "patch_level": level,
                "downsample": (downsample, downsample),
                "downsampled_level_dim": size,
                "level_dim": size,
                "save_path": self.folder,
            }
        return found


def write_patch_file(path: Path, coords: NDArray[np.int32], attributes: Mapping[str, Any]) -> None:
    """Write the patches of a slide, atomically.

    Raises:
        InputError: the folder cannot be written.
    """
    with writing(path) as handle:
        handle.create_dataset("coords", data=coords).attrs.update(attributes)


def read_patch_file(path: Path) -> PatchFile:
    """Return the patches of a slide from a file of CLAM, of TRIDENT or of this program.

    Raises:
        InputError: the file is absent, damaged, has no coords, or does not say how large a patch
            is.
    """
    with opened(path) as handle:
        if not isinstance(handle.get("coords"), h5py.Dataset):
            inside = ", ".join(sorted(handle)) or "nothing"
            raise InputError(f"{path}: no dataset 'coords'; the file holds {inside}")
        rows = handle["coords"].shape[0] if handle["coords"].ndim else 0
        coords = read_coords(handle, path, rows)
        attributes = read_attributes(handle, "coords")
    if coords is None:
        coords = np.empty((0, 2), dtype=np.int32)
    size_px0 = _whole(attributes, "patch_size_level0", path)
    patch_px = _whole(attributes, "patch_size", path)
    level = _whole(attributes, "patch_level", path, least=0)
    if size_px0 is None and (patch_px is None or level is None):
        raise InputError(
            f"{path}: the attributes of 'coords' do not say how large a patch is; expected "
            "patch_size_level0 (TRIDENT), or patch_size and patch_level (CLAM)"
        )
    return PatchFile(coords.astype(np.int32), size_px0, patch_px, level)


def _power(mpp: float) -> int | float:
    """Return the objective power of a resolution, as a whole number where it is near one."""
    power = 10.0 / mpp
    return round(power) if abs(power - round(power)) <= 0.02 * power and power >= 0.5 else power


def _whole(attributes: Mapping[str, Any], key: str, path: Path, least: int = 1) -> int | None:
    if key not in attributes:
        return None
    try:
        value = int(np.asarray(attributes[key]).item())
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: '{key}' of 'coords' is not one number") from error
    if value < least:
        raise InputError(f"{path}: '{key}' of 'coords' is {value}; expected {least} or more")
    return value

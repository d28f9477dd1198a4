"""Which square patches of a slide are taken, by grid and tissue or by a patch file, and read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from madeleine_bench.data.hdf5 import read_patch_file
from madeleine_bench.data.ids import slide_name
from madeleine_bench.errors import InputError
from madeleine_bench.slides.reader import ReadPlan, Slide, Thumbnail
from madeleine_bench.slides.tissue import Tissue, segment_tissue


@dataclass(frozen=True)
class PatchSettings:
    """Size, resolution and choice of patches.

    Attributes:
        patch_px: side of a patch in pixels at `mpp`.
        mpp: micrometres per pixel of a patch; 1.0 is 10x, 0.5 is 20x.
        overlap_px: pixels (at `mpp`) that neighbours share, less than `patch_px`.
        min_tissue: least share (0-1) of a patch that must be tissue; a patch of none never counts.
    """

    patch_px: int = 256
    mpp: float = 1.0
    overlap_px: int = 0
    min_tissue: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            InputError: a value is out of its range.
        """
        for option, value, low, high in (
            ("--patch-px", self.patch_px, 1, 4096),
            ("--patch-mpp", self.mpp, 0.02, 100),
            ("--overlap-px", self.overlap_px, 0, self.patch_px - 1),
            ("--min-tissue", self.min_tissue, 0, 1),
        ):
            if not low <= value <= high:
                raise InputError(f"{option} is {value}; expected {low} to {high}")

    @property
    def folder_name(self) -> str:
        """The folder that TRIDENT would use for these patches.

        Examples:
            >>> PatchSettings().folder_name
            '10x_256px_0px_overlap'
        """
        return f"{10.0 / self.mpp:.4g}x_{self.patch_px}px_{self.overlap_px}px_overlap"


def resolution(mpp: float | None, magnification: float | None) -> float:
    """Return micrometres per pixel of a patch from what the user gave; 1 for neither.

    Raises:
        InputError: both were given, or no objective has that power.
    """
    if magnification is None:
        return 1.0 if mpp is None else mpp
    if mpp is not None:
        raise InputError("--patch-mpp and --magnification say the same; give one of them")
    if not 0.1 <= magnification <= 200:
        raise InputError(f"--magnification is {magnification}; expected such as 10 or 20")
    return 10.0 / magnification


def grid_coords(slide: Slide, plan: ReadPlan, overlap_px: int) -> NDArray[np.int32]:
    """Return the corners of all patches that lie wholly in the slide, patch x 2 (x, y) in px0.

    The grid starts at the slide's own corner; patches come row by row, from left to right.
    """
    step = plan.size_px0 * (plan.patch_px - overlap_px) / plan.patch_px
    columns, rows = (
        np.rint(np.arange(0, side - plan.size_px0 + 0.5, step)).astype(np.int32)
        for side in (slide.width_px0, slide.height_px0)
    )
    x, y = np.meshgrid(columns, rows)
    return np.column_stack([x.ravel(), y.ravel()]).astype(np.int32)


def tissue_share(
    mask: NDArray[np.bool_], coords: NDArray[np.int32], size_px0: int, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the share (0-1) of each patch that is tissue, exact for a mask of square pixels.

    Args:
        mask: height x width of a thumbnail.
        coords: patch x 2 (x, y), level-0 pixels.
        size_px0: side of a patch, level-0 pixels.
        scale: level-0 pixels per mask pixel, along x and y.
    """
    area = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    area[1:, 1:] = mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1)
    left, top = (coords[:, axis] / scale[axis] for axis in (0, 1))
    right, bottom = left + size_px0 / scale[0], top + size_px0 / scale[1]
    # Linear between corners, as pixels are constant.
    places = [(bottom, top, bottom, top), (right, right, left, left)]
    corners = map_coordinates(area, np.asarray(places), order=1, mode="nearest")
    covered: NDArray[np.float64] = corners[0] - corners[1] - corners[2] + corners[3]
    share = covered / (size_px0**2 / (scale[0] * scale[1]))
    return np.clip(np.round(share, 9), 0.0, 1.0)


# Of the thumbnail that shows tissue and glass: finer adds nothing, coarser loses thin strands.
_FINEST_MPP, _COARSEST_MPP = 4.0, 8.0
_LONGEST_PX = 1500  # what it has at least, if it can within these


@dataclass(frozen=True)
class ChosenPatches:
    """The patches of one slide.

    Attributes:
        plan: how they are read.
        coords: patch x 2 (x, y), level-0 pixels.
        thumbnail: the slide, small; None where the patches came from a file.
        tissue: what was taken for tissue; None where the patches came from a file.
    """

    plan: ReadPlan
    coords: NDArray[np.int32]
    thumbnail: Thumbnail | None = None
    tissue: Tissue | None = None

    def boxes(self) -> NDArray[np.float64]:
        """Return the patches as boxes (patch x 4: left, top, right, bottom) in level-0 pixels."""
        corners = self.coords.astype(np.float64)
        return np.hstack([corners, corners + self.plan.size_px0])


def choose_patches(
    slide: Slide, patches: PatchSettings, patch_folder: Path | None = None
) -> ChosenPatches:
    """Return the patches of a slide: those that hold enough tissue, or those of its patch file.

    Raises:
        InputError: the resolution of the slide is unknown or too coarse, a patch file is absent,
            broken or of another slide, or the slide is damaged.
    """
    plan = slide.plan(patches.patch_px, patches.mpp)
    if patch_folder is not None:
        return _from_file(slide, plan, patch_folder)
    longest_um = max(slide.width_px0, slide.height_px0) * slide.known_mpp()
    thumbnail = slide.thumbnail(min(max(longest_um / _LONGEST_PX, _FINEST_MPP), _COARSEST_MPP))
    tissue = segment_tissue(thumbnail.rgb, thumbnail.mpp)
    coords = grid_coords(slide, plan, patches.overlap_px)
    share = tissue_share(tissue.mask, coords, plan.size_px0, thumbnail.scale)
    kept = (share >= patches.min_tissue) & (share > 0)
    return ChosenPatches(plan, coords[kept], thumbnail, tissue)


def read_patches(slide: Slide, chosen: ChosenPatches, part: slice) -> NDArray[np.uint8]:
    """Return a part of the patches of a slide, at least one, (patch, px, px, 3).

    Raises:
        InputError: the slide is damaged.
    """
    places = chosen.coords[part]
    return np.stack([slide.read_patch(int(x), int(y), chosen.plan) for x, y in places])


def find_patch_file(folder: Path, slide_id: str) -> Path:
    """Return the patch file of a slide, of TRIDENT (<slide>_patches.h5) or CLAM (<slide>.h5).

    TRIDENT cuts `.ome.tif` off the name of a slide, so a.ome.tif also finds a_patches.h5.

    Raises:
        InputError: there is none.
    """
    stems = dict.fromkeys((slide_id, slide_name(slide_id)))
    names = [f"{stem}{ending}" for stem in stems for ending in ("_patches.h5", ".h5")]
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    raise InputError(f"no patch file {names[0]} or {names[1]} in {folder}")


def _from_file(slide: Slide, plan: ReadPlan, folder: Path) -> ChosenPatches:
    """Return the patches that CLAM or TRIDENT has chosen."""
    path = find_patch_file(folder, slide.slide_id)
    stated = read_patch_file(path)
    size_px0 = stated.size_px0
    if size_px0 is None:
        assert stated.level is not None  # the reader has seen to it
        assert stated.patch_px is not None
        if stated.level >= len(slide.level_downsamples):
            raise InputError(
                f"{path} is of level {stated.level}; {slide.path} has the levels 0 to "
                f"{len(slide.level_downsamples) - 1}. Is it the patch file of another slide?"
            )
        size_px0 = round(stated.patch_px * slide.level_downsamples[stated.level])
    if abs(size_px0 / plan.size_px0 - 1.0) > 0.02:
        raise InputError(
            f"{path} has patches of {size_px0} level-0 pixels; --patch-px and --patch-mpp ask for "
            f"{plan.size_px0}. Give those that the patches were chosen with"
        )
    coords = stated.coords
    outside = (coords < 0).any(axis=1) | (coords >= (slide.width_px0, slide.height_px0)).any(axis=1)
    if outside.any():
        x, y = coords[outside][0]
        raise InputError(
            f"{path}: patch {int(np.flatnonzero(outside)[0])} at ({x}, {y}) lies outside of "
            f"{slide.path} ({slide.width_px0} x {slide.height_px0}). Is it of another slide?"
        )
    return ChosenPatches(plan, coords)

"""From an open slide to the patches that are taken of it, and to their pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.patch_files import read_patch_file
from madeleine_bench.errors import InputError
from madeleine_bench.slides.patches import PatchSettings, grid_coords, tissue_share
from madeleine_bench.slides.reader import ReadPlan, Slide, Thumbnail
from madeleine_bench.slides.tissue import Tissue, TissueSettings, segment_tissue

_FINEST_MPP, _COARSEST_MPP = 4.0, 8.0  # finer adds nothing, coarser loses thin strands
_LONGEST_PX = 1500  # what the picture of a slide has at least, if it can within these


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


def choose_patches(
    slide: Slide,
    patches: PatchSettings,
    tissue: TissueSettings,
    patch_folder: Path | None = None,
) -> ChosenPatches:
    """Return the patches of a slide: those that hold enough tissue, or those of its patch file.

    Raises:
        InputError: the resolution of the slide is unknown or too coarse, a patch file is absent,
            broken or of another slide, or the slide is damaged.
    """
    plan = slide.plan(patches.patch_px, patches.mpp)
    if patch_folder is not None:
        return _from_file(slide, plan, patch_folder)
    thumbnail = segmentation_thumbnail(slide)
    found = segment_tissue(thumbnail.rgb, thumbnail.mpp, tissue)
    coords = grid_coords(slide, plan, patches.overlap_px)
    share = tissue_share(found.mask, coords, plan.size_px0, thumbnail.scale)
    kept = (share >= patches.min_tissue) & (share > 0)
    return ChosenPatches(plan, coords[kept], thumbnail, found)


def segmentation_thumbnail(slide: Slide) -> Thumbnail:
    """Return the thumbnail to tell tissue from glass on.

    It has 8 micrometres a pixel, or down to 4 where the slide is small.

    Raises:
        InputError: the resolution of the slide is unknown, or the slide is damaged.
    """
    longest_um = max(slide.width_px0, slide.height_px0) * slide.known_mpp()
    return slide.thumbnail(min(max(longest_um / _LONGEST_PX, _FINEST_MPP), _COARSEST_MPP))


def read_patches(slide: Slide, chosen: ChosenPatches, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return some patches of a slide, (row, px, px, 3).

    Raises:
        InputError: the slide is damaged.
    """
    plan = chosen.plan
    if not len(rows):
        return np.empty((0, plan.patch_px, plan.patch_px, 3), np.uint8)
    return np.stack([slide.read_patch(int(x), int(y), plan) for x, y in chosen.coords[rows]])


def find_patch_file(folder: Path, slide_id: str) -> Path:
    """Return the patch file of a slide, of TRIDENT (<slide>_patches.h5) or CLAM (<slide>.h5).

    Raises:
        InputError: there is none.
    """
    names = (f"{slide_id}_patches.h5", f"{slide_id}.h5")
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

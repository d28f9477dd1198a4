"""The files of one extraction, laid out as TRIDENT lays out its job folder.

contours/<slide>.png                        outlines of the tissue on a thumbnail
contours_geojson/<slide>.geojson            the same in level-0 pixels, for QuPath
tissue_masks/<slide>.png                    white on tissue, the whole slide
10x_256px_0px_overlap/patches/<slide>_patches.h5
10x_256px_0px_overlap/features_<encoder>/<slide>.h5
10x_256px_0px_overlap/features_<encoder>.csv       what became of each slide
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from madeleine_bench.data.bags import PHANTOM_ATTRIBUTE, read_bag_header, write_bag_file
from madeleine_bench.data.hdf5 import write_patch_file
from madeleine_bench.errors import InputError, UnreadableFile
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.slides.overlay import (
    contours_geojson,
    picture_bytes,
    tissue_contours,
    tissue_overlay,
)
from madeleine_bench.slides.patches import ChosenPatches, PatchSettings
from madeleine_bench.slides.reader import ReadPlan, Slide

KEY_ATTRIBUTE = "extraction"


@dataclass(frozen=True)
class BagFolder:
    """Where the files of one extraction lie, and how they are written; all writes are atomic.

    Attributes:
        root: the output folder.
        settings: size and resolution of the patches.
        patch_encoder: name of the patch encoder.
    """

    root: Path
    settings: PatchSettings
    patch_encoder: str

    @property
    def grid(self) -> Path:
        """The folder of all that belongs to patches of this size and resolution."""
        return self.root / self.settings.folder_name

    @property
    def features(self) -> Path:
        """The folder of the bags: what `features` in mbench.toml points to."""
        return self.grid / f"features_{self.patch_encoder}"

    @property
    def report(self) -> Path:
        """The table that says what became of each slide."""
        return self.grid / f"features_{self.patch_encoder}.csv"

    def bag(self, slide_id: str) -> Path:
        """Return the path of the bag of a slide."""
        return self.features / f"{slide_id}.h5"

    def find_bag(self, slide_id: str, key: str, *, overwrite: bool) -> int | None:
        """Return the number of patches of a slide's bag where `key` made it; None to make it again.

        A damaged file is made again: nothing in it is lost. One that is locked, or that may not be
        read, can hold everything.

        Raises:
            InputError: the bag is of other settings or of another program, or the system refuses to
                read it, and it must not be overwritten.
        """
        path = self.bag(slide_id)
        if not path.exists():
            return None
        try:
            header = read_bag_header(path)
        except UnreadableFile:
            if not overwrite:
                raise
            return None
        except InputError:
            return None
        if header.attributes.get(KEY_ATTRIBUTE) == key:
            return header.patches
        if not overwrite:
            raise InputError(
                f"{path} is there and was made with other settings, from another file or by "
                "another program; keep it and choose another --out, or replace it with --overwrite"
            )
        return None

    def write_tissue(self, slide: Slide, chosen: ChosenPatches) -> None:
        """Write the contours of a slide, the picture of them, and its patch file.

        Raises:
            InputError: the folder cannot be written.
        """
        slide_id, thumbnail, tissue = slide.slide_id, chosen.thumbnail, chosen.tissue
        if thumbnail is not None and tissue is not None:
            contours = tissue_contours(tissue.mask)
            about = {"slide": slide_id, "mpp": slide.known_mpp(), "rejected": dict(tissue.rejected)}
            text = contours_geojson(contours, thumbnail.scale, about, slide.origin_px0)
            write_text(self.root / "contours_geojson" / f"{slide_id}.geojson", text)
            mask = Image.fromarray(tissue.mask.astype(np.uint8) * 255)
            write_bytes(self.root / "tissue_masks" / f"{slide_id}.png", picture_bytes(mask))
            picture = tissue_overlay(thumbnail, contours, chosen.boxes())
            write_bytes(self.root / "contours" / f"{slide_id}.png", picture_bytes(picture))
        path = self.grid / "patches" / f"{slide_id}_patches.h5"
        write_patch_file(path, chosen.coords, patch_attributes(slide, chosen.plan, self.settings))

    def write_bag(
        self, slide: Slide, chosen: ChosenPatches, features: NDArray[np.float32], key: str
    ) -> None:
        """Write the bag of a slide; a slide without patches has a bag of none.

        Raises:
            InputError: the folder cannot be written.
        """
        attributes: dict[str, Any] = {
            KEY_ATTRIBUTE: key,
            "slide_file": slide.path.name,
            "patch_encoder": self.patch_encoder,
        }
        if slide.phantom is not None:
            attributes[PHANTOM_ATTRIBUTE] = slide.phantom
        write_bag_file(
            self.bag(slide.slide_id),
            features,
            chosen.coords,
            patch_encoder=self.patch_encoder,
            coords_attributes=patch_attributes(slide, chosen.plan, self.settings),
            attributes=attributes,
        )


def patch_attributes(slide: Slide, plan: ReadPlan, settings: PatchSettings) -> dict[str, Any]:
    """Return the attributes of the coords of a slide's patches, those of TRIDENT."""
    slide_mpp = slide.known_mpp()
    return {
        "name": slide.slide_id,
        "savetodir": settings.folder_name,
        "patch_size": plan.patch_px,
        "patch_size_level0": plan.size_px0,
        "level0_magnification": _power(slide_mpp),
        "target_magnification": _power(settings.mpp),
        "overlap": settings.overlap_px,
        "level0_width": slide.width_px0,
        "level0_height": slide.height_px0,
        "mpp": settings.mpp,
        "level0_mpp": slide_mpp,
    }


def _power(mpp: float) -> int | float:
    """Return the objective power of a resolution, as a whole number where it is near one."""
    power = 10.0 / mpp
    return round(power) if abs(power - round(power)) <= 0.02 * power and power >= 0.5 else power

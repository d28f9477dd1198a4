"""The files of one extraction, laid out as TRIDENT lays out its job folder.

contours/<slide>.png                        outlines of the tissue on a thumbnail
contours_geojson/<slide>.geojson            the same in level-0 pixels, for QuPath
10x_256px_0px_overlap/patches/<slide>_patches.h5
10x_256px_0px_overlap/features_<encoder>/<slide>.h5
10x_256px_0px_overlap/features_<encoder>.csv       what became of each slide
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from madeleine_bench.data.bags import PHANTOM_ATTRIBUTE, read_bag_header, write_bag_file
from madeleine_bench.data.hdf5 import write_patch_file
from madeleine_bench.errors import InputError, UnreadableFile
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import canonical_json
from madeleine_bench.slides.patches import ChosenPatches, PatchSettings, choose_patches
from madeleine_bench.slides.reader import ReadPlan, Slide, Thumbnail

Points = NDArray[np.float64]
Contour = list[Points]  # the outline of a piece of tissue, then its holes; x, y, first = last

_OUTLINE, _HOLE, _GRID = (0, 160, 0), (0, 90, 255), (40, 40, 40)
_LINE_PER_PX = 1 / 700  # lines stay visible when a large picture is shown small
_PICTURE_PX = 1600


def tissue_contours(mask: NDArray[np.bool_]) -> list[Contour]:
    """Return the outlines of the tissue in pixels (pixel i spans i to i + 1), the largest first.

    Outlines run half-way between the centres of pixels inside and outside, so every centre is on
    the side it belongs to, and corners are cut. Pixels that touch by a corner are two pieces.

    Args:
        mask: (height, width), True on tissue.
    """
    framed = np.pad(mask, 1).astype(np.float64)  # so that outlines close at the picture's edge
    polygons: Any = contour_generator(z=framed, fill_type="OuterOffset").filled(0.5, 2.0)
    contours = []
    for points, offsets in zip(*polygons, strict=True):
        # From centres of pixels in the frame to corners in the picture.
        rings = np.split(points - 0.5, offsets[1:-1].astype(np.intp))
        contours.append([_without_straight_points(ring) for ring in rings])
    return sorted(contours, key=lambda rings: sum(map(_area, rings[1:])) - _area(rings[0]))


def contours_geojson(
    contours: Sequence[Contour], scale: tuple[float, float], properties: Mapping[str, Any]
) -> str:
    """Return the outlines as a GeoJSON FeatureCollection, which QuPath, geopandas and TRIDENT read.

    One Polygon a piece, in whole level-0 pixels; `tissue_id` counts from the largest piece. The
    same input gives the same bytes.

    Args:
        contours: as `tissue_contours` returns them.
        scale: level-0 pixels per pixel of the contours, along x and y.
        properties: facts on the slide, kept as a member of the collection.
    """
    features = []
    for number, contour in enumerate(contours):
        rings = [_ring(points, scale) for points in contour]
        # A speck can round away to a line; as a ring it would be invalid.
        rings = [ring for ring in rings if len(ring) >= 4]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": rings},
                "properties": {
                    "classification": {"color": _OUTLINE, "name": "Tissue"},
                    "objectType": "annotation",  # without it QuPath makes no annotation of it
                    "tissue_id": number,
                },
            }
        )
    content = {"type": "FeatureCollection", "features": features, "properties": dict(properties)}
    return canonical_json(content) + "\n"


def _ring(points: Points, scale: tuple[float, float]) -> list[list[int]]:
    """Return an outline in whole level-0 pixels, closed, without points that fell together."""
    places = np.floor(points * np.asarray(scale) + 0.5).astype(np.int64)
    moved = np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))
    ring: list[list[int]] = places[moved].tolist()
    return ring


def _without_straight_points(points: Points) -> Points:
    """Return a closed outline without the points that lie on a straight line (exact)."""
    ring = points[:-1]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    corners = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.vstack([corners, corners[:1]])


def _area(points: Points) -> float:
    """Return the area of a closed outline."""
    x, y = (points - points[0]).T  # small numbers, so nothing is lost
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2))


def slide_overlay(slide: Slide) -> Image.Image:
    """Return a slide with its tissue and the usual patches.

    Raises:
        InputError: the slide is damaged or its resolution is unknown.
    """
    mpp = max(1.0, slide.known_mpp())  # no finer than the slide
    chosen = choose_patches(slide, PatchSettings(patch_px=max(1, round(256 / mpp)), mpp=mpp))
    assert chosen.tissue is not None
    assert chosen.thumbnail is not None
    return tissue_overlay(chosen.thumbnail, tissue_contours(chosen.tissue.mask), chosen.boxes())


def tissue_overlay(thumbnail: Thumbnail, contours: Sequence[Contour], boxes: Points) -> Image.Image:
    """Return the thumbnail with outlines in green, holes in blue and patches as thin boxes.

    Args:
        thumbnail: of the slide; the picture is no larger than 1600 pixels.
        contours: in thumbnail pixels.
        boxes: (patch, 4) in level-0 pixels: left, top, right, bottom.
    """
    picture = Image.fromarray(thumbnail.rgb)
    draw = ImageDraw.Draw(picture)
    for box in boxes / np.tile(thumbnail.scale, 2):
        # With its last row and column, so that neighbours share a line.
        draw.rectangle([int(edge) for edge in np.rint(box)], outline=_GRID)
    width = max(1, round(max(picture.size) * _LINE_PER_PX))
    for outline, *holes in contours:
        for ring in (*holes, outline):
            # Pillow counts from the centres of pixels, contours from their corners.
            places = [(x - 0.5, y - 0.5) for x, y in ring]
            draw.line(places, fill=_OUTLINE if ring is outline else _HOLE, width=width)
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
    return picture


def picture_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file; the same picture gives the same bytes."""
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


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
            text = contours_geojson(contours, thumbnail.scale, about)
            write_text(self.root / "contours_geojson" / f"{slide_id}.geojson", text)
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
            layout="trident",
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

"""Tissue that somebody has outlined: annotations of QuPath as GeoJSON, and mask images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable
from madeleine_bench.slides.reader import Slide, Thumbnail

Mask = NDArray[np.bool_]

SUFFIXES = (".geojson", ".json", ".png", ".tif", ".tiff")


def find_mask_file(folder: Path, slide_id: str) -> Path:
    """Return the file of a folder that says what is tissue on a slide.

    Raises:
        InputError: there is none, or more than one.
    """
    paths = [path for suffix in SUFFIXES if (path := folder / f"{slide_id}{suffix}").is_file()]
    if not paths:
        names = ", ".join(f"{slide_id}{suffix}" for suffix in SUFFIXES)
        raise InputError(f"no tissue mask of slide {slide_id} in {folder}; expected {names}")
    if len(paths) > 1:
        raise InputError(f"two tissue masks of slide {slide_id}: {paths[0]} and {paths[1]}")
    return paths[0]


def read_mask(path: Path, slide: Slide, thumbnail: Thumbnail) -> Mask:
    """Return the tissue that a file outlines, on a thumbnail (height, width).

    GeoJSON is in level-0 pixels from the corner of the scanned region, as QuPath writes it. Every
    Polygon and MultiPolygon is tissue, except where the name of its class ends in an asterisk, as
    QuPath's "Ignore*" does: that area is taken out. A mask image covers the whole slide; what is
    not black is tissue.

    Raises:
        InputError: the file is damaged, holds something else, or is of another slide.
    """
    if path.suffix in (".png", ".tif", ".tiff"):
        return _from_picture(path, slide, thumbnail)
    mask = np.zeros(thumbnail.rgb.shape[:2], dtype=bool)
    ignored = np.zeros_like(mask)
    size = np.array([slide.width_px0, slide.height_px0])
    for number, feature in enumerate(_features(path), start=1):
        for rings in _polygons(path, number, feature):
            places = [ring + slide.origin_px0 for ring in rings]
            if (places[0] < -1).any() or (places[0] > size + 1).any():
                raise InputError(
                    f"{path}: annotation {number} lies outside of {slide.path} "
                    f"({slide.width_px0} x {slide.height_px0}); is it of another slide?"
                )
            part = _filled([ring / thumbnail.scale for ring in places], mask.shape)
            target = ignored if _class_name(feature).endswith("*") else mask
            target |= part
    return mask & ~ignored


def _from_picture(path: Path, slide: Slide, thumbnail: Thumbnail) -> Mask:
    """Return the mask that a picture holds, the nearest pixel of it for each of the thumbnail."""
    try:
        with Image.open(path) as picture:
            indirect = picture.mode in ("RGBA", "LA", "PA", "P")  # opacity and index are no colour
            values = np.asarray(picture.convert("RGB") if indirect else picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        check_readable(path, error)
        raise InputError(f"{path} cannot be read as a mask image: {error}") from error
    tissue: Mask = np.asarray(values.any(axis=2) if values.ndim == 3 else values != 0)
    height, width = tissue.shape
    # One pixel more or less on either side is rounding.
    if abs(width * slide.height_px0 - height * slide.width_px0) > (
        slide.width_px0 + slide.height_px0
    ):
        raise InputError(
            f"{path} is {width} x {height}, another shape than {slide.path} ({slide.width_px0} x "
            f"{slide.height_px0}). A mask image covers the whole slide; export annotations of a "
            "part of it as GeoJSON"
        )
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(np.intp)
        for count, side in zip(thumbnail.rgb.shape[:2], (height, width), strict=True)
    )
    mask: Mask = tissue[np.ix_(rows, columns)]
    return mask


def _features(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the features of a file: a FeatureCollection, a list of features, or one feature."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        check_readable(path, error)
        raise InputError(f"{path} is not JSON: {error}") from error
    if isinstance(content, Mapping):
        content = content.get("features", [content])
    if not isinstance(content, Sequence) or not all(isinstance(one, Mapping) for one in content):
        raise InputError(f"{path} is not GeoJSON: expected a FeatureCollection")
    yield from content


def _polygons(
    path: Path, number: int, feature: Mapping[str, Any]
) -> Iterator[list[NDArray[np.float64]]]:
    """Yield the polygons of a feature, each as its outline and its holes, point x 2."""
    geometry = feature.get("geometry") or {}
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(
            f"{path}: annotation {number} is a {kind}; only areas (Polygon, MultiPolygon) say what "
            "is tissue. Remove it"
        )
    polygons: Any = geometry.get("coordinates")
    try:
        for rings in [polygons] if kind == "Polygon" else polygons:
            points = [np.asarray(ring, dtype=np.float64)[:, :2] for ring in rings]
            if points:  # an empty polygon is valid
                yield points
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: annotation {number} has broken coordinates: {error}") from error


def _class_name(feature: Mapping[str, Any]) -> str:
    """Return the name of the class that QuPath has given to an annotation; "" without one."""
    properties = feature.get("properties")
    group = properties.get("classification") if isinstance(properties, Mapping) else None
    return str(group.get("name", "")) if isinstance(group, Mapping) else ""


def _filled(rings: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> Mask:
    """Return the pixels whose centre lies in the outline and in none of its holes."""
    filled = []
    for ring in rings:
        inside = np.zeros(shape, dtype=bool)
        inside[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)] = True
        filled.append(inside)
    area = filled[0]
    for hole in filled[1:]:
        area &= ~hole
    return area

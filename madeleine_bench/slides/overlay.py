"""Pictures to look at: outlines of tissue, patches on a thumbnail, and attention as a heat map."""

import io
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from madeleine_bench.data.bags import BagFile, read_bag_file
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import canonical_json
from madeleine_bench.slides.patches import PatchSettings, check_mask_folder, choose_patches
from madeleine_bench.slides.reader import Slide, Thumbnail
from madeleine_bench.slides.tissue import TissueMethod

Points = NDArray[np.float64]
Contour = list[Points]  # the outline of a piece of tissue, then its holes; x, y, first = last

_OUTLINE, _HOLE, _GRID = (0, 160, 0), (0, 90, 255), (40, 40, 40)
_LINE_PER_PX = 1 / 700  # lines stay visible when a large picture is shown small
_COLOURS = "viridis"  # even to the eye, also without colour vision; no stain looks like it
_OPACITY = 0.6
_PICTURE_PX = 1600
_TILE_PX = 224  # side of a patch on the sheet of those of most attention


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
    contours: Sequence[Contour],
    scale: tuple[float, float],
    properties: Mapping[str, Any],
    origin_px0: tuple[int, int] = (0, 0),
) -> str:
    """Return the outlines as a GeoJSON FeatureCollection, which QuPath, geopandas and TRIDENT read.

    One Polygon a piece, in whole level-0 pixels; `tissue_id` counts from the largest piece. The
    same input gives the same bytes.

    Args:
        contours: as `tissue_contours` returns them.
        scale: level-0 pixels per pixel of the contours, along x and y.
        origin_px0: where the coordinates of the file begin: QuPath counts from the corner of the
            scanned region (`Slide.origin_px0`).
        properties: facts on the slide, kept as a member of the collection.
    """
    features = []
    for number, contour in enumerate(contours):
        rings = [_ring(points, scale, origin_px0) for points in contour]
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


def _ring(
    points: Points, scale: tuple[float, float], origin_px0: tuple[int, int]
) -> list[list[int]]:
    """Return an outline in whole level-0 pixels, closed, without points that fell together."""
    places = np.floor(points * np.asarray(scale) + 0.5).astype(np.int64) - origin_px0
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


def slide_overlay(
    slide: Slide,
    bag: Path | None = None,
    tissue: TissueMethod = "otsu",
    mask_folder: Path | None = None,
) -> Image.Image:
    """Return a slide with its tissue and patches: the usual ones, or those of a bag.

    Raises:
        InputError: the slide is damaged or its resolution is unknown; the bag is of another slide
            or does not say where its patches lie; there is no fit tissue mask.
    """
    mpp = max(1.0, slide.known_mpp())  # no finer than the slide
    settings = PatchSettings(patch_px=max(1, round(256 / mpp)), mpp=mpp, tissue=tissue)
    check_mask_folder(settings, mask_folder)
    chosen = choose_patches(slide, settings, mask_folder=mask_folder)
    assert chosen.tissue is not None
    assert chosen.thumbnail is not None
    boxes = chosen.boxes() if bag is None else bag_on_slide(slide, bag)[1]
    return tissue_overlay(chosen.thumbnail, tissue_contours(chosen.tissue.mask), boxes)


def bag_on_slide(slide: Slide, path: Path) -> tuple[BagFile, Points]:
    """Return a bag and its patches as boxes (patch x 4) in level-0 pixels of its slide.

    Raises:
        InputError: the bag is damaged, of another slide, or does not say where its patches lie.
    """
    bag = read_bag_file(path)
    side = bag.facts.patch_size_level0
    if bag.coords is None or side is None:
        raise InputError(
            f"{path} does not say where its patches lie: coords in level-0 pixels and the "
            "attribute patch_size_level0 are needed (mbench features extract and TRIDENT write "
            "both)"
        )
    corners = np.asarray(bag.coords, dtype=np.float64)
    boxes = np.hstack([corners, corners + float(side)])
    if len(boxes) and (boxes[:, 2:].max(axis=0) > (slide.width_px0, slide.height_px0)).any():
        raise InputError(f"{path} has patches outside of {slide.path}; is it of another slide?")
    return bag, boxes


def attention_picture(
    slide: Slide, boxes: Points, weights: NDArray[np.floating], top: int
) -> Image.Image:
    """Return the heat map of attention beside the patches of most attention, numbered on both.

    Args:
        slide: an open slide.
        boxes: (patch, 4) in level-0 pixels: left, top, right, bottom.
        weights: patch x head; the mean of the heads is shown.
        top: so many patches, fewer if the bag has fewer.

    Raises:
        InputError: the slide is damaged or its resolution is unknown.
    """
    thumbnail = slide.thumbnail(longest_px=_PICTURE_PX)
    heat = attention_overlay(thumbnail, boxes, weights)
    mean = weights.mean(axis=1)
    order = np.argsort(-mean, kind="stable")[:top]
    if not len(order):
        return heat
    font = ImageFont.load_default(_TILE_PX // 10)
    draw = ImageDraw.Draw(heat)
    columns = ceil(sqrt(len(order)))
    side, step = _TILE_PX, _TILE_PX + _TILE_PX // 6
    rows = ceil(len(order) / columns)
    size = (heat.width + columns * step + step - side, max(heat.height, rows * step))
    sheet = Image.new("RGB", size, "white")
    text = ImageDraw.Draw(sheet)
    for rank, index in enumerate(order):
        left, upper, right, lower = boxes[index] / np.tile(thumbnail.scale, 2)
        draw.rectangle((left, upper, right, lower), outline="white", width=2)
        draw.text((right + 2, upper), str(rank + 1), "white", font, stroke_width=2, stroke_fill=0)
        x = heat.width + step - side + rank % columns * step
        y = rank // columns * step
        sheet.paste(_tile(slide, boxes[index]), (x, y + step - side))
        text.text((x, y), f"{rank + 1}   {mean[index] * len(mean):.2f} x the mean", "black", font)
    sheet.paste(heat, (0, 0))
    return sheet


def _tile(slide: Slide, box: Points) -> Image.Image:
    """Return what lies in a box (left, top, right, bottom) of level-0 pixels, at the tile size."""
    side_px0 = float(box[2] - box[0])
    shown = max(1, min(_TILE_PX, round(side_px0)))
    plan = slide.plan(shown, max(1.0, side_px0 / shown) * slide.known_mpp())
    picture = Image.fromarray(slide.read_patch(round(box[0]), round(box[1]), plan))
    return picture.resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)


def attention_overlay(
    thumbnail: Thumbnail, boxes: Points, weights: NDArray[np.floating]
) -> Image.Image:
    """Return the thumbnail under patches whose colours span the mean attention of the heads.

    Args:
        thumbnail: of the slide.
        boxes: (patch, 4) in level-0 pixels: left, top, right, bottom.
        weights: patch x head.
    """
    from matplotlib import colormaps

    mean = weights.mean(axis=1)
    shares = (mean - mean.min()) / (np.ptp(mean) or 1.0)
    picture = Image.fromarray(thumbnail.rgb)
    heat = picture.copy()
    draw = ImageDraw.Draw(heat)
    colours = colormaps[_COLOURS](shares, bytes=True)
    for box, colour in zip(boxes / np.tile(thumbnail.scale, 2), colours, strict=True):
        draw.rectangle(box.tolist(), fill=tuple(colour[:3].tolist()))
    return Image.blend(picture, heat, _OPACITY)


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
    picture.save(out, format="PNG", compress_level=1)  # a third of the time of 6
    return out.getvalue()

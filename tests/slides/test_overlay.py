"""Pictures of tissue and of values."""

import io

import numpy as np
import pytest
from PIL import Image

from madeleine_bench.slides.overlay import (
    heat_overlay,
    picture_bytes,
    tissue_contours,
    tissue_overlay,
)

THUMBNAIL = np.full((300, 400, 3), 240, dtype=np.uint8)
GREEN, BLUE = (0, 160, 0), (0, 90, 255)
BOXES = np.array([[50, 60, 90, 100], [90, 60, 130, 100], [200.4, 199.6, 240.4, 239.6]])


def places(picture, colour) -> np.ndarray:
    return (np.asarray(picture) == colour).all(axis=2)


def ring() -> np.ndarray:
    mask = np.zeros((300, 400), dtype=bool)
    mask[50:250, 100:300] = True
    mask[100:150, 150:200] = False
    return mask


def test_outlines_are_green_and_holes_blue():
    picture = tissue_overlay(THUMBNAIL, tissue_contours(ring()))
    assert picture.size == (400, 300)
    rows, columns = np.nonzero(places(picture, GREEN))
    assert (rows.min(), rows.max()) == pytest.approx((50, 250), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((100, 300), abs=1)
    rows, columns = np.nonzero(places(picture, BLUE))
    assert (rows.min(), rows.max()) == pytest.approx((100, 150), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((150, 200), abs=1)
    untouched = places(picture, (240, 240, 240))
    assert untouched[60:90, 110:140].all()


def test_the_grid_is_drawn_around_each_patch():
    picture = tissue_overlay(THUMBNAIL, (), BOXES)
    dark = ~places(picture, (240, 240, 240))
    rows, columns = np.nonzero(dark[:110])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (60, 100, 50, 130)
    assert not dark[61:100, 51:90].any()
    assert not dark[61:100, 91:130].any()
    assert dark[200, 200:240].all()


def test_lines_are_thicker_on_a_large_picture():
    mask = np.zeros((1000, 2800), dtype=bool)
    mask[100:900, 100:2700] = True
    large = tissue_overlay(np.full((1000, 2800, 3), 240, np.uint8), tissue_contours(mask))
    assert places(large, GREEN)[500].sum() == 2 * 4


def test_the_thumbnail_is_left_as_it_was():
    before = THUMBNAIL.copy()
    tissue_overlay(THUMBNAIL, tissue_contours(ring()), BOXES)
    heat_overlay(THUMBNAIL, BOXES, {"x": np.arange(3)})
    assert np.array_equal(THUMBNAIL, before)


def shown(picture) -> np.ndarray:
    """The thumbnail's part of a heat map, at the thumbnail's size."""
    pixels = np.asarray(picture)
    glass = (abs(pixels.astype(int) - 240) <= 1).all(axis=2)
    rows = np.flatnonzero(glass.sum(axis=1) > 200)  # not the edges of letters
    columns = np.flatnonzero(glass.sum(axis=0) > 150)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return np.asarray(picture.crop(box).resize((400, 300))).astype(int)


def heat(values, boxes=BOXES, thumbnail=THUMBNAIL):
    return heat_overlay(thumbnail, boxes, {"head 1": np.asarray(values)})


def test_heat_goes_from_dark_to_bright_and_lets_the_thumbnail_through():
    picture = shown(heat([1.0, 2.0, 3.0]))
    bright = [picture[80, 70].sum(), picture[80, 110].sum(), picture[220, 220].sum()]
    assert bright[0] < bright[1] < bright[2]
    assert (abs(picture[150, 30] - 240) <= 1).all()
    halved = THUMBNAIL.copy()
    halved[80:100] = 100
    under = shown(heat([1.0, 2.0, 3.0], thumbnail=halved))
    assert (under[70, 70] - under[90, 70]).tolist() == pytest.approx([56] * 3, abs=2)


def test_the_bar_states_the_lowest_and_the_highest_value():
    a, b, c = (np.asarray(heat(values))[-40:] for values in ([1, 2, 3], [1, 2, 4], [0.5, 2, 4]))
    assert not np.array_equal(a, b)
    assert not np.array_equal(b, c)
    bar = max(a, key=lambda row: len(np.unique(row, axis=0)))
    assert len(np.unique(bar, axis=0)) > 60


def test_equal_values_and_no_patches_can_be_drawn():
    picture = shown(heat([2.0, 2.0, 2.0]))
    assert np.array_equal(picture[80, 70], picture[220, 220])
    assert (abs(shown(heat([], np.empty((0, 4)))) - 240) <= 1).all()


def test_a_small_thumbnail_has_room_for_the_title():
    title = "a long name of an encoder that has many letters, head 12"
    values = {title: np.array([1.0])}
    picture = heat_overlay(THUMBNAIL[:20, :30], np.array([[0, 0, 10, 10]]), values)
    top = np.asarray(picture)[:26].min(axis=2) < 128
    columns = np.nonzero(top.any(axis=0))[0]
    assert columns.min() > 0
    assert columns.max() < picture.width - 1


def test_panels_stand_side_by_side():
    values = {"head 1": np.array([1.0, 2.0, 3.0]), "mean": np.array([3.0, 2.0, 1.0])}
    picture = heat_overlay(THUMBNAIL, BOXES, values)
    left, right = (
        shown(picture.crop((start, 0, start + picture.width // 2, picture.height)))
        for start in (0, picture.width // 2)
    )
    assert left[80, 70] == pytest.approx(right[220, 220], abs=2)
    assert right[80, 70] == pytest.approx(left[220, 220], abs=2)


def test_png_is_exact_and_the_same_each_time():
    picture = tissue_overlay(THUMBNAIL, tissue_contours(ring()), BOXES)
    content = picture_bytes(picture)
    assert content == picture_bytes(picture)
    assert content.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(picture))

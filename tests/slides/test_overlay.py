"""Pictures of tissue and of values."""

import io

import numpy as np
import pytest
from PIL import Image

from madeleine_bench.errors import InputError
from madeleine_bench.slides.overlay import (
    heat_overlay,
    picture_bytes,
    side_by_side,
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
    heat_overlay(THUMBNAIL, BOXES, np.arange(3), "x")
    assert np.array_equal(THUMBNAIL, before)


def shown(picture) -> np.ndarray:
    """The thumbnail's part of a heat map."""
    return np.asarray(picture)[26:-26].astype(int)


def test_heat_goes_from_dark_to_bright_and_lets_the_thumbnail_through():
    picture = shown(heat_overlay(THUMBNAIL, BOXES, [1.0, 2.0, 3.0], "head 1"))
    assert picture.shape == (300, 400, 3)
    bright = [picture[80, 70].sum(), picture[80, 110].sum(), picture[220, 220].sum()]
    assert bright[0] < bright[1] < bright[2]
    assert (picture[150, 30] == 240).all()
    striped = THUMBNAIL.copy()
    striped[:, ::2] = 100
    under = shown(heat_overlay(striped, BOXES, [1.0, 2.0, 3.0], "head 1"))
    assert (under[80, 71] - under[80, 70]).tolist() == pytest.approx([56] * 3, abs=2)


def test_colours_span_the_values_whatever_their_size():
    a = heat_overlay(THUMBNAIL, BOXES, [1.0, 2.0, 3.0], "t")
    for values in ([-1e308, 0.0, 1e308], [1e-9, 2e-9, 3e-9]):
        assert np.array_equal(shown(heat_overlay(THUMBNAIL, BOXES, values, "t")), shown(a))


def test_the_bar_states_the_lowest_and_the_highest_value():
    a, b, c = (
        np.asarray(heat_overlay(THUMBNAIL, BOXES, values, "t"))[-26:]
        for values in ([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [0.5, 2.0, 4.0])
    )
    left, right = np.s_[:, :155], np.s_[:, 245:]
    assert np.array_equal(a[left], b[left])
    assert not np.array_equal(a[right], b[right])
    assert not np.array_equal(b[left], c[left])
    assert len(np.unique(a[13, 160:240], axis=0)) > 60


def test_equal_values_and_no_patches_can_be_drawn():
    picture = shown(heat_overlay(THUMBNAIL, BOXES, [2.0, 2.0, 2.0], "t"))
    assert np.array_equal(picture[80, 70], picture[220, 220])
    assert (shown(heat_overlay(THUMBNAIL, [], [], "t")) == 240).all()


def test_a_small_thumbnail_has_room_for_the_title():
    title = "a long name of an encoder, head 12"
    picture = heat_overlay(THUMBNAIL[:20, :30], [[0, 0, 10, 10]], [1.0], title)
    assert picture.height == 20 + 2 * 26
    top = np.asarray(picture)[:26].min(axis=2) < 128
    columns = np.nonzero(top.any(axis=0))[0]
    assert columns.min() > 0
    assert columns.max() < picture.width - 1


@pytest.mark.parametrize(
    ("boxes", "values", "message"),
    [
        (BOXES, [1.0, 2.0], r"shape \(2,\); expected one for 3 boxes"),
        (BOXES[:, :3], [1.0, 2.0, 3.0], r"boxes have shape \(3, 3\)"),
        (BOXES, [1.0, np.nan, 3.0], "not finite"),
        (BOXES, [1.0, np.inf, 3.0], "not finite"),
    ],
)
def test_wrong_boxes_and_values_are_refused(boxes, values, message):
    with pytest.raises(InputError, match=message):
        heat_overlay(THUMBNAIL, boxes, values, "t")


def test_panels_stand_side_by_side():
    tall, wide = Image.new("RGB", (30, 80), (1, 2, 3)), Image.new("RGB", (50, 20), (4, 5, 6))
    row = np.asarray(side_by_side([tall, wide]))
    assert row.shape == (80, 30 + 8 + 50, 3)
    assert (row[:, :30] == (1, 2, 3)).all()
    assert (row[:20, 38:] == (4, 5, 6)).all()
    assert (row[20:, 38:] == 255).all()


def test_png_is_exact_and_the_same_each_time():
    picture = tissue_overlay(THUMBNAIL, tissue_contours(ring()), BOXES)
    content = picture_bytes(picture)
    assert content == picture_bytes(picture)
    assert content.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(picture))

"""Pictures of tissue and of values."""

import io

import numpy as np
import pytest
from PIL import Image

from madeleine_bench.slides.overlay import (
    attention_overlay,
    attention_picture,
    picture_bytes,
    tissue_contours,
    tissue_overlay,
)
from madeleine_bench.slides.reader import Slide, Thumbnail


def thumbnail(height, width) -> Thumbnail:
    return Thumbnail(np.full((height, width, 3), 240, dtype=np.uint8), 8.0, (1.0, 1.0))


NONE = np.empty((0, 4))
THUMBNAIL = thumbnail(300, 400)
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
    picture = tissue_overlay(THUMBNAIL, tissue_contours(ring()), NONE)
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
    mask = np.zeros((500, 1400), dtype=bool)
    mask[50:450, 50:1350] = True
    large = tissue_overlay(thumbnail(500, 1400), tissue_contours(mask), NONE)
    assert places(large, GREEN)[250].sum() == 2 * 2


def test_the_thumbnail_is_left_as_it_was():
    before = THUMBNAIL.rgb.copy()
    tissue_overlay(THUMBNAIL, tissue_contours(ring()), BOXES)
    attention_overlay(THUMBNAIL, BOXES, np.full((3, 1), 1 / 3))
    assert np.array_equal(THUMBNAIL.rgb, before)


def heat(*weights, under=THUMBNAIL) -> np.ndarray:
    """The picture of the attention of some heads on three patches."""
    picture = attention_overlay(under, BOXES, np.array(weights).T)
    return np.asarray(picture).astype(int)


def test_heat_goes_from_dark_to_bright_and_lets_the_thumbnail_through():
    picture = heat([0.1, 0.2, 0.3])
    bright = [picture[80, 70].sum(), picture[80, 110].sum(), picture[220, 220].sum()]
    assert bright[0] < bright[1] < bright[2]
    assert (picture[150, 30] == 240).all()
    halved = thumbnail(300, 400)
    halved.rgb[80:100] = 100
    under = heat([0.1, 0.2, 0.3], under=halved)
    assert (under[70, 70] - under[90, 70]).tolist() == pytest.approx([56] * 3, abs=2)


def test_heat_is_the_mean_of_the_heads():
    assert np.array_equal(heat([0.1, 0.2, 0.7]), heat([0.2, 0.4, 0.4], [0.0, 0.0, 1.0]))


def test_equal_weights_have_one_colour():
    picture = heat([1 / 3] * 3)
    assert np.array_equal(picture[80, 70], picture[220, 220])


def test_png_is_exact_and_the_same_each_time():
    picture = tissue_overlay(THUMBNAIL, tissue_contours(ring()), BOXES)
    content = picture_bytes(picture)
    assert content == picture_bytes(picture)
    assert content.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(picture))


def test_the_patches_of_most_attention_lie_beside_the_heat_map(slide_file):
    boxes = np.array([[0, 0, 128, 128], [256, 256, 384, 384], [512, 256, 640, 384]], dtype=float)
    weights = np.array([[0.1], [0.2], [0.7]])
    with Slide(slide_file) as slide:
        heat = attention_picture(slide, boxes, weights, 0)
        assert heat.size == (1000, 700)
        sheet = attention_picture(slide, boxes, weights, 2)
        region = Image.fromarray(slide.read_patch(512, 256, slide.plan(128, 0.5)))
    assert sheet.height == heat.height
    tile = sheet.crop((heat.width + 37, 37, heat.width + 37 + 224, 37 + 224))
    assert np.array_equal(tile, region.resize((224, 224), Image.Resampling.BICUBIC))
    assert sheet.size == (1000 + 2 * 261 + 37, 700)

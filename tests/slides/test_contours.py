"""From a mask to outlines, and to GeoJSON."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import polygon2mask

from madeleine_bench.slides.overlay import contours_geojson, tissue_contours

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 17)))


def rasterised(contours, shape) -> np.ndarray:
    """The pixels whose centre is inside an outline and in none of its holes."""
    mask = np.zeros(shape, dtype=bool)
    for contour in contours:
        outline, *holes = contour
        part = _inside(outline, shape)
        for hole in holes:
            part &= ~_inside(hole, shape)
        mask |= part
    return mask


def _inside(points, shape) -> np.ndarray:
    return polygon2mask(shape, points[:, ::-1] - 0.5)  # rows and columns of centres


def area(contour) -> float:
    """The area of the outline without those of the holes."""
    outline, *holes = (
        abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2 for x, y in (ring.T for ring in contour)
    )
    return outline - sum(holes)


def ring(size=(40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[5:35, 10:50] = True
    mask[10:20, 20:30] = False
    return mask


@given(mask=MASKS)
def test_rasterised_outlines_are_the_mask(mask):
    assert np.array_equal(rasterised(tissue_contours(mask), mask.shape), mask)


@given(mask=MASKS)
def test_one_outline_a_piece_all_closed_and_within_the_picture(mask):
    contours = tissue_contours(mask)
    assert len(contours) == ndimage.label(mask)[1]
    height, width = mask.shape
    for contour in contours:
        for points in contour:
            assert np.array_equal(points[0], points[-1])
            assert len(points) >= 4
            assert (points >= 0).all()
            assert (points <= (width, height)).all()


@given(mask=MASKS)
def test_the_largest_comes_first(mask):
    areas = [area(contour) for contour in tissue_contours(mask)]
    assert areas == sorted(areas, reverse=True)


def test_place_size_and_hole_of_a_rectangle():
    ((outline, hole),) = tissue_contours(ring())
    assert outline.min(axis=0).tolist() == [10, 5]
    assert outline.max(axis=0).tolist() == [50, 35]
    assert hole.min(axis=0).tolist() == [20, 10]
    assert hole.max(axis=0).tolist() == [30, 20]
    # Each corner loses or, in the hole, gains a triangle of half a pixel by half a pixel.
    assert area((outline, hole)) == 30 * 40 - 100 - 4 / 8 + 4 / 8


def test_straight_lines_have_no_points_between():
    ((outline, _),) = tissue_contours(ring())
    assert len(outline) == 8 + 1


def test_tissue_within_a_hole_of_other_tissue_is_a_piece_of_its_own():
    mask = ring()
    mask[13:17, 23:27] = True
    outer, inner = tissue_contours(mask)
    assert (len(outer), len(inner)) == (2, 1)
    assert np.array_equal(rasterised((outer, inner), mask.shape), mask)


def test_area_of_a_disc():
    y, x = np.mgrid[:200, :230]
    mask = (x - 115) ** 2 + (y - 100) ** 2 < 80**2
    (contour,) = tissue_contours(mask)
    assert area(contour) == pytest.approx(np.pi * 80**2, rel=0.002)


def test_no_tissue_has_no_outline():
    assert tissue_contours(np.zeros((3, 4), dtype=bool)) == []
    empty = json.loads(contours_geojson((), (2, 2), {"slide": "a"}))
    assert empty == {"type": "FeatureCollection", "features": [], "properties": {"slide": "a"}}


def test_geojson_is_in_level_0_pixels_with_holes():
    text = contours_geojson(tissue_contours(ring()), (16.0, 15.0), {"mpp": 0.5})
    content = json.loads(text)
    (feature,) = content["features"]
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    outline, hole = map(np.array, feature["geometry"]["coordinates"])
    assert (outline.min(axis=0).tolist(), outline.max(axis=0).tolist()) == ([160, 75], [800, 525])
    assert (hole.min(axis=0).tolist(), hole.max(axis=0).tolist()) == ([320, 150], [480, 300])
    assert all(isinstance(value, int) for point in outline.tolist() for value in point)
    assert np.array_equal(outline[0], outline[-1])
    assert feature["properties"]["objectType"] == "annotation"
    assert content["properties"] == {"mpp": 0.5}


def test_pieces_are_numbered_from_the_largest():
    mask = ring()
    mask[:2, :2] = True
    features = json.loads(contours_geojson(tissue_contours(mask), (4, 4), {}))["features"]
    assert [feature["properties"]["tissue_id"] for feature in features] == [0, 1]
    assert len(features[0]["geometry"]["coordinates"]) == 2


def test_geojson_is_canonical():
    contours = tissue_contours(ring())
    one = contours_geojson(contours, (16, 16), {"slide": "é", "mpp": 0.5})
    other = contours_geojson(contours, (16.0, 16.0), {"mpp": 0.5, "slide": "é"})
    assert one == other
    assert one.endswith("}\n")
    assert " " not in one


def test_geojson_refuses_what_json_has_no_word_for():
    with pytest.raises(ValueError, match="not JSON compliant"):
        contours_geojson((), (1, 1), {"mpp": float("nan")})


@given(mask=MASKS, scale=st.sampled_from([1.0, 1.3, 2.0, 31.7]))
def test_every_ring_of_geojson_is_closed_and_has_no_point_twice_in_a_row(mask, scale):
    content = json.loads(contours_geojson(tissue_contours(mask), (scale, scale), {}))
    for feature in content["features"]:
        for points in feature["geometry"]["coordinates"]:
            assert points[0] == points[-1]
            assert all(a != b for a, b in pairwise(points))


def test_a_speck_that_rounds_away_is_no_ring():
    speck = [np.array([[0.1, 0.1], [0.2, 0.1], [0.2, 0.2], [0.1, 0.1]])]
    (feature,) = json.loads(contours_geojson((speck,), (1, 1), {}))["features"]
    assert feature["geometry"]["coordinates"] == []  # an empty Polygon is valid GeoJSON

"""Tissue that somebody has outlined: GeoJSON of QuPath and mask images, in and out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.errors import InputError
from madeleine_bench.slides.masks import find_mask_file, read_mask
from madeleine_bench.slides.overlay import contours_geojson, tissue_contours
from madeleine_bench.slides.patches import PatchSettings, choose_patches
from madeleine_bench.slides.reader import Slide, Thumbnail

from .conftest import section
from .scn_files import write_scn

SCALE = 10.0  # level-0 pixels a pixel of the thumbnail
THUMBNAIL = Thumbnail(np.full((60, 80, 3), 240, dtype=np.uint8), 5.0, (SCALE, SCALE))


def slide(origin=(0, 0)):
    return SimpleNamespace(path="a.svs", width_px0=800, height_px0=600, origin_px0=origin)


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(*rings, name=None, kind="Polygon"):
    group = {} if name is None else {"classification": {"name": name}}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": list(rings)},
        "properties": group,
    }


def written(tmp_path, content, name="a.geojson"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def box(left, top, right, bottom):
    mask = np.zeros((60, 80), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("origin", [(0, 0), (70, 30)])
def test_what_is_written_for_qupath_is_read_as_the_same_mask(tmp_path, origin):
    mask = box(20, 10, 60, 50) & ~box(30, 20, 40, 30) | box(5, 52, 15, 58)
    text = contours_geojson(tissue_contours(mask), (SCALE, SCALE), {}, origin)
    corner = np.min(json.loads(text)["features"][0]["geometry"]["coordinates"][0], axis=0)
    assert corner.tolist() == [200 - origin[0], 100 - origin[1]]
    found = read_mask(written(tmp_path, text), slide(origin), THUMBNAIL)
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("wrap", ["collection", "list", "feature"])
def test_the_files_that_qupath_writes(tmp_path, wrap):
    one = feature(square(100, 100, 400, 300), square(200, 150, 300, 250))
    content = {
        "collection": {"type": "FeatureCollection", "features": [one]},
        "list": [one],
        "feature": one,
    }[wrap]
    found = read_mask(written(tmp_path, content), slide(), THUMBNAIL)
    assert np.array_equal(found, box(10, 10, 40, 30) & ~box(20, 15, 30, 25))


def test_classes_with_an_asterisk_are_taken_out_and_several_areas_are_joined(tmp_path):
    both = feature(
        [square(0, 0, 300, 300)], [square(400, 0, 600, 200)], name="Tumor", kind="MultiPolygon"
    )
    ignored = feature(square(100, 0, 200, 100), name="Ignore*")
    found = read_mask(written(tmp_path, [ignored, both]), slide(), THUMBNAIL)
    expected = (box(0, 0, 30, 30) | box(40, 0, 60, 20)) & ~box(10, 0, 20, 10)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "P"])
def test_mask_images_of_any_size_and_mode(tmp_path, mode, factor):
    mask = box(20, 10, 60, 50)
    grey = np.kron(mask, np.ones((factor, factor))).astype(np.uint8) * 255
    path = tmp_path / "a.png"
    Image.fromarray(grey).convert(mode).save(path)
    assert np.array_equal(read_mask(path, slide(), THUMBNAIL), mask)


POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("3", "is not GeoJSON: expected a FeatureCollection"),
        ([POINT], "annotation 1 is a Point; only areas"),
        ([feature(square(0, 0, 9, 9)), feature([["x", 1]])], "annotation 2 has broken coordinates"),
        ([feature(square(0, 0, 900, 9))], "annotation 1 lies outside of a.svs"),
        ([{"type": "Feature"}], "annotation 1 is a None"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_mask(written(tmp_path, content), slide(), THUMBNAIL)


def test_a_picture_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read as a mask image"):
        read_mask(path, slide(), THUMBNAIL)
    Image.new("L", (60, 60)).save(path)
    with pytest.raises(InputError, match="60 x 60, another shape than"):
        read_mask(path, slide(), THUMBNAIL)


def test_one_file_a_slide(tmp_path):
    with pytest.raises(InputError, match=r"no tissue mask of slide a in .*a\.geojson"):
        find_mask_file(tmp_path, "a")
    path = written(tmp_path, "[]")
    assert find_mask_file(tmp_path, "a") == path
    written(tmp_path, "", "a.png")
    with pytest.raises(InputError, match="two tissue masks of slide a"):
        find_mask_file(tmp_path, "a")


def test_the_outline_decides_which_patches_are_taken(tmp_path, slide_file):
    masks = tmp_path / "masks"
    masks.mkdir()
    written(masks, [feature(square(0, 0, 400, 260))], f"{slide_file.stem}.geojson")
    settings = PatchSettings(patch_px=64, mpp=1.0, tissue="mask")
    with Slide(slide_file) as opened:
        chosen = choose_patches(opened, settings, mask_folder=masks)
    assert chosen.coords.tolist() == [[x, y] for y in (0, 128) for x in (0, 128, 256)]


def test_outlines_of_a_scanned_region_begin_at_its_corner_as_in_qupath(tmp_path, mbench):
    """A slide of 2000 x 3000 pixels, of which 700 x 500 are scanned from (300, 700) on."""
    slides = tmp_path / "slides"
    slides.mkdir()
    write_scn(slides / "a.scn", section(500, 700, 100), (300, 700), (2000, 3000))
    with Slide(slides / "a.scn") as opened:
        assert (opened.vendor, opened.origin_px0, opened.mpp) == ("leica", (300, 700), 0.5)
        assert (opened.width_px0, opened.height_px0) == (2000, 3000)
    what = ["--slides", slides, "--cohort", "acrobat", "--patch-encoder", "stain-texture"]
    command = ["features", "extract", *what, "--patch-px", "64"]
    assert mbench(*command, "--out", tmp_path / "first").code == 0
    outlines = tmp_path / "first" / "contours_geojson"
    content = json.loads((outlines / "a.geojson").read_text())
    (piece,) = content["features"]
    corners = np.array(piece["geometry"]["coordinates"][0])
    # The tissue lies 100 pixels within the region; the thumbnail has pixels of 8.
    assert np.abs(corners.min(axis=0) - 100).max() <= 16
    assert np.abs(corners.max(axis=0) - (600, 400)).max() <= 16
    again = tmp_path / "again"
    masks = ["--tissue", "mask", "--masks", outlines]
    assert mbench(*command, *masks, "--out", again).code == 0
    bag = "10x_64px_0px_overlap/features_stain-texture/a.h5"
    first, second = (read_bag_file(folder / bag) for folder in (tmp_path / "first", again))
    assert first.coords.min(axis=0).tolist() == [384, 768]  # of the whole slide
    assert np.array_equal(first.coords, second.coords)
    assert np.array_equal(first.features, second.features)

"""Plain pictures turned into slides."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from madeleine_bench.errors import InputError
from madeleine_bench.slides.pictures import convert_picture, open_picture
from madeleine_bench.slides.reader import Slide

from .conftest import noise


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_converted_picture_keeps_every_pixel(tmp_path, suffix):
    picture = noise(90, 300)
    Image.fromarray(picture).save(tmp_path / f"x{suffix}")
    slide_path = convert_picture(tmp_path / f"x{suffix}", tmp_path / "slides", 3.48)
    with Slide(slide_path) as slide:
        assert slide.mpp == pytest.approx(3.48)
        assert np.array_equal(slide.thumbnail().rgb, picture)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    name = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(noise(20, 30)).convert("RGBA" if mode == "LA" else "RGB").convert(mode).save(
        name
    )
    assert open_picture(name)[:].shape == (20, 30, 3)


def test_transparent_is_glass(tmp_path):
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[0, 0] = (10, 20, 30, 255)
    Image.fromarray(layer, "RGBA").save(tmp_path / "x.png")
    picture = open_picture(tmp_path / "x.png")[:]
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert (picture[1:] == 255).all()


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        open_picture(tmp_path / "absent.png")[:]
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text\.png is not a picture"):
        open_picture(tmp_path / "text.png")[:]
    data = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:5000])
    with pytest.raises(InputError, match=r"cut\.png cannot be read"):
        open_picture(tmp_path / "cut.png")[:]


def test_a_picture_that_claims_to_be_huge_is_refused_unread(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((8, 8), np.uint8), photometric="minisblack")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        places = [file.pages.first.tags[name] for name in ("ImageWidth", "ImageLength")]
    for tag in places:
        data[tag.valueoffset : tag.valueoffset + 4] = (100_000).to_bytes(4, "little")
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(InputError, match="exceeds limit of 2000000000 pixels"):
        open_picture(tmp_path / "x.tif")[:]


def test_a_slide_is_not_replaced_unasked(tmp_path):
    Image.fromarray(noise(20, 20)).save(tmp_path / "x.png")
    slide = convert_picture(tmp_path / "x.png", tmp_path, 1.0)
    before = slide.read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        convert_picture(tmp_path / "x.png", tmp_path, 2.0)
    assert slide.read_bytes() == before
    convert_picture(tmp_path / "x.png", tmp_path, 2.0, overwrite=True)
    with Slide(slide) as opened:
        assert opened.mpp == pytest.approx(2.0)


def test_options_out_of_range_are_named(tmp_path):
    Image.fromarray(noise(20, 20)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="--mpp"):
        convert_picture(tmp_path / "x.png", tmp_path, 0.0)
    assert not list(tmp_path.glob("*.tif"))

"""Plain pictures turned into slides."""

import io
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from madeleine_bench.errors import InputError
from madeleine_bench.slides.pictures import (
    PictureOptions,
    convert_picture,
    open_picture,
    write_pyramid,
)
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
    (tmp_path / "dead.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(InputError, match="a link that leads nowhere"):
        open_picture(tmp_path / "dead.png")
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
    with pytest.raises(InputError, match="cut short or damaged"):
        convert_picture(tmp_path / "x.tif", tmp_path / "slides", 0.5)


def test_a_picture_is_not_written_over_itself(tmp_path):
    Image.fromarray(noise(20, 20)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match="over itself"):
        convert_picture(tmp_path / "x.tif", tmp_path, 1.0, overwrite=True)


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


def save(path, picture, **tags):
    tifffile.imwrite(path, picture, **{"photometric": "rgb", "metadata": None, **tags})
    return path


PICTURE = noise(70, 50)
GREY = np.repeat(PICTURE[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    ("stored", "tags", "expected"),
    [
        (PICTURE.astype("u2") * 257, {}, PICTURE),
        (PICTURE.astype(">u2") * 257, {"byteorder": ">"}, PICTURE),
        (PICTURE.astype("u2") * 257, {"compression": "zlib", "predictor": True}, PICTURE),
        (PICTURE.astype("f4") / 255, {}, PICTURE),
        (np.moveaxis(PICTURE, 2, 0), {"planarconfig": "separate"}, PICTURE),
        (np.moveaxis(PICTURE, 2, 0), {"planarconfig": "separate", "tile": (32, 32)}, PICTURE),
        (PICTURE[..., 0], {"photometric": "minisblack"}, GREY),
        (255 - PICTURE[..., 0], {"photometric": "miniswhite"}, GREY),
        (PICTURE[..., 0] > 127, {"photometric": "minisblack"}, np.where(GREY > 127, 255, 0)),
    ],
)
def test_values_of_every_type_become_the_same_colours(tmp_path, stored, tags, expected):
    save(tmp_path / "x.tif", np.ascontiguousarray(stored), **tags)
    slide_path = convert_picture(tmp_path / "x.tif", tmp_path / "slides", 0.5)
    with Slide(slide_path) as slide:
        assert np.array_equal(slide.thumbnail().rgb, expected)


def test_a_16_bit_picture_of_any_format_keeps_its_brightness(tmp_path):
    Image.fromarray(PICTURE[..., 0].astype("u2") * 257).save(tmp_path / "x.jp2")
    assert np.array_equal(open_picture(tmp_path / "x.jp2")[:], GREY)
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(PICTURE.astype("u2") * 257))
    assert np.array_equal(open_picture(tmp_path / "x.png")[:], PICTURE)


@pytest.mark.parametrize(
    ("stored", "message", "options"),
    [
        (PICTURE.astype("u2") * 16, r"none above \d+ of 65535.*--scale 0 4095", (0, 4080)),
        (PICTURE.astype("f4"), r"values from 0 to 25\d\..*--scale LOW HIGH", (0, 255)),
        (PICTURE.astype("i4"), "type int32.*--scale LOW HIGH", (0, 255)),
        (np.where(PICTURE > 3, PICTURE / 255, np.nan).astype("f4"), "values from nan", None),
    ],
)
def test_values_without_a_known_range_are_asked_for(tmp_path, stored, message, options):
    save(tmp_path / "x.tif", stored)
    with pytest.raises(InputError, match=message):
        convert_picture(tmp_path / "x.tif", tmp_path / "slides", 0.5)
    assert not list((tmp_path / "slides").iterdir())
    if options:
        taken = open_picture(tmp_path / "x.tif", PictureOptions(scale=options))[:]
        assert np.array_equal(taken, PICTURE)


def test_values_beyond_the_scale_are_clipped(tmp_path):
    save(tmp_path / "x.tif", np.array([[-5, 0, 50, 100, 1000]], "i4"), photometric="minisblack")
    taken = open_picture(tmp_path / "x.tif", PictureOptions(scale=(0, 100)))[:]
    assert taken[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_turned_picture_is_made_upright(tmp_path, number):
    picture = noise(300, 530)
    save(tmp_path / "x.tif", picture, extratags=[(274, 3, 1, number, True)], compression="zlib")
    exif = Image.Exif()
    exif[274] = number
    Image.fromarray(picture).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    for name in ("x.tif", "x.png"):
        path = convert_picture(tmp_path / name, tmp_path / "slides", 0.5, overwrite=True)
        with Slide(path) as slide:
            assert np.array_equal(slide.thumbnail().rgb, upright)


def test_pages_and_channels_are_chosen_and_never_dropped(tmp_path):
    planes = np.ascontiguousarray(np.moveaxis(PICTURE, 2, 0))
    pages = save(tmp_path / "pages.tif", planes, photometric="minisblack")
    many = save(
        tmp_path / "many.tif", np.dstack([PICTURE, GREY]), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"holds 3 pages, .*1: 50 x 70, 1 x uint8; 2: 50 x 70"):
        open_picture(pages)
    with pytest.raises(InputError, match="there is no page 4"):
        open_picture(pages, PictureOptions(pages=(4,)))
    with pytest.raises(InputError, match=r"holds 6 channels.*1 to 6"):
        open_picture(many)
    with pytest.raises(InputError, match="holds 6 channels"):
        open_picture(many, PictureOptions(channels=(7,)))
    for path, options, expected in (
        (pages, PictureOptions(pages=(1, 2, 3)), PICTURE),
        (pages, PictureOptions(pages=(2,)), np.repeat(PICTURE[..., 1:2], 3, axis=2)),
        (many, PictureOptions(channels=(1, 2, 3)), PICTURE),
        (many, PictureOptions(channels=(4,)), GREY),
    ):
        assert np.array_equal(open_picture(path, options)[:], expected)


def test_frames_of_a_moving_picture_are_pages(tmp_path):
    Image.fromarray(PICTURE).save(
        tmp_path / "x.png", save_all=True, append_images=[Image.fromarray(255 - PICTURE)]
    )
    with pytest.raises(InputError, match="holds 2 pages"):
        open_picture(tmp_path / "x.png")
    second = open_picture(tmp_path / "x.png", PictureOptions(pages=(2,)))[:]
    assert np.array_equal(second, 255 - PICTURE)
    with pytest.raises(InputError, match="TIFF only"):
        open_picture(tmp_path / "x.png", PictureOptions(pages=(1, 2, 1)))


def test_smaller_copies_are_no_pages(tmp_path):
    write_pyramid(tmp_path / "x.tif", noise(600, 300), mpp=0.5, description="")
    assert open_picture(tmp_path / "x.tif").shape == (600, 300, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pages": (0,)}, "--page is 0"),
        ({"channels": (1, 2)}, "--channel is 1, 2"),
        ({"scale": (5.0, 5.0)}, "--scale is 5 5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        PictureOptions(**options)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_jpeg_cut_short_is_said(tmp_path, share):
    """Before the check of its end, the decoder filled up the picture with grey."""
    data = io.BytesIO()
    Image.fromarray(noise(300, 300)).save(data, "JPEG")
    (tmp_path / "x.jpg").write_bytes(data.getvalue()[: int(len(data.getvalue()) * share)])
    with pytest.raises(InputError, match="cut short or damaged"):
        open_picture(tmp_path / "x.jpg")


def test_strips_make_the_pyramid_of_the_whole(tmp_path):
    picture = noise(777, 521)
    write_pyramid(tmp_path / "x.tif", picture, mpp=0.5, description="")
    level = Image.fromarray(picture)
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        for page in file.pages:
            assert np.array_equal(page.asarray(), np.asarray(level))
            level = level.reduce(2)
        assert len(file.pages) == 3


MEMORY = """
import sys
from pathlib import Path
from madeleine_bench.slides.patches import PatchSettings, choose_patches
from madeleine_bench.slides.pictures import convert_picture
from madeleine_bench.slides.reader import Slide
def peak():  # getrusage would start at that of the parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before, path = peak(), Path(sys.argv[1])
if sys.argv[2] == "convert":
    convert_picture(path, path.parent / "slides", 0.5)
else:
    choose_patches(Slide(path, 0.5), PatchSettings())
print((peak() - before) * 1024)
"""


def extra_memory(path, work):
    """Bytes that the work adds to the memory of a process that has loaded all it needs."""
    command = [sys.executable, "-c", MEMORY, str(path), work]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("side", "work", "limit"),
    [
        (4000, "convert", 100e6),  # 224 MB before
        pytest.param(20_000, "convert", 300e6, marks=pytest.mark.slow),  # 5.6 GB before
        pytest.param(20_000, "choose patches", 400e6, marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_picture(tmp_path, side, work, limit):
    if work == "convert":
        stored = tifffile.memmap(
            tmp_path / "x.tif", shape=(side, side, 3), dtype=np.uint8, photometric="rgb"
        )
        for top in range(0, side, 250):
            stored[top : top + 250] = np.tile(noise(250, 250), (1, side // 250, 1))
        stored.flush()
    else:
        tiles = (noise(256, 256) for _ in range((-(-side // 256)) ** 2))
        save(
            tmp_path / "x.tif", tiles, shape=(side, side, 3), dtype=np.uint8, tile=(256, 256),
            compression="jpeg",
        )  # fmt: skip
    assert extra_memory(tmp_path / "x.tif", work) < limit

"""Which files are slides, and plain pictures turned into slides."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from madeleine_bench.errors import InputError
from madeleine_bench.slides.folder import convert_picture, list_slides, read_picture
from madeleine_bench.slides.reader import Slide

from .conftest import noise


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def dicom(path, series, rows):
    """A file of a DICOM series, without pixels that a reader would accept."""
    dataset = Dataset()
    dataset.SeriesInstanceUID = series
    dataset.PixelData = bytes(rows)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    dataset.file_meta.MediaStorageSOPInstanceUID = f"{series}.{rows}"
    dataset["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def test_slides_are_found_in_nested_folders_by_their_names(tmp_path):
    wanted = [touch(tmp_path / "site-1" / "b.SVS"), touch(tmp_path / "a.1.tif")]
    for name in ("notes.txt", ".hidden.svs", "site-1/b.xml"):
        touch(tmp_path / name)
    touch(tmp_path / "macro.jpg")
    slides = list_slides(tmp_path)
    assert sorted(slides) == sorted(wanted)
    assert [path.stem for path in slides] == ["a.1", "b"]


def test_the_slices_of_an_mrxs_slide_are_no_slides(tmp_path):
    slide = touch(tmp_path / "a.mrxs")
    touch(tmp_path / "a" / "Data0001.dat")
    touch(tmp_path / "a" / "thumb.tif")
    assert list_slides(tmp_path) == (slide,)
    others = (touch(tmp_path / "b.svs"), touch(tmp_path / "b" / "c.svs"))
    assert list_slides(tmp_path) == (slide, *others)


def test_what_looks_like_a_slide_is_listed_and_the_rest_is_said(tmp_path):
    wanted = [touch(tmp_path / name) for name in ("a.czi", "b.jp2", "c.isyntax", "d.ome.tif")]
    for name in ("dead.svs", "unmounted"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
        wanted.append(tmp_path / name)
    for name in ("macro.jpg", "notes.txt", "more.txt", "README"):
        touch(tmp_path / name)
    said = []
    assert sorted(list_slides(tmp_path, said.append)) == sorted(wanted)
    assert said == [
        "note: 4 file(s) of other kinds left out: 1 .jpg, 2 .txt, 1 without suffix, such as "
        f"{tmp_path / 'README'}"
    ]
    with pytest.raises(InputError, match=r"dead\.svs is a link that leads nowhere"):
        Slide(tmp_path / "dead.svs")


def test_a_dicom_slide_is_listed_once_by_its_largest_file(tmp_path):
    for name, series, rows in (
        ("x/1.dcm", "1.2", 4), ("x/2.dcm", "1.2", 400), ("x/3", "1.3", 4), ("y/1.2.9", "1.2", 4),
    ):  # fmt: skip
        dicom(tmp_path / name, series, rows)
    touch(tmp_path / "z" / "broken.dcm")
    found = [str(path.relative_to(tmp_path)) for path in list_slides(tmp_path)]
    assert found == ["y/1.2.9", "x/2.dcm", "x/3", "z/broken.dcm"]


def test_one_slide_by_its_path(slide_file):
    assert list_slides(slide_file) == (slide_file,)


def test_two_slides_of_one_name_are_refused(tmp_path):
    touch(tmp_path / "x" / "a.svs")
    touch(tmp_path / "y" / "a.tif")
    with pytest.raises(InputError, match=r"two slides are called 'a'.*x/a\.svs.*y/a\.tif"):
        list_slides(tmp_path)


def test_no_slides_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        list_slides(tmp_path / "absent")
    with pytest.raises(InputError, match="no slide under"):
        list_slides(tmp_path)
    touch(tmp_path / "a.png")
    with pytest.raises(InputError, match="mbench slides convert"):
        list_slides(tmp_path)


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
    assert read_picture(name).shape == (20, 30, 3)


def test_transparent_is_glass(tmp_path):
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[0, 0] = (10, 20, 30, 255)
    Image.fromarray(layer, "RGBA").save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert (picture[1:] == 255).all()


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(InputError, match="a link that leads nowhere"):
        read_picture(tmp_path / "dead.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text\.png is not a picture"):
        read_picture(tmp_path / "text.png")
    data = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:5000])
    with pytest.raises(InputError, match=r"cut\.png cannot be read"):
        read_picture(tmp_path / "cut.png")


def test_a_picture_that_claims_to_be_huge_is_refused_unread(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((8, 8), np.uint8), photometric="minisblack")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        places = [file.pages.first.tags[name] for name in ("ImageWidth", "ImageLength")]
    for tag in places:
        data[tag.valueoffset : tag.valueoffset + 4] = (100_000).to_bytes(4, "little")
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(InputError, match="exceeds limit of 2000000000 pixels"):
        read_picture(tmp_path / "x.tif")


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

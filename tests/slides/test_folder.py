"""Which files are slides."""

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from madeleine_bench.errors import InputError
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.reader import Slide


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

"""Which files are slides."""

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.slides.folder import list_slides


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


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

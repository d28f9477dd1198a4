"""Listing folders, and telling what the system refuses from what is damaged."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madeleine_bench.data.bag_sources import feature_files, open_bags
from madeleine_bench.data.bags import read_bag_file
from madeleine_bench.embeddings.store import read_embeddings
from madeleine_bench.errors import UnreadableFile
from madeleine_bench.files import check_readable, files_under, sole_writer
from madeleine_bench.results.store import read_record
from madeleine_bench.slides.folder import list_slides
from madeleine_bench.slides.pictures import open_picture


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    """Before: rglob did not enter a folder behind a link, so half of the bags were left out."""
    folder = tmp_path / "bags"
    touch(folder / "a.h5")
    touch(tmp_path / "disk" / "deep" / "b.h5")
    (folder / "more").symlink_to(tmp_path / "disk", target_is_directory=True)
    (folder / "again").symlink_to(tmp_path / "disk" / "deep", target_is_directory=True)
    (tmp_path / "disk" / "back").symlink_to(folder, target_is_directory=True)
    assert sorted(feature_files(folder)) == ["a", "b"]
    assert len(files_under(folder)) == 2


def test_slides_behind_links_are_listed_too(tmp_path: Path) -> None:
    touch(tmp_path / "disk" / "a.svs")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "more").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert [path.stem for path in list_slides(tmp_path / "slides")] == ["a"]


@pytest.mark.parametrize("target", ["nowhere", "x"])
def test_a_link_that_leads_nowhere_is_reported(tmp_path: Path, target: str) -> None:
    (tmp_path / "x").symlink_to(tmp_path / target)
    (tmp_path / ".hidden").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableFile, match=r"x cannot be read: .*no link leads nowhere"):
        feature_files(tmp_path)


def test_a_folder_that_may_not_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: rglob passed it over in silence."""
    touch(tmp_path / "a.h5")
    locked = touch(tmp_path / "locked" / "b.h5").parent
    listing = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for list_files in (feature_files, list_slides):
        with pytest.raises(UnreadableFile, match=r"locked cannot be read: Permission denied"):
            list_files(tmp_path)


def test_a_path_in_a_closed_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: an internal error that named PermissionError."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    for opened in (lambda: open_bags(tmp_path, None, tmp_path), lambda: list_slides(tmp_path)):
        with pytest.raises(UnreadableFile, match="cannot be read: Permission denied"):
            opened()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_can_be_written(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_writer(tmp_path):
        touch(tmp_path / "x")
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("code", "text"), [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error")]
)
def test_the_system_is_told_from_damage(tmp_path: Path, code: int, text: str) -> None:
    path = touch(tmp_path / "x")
    with pytest.raises(UnreadableFile) as refusal:
        check_readable(path, OSError(code, "whatever a library says"))
    assert str(refusal.value) == (
        f"{path} cannot be read: {text}. Look whether you may read it, its disk is "
        "mounted and sound, and no link leads nowhere"
    )
    check_readable(path, OSError("truncated"))  # of the content: the library's error stands


READERS: dict[str, Callable[[Path], Any]] = {
    "x.h5": read_bag_file,
    "x.pt": read_bag_file,
    "x.safetensors": read_embeddings,
    "record.json": read_record,
    "picture.png": open_picture,
}


@pytest.mark.parametrize("name", READERS)
def test_readers_do_not_call_what_the_system_refuses_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()  # refused to any user, the superuser too
    with pytest.raises(UnreadableFile, match="cannot be read: Is a directory"):
        READERS[name](tmp_path / name)

"""Packing that is killed: the same call goes on, trusts nothing, and makes the same bytes."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madeleine_bench.data import packing
from madeleine_bench.data.packed import INDEX, open_store, read_index
from madeleine_bench.data.packing import pack_cohort
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer
from madeleine_bench.hashing import hash_file
from tests.data.made_cohort import DIM, files, flip, make_cohort, poking, with_coords

PART_BYTES = 9 * 2 * DIM  # three files: s0 and s1, s2, s3


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("features-*.safetensors"))


def content(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path)[:8] for path in (folder / INDEX, *parts(folder))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    pack_cohort(make_cohort(change=with_coords), folder, part_bytes=PART_BYTES)
    return content(folder)


def packed_again(folder: Path) -> list[str]:
    """Pack to the end and return the slides that were read for it."""
    data = make_cohort(change=with_coords)
    pack_cohort(data, folder, part_bytes=PART_BYTES)
    return data.read


def killed(folder: Path, prepare: Callable[[], None]) -> None:
    """Pack in a process that `prepare` has end itself by SIGKILL."""

    def pack() -> None:
        prepare()
        pack_cohort(make_cohort(change=with_coords), folder, part_bytes=PART_BYTES)

    process = get_context("fork").Process(target=pack)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def dies_in(owner: object, name: str, call: int, *, after: bool) -> Callable[[], None]:
    """Have the process die before, or after, a certain call of a function."""

    def prepare() -> None:
        real, calls = getattr(owner, name), []

        def mortal(*arguments: object) -> object:
            calls.append(name)
            if len(calls) == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*arguments)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, mortal)

    return prepare


@pytest.mark.parametrize(
    ("owner", "name", "call", "after", "left"),
    [
        (packing, "slide_hash", 1, False, ["s0", "s1", "s2", "s3"]),
        (packing, "save_file", 1, False, ["s0", "s1", "s2", "s3"]),
        (packing, "save_file", 1, True, ["s0", "s1", "s2", "s3"]),
        (packing._Packing, "_part", 2, False, ["s2", "s3"]),
        (packing._Packing, "_part", 2, True, ["s2", "s3"]),
        (packing, "save_file", 2, False, ["s2", "s3"]),
        (packing, "slide_hash", 3, True, ["s2", "s3"]),
        (packing, "save_file", 3, True, ["s3"]),
        (packing, "content_hash", 2, True, []),
        (packing, "write_index", 1, False, []),
        (packing, "write_index", 1, True, []),
    ],
)
def test_kill_at_any_moment(
    tmp_path: Path,
    undisturbed: dict[str, str],
    owner: object,
    name: str,
    call: int,
    after: bool,
    left: list[str],
) -> None:
    killed(tmp_path, dies_in(owner, name, call, after=after))
    if not (tmp_path / INDEX).exists():
        advice = (
            "packing has not ended; the same mbench data pack" if parts(tmp_path) else "makes one"
        )
        with pytest.raises(InputError, match=advice):
            open_store(tmp_path)
    assert packed_again(tmp_path) == left
    assert content(tmp_path) == undisturbed


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.sampled_from([0, 1]),
    share=st.floats(0, 1),
    flipped=st.booleans(),
)
def test_whatever_a_crash_leaves_of_a_file_is_found_out(
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: dict[str, str],
    number: int,
    share: float,
    flipped: bool,
) -> None:
    folder = tmp_path_factory.mktemp("crashed")
    broken = make_cohort(change=lambda slide, bag: with_coords(slide, bag) or fail(slide))
    with pytest.raises(InputError):
        pack_cohort(broken, folder, part_bytes=PART_BYTES)
    path = parts(folder)[number]
    data = path.read_bytes()
    if flipped:
        flip(path, min(int(share * len(data)), len(data) - 1))
    else:
        path.write_bytes(data[: int(share * len(data))])
    packed_again(folder)
    assert content(folder) == undisturbed


def fail(slide_id: str) -> None:
    if slide_id == "s3":
        raise InputError("the last bag is broken")


def test_rows_written_are_checked_and_not_trusted(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    killed(tmp_path, dies_in(packing, "save_file", 3, after=False))
    begin = len(parts(tmp_path)[0].read_bytes()) - 2 * DIM * 7
    flip(parts(tmp_path)[0], begin + 3)
    assert packed_again(tmp_path) == ["s0", "s1", "s2", "s3"]
    assert content(tmp_path) == undisturbed


def test_files_of_other_bags_are_not_gone_on_from(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    other = make_cohort(variant="seed-3", change=poking("s2", float("nan")))
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(other, tmp_path)
    assert packed_again(tmp_path) == ["s0", "s1", "s2", "s3"]
    assert content(tmp_path) == undisturbed
    assert files(tmp_path) == sorted(undisturbed)


def test_only_one_process_packs_into_a_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path), pytest.raises(InputError, match="another process is writing to"):
        pack_cohort(make_cohort(), tmp_path)
    # A store that is whole is not written to, so that nobody needs to have it alone.
    pack_cohort(make_cohort(), tmp_path)
    with sole_writer(tmp_path):
        assert len(pack_cohort(make_cohort(), tmp_path)) == 4


def test_no_second_copy_is_on_the_disk_at_any_time(tmp_path: Path) -> None:
    largest = 0

    def measure(slide_id: str, bag: dict) -> None:
        nonlocal largest
        largest = max(largest, sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors")))

    pack_cohort(make_cohort(change=measure), tmp_path, part_bytes=PART_BYTES)
    assert 0 < largest <= sum(size for _, size in read_index(tmp_path).parts)

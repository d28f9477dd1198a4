"""Packing that is killed: the same call goes on, trusts nothing, and makes the same bytes."""

import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madeleine_bench.data.packed import journal, open_store, pack_cohort
from madeleine_bench.data.packed.shards import ShardWriter
from madeleine_bench.errors import InputError
from madeleine_bench.files import sole_writer
from madeleine_bench.hashing import hash_file
from tests.data.made_cohort import DIM, changing, files, flip, make_cohort, poking, with_coords

SHARD_BYTES = 9 * 2 * DIM  # three files
NAMES = ("index.parquet", *(f"{kind}-000{n}.bin" for kind in ("coords", "features") for n in "012"))


def content(folder: Path) -> dict[str, str]:
    return {name: hash_file(folder / name)[:8] for name in NAMES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    pack_cohort(make_cohort(change=with_coords), folder, shard_bytes=SHARD_BYTES)
    return content(folder)


def packed_again(folder: Path) -> list[str]:
    """Pack to the end and return the slides that were read for it."""
    data = make_cohort(change=with_coords)
    pack_cohort(data, folder, shard_bytes=SHARD_BYTES)
    return data.read


def killed(folder: Path, prepare: Callable[[], None]) -> None:
    """Pack in a process that `prepare` has end itself by SIGKILL."""

    def pack() -> None:
        prepare()
        pack_cohort(make_cohort(change=with_coords), folder, shard_bytes=SHARD_BYTES)

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
        (ShardWriter, "append", 1, False, ["s0", "s1", "s2", "s3"]),
        (ShardWriter, "append", 3, False, ["s2", "s3"]),
        (journal.Journal, "add", 1, False, ["s0", "s1", "s2", "s3"]),
        (journal.Journal, "add", 3, False, ["s2", "s3"]),
        (journal.Journal, "add", 3, True, ["s3"]),
        (journal.Journal, "add_shard", 1, True, ["s0", "s1", "s2", "s3"]),
        (journal.Journal, "add_shard", 2, True, ["s2", "s3"]),
        (journal.Journal, "remove", 1, False, []),
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
    if name != "remove":
        with pytest.raises(InputError, match="packing has not ended; the same mbench data pack"):
            open_store(tmp_path)
    assert packed_again(tmp_path) == left
    assert content(tmp_path) == undisturbed


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*NAMES[1:], "packing.jsonl"]),
    share=st.floats(0, 1),
    flipped=st.booleans(),
)
def test_whatever_a_crash_leaves_of_a_file_is_found_out(
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: dict[str, str],
    name: str,
    share: float,
    flipped: bool,
) -> None:
    folder = tmp_path_factory.mktemp("crashed")
    broken = make_cohort(change=lambda slide, bag: with_coords(slide, bag) or fail(slide))
    with pytest.raises(InputError):
        pack_cohort(broken, folder, shard_bytes=SHARD_BYTES)
    path = folder / name
    if not path.exists():
        return
    data = path.read_bytes()
    if name == "packing.jsonl":  # its first line was renamed into place: it is whole
        head = data.index(b"\n") + 1
        path.write_bytes(data[: head + int(share * (len(data) - head))])
    elif flipped and data:
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
    killed(tmp_path, dies_in(journal.Journal, "add", 4, after=False))
    flip(tmp_path / "features-0000.bin", 3)
    assert packed_again(tmp_path) == ["s0", "s3"]
    assert content(tmp_path) == undisturbed


def test_a_journal_of_other_bags_begins_anew(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    other = make_cohort(variant="seed-3", change=poking("s2", float("nan")))
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(other, tmp_path)
    assert packed_again(tmp_path) == ["s0", "s1", "s2", "s3"]
    assert content(tmp_path) == undisturbed
    assert files(tmp_path) == sorted([*NAMES, "checked.json"])


def test_a_journal_that_was_meddled_with_is_followed_as_far_as_it_makes_sense(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    killed(tmp_path, dies_in(journal.Journal, "add", 4, after=False))
    lines = (tmp_path / "packing.jsonl").read_text().splitlines()
    slides = [json.loads(line) for line in lines[1:] if line.startswith("{")]
    assert [slide["slide_id"] for slide in slides] == ["s0", "s1", "s2"]
    place = lines.index(json.dumps(slides[1]))
    for change in ({"offset": 1}, {"shard": 7}, {"slide_id": "s3"}):
        lines[place] = json.dumps({**slides[1], **change})
        (tmp_path / "packing.jsonl").write_text("\n".join(lines) + "\n")
        (tmp_path / "index.parquet").unlink(missing_ok=True)
        assert packed_again(tmp_path) == ["s1", "s2", "s3"]
        assert content(tmp_path) == undisturbed


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
        largest = max(largest, sum(f.stat().st_size for f in tmp_path.rglob("*.bin")))

    store = pack_cohort(make_cohort(change=measure), tmp_path)
    assert 0 < largest <= store.nbytes


def test_a_bag_of_another_width_is_found_after_a_restart_too(tmp_path: Path) -> None:
    broken = make_cohort(change=poking("s2", float("nan")))
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(broken, tmp_path)
    wide = make_cohort(change=changing("s2", features=np.zeros((4, 7), np.float32)))
    with pytest.raises(InputError, match="'s2' has patches of 7 dimensions, slide 's0' of 5"):
        pack_cohort(wide, tmp_path)

"""A packed store: what it holds, what it refuses, and that damage is named."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from madeleine_bench.data import packed
from madeleine_bench.data.packed import DamagedStore, FeatureStore, open_store, read_index
from madeleine_bench.data.packing import content_hash, pack_cohort
from madeleine_bench.errors import InputError
from tests.data.made_cohort import (
    DIM,
    STAINS,
    Change,
    Told,
    changing,
    files,
    flip,
    make_cohort,
    poking,
    with_coords,
)

ROW = 2 * DIM


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The folder of a packed store with coords."""
    pack_cohort(make_cohort(change=with_coords), tmp_path / "toy")
    return tmp_path / "toy"


def part(folder: Path, number: int = 0) -> Path:
    """Return a file of the store in a folder."""
    return sorted(folder.glob("features-*.safetensors"))[number]


def row(folder: Path, slide: int) -> int:
    """Return the byte at which the rows of a slide begin in their file."""
    return read_index(folder).slides[slide].begin


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds a store of one file and nothing else."""
    return files(folder) == [part(folder).name, "index.json"]


def rows_of(store: FeatureStore) -> list[list[float]]:
    return [row for slide in range(len(store)) for row in store.bag(slide).tolist()]


def test_a_store_holds_every_bag(tmp_path: Path) -> None:
    told, data = Told(), make_cohort()
    store = pack_cohort(data, tmp_path / "new" / "toy", told)
    assert store.slide_ids == ("s0", "s1", "s2", "s3")
    assert store.case_ids == ("c0", "c0", "c1", "c1")
    assert store.stains == STAINS
    assert (store.cohort_id, store.source, store.variant) == ("toy", "local", "")
    assert store.patch_encoder == "conch_v1"
    assert store.missing == ()
    assert store.lengths.tolist() == [3, 4, 5, 6]
    assert (len(store), store.dim, store.patches, store.nbytes) == (4, DIM, 18, 18 * ROW)
    assert data.read == list(store.slide_ids)
    for index, slide_id in enumerate(store.slide_ids):
        expected = data.read_bag(slide_id).features.astype(np.float16)
        np.testing.assert_array_equal(store.bag(index), expected)
        np.testing.assert_array_equal(store.shards[0][store.rows(index)], expected)
    assert told.phases == {"pack toy": list(store.slide_ids)}
    assert is_whole(tmp_path / "new" / "toy")
    with pytest.raises(ValueError, match="read-only"):
        store.bag(0)[0] = 0


def test_the_file_is_read_by_safetensors(toy: Path) -> None:
    tensors, data, store = load_file(part(toy)), make_cohort(change=with_coords), open_store(toy)
    for index, slide_id in enumerate(store.slide_ids):
        np.testing.assert_array_equal(tensors.pop(f"features/{slide_id}"), store.bag(index))
        if (coords := data.read_bag(slide_id).coords) is not None:
            np.testing.assert_array_equal(tensors.pop(f"coords/{slide_id}"), coords)
    assert tensors == {}


@pytest.mark.parametrize("largest", [4 * ROW, 6 * ROW, 9 * ROW, 18 * ROW])
def test_shards_hold_whole_slides_and_no_more_than_allowed(tmp_path: Path, largest: int) -> None:
    one = pack_cohort(make_cohort(change=with_coords), tmp_path / "one")
    store = pack_cohort(make_cohort(change=with_coords), tmp_path / "many", part_bytes=largest)
    assert len(store.shards) == {4: 4, 6: 4, 9: 3, 18: 1}[largest // ROW]
    # A slide that is larger than a file may be has a file of its own.
    assert all(shard.nbytes <= max(largest, 6 * ROW) for shard in store.shards)
    assert rows_of(store) == rows_of(one)
    assert store.content == one.content
    np.testing.assert_array_equal(np.concatenate(store.shards), one.shards[0])


def test_equal_bags_are_not_packed_again(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    first = pack_cohort(make_cohort(), path)
    again, told = make_cohort(), Told()
    assert pack_cohort(again, path, told).content == first.content == content_hash(again)
    assert (again.read, told.phases) == ([], {"check toy": list(first.slide_ids)})
    other = make_cohort(variant="seed-3")
    assert pack_cohort(other, path).variant == "seed-3"
    assert other.read == list(first.slide_ids)
    # What was mapped before the files were replaced stays readable, and they are gone.
    assert np.isfinite(first.shards[0]).all()
    assert is_whole(path)


@pytest.mark.parametrize("column", ["slide_id", "case_id", "stain"])
def test_content_changes_with_the_table(column: str) -> None:
    data = make_cohort()
    before = content_hash(data)
    data.slides.loc[3, column] += "x"
    assert content_hash(data) != before


def test_slides_without_a_bag_are_left_out_and_named(tmp_path: Path) -> None:
    data = make_cohort(no_bag=frozenset({"s1"}))
    store = pack_cohort(data, tmp_path / "toy")
    assert store.slide_ids == ("s0", "s2", "s3")
    assert store.missing == ("s1",)
    assert store.content != content_hash(make_cohort())
    none = make_cohort(no_bag=frozenset(data.slides["slide_id"]))
    with pytest.raises(InputError, match="no slide of cohort toy has a bag"):
        pack_cohort(none, tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poking("s2", np.nan), "'s2': its features hold NaN, infinity or"),
        (poking("s2", -np.inf), "'s2': its features hold NaN, infinity or"),
        (poking("s2", 65520.0), "outside the range of float16.* the largest is 65520 in size"),
        (poking("s2", -1e6), r"outside the range of float16.* the largest is 1e\+06 in size"),
        (
            changing("s2", features=np.full((4, DIM), 1e-6, np.float32)),
            "outside the range of float16.* the largest is 1e-06 in size",
        ),
    ],
)
def test_bags_that_cannot_be_packed(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack_cohort(make_cohort(change=change), tmp_path / "toy")
    assert files(tmp_path / "toy") == [part(tmp_path / "toy").name]
    with pytest.raises(InputError, match=r"packing has not ended"):
        open_store(tmp_path / "toy")
    # What was good is kept, and a repaired bag goes into the same store.
    repaired = make_cohort()
    store = pack_cohort(repaired, tmp_path / "toy")
    assert repaired.read == ["s2", "s3"]
    assert len(files(tmp_path / "toy")) == 1 + len(store.shards)
    assert rows_of(store) == rows_of(pack_cohort(make_cohort(), tmp_path / "other"))


def test_the_first_bag_leaves_nothing_when_it_is_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'s0': its features hold NaN"):
        pack_cohort(make_cohort(change=poking("s0", np.nan)), tmp_path / "toy")
    assert files(tmp_path / "toy") == []


def test_nan_in_float16_is_seen(tmp_path: Path) -> None:
    features = np.ones((4, DIM), np.float16)
    features[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(make_cohort(change=changing("s2", features=features)), tmp_path / "toy")


def test_the_largest_and_smallest_float16_fit(tmp_path: Path) -> None:
    features = np.zeros((4, DIM), np.float32)
    features[0, :2] = (65504.0, -65504.0)
    store = pack_cohort(make_cohort(change=changing("s2", features=features)), tmp_path / "toy")
    np.testing.assert_array_equal(store.bag(2), features)


def test_a_failed_packing_keeps_the_store_before_it(tmp_path: Path) -> None:
    path = tmp_path / "toy"
    first = pack_cohort(make_cohort(), path)
    broken = make_cohort(variant="seed-3", change=poking("s2", np.nan))
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(broken, path)
    assert open_store(path).content == first.content
    # Back to the first: nothing to do. On to the second: only what is missing, the first is gone.
    assert pack_cohort(make_cohort(), path).content == first.content
    second = make_cohort(variant="seed-3")
    assert pack_cohort(second, path).variant == "seed-3"
    assert second.read == ["s2", "s3"]
    assert len(files(path)) == 3


def test_a_cohort_that_changes_while_it_is_packed(tmp_path: Path) -> None:
    data = make_cohort()

    def write(slide_id: str, bag: dict) -> None:
        if slide_id == "s3":
            data.keys["s1"] = "another"

    data.change = write
    with pytest.raises(InputError, match="bags of cohort toy changed while it was packed"):
        pack_cohort(data, tmp_path / "toy")
    data.read.clear()
    assert pack_cohort(data, tmp_path / "toy").content == content_hash(data)
    assert data.read == ["s0", "s1", "s2", "s3"]


def test_a_store_cannot_be_put_everywhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        pack_cohort(make_cohort(), tmp_path / "file" / "toy")
    with pytest.raises(InputError, match=r"cannot write to .*file: File exists"):
        pack_cohort(make_cohort(), tmp_path / "file")
    with pytest.raises(InputError, match="a packed store is a folder"):
        open_store(tmp_path / "file")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("No space left")]
)
def test_a_full_disk_is_said_and_what_is_packed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(tensors: dict, path: Path, metadata: dict) -> None:
        if "features/s2" in tensors:
            raise error
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("madeleine_bench.data.packing.save_file", full)
        with pytest.raises(InputError, match=r"No space left.*the same command continues"):
            pack_cohort(make_cohort(), tmp_path / "toy", part_bytes=9 * ROW)
    data = make_cohort()
    assert len(pack_cohort(data, tmp_path / "toy", part_bytes=9 * ROW).shards) == 3
    assert data.read == ["s2", "s3"]


def test_a_flipped_byte_is_named_with_slide_file_and_command(toy: Path) -> None:
    path = part(toy)
    flip(path, row(toy, 2) + 1)
    message = rf"{path.name}: slide 's2' is not what was packed.*mbench data pack toy --out"
    with pytest.raises(DamagedStore, match=message):
        open_store(toy, verify=True)
    open_store(toy)
    told, data = Told(), make_cohort(change=with_coords)
    store = pack_cohort(data, toy, told)
    assert data.read == list(store.slide_ids)
    assert "slide 's2'" in told.said[0]
    assert store.content == content_hash(data)
    open_store(toy, verify=True)
    assert is_whole(toy)


def test_only_a_damaged_file_is_packed_again(tmp_path: Path) -> None:
    pack_cohort(make_cohort(), tmp_path, part_bytes=9 * ROW)
    paths = [part(tmp_path, number) for number in range(3)]
    before = [path.read_bytes() for path in paths]
    flip(paths[1], row(tmp_path, 2))
    data = make_cohort()
    pack_cohort(data, tmp_path, part_bytes=9 * ROW)
    assert data.read == ["s2", "s3"]  # s3 did not fit into the file of s2
    assert [path.read_bytes() for path in paths] == before


def test_a_flipped_byte_of_the_coords(toy: Path) -> None:
    flip(part(toy), read_index(toy).slides[0].coords_begin)
    with pytest.raises(DamagedStore, match=r"safetensors: slide 's0'"):
        open_store(toy, verify=True)
    pack_cohort(make_cohort(change=with_coords), toy)
    open_store(toy, verify=True)


@pytest.mark.parametrize("size", [0, 1, 100, -1, 9000])
def test_a_file_of_another_size(toy: Path, size: int) -> None:
    path = part(toy)
    whole = path.read_bytes()
    path.write_bytes((whole + b"x" * 9000)[: size if size >= 0 else len(whole) + size])
    with pytest.raises(
        DamagedStore, match=rf"{path.name} is truncated, missing or of another store"
    ):
        open_store(toy)
    pack_cohort(make_cohort(change=with_coords), toy)
    assert path.read_bytes() == whole


def test_a_file_that_is_gone(toy: Path) -> None:
    path = part(toy)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(DamagedStore, match=rf"{path.name} is truncated, missing"):
        open_store(toy)
    pack_cohort(make_cohort(change=with_coords), toy)
    assert path.read_bytes() == whole


def test_files_of_another_store(toy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"

    def change(slide_id: str, bag: dict) -> None:
        with_coords(slide_id, bag)
        if slide_id == "s1":
            bag["features"] = np.ones((4, DIM), np.float16)

    pack_cohort(make_cohort(change=change), other)
    path, mine = part(toy), part(toy).read_bytes()
    path.write_bytes(part(other).read_bytes().ljust(len(mine)))
    with pytest.raises(DamagedStore, match=r"slide 's1'|cut short"):
        open_store(toy, verify=True)
    path.write_bytes(mine)
    open_store(toy, verify=True)
    # An index that belongs to other files is found out by sizes and hashes.
    (toy / "index.json").write_bytes((other / "index.json").read_bytes())
    with pytest.raises(DamagedStore, match=r"slide 's1'|cut short"):
        open_store(toy, verify=True)


def test_only_a_full_check_reads_the_rows(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the rows were read")

    with monkeypatch.context() as patch:
        patch.setattr(packed, "slide_hash", forbidden)
        open_store(toy)
        with pytest.raises(AssertionError):
            open_store(toy, verify=True)
    told = Told()
    open_store(toy, verify=True, progress=told)
    assert told.phases == {"check toy": ["s0", "s1", "s2", "s3"]}


def test_same_size_and_time_do_not_hide_a_change(toy: Path) -> None:
    path = part(toy)
    before = path.stat()
    flip(path, row(toy, 0))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedStore, match="slide 's0'"):
        open_store(toy, verify=True)
    data = make_cohort(change=with_coords)
    pack_cohort(data, toy)
    assert data.read == ["s0", "s1", "s2", "s3"], "packing again checks the rows"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_an_index_cut_short(toy: Path, share: float) -> None:
    path = toy / "index.json"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * (len(data) - 1))])
    with pytest.raises(InputError, match=r"index\.json is damaged or is not an index"):
        open_store(toy)
    with pytest.raises(InputError, match=r"Remove .*toy, or choose another place"):
        pack_cohort(make_cohort(change=with_coords), toy)


def test_no_byte_of_the_index_changes_unseen(toy: Path) -> None:
    path = toy / "index.json"
    data, whole = path.read_bytes(), read_index(toy)
    for position in range(len(data)):
        path.write_bytes(data)
        flip(path, position)
        try:
            index = read_index(toy)
        except InputError:
            continue
        assert vars(index) == vars(whole)  # a byte that says nothing, such as the last one


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[]", "3", '{"format": "another"}', "NaN", "[" * 9999]
)
def test_other_json_files_are_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match="is not an index of a packed store"):
        open_store(tmp_path)
    with pytest.raises(InputError, match=r"no packed store .*absent"):
        open_store(tmp_path / "absent")


def test_another_version_is_said(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("madeleine_bench.data.packed.VERSION", 3)
    with pytest.raises(InputError, match="of version 2; this release reads version 3"):
        open_store(toy)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.h5").write_bytes(b"features")
    with pytest.raises(InputError, match=r"not a packed store; it holds mine\.h5\. Remove it"):
        pack_cohort(make_cohort(), tmp_path)
    assert files(tmp_path) == ["mine.h5"]


def test_a_store_of_another_cohort_is_not_replaced(toy: Path) -> None:
    with pytest.raises(InputError, match="is the packed store of cohort toy, not of other"):
        pack_cohort(make_cohort(cohort_id="other"), toy)

import json
import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest

from madeleine_bench import hashing
from madeleine_bench.data import bag_sources
from madeleine_bench.data.bag_sources import FileFactsCache
from madeleine_bench.data.local import LocalCohort, verify_cohort
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file
from madeleine_bench.specs.catalogue import Catalogue
from madeleine_bench.specs.config import CohortEntry
from madeleine_bench.types import CohortData

Make = Callable[..., LocalCohort]
Write = Callable[..., Path]


def test_reads_what_was_written(small_cohort: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id)
    cohort: CohortData = small_cohort(patch_encoder="conch_v1")
    bag = cohort.read_bag("b")
    assert (bag.slide_id, bag.case_id, bag.stain, bag.site) == ("b", "b", "H&E", None)
    assert bag.features.shape == (5, 3)
    assert bag.patch_encoder == "conch_v1"
    assert cohort.no_bag == frozenset()
    assert {facts.width for facts in small_cohort().facts.values()} == {3}


def test_missing_empty_and_extra_files(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a")
    write_bag("b", patches=0)
    extra = write_bag("other")
    cohort = small_cohort()
    assert cohort.no_bag == {"b", "c"}
    assert cohort.extra == {"other": extra}
    with pytest.raises(InputError, match="slide 'c' has no feature file under"):
        cohort.read_bag("c")


def test_an_empty_bag_of_trident_leaves_the_others_usable(
    small_cohort: Make, write_bag: Write
) -> None:
    for slide_id in "ac":
        write_bag(slide_id)
    with h5py.File(write_bag("b"), "w") as handle:
        handle["features"] = np.empty(0, np.float32)
        handle["coords"] = np.empty((0, 2), np.int64)
    cohort = small_cohort()
    assert cohort.no_bag == {"b"}
    assert [finding.message for finding in verify_cohort(cohort)] == [
        "no patch in the bag; skipped"
    ]


def test_a_bag_of_an_ome_tiff_belongs_to_its_slide(small_cohort: Make, write_bag: Write) -> None:
    for name in ("a.ome", "b", "c.ome.tiff"):
        write_bag(name)
    for ids in (("a", "b", "c"), ("a.ome.tif", "b.ome.tif", "c.ome")):
        assert sorted(small_cohort(ids).files) == list(ids)


def test_ids_match_up_to_the_first_dot_but_never_ambiguously(
    small_cohort: Make, write_bag: Write
) -> None:
    write_bag("TCGA-A1-A0SB-01Z-00-DX1.33ad")
    write_bag("b.x")
    ids = ("TCGA-A1-A0SB-01Z-00-DX1", "b.x", "b")
    cohort = small_cohort(ids)
    assert sorted(cohort.files) == ["TCGA-A1-A0SB-01Z-00-DX1", "b.x"]
    assert cohort.no_bag == {"b"}
    write_bag("TCGA-A1-A0SB-01Z-00-DX1.44be")
    with pytest.raises(InputError, match=r"DX1' could be .*33ad\.h5 and .*44be\.h5"):
        small_cohort(ids)


def test_no_match_at_all_shows_both_kinds_of_names(small_cohort: Make, write_bag: Write) -> None:
    write_bag("slide-a")
    with pytest.raises(InputError, match=r"none of the 1 feature files .*like a, b, c; .*slide-a"):
        small_cohort()


def test_folder_without_features(small_cohort: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        small_cohort()
    (tmp_path / "bags").mkdir()
    with pytest.raises(InputError, match=r"no feature file \(\.h5, \.hdf5, \.npz, \.pt\) under"):
        small_cohort()


def test_widths_and_encoders_must_agree(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a")
    write_bag("b", width=4)
    with pytest.raises(InputError, match=r"b\.h5 has patches of 4 dimensions, .*a\.h5 of 3"):
        _ = small_cohort().no_bag
    write_bag("b", patch_encoder="uni")
    with pytest.raises(
        InputError, match=r"b\.h5 was made by patch encoder 'uni', .*a\.h5 by 'None'"
    ):
        _ = small_cohort().no_bag


def test_declared_patch_encoder_is_checked(small_cohort: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id, layout="stamp", patch_encoder="mahmood-conch")
    wrong = small_cohort(patch_encoder="conch_v1")
    message = r"'mahmood-conch', but mbench\.toml says 'conch_v1'.*patch_encoder_in_files = \"mah"
    with pytest.raises(InputError, match=message):
        wrong.read_bag("a")
    with pytest.raises(InputError, match=message):
        _ = wrong.no_bag
    right = small_cohort(patch_encoder="conch_v1", patch_encoder_in_files="mahmood-conch")
    assert right.read_bag("a").patch_encoder == "conch_v1"
    assert small_cohort().read_bag("a").patch_encoder == "mahmood-conch"


def test_micrometres_are_not_passed_off_as_pixels(small_cohort: Make, write_bag: Write) -> None:
    coords = np.array([[0, 0], [1, 2], [3, 4], [5, 6], [7, 8]])
    write_bag("a", layout="stamp", coords=coords, mpp=0.5)
    write_bag("b", layout="clam", coords=coords)
    cohort = small_cohort()
    assert cohort.read_bag("a").coords is None
    np.testing.assert_array_equal(cohort.read_bag("b").coords, coords)


def test_stain_outside_the_cohort(catalogue: Catalogue, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("slide_id,case_id,stain,er_level\na,1,ER,0\nb,1,H&E,0\n")
    entry = CohortEntry(features=tmp_path, labels=table)
    words = r"slide 'b' is of stain 'H&E'.*\(stains of cohort mgh-breast: ER, PR"
    with pytest.raises(InputError, match=words):
        LocalCohort(catalogue.cohorts["mgh-breast"], entry, tmp_path / "cache")


def test_second_run_reads_no_file(
    small_cohort: Make, write_bag: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {slide_id: write_bag(slide_id) for slide_id in "abc"}
    first = small_cohort()
    keys = {slide_id: first.content_key(slide_id) for slide_id in "abc"}
    assert keys == {slide_id: hash_file(path) for slide_id, path in paths.items()}
    assert first.no_bag == frozenset()

    def forbidden(*args: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(bag_sources, "hash_file", forbidden)
    monkeypatch.setattr(bag_sources, "read_bag_header", forbidden)
    second = small_cohort()
    assert {slide_id: second.content_key(slide_id) for slide_id in "abc"} == keys
    assert second.no_bag == frozenset()


def test_a_changed_file_has_another_key(small_cohort: Make, write_bag: Write) -> None:
    path = write_bag("a")
    before = small_cohort().content_key("a")
    stat = path.stat()
    write_bag("a", patches=6)
    assert small_cohort().content_key("a") != before
    write_bag("a")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert small_cohort().content_key("a") == before


def replace_in_place(path: Path, data: bytes) -> None:
    """Unpack other bytes to the same path, with the size and the times of the file before."""
    before = path.stat()
    assert len(data) == before.st_size
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_bags_unpacked_again_with_the_same_size_and_times_have_another_key(
    small_cohort: Make, write_bag: Write
) -> None:
    """Before: the key of the former content, as size, time and path were the same."""
    path = write_bag("a", patch_encoder="aaaa")
    first, data = small_cohort(), path.read_bytes()
    key = first.content_key("a")
    assert first.facts["a"].patch_encoder == "aaaa"
    replace_in_place(path, data.replace(b"aaaa", b"bbbb"))
    for cohort in (first, small_cohort()):
        assert cohort.content_key("a") == hash_file(path) != key
    assert small_cohort().facts["a"].patch_encoder == "bbbb"


def test_lines_of_an_earlier_release_are_ignored(tmp_path: Path) -> None:
    path, store = tmp_path / "a", tmp_path / "files.jsonl"
    path.write_text("content")
    stat = path.stat()
    key = f"sha256|{stat.st_size}|{stat.st_mtime_ns}|{path}"
    lines = [[key, "wrong", hashing.hash_json([key, "wrong"])[:12]], ["sha256", str(path), "x"]]
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bag_sources._read_lines(store) == {}
    assert FileFactsCache(store).sha256(path) == hash_file(path)


def test_a_file_that_is_written_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "a", tmp_path / "files.jsonl"
    path.write_text("before")

    def hash_and_write(target: Path) -> str:
        digest = hash_file(target)
        target.write_text("after it")
        return digest

    monkeypatch.setattr(bag_sources, "hash_file", hash_and_write)
    FileFactsCache(store).sha256(path)
    monkeypatch.setattr(bag_sources, "hash_file", hash_file)
    assert FileFactsCache(store).sha256(path) == hash_file(path)


def test_key_tells_encoders_of_one_file_apart(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a", layout="atlaspatch", patch_encoder="uni")
    assert small_cohort().content_key("a") != small_cohort(patch_encoder="uni").content_key("a")


def test_cohort_travels_to_a_worker(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a")
    cohort = small_cohort()
    copy = ForkingPickler.loads(ForkingPickler.dumps(cohort))
    assert copy.no_bag == cohort.no_bag == {"b", "c"}
    assert copy.content_key("a") == cohort.content_key("a")


def _remember(memory_file: Path, folder: Path) -> None:
    memory_ = FileFactsCache(memory_file)
    for path in sorted(folder.iterdir()):
        memory_.sha256(path)


def test_processes_may_remember_at_once_and_torn_lines_cost_nothing(tmp_path: Path) -> None:
    folder, store = tmp_path / "files", tmp_path / "cache" / "files.jsonl"
    folder.mkdir()
    for number in range(40):
        (folder / f"f{number:02d}").write_text(str(number))
    workers = [get_context("fork").Process(target=_remember, args=(store, folder)) for _ in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with store.open("ab") as handle:
        handle.write(b'["sha256|torn')
    after = FileFactsCache(store)
    extra = folder / "extra"
    extra.write_text("later")
    assert after.sha256(extra) == hash_file(extra)
    known = bag_sources._read_lines(store)
    assert len(known) == 41
    assert all(FileFactsCache(store).sha256(path) == hash_file(path) for path in folder.iterdir())


def test_unwritable_cache_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*files\.jsonl: .*Choose a results folder"):
        FileFactsCache(tmp_path / "cache" / "files.jsonl").sha256(tmp_path / "file")


def test_bags_of_phantom_slides_make_a_phantom_cohort(small_cohort: Make, write_bag: Write) -> None:
    for slide_id in "abc":
        write_bag(slide_id, attributes={"phantom": "rendered-signal-0"})
    cohort = small_cohort()
    assert (cohort.source, cohort.variant) == ("phantom", "rendered-signal-0")
    assert cohort.no_bag == frozenset()


def test_a_real_cohort_is_local(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a")
    assert (small_cohort().source, small_cohort().variant) == ("local", "")


@pytest.mark.parametrize("kinds", [("rendered", None), (None, "rendered"), ("rendered", "other")])
def test_phantom_and_real_slides_never_share_a_cohort(
    small_cohort: Make, write_bag: Write, kinds: tuple[str | None, str | None]
) -> None:
    for slide_id, kind in zip("ab", kinds, strict=True):
        write_bag(slide_id, attributes={} if kind is None else {"phantom": kind})
    with pytest.raises(InputError, match=r"b\.h5 is of a .* slide.*never share a board"):
        _ = small_cohort().no_bag


def test_a_damaged_first_file_does_not_hide_what_the_others_are(
    small_cohort: Make, write_bag: Write
) -> None:
    write_bag("a").write_bytes(b"no HDF5")
    write_bag("b", attributes={"phantom": "rendered"})
    cohort = small_cohort()
    assert cohort.source == "phantom"
    with pytest.raises(InputError, match=r"a\.h5 cannot be read"):
        _ = cohort.no_bag

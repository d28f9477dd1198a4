from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from madeleine_bench.data.feature_store import content_hash, open_store, pack_cohort
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.types import Bag, Source

DIM = 5
STAINS = ("H&E", "ER", "H&E", "HER2")


@dataclass
class MadeCohort:
    """A cohort of bags in memory; implements `CohortData`. `change` alters a bag when read."""

    slides: pd.DataFrame
    change: Callable[[str, dict[str, Any]], None] = lambda slide_id, bag: None
    no_bag: frozenset[str] = frozenset()
    cohort_id: str = "toy"
    source: Source = "local"
    variant: str = ""
    read: list[str] = field(default_factory=list)

    def read_bag(self, slide_id: str) -> Bag:
        self.read.append(slide_id)
        number = int(slide_id[1:])
        features = rng_for("bag", slide_id).standard_normal((3 + number, DIM), np.float32)
        bag = {"features": features, "patch_encoder": "conch_v1"}
        self.change(slide_id, bag)
        return Bag(slide_id=slide_id, case_id=f"c{number // 2}", stain=STAINS[number], **bag)

    def content_key(self, slide_id: str) -> str:
        return f"key of {slide_id}"


def make_cohort(**options: Any) -> MadeCohort:
    rows = [
        {"slide_id": f"s{n}", "case_id": f"c{n // 2}", "stain": stain, "site": ""}
        for n, stain in enumerate(STAINS)
    ]
    return MadeCohort(pd.DataFrame(rows), **options)


def changing(name: str, **values: Any) -> Callable[[str, dict[str, Any]], None]:
    def change(slide_id: str, bag: dict[str, Any]) -> None:
        if slide_id == name:
            bag.update(values)

    return change


def poking(name: str, value: float) -> Callable[[str, dict[str, Any]], None]:
    def change(slide_id: str, bag: dict[str, Any]) -> None:
        if slide_id == name:
            bag["features"][1, 2] = value

    return change


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_store_holds_every_bag(tmp_path: Path) -> None:
    told: list[str] = []
    data = make_cohort()
    store = pack_cohort(data, tmp_path / "new" / "toy.h5", told.append)
    assert store.slide_ids == ("s0", "s1", "s2", "s3")
    assert store.case_ids == ("c0", "c0", "c1", "c1")
    assert store.stains == STAINS
    assert (store.cohort_id, store.source, store.variant) == ("toy", "local", "")
    assert store.patch_encoder == "conch_v1"
    assert store.missing == ()
    assert store.lengths.tolist() == [3, 4, 5, 6]
    assert (len(store), store.dim) == (4, DIM)
    assert store.features.dtype == np.float16
    for index, slide_id in enumerate(store.slide_ids):
        expected = data.read_bag(slide_id).features.astype(np.float16)
        np.testing.assert_array_equal(store.features[store.rows(index)], expected)
    assert told == list(store.slide_ids)
    assert files(tmp_path / "new") == ["toy.h5"]
    with pytest.raises(ValueError, match="read-only"):
        store.features[0] = 0


def test_the_file_is_plain_hdf5_in_one_piece(tmp_path: Path) -> None:
    store = pack_cohort(make_cohort(), tmp_path / "toy.h5")
    with h5py.File(tmp_path / "toy.h5") as handle:
        assert handle["features"].chunks is None
        assert handle["features"].id.get_offset() % 64 == 0
        np.testing.assert_array_equal(handle["features"][...], store.features)


def test_large_bags_are_copied_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack_cohort(make_cohort(), tmp_path / "whole.h5")
    monkeypatch.setattr("madeleine_bench.data.feature_store._BLOCK_BYTES", 7 * 2 * DIM)
    blocks = pack_cohort(make_cohort(), tmp_path / "blocks.h5")
    np.testing.assert_array_equal(whole.features, blocks.features)


def test_equal_bags_are_not_packed_again(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    first = pack_cohort(make_cohort(), path)
    again = make_cohort()
    assert pack_cohort(again, path).content == first.content == content_hash(again)
    assert again.read == []
    other = make_cohort(variant="seed-3")
    assert pack_cohort(other, path).variant == "seed-3"
    assert other.read == list(first.slide_ids)
    # What was mapped before the file was replaced stays readable.
    assert np.isfinite(first.features).all()


@pytest.mark.parametrize("column", ["slide_id", "case_id", "stain"])
def test_content_changes_with_the_table(column: str) -> None:
    data = make_cohort()
    before = content_hash(data)
    data.slides.loc[3, column] += "x"
    assert content_hash(data) != before


def test_slides_without_a_bag_are_left_out_and_named(tmp_path: Path) -> None:
    data = make_cohort(no_bag=frozenset({"s1"}))
    store = pack_cohort(data, tmp_path / "toy.h5")
    assert store.slide_ids == ("s0", "s2", "s3")
    assert store.missing == ("s1",)
    assert store.content != content_hash(make_cohort())
    none = make_cohort(no_bag=frozenset(data.slides["slide_id"]))
    with pytest.raises(InputError, match="no slide of cohort toy has a bag"):
        pack_cohort(none, tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changing("s2", features=np.zeros((4, 7), np.float32)),
            "'s2' has patches of 7 dimensions, slide 's0' of 5",
        ),
        (changing("s2", patch_encoder="uni"), "'s2' was made by .* 'uni', slide 's0' by 'conch_v1"),
        (changing("s2", patch_encoder=None), "'s2' was made by patch encoder 'None'"),
        (changing("s2", features=np.zeros((0, DIM), np.float32)), "'s2': its bag is empty"),
        (poking("s2", np.nan), "'s2': its features hold NaN or infinity"),
        (poking("s2", -np.inf), "'s2': its features hold NaN or infinity"),
        (poking("s2", 65520.0), "largest feature is 65520 in size, outside the range"),
        (poking("s2", -1e6), r"largest feature is 1e\+06 in size, outside the range"),
        (
            changing("s2", features=np.full((4, DIM), 1e-6, np.float32)),
            "largest feature is 1e-06 in size, outside the range",
        ),
    ],
)
def test_bags_that_cannot_be_packed(
    tmp_path: Path, change: Callable[[str, dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pack_cohort(make_cohort(change=change), tmp_path / "toy.h5")
    assert files(tmp_path) == []


def test_nan_in_float16_is_seen(tmp_path: Path) -> None:
    features = np.ones((4, DIM), np.float16)
    features[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(make_cohort(change=changing("s2", features=features)), tmp_path / "toy.h5")


def test_the_largest_and_smallest_float16_fit(tmp_path: Path) -> None:
    features = np.zeros((4, DIM), np.float32)
    features[0, :2] = (65504.0, -65504.0)
    store = pack_cohort(make_cohort(change=changing("s2", features=features)), tmp_path / "toy.h5")
    np.testing.assert_array_equal(store.features[store.rows(2)], features)


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(slide_id: str) -> None:
        if slide_id == "s2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_cohort(make_cohort(), tmp_path / "toy.h5", interrupt)
    assert files(tmp_path) == []


def test_a_failed_packing_keeps_the_store_before_it(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    first = pack_cohort(make_cohort(), path)
    broken = make_cohort(variant="seed-3", change=poking("s2", np.nan))
    with pytest.raises(InputError, match="NaN"):
        pack_cohort(broken, path)
    assert open_store(path).content == first.content
    assert files(tmp_path) == ["toy.h5"]


def test_a_store_cannot_be_put_everywhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        pack_cohort(make_cohort(), tmp_path / "file" / "toy.h5")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_file_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "toy.h5"
    pack_cohort(make_cohort(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"toy\.h5 is damaged or no feature store"):
        open_store(path)
    with pytest.raises(InputError, match="Remove it"):
        pack_cohort(make_cohort(), path)


def spoil(path: Path, what: str) -> None:
    with h5py.File(path, "a") as handle:
        if what in handle.attrs:
            del handle.attrs[what]
        elif what == "offsets":
            handle["offsets"][2] = 99
        else:
            del handle[what]
            if what == "stains":
                handle["stains"] = ["H&E"]
            if what == "features":
                handle.create_dataset("features", data=np.zeros((18, DIM), np.float16), chunks=True)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("format", "is no feature store"),
        ("version", "of version None; this release reads version 1"),
        ("content", "is damaged"),
        ("case_ids", "is damaged"),
        ("offsets", "do not fit"),
        ("stains", "do not fit"),
        ("features", "do not fit"),
    ],
)
def test_files_that_are_no_whole_store(tmp_path: Path, what: str, message: str) -> None:
    path = tmp_path / "toy.h5"
    pack_cohort(make_cohort(), path)
    spoil(path, what)
    with pytest.raises(InputError, match=message):
        open_store(path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    with h5py.File(path, "w") as handle:
        handle["features"] = np.ones((2, 3), np.float32)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"mine\.h5 is no feature store.*Remove it"):
        pack_cohort(make_cohort(), path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"no feature store .*absent"):
        open_store(tmp_path / "absent.h5")
    text = tmp_path / "text.h5"
    text.write_text("features")
    with pytest.raises(InputError, match="damaged or no feature store"):
        open_store(text)

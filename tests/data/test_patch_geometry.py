"""What bag files state of their patches, in the words of each tool, and that it reaches the bag."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.data import bag_sources
from madeleine_bench.data.bag_sources import FileFactsCache
from madeleine_bench.data.bags import (
    BagFacts,
    read_bag_file,
    read_bag_header,
)
from madeleine_bench.data.hdf5 import stated_geometry
from madeleine_bench.data.local import LocalCohort
from tests.tool_bags import write_bag_file

Make = Callable[..., LocalCohort]
Write = Callable[..., Path]
FEATURES = np.ones((3, 4), np.float32)
COORDS = np.array([[0, 0], [1024, 0], [0, 1024]], np.int64)
TRIDENT = {
    "patch_size": 512,
    "patch_size_level0": 1024,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
}


@pytest.mark.parametrize(
    ("attributes", "geometry"),
    [
        (TRIDENT, (20, 512, 1024)),
        ({k: v for k, v in TRIDENT.items() if k != "patch_size_level0"}, (20, 512, 1024)),
        # AtlasPatch writes 0 for a magnification that it does not know.
        (TRIDENT | {"target_magnification": 0, "level0_magnification": 0}, (None, 512, 1024)),
        # STAMP's default, and 512 px of 256 micrometres: half a micrometre a pixel is 20x.
        ({"tile_size_um": 256.0, "tile_size_px": 224, "unit": "um"}, (8.75, 224, None)),
        ({"tile_size_um": 256.0, "tile_size_px": 512}, (20, 512, None)),
        ({"tile_size_px": 224}, (None, 224, None)),
        ({"tile_size_um": 256.0}, (None, None, None)),
        # CLAM: pixels of a level, whose magnification it does not write down.
        ({"patch_size": 256, "patch_level": 0, "downsample": (1.0, 1.0)}, (None, 256, 256)),
        ({"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.002)}, (None, 256, 1024)),
        ({"patch_size": 256, "patch_level": 1}, (None, 256, None)),
        # Our own files say both, and TRIDENT's words count.
        (TRIDENT | {"patch_level": 1, "downsample": (2.0, 2.0)}, (20, 512, 1024)),
        ({"patch_size": "large", "target_magnification": "20x"}, (None, None, None)),
        ({"patch_size": -1, "target_magnification": float("nan")}, (None, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_each_tool_is_understood(attributes: dict[str, Any], geometry: tuple[Any, ...]) -> None:
    assert stated_geometry(attributes) == geometry


@given(
    st.integers(16, 4096), st.sampled_from([5, 10, 20, 40]), st.sampled_from([20, 40, 60, 80])
)  # fmt: skip
def test_tools_agree_on_the_same_patches(side: int, power: int, level0: int) -> None:
    """TRIDENT, STAMP and CLAM describe one patch; what they state is the same."""
    trident_power, trident_side, trident_px0 = stated_geometry(
        {"patch_size": side, "target_magnification": power, "level0_magnification": level0}
    )
    stamp = stated_geometry({"tile_size_px": side, "tile_size_um": side * 10 / power})
    clam = stated_geometry({"patch_size": side, "patch_level": 1, "downsample": level0 / power})
    assert stamp[0] == pytest.approx(power)
    assert (trident_power, trident_side) == (power, stamp[1])
    assert clam[1:] == (side, trident_px0)


@pytest.mark.parametrize("owner", ["coords", "file"])
def test_it_is_read_from_the_coords_and_from_the_file(tmp_path: Path, owner: str) -> None:
    """TRIDENT writes onto the coords, AtlasPatch onto the file."""
    path, layout = tmp_path / "a.h5", {"coords": "trident", "file": "atlaspatch"}[owner]
    where = {"coords": "coords_attributes", "file": "attributes"}[owner]
    options: dict[str, Any] = {"layout": layout, "patch_encoder": "uni", where: TRIDENT}
    write_bag_file(path, FEATURES, COORDS, **options)
    expected = (20, 512, 1024)
    facts = read_bag_header(path)
    assert (facts.magnification, facts.patch_size, facts.patch_size_level0) == expected
    assert read_bag_file(path).facts == facts


def test_a_pt_file_states_nothing(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(3, 4), tmp_path / "a.pt")
    assert read_bag_header(tmp_path / "a.pt") == BagFacts(3, 4, None)
    assert read_bag_file(tmp_path / "a.pt").facts == BagFacts(3, 4, None)


def test_it_reaches_the_bag_and_the_facts_of_a_cohort(small_cohort: Make, write_bag: Write) -> None:
    write_bag("a", layout="trident", coords=np.zeros((5, 2)), coords_attributes=TRIDENT)
    write_bag("b")
    cohort = small_cohort()
    a, b = cohort.read_bag("a"), cohort.read_bag("b")
    assert (a.magnification, a.patch_size, a.patch_size_level0) == (20, 512, 1024)
    assert (b.magnification, b.patch_size, b.patch_size_level0) == (None, None, None)
    for slide_id in "ab":
        bag, facts = cohort.read_bag(slide_id), asdict(cohort.facts[slide_id])
        for name in ("magnification", "patch_size", "patch_size_level0"):
            assert facts[name] == getattr(bag, name)


def test_facts_are_remembered_and_older_caches_are_not_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "a.h5", tmp_path / "files.jsonl"
    write_bag_file(path, FEATURES, COORDS, layout="trident", coords_attributes=TRIDENT)
    stat = path.stat()
    older = {"patches": 3, "width": 4, "patch_encoder": None, "phantom": None}
    key = f"facts:|{stat.st_size}|{stat.st_mtime_ns}|{path.absolute()}"
    store.write_text(json.dumps([key, older]) + "\n")
    facts = FileFactsCache(store).facts(path, None)
    assert (facts.magnification, facts.patch_size, facts.patch_size_level0) == (20, 512, 1024)

    def forbidden(*args: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(bag_sources, "read_bag_header", forbidden)
    assert FileFactsCache(store).facts(path, None) == facts


def test_what_trident_writes_in_earnest(tmp_path: Path) -> None:
    """Attributes as numpy scalars on `coords`, as h5py stores and TRIDENT writes them."""
    path = tmp_path / "slide.h5"
    with h5py.File(path, "w") as handle:
        handle.create_dataset("features", data=FEATURES)
        coords = handle.create_dataset("coords", data=COORDS)
        for key, value in TRIDENT.items():
            coords.attrs[key] = np.int64(value)
    facts = read_bag_file(path).facts
    assert facts == BagFacts(3, 4, None, None, 20, 512, 1024)
    assert type(facts.patch_size_level0) is int

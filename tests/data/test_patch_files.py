"""Patch files: in the words of CLAM and of TRIDENT, written and read."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from madeleine_bench.data.hdf5 import read_patch_file, write_patch_file
from madeleine_bench.errors import InputError
from madeleine_bench.slides.bag_folder import patch_attributes
from madeleine_bench.slides.patches import PatchSettings

COORDS = np.array([[0, 0], [512, 0], [0, 512]], dtype=np.int32)


def attributes():
    slide = SimpleNamespace(
        slide_id="a",
        known_mpp=lambda: 0.2521,
        width_px0=40000,
        height_px0=30000,
    )
    plan = SimpleNamespace(patch_px=256, size_px0=1024)
    return patch_attributes(slide, plan, PatchSettings(patch_px=256, mpp=1.0))


def test_our_file_has_what_trident_reads(tmp_path):
    path = tmp_path / "a_patches.h5"
    write_patch_file(path, COORDS, attributes())
    with h5py.File(path) as handle:
        assert list(handle) == ["coords"]
        assert handle["coords"].dtype.kind == "i"
        assert handle["coords"].shape == (3, 2)
        said = dict(handle["coords"].attrs)
    # What TRIDENT works out from the attributes: the size of a patch at level 0.
    size = said["patch_size"] * said["level0_magnification"] // said["target_magnification"]
    assert size == said["patch_size_level0"] == 1024
    assert (said["level0_magnification"], said["target_magnification"]) == (40, 10)
    assert (said["overlap"], said["name"]) == (0, "a")
    assert (said["level0_width"], said["level0_height"]) == (40000, 30000)


def test_a_round_trip_is_the_same(tmp_path):
    write_patch_file(tmp_path / "a.h5", COORDS, attributes())
    found = read_patch_file(tmp_path / "a.h5")
    assert np.array_equal(found.coords, COORDS)
    assert (found.size_px0, found.patch_px, found.level) == (1024, 256, None)


def test_a_file_of_clam_alone_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        coords = handle.create_dataset("coords", data=COORDS.astype(np.int64))
        coords.attrs.update({"patch_size": 256, "patch_level": 0, "name": "a"})
    found = read_patch_file(tmp_path / "a.h5")
    assert (found.size_px0, found.patch_px, found.level) == (None, 256, 0)


def test_no_patches_at_all(tmp_path):
    write_patch_file(tmp_path / "a.h5", np.empty((0, 2), np.int32), attributes())
    assert read_patch_file(tmp_path / "a.h5").coords.shape == (0, 2)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "do not say how large a patch is"),
        ({"patch_size": 256}, "do not say how large a patch is"),
        ({"patch_size_level0": 0}, r"a\.h5: .*patch_size_level0 .*as one number each"),
        ({"patch_size_level0": [1, 2]}, "as one number each"),
        ({"patch_size_level0": "large"}, "as one number each"),
        ({"patch_size": 256, "patch_level": -1}, "patch_size and patch_level .*one number each"),
    ],
)
def test_files_that_do_not_say_enough(tmp_path, attributes, message):
    write_patch_file(tmp_path / "a.h5", COORDS, attributes)
    with pytest.raises(InputError, match=message):
        read_patch_file(tmp_path / "a.h5")


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no feature file"):
        read_patch_file(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        read_patch_file(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["features"] = np.zeros((2, 3))
    with pytest.raises(InputError, match="no dataset 'coords'; the file holds features"):
        read_patch_file(tmp_path / "other.h5")
    with h5py.File(tmp_path / "three.h5", "w") as handle:
        handle.create_dataset("coords", data=np.zeros(3)).attrs["patch_size_level0"] = 3
    with pytest.raises(InputError, match="'coords' has shape"):
        read_patch_file(tmp_path / "three.h5")

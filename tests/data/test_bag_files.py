import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from madeleine_bench.data.bag_sources import feature_files
from madeleine_bench.data.bags import (
    read_bag_file,
    read_bag_header,
)
from madeleine_bench.errors import InputError, UnreadableFile
from tests.tool_bags import BagLayout, write_bag_file

LAYOUTS: tuple[BagLayout, ...] = ("clam", "trident", "stamp", "atlaspatch")
FEATURES = np.arange(35, dtype=np.float32).reshape(7, 5)
COORDS = np.arange(14, dtype=np.int32).reshape(7, 2) * 256


def h5(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as handle:
        for name, data in datasets.items():
            handle.create_dataset(name.replace("__", "/"), data=data)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_layouts_read_back_identically(tmp_path: Path, layout: BagLayout, dtype: type) -> None:
    features = FEATURES.astype(dtype)
    path = tmp_path / "TCGA-A1-A0SB-01Z-00-DX1.h5"
    write_bag_file(path, features, COORDS, layout=layout, patch_encoder="conch_v1", mpp=0.5)
    file = read_bag_file(path)
    assert file.features.dtype == dtype
    np.testing.assert_array_equal(file.features, features)
    assert file.facts.patch_encoder == "conch_v1"
    if layout == "stamp":  # micrometres
        assert file.coords is None
    else:
        np.testing.assert_array_equal(file.coords, COORDS)
    header = read_bag_header(path)
    assert (header.patches, header.width, header.patch_encoder) == (7, 5, "conch_v1")


def test_what_the_tools_write_in_earnest(tmp_path: Path) -> None:
    """Chunks, growable datasets and attributes as CLAM, TRIDENT and STAMP make them."""
    clam = tmp_path / "clam.h5"
    with h5py.File(clam, "w") as handle:
        for name, data in (("features", FEATURES), ("coords", COORDS)):
            handle.create_dataset(
                name, data=data, chunks=(1, data.shape[1]), maxshape=(None, data.shape[1])
            )
    trident = h5(tmp_path / "trident.h5", features=FEATURES, coords=COORDS.astype(np.int64))
    with h5py.File(trident, "a") as handle:
        handle["features"].attrs["savetodir"] = "/jobs/20x_256px_0px_overlap/features_conch_v15"
        handle["coords"].attrs["savetodir"] = "/jobs/20x_256px_0px_overlap"
        handle["coords"].attrs["patch_size_level0"] = 512
    stamp = h5(tmp_path / "stamp.h5", feats=FEATURES.astype(np.float16), coords=COORDS * 0.25)
    with h5py.File(stamp, "a") as handle:
        handle.attrs.update({"extractor": "mahmood-conch", "unit": "um", "tile_size_um": 256.0})
    assert read_bag_file(clam).facts.patch_encoder is None
    assert read_bag_file(trident).facts.patch_encoder == "conch_v15"
    assert read_bag_file(trident).facts.attributes["patch_size_level0"] == 512
    assert read_bag_file(stamp).facts.patch_encoder == "mahmood-conch"
    for path in (clam, trident, stamp):
        np.testing.assert_array_equal(read_bag_file(path).features, FEATURES)


@given(
    features=hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(0, 6), st.integers(1, 5)),
        elements=st.floats(-1000, 1000, width=16),
    ),
    layout=st.sampled_from(LAYOUTS),
)
def test_round_trip_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory, features: Any, layout: BagLayout
) -> None:
    path = tmp_path_factory.mktemp("bags") / "x.h5"
    write_bag_file(path, features, layout=layout, patch_encoder="uni")
    back = read_bag_file(path).features
    assert back.dtype == features.dtype
    assert back.shape == features.shape
    assert back.tobytes() == features.tobytes()


def test_leading_axis_of_one_is_taken_off(tmp_path: Path) -> None:
    file = read_bag_file(
        h5(tmp_path / "x.h5", patch_embeddings=FEATURES[None], coords=COORDS[None])
    )
    np.testing.assert_array_equal(file.features, FEATURES)
    np.testing.assert_array_equal(file.coords, COORDS)
    one_patch = read_bag_file(h5(tmp_path / "y.h5", features=FEATURES[None, :1]))
    assert one_patch.features.shape == (1, 5)


def test_float64_is_cast_and_big_endian_turned(tmp_path: Path) -> None:
    file = read_bag_file(h5(tmp_path / "x.h5", features=FEATURES.astype(np.float64)))
    assert file.features.dtype == np.float32
    turned = read_bag_file(h5(tmp_path / "y.h5", features=FEATURES.astype(">f4")))
    assert turned.features.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(turned.features, FEATURES)


def test_empty_bag_comes_back_empty(tmp_path: Path) -> None:
    path = h5(tmp_path / "x.h5", features=np.empty((0, 5), np.float32), coords=np.empty((0, 2)))
    assert read_bag_file(path).features.shape == (0, 5)
    assert read_bag_header(path).patches == 0


def test_a_slide_of_trident_without_patches_is_an_empty_bag(tmp_path: Path) -> None:
    path = h5(tmp_path / "x.h5", features=np.empty(0, np.float32), coords=np.empty((0, 2)))
    file = read_bag_file(path)
    assert (file.features.shape, file.coords.shape) == ((0, 0), (0, 2))
    assert read_bag_header(path) == file.facts
    assert read_bag_header(path).patches == 0


def test_atlaspatch_file_with_several_encoders(tmp_path: Path) -> None:
    path = h5(tmp_path / "x.h5", features__uni=FEATURES, features__conch=FEATURES[:, :2])
    assert read_bag_file(path, "conch").features.shape == (7, 2)
    assert read_bag_file(path, "conch").facts.patch_encoder == "conch"
    with pytest.raises(InputError, match=r"several patch encoders \(conch, uni\).*patch_encoder"):
        read_bag_file(path)
    with pytest.raises(InputError, match=r"no features of 'conc'; did you mean 'conch'"):
        read_bag_file(path, "conc")


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"weights": FEATURES}, r"no features found.*the file holds weights"),
        ({}, r"the file holds nothing"),
        ({"features": FEATURES[0]}, r"shape \(5,\); expected \(patches, dimensions\)"),
        ({"features": FEATURES.reshape(7, 5, 1)}, r"shape \(7, 5, 1\)"),
        ({"features": FEATURES.astype(np.int32)}, r"type int32; features are float16"),
        ({"features": np.empty((7, 0), np.float32)}, r"shape \(7, 0\); .* at least one dimension"),
        (
            {"features": FEATURES, "coords": COORDS[:6]},
            r"'coords' has shape \(6, 2\) .* for each of 7 patches",
        ),
        ({"features": FEATURES, "coords": COORDS[:, 0]}, r"'coords' has shape \(7,\)"),
        ({"features__a": FEATURES.astype(int)}, r"'features/a' is of type int64"),
    ],
)
def test_wrong_content_is_refused_by_name(
    tmp_path: Path, datasets: dict[str, Any], message: str
) -> None:
    path = h5(tmp_path / "slide.h5", **datasets)
    with pytest.raises(InputError, match=rf"slide\.h5.*{message}"):
        read_bag_file(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_row_of_a_bad_number_is_named(tmp_path: Path, bad: float) -> None:
    features = FEATURES.copy()
    features[4, 2] = features[6, 0] = bad
    path = h5(tmp_path / "slide.h5", features=features)
    with pytest.raises(InputError, match=r"slide\.h5: .* in row 4, dimension 2 \(2 of 7 rows"):
        read_bag_file(path)
    assert read_bag_header(path).patches == 7


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = h5(tmp_path / "slide.h5", features=np.array([[1.0], [1e300]]))
    with pytest.raises(InputError, match=r"row 1, dimension 0"):
        read_bag_file(path)


def test_files_that_are_not_hdf5(tmp_path: Path) -> None:
    whole = tmp_path / "whole.h5"
    write_bag_file(whole, np.ones((500, 64), np.float32), layout="clam")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[:2000])
    text = tmp_path / "text.h5"
    text.write_text("hello")
    for path in (cut, text):
        with pytest.raises(InputError, match=rf"{path.name} cannot be read as HDF5 \(.*Extract"):
            read_bag_file(path)
    with pytest.raises(InputError, match=r"no feature file .*absent\.h5"):
        read_bag_file(tmp_path / "absent.h5")


def test_pt_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(torch.from_numpy(FEATURES)[None], path)
    np.testing.assert_array_equal(read_bag_file(path).features, FEATURES)
    torch.save(torch.from_numpy(FEATURES).bfloat16(), path)
    assert read_bag_file(path).features.dtype == np.float32
    assert read_bag_header(path).width == 5
    torch.save({"features": torch.ones(2, 2)}, path)
    with pytest.raises(InputError, match=r"x\.pt holds a dict; expected one tensor"):
        read_bag_file(path)
    torch.save(torch.ones(2, 2, dtype=torch.int32), path)
    with pytest.raises(InputError, match=r"x\.pt holds a tensor of type torch\.int32"):
        read_bag_file(path)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"x\.pt cannot be read"):
        read_bag_file(path)


class _Harmful:
    """Unpickled, it would make a file: what reading a .pt must never do."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


def test_pt_file_runs_no_code(tmp_path: Path) -> None:
    path, target = tmp_path / "x.pt", tmp_path / "made"
    torch.save(_Harmful(str(target)), path)
    with pytest.raises(InputError, match=r"x\.pt cannot be read"):
        read_bag_file(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [FEATURES, {"features": FEATURES}])
def test_numpy_in_a_pt_file_comes_with_the_line_that_converts_it(
    tmp_path: Path, content: Any
) -> None:
    """Before: torch's advice to run code, cut off after 200 characters, with an escape code."""
    path = tmp_path / "slide 1.pt"
    torch.save(content, path)
    with pytest.raises(InputError) as refusal:
        read_bag_file(path)
    text = str(refusal.value)
    assert "it holds a NumPy array, which is pickled and could run code" in text
    assert "\x1b" not in text
    assert "\n" not in text
    if content is FEATURES:
        line = re.search(r'(python -c "[^"]*" \S.*?) \(where', text)
        assert line is not None
        command = [sys.executable, *shlex.split(line.group(1))[1:]]
        subprocess.run(command, check=True)
        np.testing.assert_array_equal(read_bag_file(path).features, FEATURES)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (Path("x"), "it holds a Python object (pathlib.PosixPath) that could run code"),
        (None, "torch.save did not write it, or it is truncated or damaged"),
    ],
)
def test_other_pt_files_are_refused_in_plain_words(tmp_path: Path, content: Any, text: str) -> None:
    path = tmp_path / "x.pt"
    torch.save(content, path) if content else path.write_bytes(b"\x80\x04\x95 no tensor")
    with pytest.raises(InputError) as refusal:
        read_bag_file(path)
    assert text in str(refusal.value)
    assert "torch.load" not in str(refusal.value)


def test_a_locked_file_is_not_called_damaged(tmp_path: Path) -> None:
    path = h5(tmp_path / "x.h5", features=FEATURES)
    holder = "import h5py, sys; h = h5py.File(sys.argv[1], 'a'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(UnreadableFile, match=r"x\.h5 is locked: another process .*Wait"):
            read_bag_file(path)
        with pytest.raises(UnreadableFile, match="is locked"):
            read_bag_header(path)
        process.communicate(b"\n")
    assert len(read_bag_file(path).features) == 7


def test_a_file_whose_writer_was_killed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    writer = "import h5py, os, sys; h = h5py.File(sys.argv[1], 'w', libver='latest'); h.flush()"
    subprocess.run([sys.executable, "-c", f"{writer}; os._exit(0)", path], check=True)
    with pytest.raises(UnreadableFile, match=r"x\.h5 is marked as open to write"):
        read_bag_file(path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_is_read_without_a_lock_where_the_file_system_has_none(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = h5(tmp_path / "x.h5", features=FEATURES)
    opened = h5py.File

    def refuse_locks(*args: Any, locking: bool = True) -> Any:
        if locking:  # as HDF5 says it
            raise OSError(f"Unable to open file (unable to lock file, errno = {code}, error ...)")
        return opened(*args, locking=locking)

    monkeypatch.setattr(h5py, "File", refuse_locks)
    assert np.array_equal(read_bag_file(path).features, FEATURES)
    write_bag_file(tmp_path / "y.h5", FEATURES)
    assert np.array_equal(read_bag_file(tmp_path / "y.h5").features, FEATURES)


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ESTALE, "Stale file handle"), (errno.EIO, "Input/output error")]
)
def test_the_error_number_in_the_words_of_hdf5_is_told_from_damage(
    tmp_path: Path, code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = h5(tmp_path / "x.h5", features=FEATURES)

    def fail(*_: Any) -> None:
        raise OSError(f"Can't read data (file read failed: time = 1, errno = {code}, error ...)")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    with pytest.raises(UnreadableFile, match=rf"x\.h5 cannot be read: {reason}\. Look"):
        read_bag_file(path)


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_a_file_without_permission_is_not_called_damaged(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{suffix}"
    path.touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(
        UnreadableFile, match=rf"x\{suffix} cannot be read: Permission denied\. Look"
    ):
        read_bag_file(path)


def test_coords_are_left_out_where_early_stamp_files_do_not_say(tmp_path: Path) -> None:
    file = read_bag_file(h5(tmp_path / "x.h5", feats=FEATURES, coords=COORDS))
    assert file.coords is None


def test_feature_files_keep_dotted_ids_and_look_into_folders(tmp_path: Path) -> None:
    names = ["TCGA-A1.0B2C-33.h5", "deep/er/b.hdf5", "c.pt", ".hidden.h5", "notes.txt", "d.h5.tmp"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = feature_files(tmp_path)
    assert sorted(found) == ["TCGA-A1.0B2C-33", "b", "c"]
    assert found["b"] == tmp_path / "deep/er/b.hdf5"


def test_feature_files_refuses_two_of_one_stem(tmp_path: Path) -> None:
    for name in ("h5_files/a.h5", "pt_files/a.pt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"'a' has two feature files: .*a\.h5 and .*a\.pt"):
        feature_files(tmp_path)
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        feature_files(tmp_path / "nowhere")

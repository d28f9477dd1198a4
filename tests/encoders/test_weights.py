"""Weights of trained encoders: what is written is read back, and nothing else is taken."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from madeleine_bench.encoders.weights import (
    ModelDescription,
    read_weights,
    write_weights,
)
from madeleine_bench.errors import InputError

torch = pytest.importorskip("torch")

from madeleine_bench.models.madeleine import Madeleine, initialise  # noqa: E402

BREAST = ModelDescription(
    input_dim=7, width=8, heads=2, stains=("H&E", "ER", "PR"), stain_encoding=False,
    cohort="acrobat", epochs=3,
)  # fmt: skip
KIDNEY = ModelDescription(
    input_dim=7, width=8, heads=2, stains=("H&E", "PAS"), stain_encoding=True,
    cohort="bwh-kidney-train",
)  # fmt: skip


def state_of(description, seed=0):
    stains = len(description.stains) if description.stain_encoding else 0
    model = Madeleine(description.input_dim, description.width, description.heads, stains=stains)
    initialise(model, seed)
    return model.state_dict()


BOTH = {"breast": (BREAST, state_of(BREAST)), "kidney": (KIDNEY, state_of(KIDNEY, 1))}


def rewritten(path, *, tensors=None, metadata=None):
    """Write the file again with other tensors or other metadata, past the checks of the writer."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    old = json.loads(content[8 : 8 + size])["__metadata__"]
    arrays = {k: np.array(v) for k, v in load_safetensors(content).items()}
    if tensors is not None:
        tensors(arrays)
    path.write_bytes(save_safetensors(arrays, old if metadata is None else metadata))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "both.safetensors"
    write_weights(path, BOTH)
    return path


def test_models_are_read_back(path):
    found = read_weights(path)
    assert {key: description for key, (description, _) in found.items()} == {
        "breast": BREAST,
        "kidney": KIDNEY,
    }
    for key, (_, state) in found.items():
        assert set(state) == set(BOTH[key][1])
        assert all(torch.equal(state[name], BOTH[key][1][name]) for name in state)


def test_bytes_do_not_depend_on_order_type_or_layout(path, tmp_path):
    again = tmp_path / "again.safetensors"
    backwards = {
        key: (description, dict(reversed([(n, _spread(t).double()) for n, t in state.items()])))
        for key, (description, state) in reversed(BOTH.items())
    }
    write_weights(again, backwards)
    assert again.read_bytes() == path.read_bytes()


def _spread(tensor):
    """The same values, not contiguous, in a larger storage."""
    return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]


def test_names_and_types_are_as_documented(path):
    arrays = load_safetensors(path.read_bytes())
    assert arrays["breast/projector.weight"].shape == (8, 16)
    assert "kidney/embedding.weight" in arrays
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("cut", [0, 5, 60, 2000, -3])
def test_a_cut_file_is_refused(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        InputError, match=r"both\.safetensors: cannot be read as safetensors: it is damaged"
    ):
        read_weights(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.safetensors cannot be read"):
        read_weights(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unread(path, zipped):
    torch.save(BOTH["breast"][1], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"refused: .*mbench encoders import"):
        read_weights(path)


def test_a_header_of_128_bytes_is_no_pickle(tmp_path):
    # Its length begins with the byte that a pickle begins with.
    path = tmp_path / "x.safetensors"
    for filler in range(200):
        content = save_safetensors({"a": np.zeros(1, np.float32)}, {"k": "x" * filler})
        if content[0] == 0x80:
            path.write_bytes(content)
            with pytest.raises(InputError, match="not one of this program"):
                read_weights(path)
            return
    raise AssertionError("no such header was made")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not one of this program"),
        ("{", "Invalid JSON"),
        ('{"format":2,"models":{}}', "key 'format'"),
        ('{"format":1,"models":{}}', "key 'models'"),
        ('{"format":1,"models":{"breast":{"width":8}}}', r"key 'models\.breast\.input_dim'"),
    ],
)
def test_metadata_must_be_whole(path, text, message):
    rewritten(path, metadata={"other": "x"} if text is None else {"mbench": text})
    with pytest.raises(InputError, match=message):
        read_weights(path)


@pytest.mark.parametrize("value", [0, "8", 8.5, True])
def test_a_width_must_be_a_positive_integer(path, value):
    models = {"breast": {"input_dim": 7, "width": value, "heads": 2, "stains": ["H&E"],
                         "stain_encoding": False, "cohort": "acrobat"}}  # fmt: skip
    rewritten(path, metadata={"mbench": json.dumps({"format": 1, "models": models})})
    with pytest.raises(InputError, match=r"models\.breast\.width"):
        read_weights(path)


def put(name, value):
    return lambda arrays: arrays.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("breast/projector.bias"),
            r"model 'breast': .*Missing key.*projector\.bias",
        ),
        (put("breast/extra", np.zeros(2, np.float32)), r"Unexpected key.*\"extra\""),
        (put("lung/x", np.zeros(2, np.float32)), r"'lung/x' belongs to none of \['breast', 'kid"),
        (
            put("breast/projector.bias", np.zeros(9, np.float32)),
            r"size mismatch for projector\.bias: .*\[9\].*\[8\]",
        ),
        (put("breast/projector.bias", np.zeros(8)), "'projector.bias' is torch.float64"),
        (put("breast/projector.bias", np.full(8, np.inf, np.float32)), "NaN or infinity"),
    ],
)
def test_tensors_must_be_those_of_the_model(path, change, message):
    rewritten(path, tensors=change)
    with pytest.raises(InputError, match=message):
        read_weights(path)


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "x.safetensors"
    description, state = BOTH["breast"]
    wrong = {**state, "projector.bias": torch.full((8,), torch.nan)}
    with pytest.raises(InputError, match=r"'projector\.bias' holds NaN"):
        write_weights(path, {"breast": (description, wrong)})
    with pytest.raises(InputError, match=r"size mismatch .*\[128, 16\].*\[128, 18\]"):
        write_weights(path, {"breast": (description.model_copy(update={"width": 9}), state)})
    with pytest.raises(InputError, match="'a/b' cannot name a model"):
        write_weights(path, {"a/b": (description, state)})
    assert list(tmp_path.iterdir()) == []

"""Official weights become an encoder, and no wrong file becomes anything."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.encoders.contract import example_bag
from madeleine_bench.encoders.official import STAINS, import_official
from madeleine_bench.encoders.registry import find_encoder, load_encoder
from madeleine_bench.encoders.weights import read_weights
from madeleine_bench.errors import InputError

torch = pytest.importorskip("torch")

from madeleine_bench.models.madeleine import Madeleine, initialise  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
CONFIG = {
    "patch_embedding_dim": 8,
    "wsi_encoder_hidden_dim": 6,
    "n_heads": 3,
    "wsi_encoder": "abmil",
    "activation": "softmax",
    "add_stain_encoding": False,
    "MODALITIES": ["HE", "HER2", "PGR", "KI67", "ER"],
    "precision": "bfloat16",
    "lr": 0.0001,
}


@pytest.fixture
def official(tmp_path):
    """Make model.pt and model_config.json; return what to import with, and the model."""

    def make(wrap=lambda state: state, **changes):
        config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
        stains = 5 if config.get("add_stain_encoding") is True else 0
        model = Madeleine(8, 6, 3, stains=stains).eval()
        initialise(model, 3)
        torch.save(wrap(model.state_dict()), tmp_path / "model.pt")
        (tmp_path / "model_config.json").write_text(json.dumps(config))
        return model

    make.weights, make.config = tmp_path / "model.pt", tmp_path / "model_config.json"
    make.folder = tmp_path / "out"
    return make


def bring(official, **changes):
    return import_official(official.weights, official.config, official.folder, **changes)


def nothing_written(official):
    return not official.folder.exists()


def with_module(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        with_module,
        lambda state: {"state_dict": with_module(state), "epoch": 119},
        lambda state: {"model": state},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
    ],
)
def test_the_encoder_gives_what_the_model_gives(official, wrap):
    model = official(wrap)
    encoder, bag = load_encoder(find_encoder(str(bring(official)))), example_bag(8, 7)
    with torch.inference_mode():
        expected = model.encode(torch.tensor(bag.features)).numpy()
    np.testing.assert_array_equal(encoder.encode(bag), expected)
    assert encoder.card.patch_encoder == "conch_v1"
    assert encoder.card.training_cohorts == ("acrobat",)
    assert encoder.card.licence == "CC BY-NC-ND 4.0"
    assert (encoder.card.input_dim, encoder.card.dim) == (8, 6)


def test_stain_encodings_keep_their_order(official):
    model = official(add_stain_encoding=True)
    encoder, bag = load_encoder(find_encoder(str(bring(official)))), example_bag(8, 7)
    for index, word in enumerate(CONFIG["MODALITIES"]):
        with torch.inference_mode():
            expected = model.encode(torch.tensor(bag.features), index).numpy()
        got = encoder.encode(replace(bag, stain=STAINS[word]))
        np.testing.assert_array_equal(got, expected)


def test_the_cohort_gives_the_organ(official):
    official(MODALITIES=["HE", "PAS", "JONES", "TRICHROME", "ER"])
    card = bring(official, cohort="bwh-kidney-train", name="kidney")
    ((organ, (description, _)),) = read_weights(card.with_suffix(".safetensors")).items()
    assert organ == "kidney"
    assert description.stains == ("H&E", "PAS", "Jones", "trichrome", "ER")
    assert find_encoder(str(card)).card.training_cohorts == ("bwh-kidney-train",)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"golden layout absent: no folder {GOLDEN}")
@pytest.mark.parametrize("stains", ["with", "without"])
def test_the_published_size_is_taken(official, stains):
    text = (GOLDEN / "state_dict_layout.json").read_text()
    layout = json.loads(text)[f"{stains}_stain_encoding"]
    official(
        lambda _: {f"module.{name}": torch.zeros(shape) for name, shape in layout},
        patch_embedding_dim=512,
        wsi_encoder_hidden_dim=512,
        n_heads=4,
        add_stain_encoding=stains == "with",
    )
    assert find_encoder(str(bring(official))).card.dim == 512


def test_files_are_replaced_only_by_force(official):
    official()
    first = bring(official).read_bytes()
    with pytest.raises(InputError, match=r"madeleine-official\.yaml exists; .*--force"):
        bring(official)
    assert bring(official, force=True).read_bytes() == first
    (official.folder / "madeleine-official.yaml").unlink()
    with pytest.raises(InputError, match=r"madeleine-official\.safetensors exists"):
        bring(official)


class Trap:
    """A pickled object that would make a folder when it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(official, tmp_path, zipped):
    official()
    trap = tmp_path / "trapped"
    torch.save({"a": Trap(trap)}, official.weights, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"model\.pt: refused: it holds more than tensors"):
        bring(official)
    assert not trap.exists()
    assert nothing_written(official)


@pytest.mark.parametrize("cut", [8, 400, -30])
def test_a_cut_file_is_refused(official, cut):
    official()
    official.weights.write_bytes(official.weights.read_bytes()[:cut])
    with pytest.raises(
        InputError, match=r"model\.pt: cannot be read as a torch weights file: it is damaged"
    ):
        bring(official)
    assert nothing_written(official)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"<html>"])
def test_a_file_of_another_kind_is_refused(official, content):
    official()
    official.weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt: cannot be read as a torch weights file"):
        bring(official)


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def changed(name, value):
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("wrap", "changes", "message"),
    [
        (without("projector.bias"), {}, r"Missing key.*projector\.bias"),
        (changed("head.weight", torch.ones(2)), {}, r"Unexpected key.*head\.weight"),
        (
            changed("projector.bias", torch.ones(7)),
            {},
            r"size mismatch for projector\.bias: .*\[7\]",
        ),
        (changed("projector.bias", torch.full((6,), torch.nan)), {}, "holds NaN or infinity"),
        (
            changed("projector.bias", torch.ones(6, dtype=torch.int64)),
            {},
            r"projector\.bias.*floating point",
        ),
        (changed("epoch", 3), {}, "'epoch' is not a tensor but int"),
        (lambda _: [torch.ones(2)], {}, "expected tensors by name, found list"),
        (lambda _: {}, {}, "expected tensors by name"),
        (
            lambda s: s,
            {"wsi_encoder_hidden_dim": 7},
            r"size mismatch .* the shape in current model is",
        ),
        (lambda s: s, {"n_heads": 4}, r"Missing key.*wsi_embedders\.attn\.3\."),
        (
            without("embedding.weight"),
            {"add_stain_encoding": True},
            r"Missing key.*embedding\.weight",
        ),
    ],
)
def test_weights_must_be_those_of_the_config(official, wrap, changes, message):
    official(wrap, **changes)
    with pytest.raises(InputError, match=message):
        bring(official)
    assert nothing_written(official)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": None}, "missing key 'n_heads'"),
        ({"n_heads": None, "n_head": 3}, "missing key 'n_heads'"),
        ({"n_heads": "4"}, r":\d+: 'n_heads': .*integer"),
        ({"patch_embedding_dim": 0}, r":\d+: 'patch_embedding_dim': .*greater than 0"),
        ({"wsi_encoder": "transmil"}, r":\d+: 'wsi_encoder': .*'abmil'"),
        ({"activation": "relu"}, r":\d+: 'activation': .*'softmax'"),
        (
            {"MODALITIES": ["HE", "CD3"]},
            "'MODALITIES' is .*'CD3'.*; expected HE first.* of HE, HER2",
        ),
        ({"MODALITIES": ["ER", "HE"]}, "expected HE first"),
        ({"MODALITIES": ["HE", "ER", "ER"]}, "each name once"),
        ({"MODALITIES": []}, r":\d+: 'MODALITIES'"),
    ],
)
def test_the_config_must_describe_the_published_model(official, changes, message):
    official(**changes)
    with pytest.raises(InputError, match=message):
        bring(official)
    assert nothing_written(official)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid YAML"), ("[1]", "found list")])
def test_the_config_must_be_a_json_object(official, text, message):
    official()
    official.config.write_text(text)
    with pytest.raises(InputError, match=rf"model_config\.json.*{message}"):
        bring(official)


def test_absent_files_and_wrong_words_are_named(official):
    official()
    with pytest.raises(InputError, match="'My Model' cannot name an encoder"):
        bring(official, name="My Model")
    with pytest.raises(InputError, match=r"no cohort is called 'acrobatt'; did you mean 'acrobat'"):
        bring(official, cohort="acrobatt")
    official.config.unlink()
    with pytest.raises(InputError, match=r"cannot read .*model_config\.json"):
        bring(official)
    official()
    official.weights.unlink()
    with pytest.raises(InputError, match=r"model\.pt: there is no such weights file"):
        bring(official)
    assert nothing_written(official)


def test_from_the_command_line_to_a_score(official, bcnb, mbench, tmp_path):
    official(with_module)
    arguments = ("encoders", "import", "madeleine-official", "--weights", official.weights,
                 "--config", official.config, "--out", tmp_path / "out")  # fmt: skip
    said = mbench(*arguments)
    assert said.code == 0, said.err
    card = tmp_path / "out" / "madeleine-official.yaml"
    assert mbench("encoders", "check", card).code == 0
    said = mbench(
        "run", "--encoder", card, "--task", "bcnb-er", "--config", bcnb.config,
        "--results", tmp_path / "results", "--jobs", "1", "--protocol", "linear-probe/v2",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "madeleine-official" in said.out
    again = mbench(*arguments)
    assert again.code == 2
    assert "--force" in again.err

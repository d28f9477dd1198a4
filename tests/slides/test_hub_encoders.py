"""Patch encoders whose packages and weights do not ship: the whole path, against stand-ins.

timm and conch are replaced by modules that note what they are asked and give a small network with
outputs of the shape the real model has. What is tested is ours: arguments, pooling, weights, and
what the user is told when something is missing.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.patch_encoders import (
    find_patch_encoder,
    load_patch_encoder,
    patch_fingerprint,
    shipped_patch_encoders,
)
from madeleine_bench.slides.patch_encoders.hub import pool
from madeleine_bench.slides.patch_encoders.torch_encoder import fit_state

TIMM_CARDS = [n for n, e in shipped_patch_encoders().items() if "timm>=1.0" in e.card.requires]
HUB_CARDS = [*TIMM_CARDS, "conch-v1"]
TOKENS = {"virchow": 257, "virchow2": 261}
PATCHES = rng_for("tests", "hub").integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)


class SwiGLUPacked:
    """Stands for the layer of timm."""


class Model(nn.Module):
    """Mean colour through a matrix, in the shape that a card's model returns."""

    def __init__(self, width, tokens=None, as_map=False):
        super().__init__()
        self.proj = nn.Linear(3, width)
        self.tokens, self.as_map, self.seen = tokens, as_map, []

    def forward(self, pixels):
        self.seen.append(pixels)
        out = self.proj(pixels.mean((2, 3)))
        if self.as_map:
            return [out[:, :, None, None] * torch.ones(2, 2)]
        if self.tokens:
            place = torch.arange(float(self.tokens))[None, :, None]
            return out[:, None] + place
        return out


class HubError(Exception):
    def __init__(self, message, status=None):
        super().__init__(message)
        self.response = SimpleNamespace(status_code=status)


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm; `asked` holds (name, arguments), `fails` an error to raise."""
    module = ModuleType("timm")
    module.layers = SimpleNamespace(SwiGLUPacked=SwiGLUPacked)
    module.asked, module.made, module.fails = [], [], None
    module.card = None

    def create_model(name, pretrained=False, **arguments):
        module.asked.append((name, pretrained, arguments))
        if module.fails is not None and pretrained:
            raise module.fails
        torch.manual_seed(0)
        card = module.card
        tokens = TOKENS.get(card.name)
        width = card.dim // 2 if tokens else card.dim
        model = Model(width, tokens, card.parameters["pooling"] == "map")
        module.made.append(model)
        return model

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def load(timm, name, **options):
    entry = find_patch_encoder(name)
    timm.card = entry.card
    return load_patch_encoder(entry, device="cpu", **options)


@pytest.mark.parametrize("name", TIMM_CARDS)
def test_without_a_file_the_hub_is_asked_with_the_cards_arguments(timm, name):
    encoder = load(timm, name)
    ((asked, pretrained, arguments),) = timm.asked
    assert (asked, pretrained) == (encoder.card.weights.hub, True)
    named = {
        "SwiGLUPacked": SwiGLUPacked,
        "SiLU": nn.SiLU,
    }
    expected = {
        key: named[value] if key.endswith("_layer") else value
        for key, value in encoder.card.parameters["arguments"].items()
    }
    assert arguments == expected
    assert encoder.encode(PATCHES).shape == (5, encoder.card.dim)


@pytest.mark.parametrize("name", TIMM_CARDS)
@pytest.mark.parametrize("kind", ["safetensors", "bin", "pth", "wrapped"])
def test_with_a_file_the_architecture_is_filled_and_no_hub_is_asked(timm, name, kind, tmp_path):
    plain = load(timm, name)
    state = {key: value + 0.5 for key, value in timm.made[0].state_dict().items()}
    if name == "resnet50":
        state |= {"layer4.0.weight": torch.ones(2), "fc.bias": torch.ones(2)}
    path = tmp_path / f"model.{'pt' if kind == 'wrapped' else kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "wrapped":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    encoder = load(timm, name, weights=path)
    asked, pretrained, arguments = timm.asked[-1]
    assert (asked, pretrained) == (encoder.card.parameters["architecture"], False)
    assert arguments == timm.asked[0][2]
    for key, value in timm.made[-1].state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert not np.allclose(encoder.encode(PATCHES), plain.encode(PATCHES))


@pytest.mark.parametrize("name", TIMM_CARDS)
def test_pixels_reach_the_model_resized_and_normalised(timm, name):
    encoder = load(timm, name)
    grey = np.full((1, 40, 40, 3), (200, 100, 50), dtype=np.uint8)
    encoder.encode(grey)
    (seen,) = timm.made[0].seen
    card = encoder.card
    expected = (np.array([200, 100, 50]) / 255 - card.mean) / card.std
    assert seen.shape[1:] == (3, card.input_px, card.input_px)
    np.testing.assert_allclose(seen[0, :, 5, 9].numpy(), expected, atol=1e-5)
    assert not timm.made[0].training


def test_class_token_and_mean_leave_registers_out():
    tokens = torch.arange(2 * 9 * 3.0).reshape(2, 9, 3)
    got = pool(tokens, "token-and-mean", 5)
    assert got.shape == (2, 6)
    torch.testing.assert_close(got[1], torch.cat([tokens[1, 0], tokens[1, 5:].mean(0)]))


@pytest.mark.parametrize(("name", "first_patch_token"), [("virchow", 1), ("virchow2", 5)])
def test_virchow_pools_the_right_tokens(timm, name, first_patch_token):
    """Token i of the stand-in is the class token plus i."""
    features = load(timm, name).encode(PATCHES)
    count = TOKENS[name]
    assert count - first_patch_token == 256
    mean_place = np.arange(first_patch_token, count).mean()
    np.testing.assert_allclose(features[:, 1280:] - features[:, :1280], mean_place, rtol=1e-5)


def test_an_unknown_pooling_or_layer_is_named(timm, tmp_path):
    text = find_patch_encoder("virchow2").path.read_text()
    for old, new, message in (
        ("pooling: token-and-mean", "pooling: tokens", "no pooling 'tokens'; did you mean 'token'"),
        ("SwiGLUPacked", "os.system", "no mlp_layer 'os.system'; valid: SwiGLUPacked"),
    ):
        path = tmp_path / "card.yaml"
        path.write_text(text.replace(old, new))
        entry = find_patch_encoder(str(path))
        timm.card = entry.card
        with pytest.raises(InputError, match=message):
            load_patch_encoder(entry, device="cpu").encode(PATCHES)


def state_of(timm, name):
    load(timm, name)
    return timm.made[-1].state_dict()


class TestOwnWeights:
    def refused(self, timm, path, message):
        with pytest.raises(InputError, match=message):
            load(timm, "uni", weights=path)

    def test_a_missing_tensor_is_named(self, timm, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file({"backbone.weight": torch.ones(2)}, path)
        self.refused(timm, path, "Missing key.*proj.weight.*backbone.weight")

    def test_a_misshapen_tensor_is_named(self, timm, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file(state_of(timm, "uni") | {"proj.weight": torch.ones(7, 3)}, path)
        self.refused(timm, path, r"mismatch for proj.weight.*\[7, 3\].*\[1024, 3\]")

    def test_an_unknown_tensor_is_named(self, timm, tmp_path):
        path = tmp_path / "w.pth"
        torch.save({**state_of(timm, "uni"), "head.weight": torch.ones(2)}, path)
        self.refused(timm, path, "are these weights of another model.*head.weight")

    def test_counters_of_batch_norms_may_be_missing(self, tmp_path):
        model = nn.BatchNorm2d(3)
        old = {name: value + 1 for name, value in model.state_dict().items()}
        del old["num_batches_tracked"]
        fit_state(model, old, tmp_path)
        torch.testing.assert_close(model.running_mean, torch.ones(3))
        del old["running_mean"]
        with pytest.raises(InputError, match=r"Missing key.*running_mean"):
            fit_state(model, old, tmp_path)

    def test_a_pickle_is_refused_and_not_run(self, timm, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "owned"), "w"))

        path = tmp_path / "w.bin"
        torch.save({"proj.weight": Evil()}, path)
        self.refused(timm, path, "refused: it holds more than tensors")
        assert not (tmp_path / "owned").exists()

    def test_what_is_no_weights_file_is_refused(self, timm, tmp_path):
        for name, content, message in (
            ("w.h5", b"", "expected a weights file .safetensors, .bin, .pth, .pt"),
            ("w.safetensors", b"abc", "cannot be read as safetensors"),
            ("w.bin", b"", "cannot be read as a torch weights file"),
        ):
            (tmp_path / name).write_bytes(content)
            self.refused(timm, tmp_path / name, message)
        torch.save({"epoch": 3}, tmp_path / "w.pt")
        self.refused(timm, tmp_path / "w.pt", "'epoch' is not a tensor but int")
        torch.save(torch.ones(2), tmp_path / "w.pth")
        self.refused(timm, tmp_path / "w.pth", "expected tensors by name, found Tensor")
        self.refused(timm, tmp_path / "absent.bin", "there is no such file")

    def test_the_fingerprint_follows_the_file(self, tmp_path):
        entry = find_patch_encoder("uni")
        prints = {patch_fingerprint(entry)}
        for number in range(2):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(bytes([number]))
            prints.add(patch_fingerprint(entry, path))
        assert len(prints) == 3


@pytest.mark.parametrize("name", TIMM_CARDS)
@pytest.mark.parametrize(
    "failure",
    [HubError("401 Client Error", 401), ConnectionError("no route"), RuntimeError("size mismatch")],
)
def test_every_failure_of_the_hub_says_what_and_what_to_do(timm, name, failure):
    timm.fails = failure
    with pytest.raises(InputError, match=str(failure)) as caught:
        load(timm, name)
    message = str(caught.value)
    card = find_patch_encoder(name).card
    assert card.name in message
    assert card.weights.url in message
    assert f"--patch-encoder {name} --weights FILE" in message
    assert ("are gated: ask for access" in message) == card.weights.gated


@pytest.mark.parametrize("name", HUB_CARDS)
def test_a_package_that_is_absent_is_named_with_the_command(monkeypatch, name):
    for package in ("timm", "conch", "conch.open_clip_custom"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPackage(), *sys.meta_path])
    with pytest.raises(InputError, match=r"No module named.*; pip install '") as caught:
        load_patch_encoder(find_patch_encoder(name), device="cpu")
    assert find_patch_encoder(name).card.requires[0] in str(caught.value)


class NoPackage:
    """Hides timm and conch, should they be installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("timm", "conch"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'torchvision'", name="torchvision"),
            "What it needs itself",
        ),
        (RuntimeError("operator torchvision::nms does not exist"), "fit the version"),
    ],
)
def test_a_package_that_cannot_be_imported_says_why(monkeypatch, error, message):
    class Broken(NoPackage):
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise error

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match=f"(?s)timm cannot be imported.*{message}") as caught:
        load_patch_encoder(find_patch_encoder("uni"), device="cpu")
    assert str(error) in str(caught.value)


class Visual(Model):
    """The image tower of the stand-in for CONCH."""


class ConchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Visual(512)
        self.text = nn.Linear(2, 2)
        self.options = []

    def encode_image(self, pixels, normalize=True, proj_contrast=True):
        self.options.append((normalize, proj_contrast))
        return self.visual(pixels)


@pytest.fixture
def conch(monkeypatch):
    """A stand-in for CONCH's package, which passes over what does not fit, as the real one."""
    module = ModuleType("conch.open_clip_custom")
    module.asked, module.made, module.fails = [], [], None

    def create_model_from_pretrained(config, checkpoint_path=None, device="cpu"):
        module.asked.append((config, checkpoint_path, device))
        if module.fails is not None:
            raise module.fails
        torch.manual_seed(0)
        model = ConchModel()
        if not checkpoint_path.startswith("hf_hub:"):
            kept = torch.load(checkpoint_path, weights_only=True)
            model.load_state_dict(
                {k: v for k, v in kept.items() if k in model.state_dict()}, strict=False
            )
        module.made.append(model)
        return model, lambda image: image

    module.create_model_from_pretrained = create_model_from_pretrained
    monkeypatch.setitem(sys.modules, "conch", ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", module)
    return module


def load_conch(weights=None):
    return load_patch_encoder(find_patch_encoder("conch-v1"), device="cpu", weights=weights)


class TestConch:
    def test_the_hub_is_asked_as_its_package_spells_it(self, conch):
        encoder = load_conch()
        assert conch.asked == [("conch_ViT-B-16", "hf_hub:MahmoodLab/CONCH", "cpu")]
        assert encoder.encode(PATCHES).shape == (5, 512)

    def test_features_are_before_the_projection_and_not_normalised(self, conch):
        load_conch().encode(PATCHES)
        (model,) = conch.made
        assert set(model.options) == {(False, False)}
        assert model.visual.seen[0].shape[1:] == (3, 448, 448)
        assert not model.training

    @pytest.mark.parametrize("suffix", ["bin", "safetensors"])
    def test_own_weights_fill_the_image_tower(self, conch, suffix, tmp_path):
        load_conch()
        state = {key: value + 1 for key, value in conch.made[0].state_dict().items()}
        path = tmp_path / f"w.{suffix}"
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        load_conch(path)
        torch.testing.assert_close(
            conch.made[-1].visual.proj.weight, state["visual.proj.weight"], rtol=0, atol=0
        )

    def test_what_its_package_would_pass_over_is_named(self, conch, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file({"visual.proj.weight": torch.ones(512, 3)}, path)
        with pytest.raises(InputError, match=r"Missing key.*proj\.bias"):
            load_conch(path)
        save_file({"blocks.0.weight": torch.ones(2)}, path)
        with pytest.raises(InputError, match=r"Missing key.*proj\.weight"):
            load_conch(path)

    def test_failures_say_what_and_what_to_do(self, conch, tmp_path):
        conch.fails = HubError("401 Client Error", 401)
        with pytest.raises(InputError, match=r"(?s)conch-v1: .*401.*gated: ask for access"):
            load_conch()
        path = tmp_path / "w.safetensors"
        save_file({"visual.x": torch.ones(2)}, path)
        conch.fails = KeyError("visual.trunk.pos_embed")
        with pytest.raises(InputError, match=r"raised KeyError: .*pos_embed"):
            load_conch(path)

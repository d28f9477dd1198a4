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

TIMM_CARDS = [
    n for n, e in shipped_patch_encoders().items() if e.card.implementation.endswith(":TimmEncoder")
]
TRANSFORMERS_CARDS = ["conch-v15", "hibou-b", "hibou-l", "phikon-v2"]
HUB_CARDS = [*TIMM_CARDS, *TRANSFORMERS_CARDS, "conch-v1", "ctranspath", "musk"]
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
    for package in ("timm", "conch", "conch.open_clip_custom", "musk", "transformers"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPackage(), *sys.meta_path])
    with pytest.raises(InputError, match=r"No module named.*; pip install '") as caught:
        load_patch_encoder(find_patch_encoder(name), device="cpu")
    assert find_patch_encoder(name).card.requires[0] in str(caught.value)


class NoPackage:
    """Hides the packages of the cards, should they be installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("timm", "conch", "musk", "transformers"):
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


def test_gigapath_takes_the_centre_of_what_was_resized(timm):
    encoder = load(timm, "gigapath")
    patch = np.full((1, 256, 256, 3), 200, dtype=np.uint8)
    patch[:, 16:240, 16:240] = 100
    encoder.encode(patch)
    (seen,) = timm.made[0].seen
    expected = (100 / 255 - np.array(encoder.card.mean)) / encoder.card.std
    assert seen.shape == (4, 3, 224, 224)
    np.testing.assert_allclose(seen[0].mean((1, 2)).numpy(), expected, atol=1e-5)
    encoder.encode(patch.repeat(2, axis=1).repeat(2, axis=2))  # resized to 256 first
    assert float(timm.made[0].seen[1].std()) < 1.5


class Vit(nn.Module):
    """A model of transformers: tokens of one width, and TITAN's way to hand over CONCH."""

    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(3, width)
        self.seen = []

    def forward(self, pixel_values):
        self.seen.append(pixel_values)
        pooled = self.proj(pixel_values.mean((2, 3)))
        return SimpleNamespace(
            last_hidden_state=torch.stack([pooled, pooled + 7], 1), pooler_output=pooled + 3
        )

    def return_conch(self):
        steps = [SimpleNamespace(size=448), SimpleNamespace(mean=self.mean, std=self.std)]
        return self.proj_of_mean(), SimpleNamespace(transforms=steps)

    def proj_of_mean(self):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.proj)


@pytest.fixture
def transformers(monkeypatch):
    """A stand-in for transformers; `asked` holds what AutoModel was asked for."""
    module = ModuleType("transformers")
    module.asked, module.made, module.fails = [], [], None
    module.mean, module.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def from_pretrained(place, trust_remote_code=False):
        module.asked.append((place, trust_remote_code))
        if module.fails is not None:
            raise module.fails
        torch.manual_seed(0)
        model = Vit(module.width)
        model.mean, model.std = module.mean, module.std
        module.made.append(model)
        return model

    module.AutoModel = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


def load_vit(transformers, name, **options):
    entry = find_patch_encoder(name)
    transformers.width = entry.card.dim
    return load_patch_encoder(entry, device="cpu", **options)


@pytest.mark.parametrize("name", TRANSFORMERS_CARDS)
def test_transformers_is_asked_for_the_model_of_the_card(transformers, name, tmp_path):
    encoder = load_vit(transformers, name)
    remote = name != "phikon-v2"  # a class of transformers itself; the others bring their code
    assert transformers.asked == [(encoder.card.weights.hub.removeprefix("hf-hub:"), remote)]
    features = encoder.encode(PATCHES)
    assert features.shape == (5, encoder.card.dim)
    path = tmp_path / "download" / "model.safetensors"
    path.parent.mkdir()
    save_file({"proj.weight": torch.ones(2)}, path)
    load_vit(transformers, name, weights=path)
    assert transformers.asked[1] == (str(path.parent), remote)


def test_hibou_pools_and_phikon_takes_the_class_token(transformers):
    grey = np.full((1, 224, 224, 3), 128, dtype=np.uint8)
    for name, offset in (("phikon-v2", 0), ("hibou-l", 3)):
        encoder = load_vit(transformers, name)
        got = encoder.encode(grey)
        model = transformers.made[-1]
        expected = model.proj(model.seen[0].mean((2, 3)))[:1] + offset
        np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-5)


def test_conch_v15_with_another_normalisation_is_refused(transformers):
    transformers.mean = (0.5, 0.5, 0.5)
    with pytest.raises(
        InputError, match=r"conch-v15: TITAN normalises with mean \(0.5, 0.5, 0.5\)"
    ):
        load_vit(transformers, "conch-v15")


@pytest.mark.parametrize("name", TRANSFORMERS_CARDS)
def test_a_refusal_of_transformers_says_what_to_do(transformers, name):
    transformers.fails = HubError("401 Client Error", 401)
    with pytest.raises(InputError, match=r"(?s)401 Client Error.*--weights FILE") as caught:
        load_vit(transformers, name)
    gated = find_patch_encoder(name).card.weights.gated
    assert ("are gated: ask for access" in str(caught.value)) == gated


class TestCTransPath:
    @pytest.fixture
    def swin(self, monkeypatch):
        """timm's part that CTransPath uses, with a model of one stem."""
        module, swin = ModuleType("timm"), ModuleType("timm.models.swin_transformer")
        module.asked, module.made = [], []

        class Swin(nn.Module):
            def __init__(self, embed_layer):
                super().__init__()
                self.patch_embed = embed_layer(
                    img_size=224, patch_size=4, in_chans=3, embed_dim=96, norm_layer=nn.LayerNorm
                )
                self.wide = nn.Linear(96, 768)

            def forward(self, pixels):
                return self.wide(self.patch_embed(pixels).mean((1, 2)))

        def create_model(name, pretrained=False, embed_layer=None, num_classes=None):
            module.asked.append((name, pretrained, num_classes))
            module.made.append(Swin(embed_layer))
            return module.made[-1]

        module.create_model = create_model
        swin.checkpoint_filter_fn = lambda state, model: {
            name.replace("old.", ""): value for name, value in state.items()
        }
        monkeypatch.setitem(sys.modules, "timm", module)
        monkeypatch.setitem(sys.modules, "timm.models", ModuleType("timm.models"))
        monkeypatch.setitem(sys.modules, "timm.models.swin_transformer", swin)
        return module

    def test_the_stem_and_the_hub(self, swin):
        encoder = load_patch_encoder(find_patch_encoder("ctranspath"), device="cpu")
        assert swin.asked == [("hf-hub:1aurent/swin_tiny_patch4_window7_224.CTransPath", True, 0)]
        assert encoder.encode(PATCHES).shape == (5, 768)
        stem = swin.made[0].patch_embed
        assert stem(torch.zeros(1, 3, 224, 224)).shape == (1, 56, 56, 96)
        widths = [layer.out_channels for layer in stem.proj if isinstance(layer, nn.Conv2d)]
        assert widths == [12, 24, 96]

    def test_the_authors_file_is_renamed_and_filled(self, swin, tmp_path):
        entry = find_patch_encoder("ctranspath")
        load_patch_encoder(entry, device="cpu")
        state = {f"old.{key}": value for key, value in swin.made[0].state_dict().items()}
        path = tmp_path / "ctranspath.pth"
        torch.save({"model": state}, path)
        load_patch_encoder(entry, device="cpu", weights=path)
        assert swin.asked[-1] == ("swin_tiny_patch4_window7_224", False, 0)
        torch.testing.assert_close(swin.made[-1].wide.weight, swin.made[0].wide.weight)
        torch.save({"model": {"old.wide.weight": torch.ones(768, 96)}}, path)
        with pytest.raises(InputError, match="Missing key"):
            load_patch_encoder(entry, device="cpu", weights=path)


class TestMusk:
    @pytest.fixture
    def musk(self, monkeypatch):
        """MUSK's package and the timm model that it registers."""
        utils, timm = ModuleType("musk.utils"), ModuleType("timm")
        utils.asked, utils.calls = [], []

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.proj = nn.Linear(3, 1024)

            def forward(self, image, **options):
                utils.calls.append((image.shape, options))
                return self.proj(image.mean((2, 3))), None

        def fill(place, model, key, prefix):
            utils.asked.append((place, key, prefix))

        utils.load_model_and_may_interpolate = fill
        timm.create_model = lambda name: Model()
        monkeypatch.setitem(sys.modules, "timm", timm)
        monkeypatch.setitem(sys.modules, "musk", ModuleType("musk"))
        monkeypatch.setitem(sys.modules, "musk.utils", utils)
        monkeypatch.setitem(sys.modules, "musk.modeling", ModuleType("musk.modeling"))
        return utils

    def test_the_image_embedding_before_the_head(self, musk, tmp_path):
        entry = find_patch_encoder("musk")
        encoder = load_patch_encoder(entry, device="cpu")
        assert musk.asked == [("hf_hub:xiangjx/musk", "model|module", "")]
        assert encoder.encode(PATCHES).shape == (5, 1024)
        shape, options = musk.calls[0]
        assert shape[1:] == (3, 384, 384)
        assert options == {
            "with_head": False, "out_norm": False, "ms_aug": False, "return_global": True
        }  # fmt: skip
        path = tmp_path / "musk.safetensors"
        save_file(encoder.model.state_dict(), path)
        load_patch_encoder(entry, device="cpu", weights=path)
        assert len(musk.asked) == 1
        save_file({"other": torch.ones(2)}, path)
        with pytest.raises(InputError, match="Missing key"):
            load_patch_encoder(entry, device="cpu", weights=path)

"""Cards of patch encoders: every shipped one, and what a broken one is told."""

import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders import (
    find_patch_encoder,
    shipped_patch_encoders,
)

SHIPPED = shipped_patch_encoders()
EMBEDDED = {name for name, entry in SHIPPED.items() if not entry.card.needs}
# Widths and inputs as their authors state them, written down apart from the cards.
PUBLISHED = {
    "conch-v15": (768, 448, "bilinear", "hf-hub:MahmoodLab/TITAN", True),
    "conch-v1": (512, 448, "bicubic", "hf-hub:MahmoodLab/CONCH", True),
    "efficientnet-lite0": (1280, 224, "bicubic", None, False),
    "h-optimus-0": (1536, 224, "bilinear", "hf-hub:bioptimus/H-optimus-0", True),
    "h-optimus-1": (1536, 224, "bilinear", "hf-hub:bioptimus/H-optimus-1", True),
    "resnet50": (1024, 224, "bilinear", "hf-hub:timm/resnet50.tv_in1k", False),
    "stain-texture": (84, None, "bilinear", None, False),
    "uni": (1024, 224, "bilinear", "hf-hub:MahmoodLab/UNI", True),
    "uni2-h": (1536, 224, "bilinear", "hf-hub:MahmoodLab/UNI2-h", True),
    "virchow": (2560, 224, "bicubic", "hf-hub:paige-ai/Virchow", True),
    "ctranspath": (
        768, 224, "bilinear", "hf-hub:1aurent/swin_tiny_patch4_window7_224.CTransPath", False
    ),
    "gigapath": (1536, 224, "bicubic", "hf-hub:prov-gigapath/prov-gigapath", True),
    "hibou-b": (768, 224, "bicubic", "hf-hub:histai/hibou-b", False),
    "hibou-l": (1024, 224, "bicubic", "hf-hub:histai/hibou-L", True),
    "mstar": (1024, 224, "bilinear", "hf-hub:Wangyh/mSTAR", True),
    "musk": (1024, 384, "bicubic", "hf-hub:xiangjx/musk", True),
    "phikon-v2": (1024, 224, "bilinear", "hf-hub:owkin/phikon-v2", False),
    "virchow2": (2560, 224, "bicubic", "hf-hub:paige-ai/Virchow2", True),
} | {
    f"kaiko-vit{size[0]}{patch}": (
        dim, 224, "bilinear",
        f"hf-hub:1aurent/vit_{size}_patch{patch}_224.kaiko_ai_towards_large_pathology_fms", False,
    )
    for size, dim in (("small", 384), ("base", 768))
    for patch in (8, 16)
}  # fmt: skip

CARD = """
name: stranger
revision: "1"
title: A stranger's
implementation: encoder.py:Mine
dim: 3
training_data: none
licence: MIT
description: For the tests.
"""


def write_card(folder, extra="", text=CARD):
    path = folder / "card.yaml"
    path.write_text(text + extra)
    return str(path)


def test_the_shipped_ones_are_those_we_mean():
    assert set(SHIPPED) == set(PUBLISHED)
    assert {"efficientnet-lite0", "stain-texture"} == EMBEDDED
    assert "efficientnet-lite0" in EMBEDDED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_card_says_what_its_authors_say(name):
    entry = SHIPPED[name]
    card, weights = entry.card, entry.card.weights
    hub = None if weights is None else weights.hub
    gated = weights is not None and weights.gated
    assert (card.dim, card.input_px, card.interpolation, hub, gated) == PUBLISHED[name]
    assert entry.path.stem == name
    assert (card.mean is None) == (card.input_px is None)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_card_says_what_must_be_obtained(name):
    card = SHIPPED[name].card
    if name in EMBEDDED:
        assert card.requires == ()
        return
    assert card.requires
    assert card.weights is not None
    assert card.weights.url == f"https://huggingface.co/{card.weights.hub.split(':')[1]}"
    assert ("gated" in card.needs) == card.weights.gated


@pytest.mark.parametrize("name", [n for n, e in SHIPPED.items() if "pooling" in e.card.parameters])
def test_every_timm_card_pools_to_its_width(name):
    """The width of each architecture by its name, and what pooling makes of it."""
    parameters = SHIPPED[name].card.parameters
    arguments = parameters["arguments"]
    width = arguments.get("embed_dim") or {
        "vit_large_patch16_224": 1024,
        "vit_huge_patch14_224": 1280,
        "vit_giant_patch14_reg4_dinov2": 1536,
        "resnet50": 1024,  # of its third block
        "vit_small_patch16_224": 384,
        "vit_small_patch8_224": 384,
        "vit_base_patch16_224": 768,
        "vit_base_patch8_224": 768,
    }.get(parameters["architecture"])
    pooled = 2 * width if parameters["pooling"] == "token-and-mean" else width
    assert pooled == SHIPPED[name].card.dim
    registers = arguments.get("reg_tokens", 0)
    if parameters["pooling"] == "token-and-mean":
        assert parameters["prefix_tokens"] == 1 + registers
    assert isinstance(arguments.get("init_values", 0.0), float)


def test_names_are_found_or_the_closest_is_named(tmp_path):
    assert find_patch_encoder("uni").card.name == "uni"
    assert find_patch_encoder(write_card(tmp_path)).card.name == "stranger"
    with pytest.raises(InputError, match="did you mean 'virchow2'"):
        find_patch_encoder("virchow-2")
    with pytest.raises(InputError, match=r"cannot read .*absent.yaml"):
        find_patch_encoder(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("colour: red\n", "unknown key 'colour'"),
        ("mean: [0.5, 0.5, 0.5]\n", "'mean' and 'std' go together"),
        ("mean: [127, 127, 127]\nstd: [1, 1, 1]\n", r"yaml:10: 'mean.0'"),
        ("weights: {path: w.pth}\n", "needs 'path' and 'sha256'"),
        ("weights: {path: w.pth, sha256: abc}\n", "weights.sha256"),
        ("weights: {hub: 'hf-hub:a/b'}\n", "needs 'hub' and 'url'"),
        ("weights: {hub: 'a/b', url: 'https://x.org'}\n", "weights.hub"),
        (
            f"weights: {{hub: 'hf-hub:a/b', url: 'https://x.org', sha256: {'ab' * 32}}}\n",
            "no 'path', 'package' or 'sha256'",
        ),
        ("weights: {gatd: true}\n", "did you mean 'gated'"),
        ("input_px: 0\n", "input_px"),
        ("interpolation: nearest\n", "interpolation"),
    ],
)
def test_a_broken_card_is_told_what_is_wrong(tmp_path, extra, message):
    with pytest.raises(InputError, match=message):
        find_patch_encoder(write_card(tmp_path, extra))


def test_a_shipped_card_is_called_as_its_file(tmp_path, monkeypatch):
    from madeleine_bench.specs import implementation

    (tmp_path / "other.yaml").write_text(CARD)
    monkeypatch.setattr(implementation, "resource_folder", lambda name: tmp_path)
    with pytest.raises(InputError, match=r"other.yaml: the card is of 'stranger'"):
        shipped_patch_encoders()


def test_a_card_must_say_its_width(tmp_path):
    with pytest.raises(InputError, match="missing key 'dim'"):
        find_patch_encoder(write_card(tmp_path, text=CARD.replace("dim: 3\n", "")))

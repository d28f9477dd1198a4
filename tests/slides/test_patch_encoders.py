"""Patch encoders that ship whole, and third-party ones: contract, arithmetic, messages."""

import sys

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from scipy import stats
from skimage.color import rgb2hed

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_file
from madeleine_bench.seeds import rng_for
from madeleine_bench.slides.patch_encoders import (
    find_patch_encoder,
    load_patch_encoder,
    patch_fingerprint,
    shipped_patch_encoders,
)
from madeleine_bench.slides.patch_encoders import statistics as stain_texture
from madeleine_bench.slides.patch_encoders.efficientnet import fold
from madeleine_bench.slides.patch_encoders.torch_encoder import read_state

SHIPPED = shipped_patch_encoders()
EMBEDDED = [name for name, entry in SHIPPED.items() if not entry.card.needs]

CARD = """
name: mean-colour
revision: "1"
title: Mean colour
implementation: encoder.py:MeanColour
parameters: {scale: 255}
dim: 3
training_data: none
licence: MIT
description: For the tests.
"""
CODE = """
from madeleine_bench.slides.patch_encoders import BasePatchEncoder

class MeanColour(BasePatchEncoder):
    def __init__(self, card, weights=None, *, scale):
        super().__init__(card, weights)
        self.scale = scale

    def embed(self, patches):
        return patches.mean(axis=(1, 2)) / self.scale
"""


def made_up(count, px):
    """Patches of blotches, each of another colour and grain."""
    rng = rng_for("tests", "patches", count, px)
    coarse = rng.integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    images = [Image.fromarray(c).resize((px, px), Image.Resampling.BICUBIC) for c in coarse]
    grain = rng.integers(-20, 21, (count, px, px, 3))
    return np.clip(np.stack([np.asarray(i) for i in images]) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for a busy core cost more than they give to patches this few."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoders():
    return {name: load_patch_encoder(SHIPPED[name], device="cpu") for name in EMBEDDED}


@pytest.mark.parametrize("name", EMBEDDED)
class TestContract:
    def test_features_are_finite_vectors_of_the_cards_width(self, encoders, name):
        encoder = encoders[name]
        features = encoder.encode(made_up(5, 96))
        assert features.shape == (5, encoder.card.dim)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()
        assert encoder.encode(made_up(5, 96)[:0]).shape == (0, encoder.card.dim)

    def test_the_same_patch_gives_the_same_bits(self, encoders, name):
        patches = made_up(3, 96)
        first = encoders[name].encode(patches)
        np.testing.assert_array_equal(first, encoders[name].encode(patches))
        again = load_patch_encoder(SHIPPED[name], device="cpu")
        np.testing.assert_array_equal(first, again.encode(patches))

    def test_a_feature_depends_on_no_other_patch(self, encoders, name):
        patches = made_up(7, 96)
        together = encoders[name].encode(patches)
        largest = np.abs(together).max()
        order = rng_for("tests", "order").permutation(7)
        apart = np.concatenate([encoders[name].encode(patches[i : i + 1]) for i in range(7)])
        shuffled = encoders[name].encode(patches[order])
        assert np.abs(apart - together).max() <= 1e-5 * largest
        assert np.abs(shuffled - together[order]).max() <= 1e-5 * largest

    def test_different_patches_differ(self, encoders, name):
        features = encoders[name].encode(made_up(5, 96))
        gaps = np.abs(features[:, None] - features[None]).max(axis=-1)
        assert gaps[~np.eye(5, dtype=bool)].min() > 0.01

    def test_flat_and_extreme_patches_are_finite(self, encoders, name):
        flat = np.stack([np.full((64, 64, 3), v, dtype=np.uint8) for v in (0, 128, 255)])
        assert np.isfinite(encoders[name].encode(flat)).all()

    def test_patches_are_read_only_and_left_as_they_were(self, encoders, name):
        patches = made_up(2, 64)
        patches.flags.writeable = False
        before = patches.copy()
        encoders[name].encode(patches)
        np.testing.assert_array_equal(patches, before)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (np.zeros((2, 64, 64, 3), dtype=np.float32), "are float32.*as uint8"),
            (np.zeros((64, 64, 3), dtype=np.uint8), r"\(64, 64, 3\); expected batch x px"),
            (np.zeros((2, 64, 32, 3), dtype=np.uint8), "expected batch x px x px x 3"),
            (np.zeros((2, 3, 64, 64), dtype=np.uint8), "expected batch x px x px x 3"),
            (np.zeros((2, 64, 64, 4), dtype=np.uint8), "expected batch x px x px x 3"),
        ],
    )
    def test_what_is_no_patch_is_refused(self, encoders, name, wrong, message):
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            encoders[name].encode(wrong)

    def test_the_fingerprint_is_stable(self, encoders, name):
        assert patch_fingerprint(SHIPPED[name]) == patch_fingerprint(find_patch_encoder(name))


@pytest.fixture(scope="module")
def plain():
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(read_state(SHIPPED["efficientnet-lite0"].weights_path))
    return model.eval()


def test_folding_changes_nothing_but_rounding(plain):
    folded = EfficientNet.from_name("efficientnet-lite0")
    folded.load_state_dict(plain.state_dict())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain.extract_features(pixels)
        got = fold(folded.eval()).extract_features(pixels)
    assert got.shape == expected.shape == (2, 1280, 7, 7)
    assert float((got - expected).abs().max()) < 1e-4


def test_efficientnet_is_pillow_then_127_over_128_then_the_plain_model(plain, encoders):
    patches = made_up(3, 256)
    resized = np.stack([
        np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) for p in patches
    ])  # fmt: skip
    pixels = torch.from_numpy((resized.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = plain.extract_features(pixels).mean((2, 3)).numpy()
    got = encoders["efficientnet-lite0"].encode(patches)
    # Pillow rounds a few pixels the other way.
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
    native = made_up(2, 224)
    pixels = torch.from_numpy((native.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = plain.extract_features(pixels).mean((2, 3)).numpy()
    np.testing.assert_allclose(
        encoders["efficientnet-lite0"].encode(native), expected, atol=1e-4, rtol=0
    )


def test_bfloat16_is_near_float32_and_comes_back_as_float32(encoders):
    patches = made_up(4, 64)
    exact = encoders["efficientnet-lite0"].encode(patches)
    half = load_patch_encoder(SHIPPED["efficientnet-lite0"], "cpu", "bf16").encode(patches)
    assert half.dtype == np.float32
    gap = np.abs(half - exact).max() / np.abs(exact).max()
    assert 1e-6 < gap < 0.1


def test_devices_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    entry = SHIPPED["efficientnet-lite0"]
    with pytest.raises(InputError, match="sees no NVIDIA GPU"):
        load_patch_encoder(entry, device="cuda")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        load_patch_encoder(entry, precision="fp16")


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(encoders):
    patches = made_up(40, 256)
    exact = encoders["efficientnet-lite0"].encode(patches)
    for precision, bound in (("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 1e-1)):
        got = load_patch_encoder(SHIPPED["efficientnet-lite0"], "cuda", precision).encode(patches)
        assert np.abs(got - exact).max() < bound * np.abs(exact).max(), precision


class TestStainTexture:
    def described(self, patch):
        return dict(zip(stain_texture.NAMES, stain_texture.describe(patch), strict=True))

    def test_every_dimension_has_a_name_of_its_own(self):
        assert len(set(stain_texture.NAMES)) == len(stain_texture.NAMES)
        assert len(stain_texture.NAMES) == SHIPPED["stain-texture"].card.dim

    def test_stains_are_those_of_scikit_image(self):
        patch = made_up(1, 64)[0]
        _, stains = stain_texture.unmix(patch)
        # Its unit is the logarithm to base 1e-6 of a colour floored there, ours to base 10.
        expected = rgb2hed(np.maximum(patch, 1)) * 6
        np.testing.assert_allclose(np.stack(stains, axis=-1), expected, atol=1e-5)

    def test_moments_and_correlations_equal_their_definitions(self):
        patch = made_up(1, 64)[0]
        got, red = self.described(patch), patch[..., 0].ravel() / 255
        assert got["red mean"] == pytest.approx(red.mean(), abs=1e-6)
        assert got["red deviation"] == pytest.approx(red.std(), abs=1e-6)
        third = stats.moment(red, 3)
        assert got["red asymmetry"] == pytest.approx(np.cbrt(third), abs=1e-4)
        half = patch.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)).reshape(-1, 3)
        assert got["red-blue"] == pytest.approx(np.corrcoef(half[:, 0], half[:, 2])[0, 1], abs=1e-4)

    def test_contrasts_add_up_to_the_variance(self):
        """Over all octaves of a 32-px patch what is lost is all there was."""
        patch = made_up(1, 32)[0]
        got = self.described(patch)
        lost = sum(got[f"eosin below {side} px"] ** 2 for side in (2, 4, 8, 16, 32))
        assert lost == pytest.approx(got["eosin deviation"] ** 2, rel=1e-3)

    def test_blobs_are_counted_and_sized(self):
        patch = np.full((64, 64, 3), 240, dtype=np.uint8)
        for row, column in ((8, 8), (8, 40), (40, 24)):
            patch[row : row + 8, column : column + 8] = (90, 60, 150)  # 4 x 4 on 2 x 2 means
        got = self.described(patch)
        assert got["blobs per 10,000 px"] == pytest.approx(3 / 32**2 * 1e4)
        assert got["blob area mean (log px)"] == pytest.approx(np.log(16))
        assert got["haematoxylin share"] == pytest.approx(3 * 16 / 32**2)
        assert got["share of blobs in all nuclear"] == 1

    def test_brown_is_dab_and_white_is_glass(self):
        brown = self.described(np.full((64, 64, 3), (120, 70, 30), dtype=np.uint8))
        white = self.described(np.full((64, 64, 3), 250, dtype=np.uint8))
        assert (brown["dab"], brown["glass"]) == (1, 0)
        assert (white["dab"], white["glass"]) == (0, 1)

    def test_textures_do_not_turn_with_the_patch(self):
        patch = made_up(1, 64)[0]
        turned = stain_texture.describe(np.ascontiguousarray(np.rot90(patch)))
        np.testing.assert_allclose(turned, stain_texture.describe(patch), atol=1e-4)

    def test_binary_patterns_are_a_histogram(self):
        got = self.described(made_up(1, 64)[0])
        patterns = [v for name, v in got.items() if "in a row" in name or name == "no one row"]
        assert len(patterns) == 10
        assert sum(patterns) == pytest.approx(1)

    def test_patches_under_the_coarsest_scale_are_refused(self, encoders):
        with pytest.raises(InputError, match="expected at least 32"):
            encoders["stain-texture"].encode(made_up(1, 16))


def write_stranger(folder, code=CODE, card=CARD):
    (folder / "encoder.py").write_text(code)
    path = folder / "card.yaml"
    path.write_text(card)
    return find_patch_encoder(str(path))


class TestStranger:
    def test_it_is_found_made_and_run(self, tmp_path):
        encoder = load_patch_encoder(write_stranger(tmp_path))
        patches = made_up(3, 17)
        np.testing.assert_allclose(encoder.encode(patches), patches.mean((1, 2)) / 255, rtol=1e-6)

    def test_a_class_of_its_own_needs_no_base(self, tmp_path):
        code = """
class MeanColour:
    def __init__(self, card, weights, scale):
        self.card = card
    def encode(self, patches):
        return patches.mean(axis=(1, 2))
"""
        assert load_patch_encoder(write_stranger(tmp_path, code)).encode(made_up(2, 8)).shape == (
            2,
            3,
        )

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                "patches.mean(axis=(1, 2))",
                "patches.mean(axis=(1, 2, 3))",
                r"shape \(2,\); expected",
            ),
            ("/ self.scale", "* float('nan')", "2 of 2 patches hold NaN.*bf16 or fp32"),
        ],
    )
    def test_features_that_are_none_are_refused(self, tmp_path, old, new, message):
        encoder = load_patch_encoder(write_stranger(tmp_path, CODE.replace(old, new)))
        with pytest.raises(InputError, match=f"mean-colour: .*{message}"):
            encoder.encode(made_up(2, 8))

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("class Other: ...", r"card.yaml:5: encoder.py has no class MeanColour"),
            ("class MeanColour:\n    def __init__(self, *a, **k): ...", "is no PatchEncoder"),
            ("raise RuntimeError('boom')", "RuntimeError: boom"),
            (CODE.replace("*, scale", "*, skale"), "unexpected keyword argument 'scale'"),
        ],
    )
    def test_broken_code_is_named(self, tmp_path, code, message):
        with pytest.raises(InputError, match=message):
            load_patch_encoder(write_stranger(tmp_path, code))

    def test_the_fingerprint_follows_what_is_scored(self, tmp_path):
        before = patch_fingerprint(write_stranger(tmp_path))
        assert patch_fingerprint(write_stranger(tmp_path)) == before
        described = CARD.replace("For the tests.", "Said better.")
        assert patch_fingerprint(write_stranger(tmp_path, card=described)) == before
        scaled = patch_fingerprint(write_stranger(tmp_path, card=CARD.replace("255", "1")))
        commented = patch_fingerprint(write_stranger(tmp_path, code=CODE + "# a comment\n"))
        assert commented == before, "before: a comment changed it"
        recoded = patch_fingerprint(write_stranger(tmp_path, code=CODE + "x = 1\n"))
        assert len({before, scaled, recoded}) == 3

    def test_weights_beside_the_card_are_checked(self, tmp_path):
        weights = tmp_path / "w.safetensors"
        weights.write_bytes(b"abc")
        card = CARD + f"weights: {{path: w.safetensors, sha256: {hash_file(weights)}}}\n"
        entry = write_stranger(tmp_path, card=card)
        assert load_patch_encoder(entry).weights == weights
        other = tmp_path / "own.safetensors"
        other.write_bytes(b"abd")
        with pytest.raises(InputError, match=r"own.safetensors has sha256 .* the card says"):
            load_patch_encoder(entry, weights=other)
        weights.unlink()
        with pytest.raises(InputError, match=r"card.yaml:11: .*does not exist"):
            patch_fingerprint(entry)

    def test_weights_for_what_has_none_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="mean-colour has no weights; leave it out"):
            load_patch_encoder(write_stranger(tmp_path), weights=tmp_path / "w.bin")

    def test_a_package_of_weights_that_is_absent_is_named(self, tmp_path):
        card = CARD + f"weights: {{package: no_such_one, path: w.pth, sha256: {'ab' * 32}}}\n"
        with pytest.raises(InputError, match=r"card.yaml:11: .*pip install no-such-one"):
            load_patch_encoder(write_stranger(tmp_path, card=card))


def test_finding_cards_needs_no_torch():
    """`mbench features encoders` and `--help` must not wait for torch."""
    import subprocess

    code = (
        "import sys; from madeleine_bench.slides import patch_encoders as p;"
        "p.shipped_patch_encoders(); p.patch_fingerprint(p.find_patch_encoder('stain-texture'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# (revision, first six features, mean) of `a_fixed_patch`. When these move, the card needs a new
# revision: features on disk are known by it.
PINNED = {
    "efficientnet-lite0": ("1", [0.0, 0.0, 0.04508, 0.22049, 0.0, 0.04666], 0.168126),
    "stain-texture": ("1", [0.5, 0.28979, 0.00072, 0.407, 0.28893, 0.20659], 0.406739),
}


def a_fixed_patch():
    y, x = np.mgrid[:256, :256]
    return np.stack([(x * 3 + y) % 256, x * y // 64 % 256, 255 - x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(PINNED))
def test_features_of_a_revision_stay_as_they_are(name):
    revision, first, mean = PINNED[name]
    assert SHIPPED[name].card.revision == revision
    features = load_patch_encoder(SHIPPED[name]).encode(a_fixed_patch()[None])[0]
    assert features[:6] == pytest.approx(first, abs=2e-4)
    assert features.mean() == pytest.approx(mean, abs=2e-5)


def test_every_embedded_encoder_is_pinned():
    embedded = {n for n, e in SHIPPED.items() if e.card.weights is None or e.weights_path}
    assert embedded == set(PINNED)

"""Patch encoders that timm builds: UNI, Virchow, H-optimus, GigaPath, CTransPath, MUSK, ..."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders.torch_encoder import (
    TorchPatchEncoder,
    fit_state,
    read_state,
)
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.loader import did_you_mean


def import_package(card: PatchEncoderCard, name: str) -> ModuleType:
    """Return a package that a card requires.

    Raises:
        InputError: it is not installed, or it is and cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package built for another torch raises almost anything
        pip = " ".join(f"'{requirement}'" for requirement in card.requires)
        raise InputError(
            f"{card.name}: {name} cannot be imported ({type(error).__name__}: {error}); "
            f"pip install {pip}. What it needs itself must be there and fit the version of torch"
        ) from error


def from_hub(card: PatchEncoderCard, create: Callable[[str], Any]) -> Any:
    """Return the model that `create` makes from the hub that a card names.

    Raises:
        InputError: the card names no hub, or the hub did not give weights that fit the model.
    """
    weights = card.weights
    if weights is None or weights.hub is None:
        raise InputError(f"{card.name}: its card names neither a weights file nor a hub")
    try:
        return create(weights.hub)
    except Exception as error:  # the hub, the network and the package each raise their own
        gate = f"they are gated: ask for access at {weights.url} and log in (hf auth login)"
        reason = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"{card.name}: the model could not be made from {weights.hub}\n"
            f"{type(error).__name__}: {reason}\n"
            f"If the weights were refused, {gate if weights.gated else f'see {weights.url}'}. "
            f"Without a network, download them there and give the file: mbench features extract "
            f"--patch-encoder {card.name} --weights FILE ... "
            f"If they do not fit, see the versions of {', '.join(card.requires)}"
        ) from error


Pooling = Literal["token", "token-and-mean", "map"]


class TimmEncoder(TorchPatchEncoder):
    """A timm model with weights from the hub, or from the user's own file.

    `pooling` says what the model returns and what becomes of it:

    - `token`: batch x dim, the class token; taken as it is.
    - `token-and-mean`: batch x token x width; the class token beside the mean over the patch
      tokens, 2 x width. The first `prefix_tokens` are the class token and the registers, which
      belong to no place in the patch and are left out of the mean.
    - `map`: one feature map, batch x dim x rows x columns; its mean.

    With a file, the card's `architecture` is built and filled, which needs no network. Without
    one, timm asks the hub; the arguments are passed either way, so the model is the same.
    """

    def __init__(
        self,
        card: PatchEncoderCard,
        weights: Path | None = None,
        *,
        architecture: str,
        arguments: Mapping[str, Any],
        pooling: Pooling = "token",
        prefix_tokens: int = 1,
        ignored_weights: Sequence[str] = (),
        resized_px: int | None = None,
    ) -> None:
        super().__init__(card, weights)
        self.resized_px = resized_px
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        timm = import_package(card, "timm")
        named = _with_layers(timm, arguments)
        if weights is None:
            self.model = from_hub(card, partial(timm.create_model, pretrained=True, **named))
        else:
            state = read_state(weights)
            self.model = timm.create_model(architecture, pretrained=False, **named)
            fit_state(self.model, state, weights, tuple(ignored_weights))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x dim."""
        return pool(self.model(pixels), self.pooling, self.prefix_tokens)


class CTransPath(TorchPatchEncoder):
    """Swin-T whose patches are embedded by three convolutions; the mean over its tokens, 768-d.

    References:
        Wang et al., Medical Image Analysis 2022; github.com/Xiyue-Wang/TransPath, ctran.py.
    """

    def __init__(self, card: PatchEncoderCard, weights: Path | None = None) -> None:
        super().__init__(card, weights)
        timm = import_package(card, "timm")
        create = partial(timm.create_model, embed_layer=ConvStem, num_classes=0)
        if weights is None:
            self.model = from_hub(card, partial(create, pretrained=True))
        else:
            self.model = create("swin_tiny_patch4_window7_224", pretrained=False)
            swin = importlib.import_module("timm.models.swin_transformer")
            # The authors' file has the names of timm 0.5, and tensors that timm now computes.
            state = swin.checkpoint_filter_fn(read_state(weights), self.model)
            fit_state(self.model, state, weights, ("head.",))


class ConvStem(nn.Module):
    """Three convolutions in place of the embedding of 4 x 4 pixels; colours last, as timm's Swin.

    The arguments are those that timm passes.
    """

    def __init__(
        self, *, embed_dim: int, norm_layer: Callable[[int], nn.Module] | None = None, **_: Any
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, out in ((3, embed_dim // 8), (embed_dim // 8, embed_dim // 4)):
            convolution = nn.Conv2d(wide, out, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)
        self.grid_size = (56, 56)  # of 224 pixels, the one size the weights are for

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the tokens of normalised pixels, batch x row x column x embed_dim."""
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class Musk(TorchPatchEncoder):
    """The image encoder of MUSK before its projection, one scale, not normalised; 1024-d.

    References:
        Xiang et al., Nature 2025; github.com/lilab-stanford/MUSK, README.
    """

    def __init__(self, card: PatchEncoderCard, weights: Path | None = None) -> None:
        super().__init__(card, weights)
        package = import_package(card, "musk.utils")
        import_package(card, "musk.modeling")  # makes timm know the model
        self.model = import_package(card, "timm").create_model("musk_large_patch16_384")
        if weights is not None:
            fit_state(self.model, read_state(weights), weights)
            return
        fill = package.load_model_and_may_interpolate
        # Its package spells the place in its own way.
        from_hub(card, lambda hub: fill(hub.replace("hf-", "hf_"), self.model, "model|module", ""))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x 1024."""
        outputs = self.model(
            image=pixels, with_head=False, out_norm=False, ms_aug=False, return_global=True
        )
        features: Tensor = outputs[0]
        return features


def pool(output: Any, pooling: Pooling, prefix_tokens: int) -> Tensor:
    """Return batch x dim from what a model gave; see TimmEncoder.

    Raises:
        InputError: there is no such pooling.
    """
    match pooling:
        case "token":
            return output  # type: ignore[no-any-return]
        case "token-and-mean":
            return torch.cat([output[:, 0], output[:, prefix_tokens:].mean(1)], dim=-1)
        case "map":
            return output[0].mean((2, 3))  # type: ignore[no-any-return]
    hint = did_you_mean(pooling, list(get_args(Pooling)))
    raise InputError(f"there is no pooling '{pooling}'{hint}")


def _with_layers(timm: ModuleType, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the names of layers replaced by the layers.

    A table, as a card must not be able to name any code it likes.
    """
    named = dict(arguments)
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU, "GELU": nn.GELU}
    for key in ("mlp_layer", "act_layer"):
        if key in named and named[key] not in layers:
            hint = did_you_mean(str(named[key]), list(layers))
            raise InputError(f"there is no {key} '{named[key]}'{hint}")
        if key in named:
            named[key] = layers[named[key]]
    return named

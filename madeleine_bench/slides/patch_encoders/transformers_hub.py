"""Patch encoders that transformers builds: Phikon-v2, Hibou, CONCH v1.5, and any like them."""

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from madeleine_bench.errors import InputError
from madeleine_bench.slides.patch_encoders.hub import from_hub, import_package
from madeleine_bench.slides.patch_encoders.torch_encoder import TorchPatchEncoder, read_state
from madeleine_bench.specs.card import PatchEncoderCard


class TransformersEncoder(TorchPatchEncoder):
    """A model of transformers with weights from the hub, or from a folder that was downloaded.

    A model needs its config.json, so the user's own weights file is one in the folder of the
    whole download; it is checked to hold tensors alone.
    """

    def __init__(
        self,
        card: PatchEncoderCard,
        weights: Path | None = None,
        *,
        output: Literal["class_token", "pooler_output"] = "class_token",
        remote_code: bool = False,
    ) -> None:
        """Load the model.

        Args:
            card: of the encoder.
            weights: the user's own weights file beside its config.json.
            output: "class_token" is the first token of the last layer; "pooler_output" is what the
                authors' own pooling makes of the tokens.
            remote_code: run the code that the authors keep beside the weights.

        Raises:
            InputError: the package or the weights are absent or unfit.
        """
        super().__init__(card, weights)
        self.output = output
        package = import_package(card, "transformers")
        if weights is not None:
            read_state(weights)
        self.model = from_hub(
            card,
            lambda hub: package.AutoModel.from_pretrained(
                hub.removeprefix("hf-hub:") if weights is None else str(weights.parent),
                trust_remote_code=remote_code,
            ),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x dim."""
        output = self.model(pixel_values=pixels)
        features: Tensor = (
            output.last_hidden_state[:, 0] if self.output == "class_token" else output.pooler_output
        )
        return features


class ConchV15(TransformersEncoder):
    """CONCH v1.5, which its authors give out as a part of TITAN; 768-d.

    TITAN hands over a transform as well; the normalisation of the card is checked against it.

    References:
        github.com/mahmoodlab/TITAN, README: `return_conch`.
    """

    def __init__(self, card: PatchEncoderCard, weights: Path | None = None) -> None:
        super().__init__(card, weights, remote_code=True)
        titan: Any = self.model
        self.model, transform = titan.return_conch()
        for step in getattr(transform, "transforms", ()):
            stated = [tuple(map(float, getattr(step, name, ()))) for name in ("mean", "std")]
            if any(stated) and stated != [card.mean, card.std]:
                raise InputError(
                    f"{card.name}: TITAN normalises with mean {stated[0]} and deviation "
                    f"{stated[1]}; the card says {card.mean} and {card.std}. Give a card with them"
                )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels, batch x 768."""
        features: Tensor = self.model(pixels)
        return features

"""The one interface a patch encoder has, built in or a stranger's."""

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.specs.card import PatchEncoderCard

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


@runtime_checkable
class PatchEncoder(Protocol):
    """Turns patches into features.

    Attributes:
        card: what the encoder declares of itself.
    """

    card: PatchEncoderCard

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the feature of each patch, batch x dim, finite.

        `patches` is batch x px x px x 3, RGB. A feature must not depend on the other patches.
        """
        ...


class BasePatchEncoder:
    """What a patch encoder class inherits: the constructor, the checks, and where it runs.

    A subclass takes `card`, `weights` (path of the checked weights file, or None) and the card's
    `parameters` as keywords, and implements `embed`. The registry then calls `place` once; a class
    that runs on the CPU alone need not know of it.

    Examples:
        my_encoder/encoder.py, beside a card.yaml that says `implementation: encoder.py:MeanColour`
        and `dim: 3`:

            from madeleine_bench.slides.patch_encoders import BasePatchEncoder

            class MeanColour(BasePatchEncoder):
                def embed(self, patches):
                    return patches.mean(axis=(1, 2)) / 255

        `TorchPatchEncoder` (torch_encoder.py) is the base of an encoder that is an nn.Module: it
        resizes and normalises as the card says, batches, and runs on the GPU.
    """

    def __init__(self, card: PatchEncoderCard, weights: Path | None = None) -> None:
        self.card = card
        self.weights = weights

    def place(self, device: Device, precision: Precision) -> None:
        """Move to a device and set the precision; here there is nothing to move."""

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Return the features of one or more patches, batch x dim."""
        raise NotImplementedError(f"{type(self).__name__} must implement embed(patches)")

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the feature of each patch, batch x dim; an empty batch gives (0, dim).

        Raises:
            InputError: the patches are not uint8 RGB squares, or a feature is not a finite vector
                of the width the card says.
        """
        self._check_patches(patches)
        if not len(patches):
            return np.empty((0, self.card.dim), dtype=np.float32)
        features = np.asarray(self.embed(patches), dtype=np.float32)
        self._check_features(features, len(patches))
        return features

    def _check_patches(self, patches: NDArray[np.uint8]) -> None:
        dtype, shape = np.asarray(patches).dtype, np.shape(patches)
        if dtype != np.uint8:
            raise InputError(
                f"{self.card.name}: patches are {dtype}; expected uint8 (0-255, not normalised)"
            )
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or not shape[1]:
            raise InputError(
                f"{self.card.name}: patches have shape {shape}; expected batch x px x px x 3, RGB"
            )

    def _check_features(self, features: NDArray[np.float32], count: int) -> None:
        name = self.card.name
        if features.shape != (count, self.card.dim):
            raise InputError(
                f"{name}: {count} patches gave features of shape {features.shape}; expected "
                f"({count}, {self.card.dim}), as its card says"
            )
        if bad := int(np.sum(~np.isfinite(features).all(axis=1))):
            raise InputError(
                f"{name}: the features of {bad} of {count} patches hold NaN or infinity; on a GPU "
                "try --precision bf16 or fp32"
            )

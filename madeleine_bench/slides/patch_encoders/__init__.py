"""Patch encoders: from the pixels of a patch to its feature, found by card like slide encoders."""

from pathlib import Path
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_code, hash_file, hash_json
from madeleine_bench.specs.card import PatchEncoderCard
from madeleine_bench.specs.implementation import Entry, Registry, check_weights_file, code_file

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
        name, dim = self.card.name, self.card.dim
        dtype, shape = np.asarray(patches).dtype, np.shape(patches)
        square = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] > 0
        if dtype != np.uint8 or not square:
            raise InputError(
                f"{name}: patches are {dtype} of shape {shape}; expected batch x px x px x 3, RGB, "
                "as uint8 (0-255, not normalised)"
            )
        if not len(patches):
            return np.empty((0, dim), dtype=np.float32)
        features = np.asarray(self.embed(patches), dtype=np.float32)
        if features.shape != (len(patches), dim):
            raise InputError(
                f"{name}: {len(patches)} patches gave features of shape {features.shape}; expected "
                f"({len(patches)}, {dim}), as its card says"
            )
        if bad := int(np.sum(~np.isfinite(features).all(axis=1))):
            raise InputError(
                f"{name}: the features of {bad} of {len(patches)} patches hold NaN or infinity; on "
                "a GPU try --precision bf16 or fp32"
            )
        return features


_HERE = Path(__file__).resolve().parent
# What a feature depends on; titles, descriptions and licences may be corrected without a new one.
_SCORED = {
    "name", "revision", "implementation", "parameters", "weights", "input_px", "interpolation",
    "dim", "mean", "std",
}  # fmt: skip


PatchEncoderEntry = Entry[PatchEncoderCard]
_REGISTRY = Registry(
    PatchEncoderCard,
    "patch encoder",
    PatchEncoder,
    "mbench features encoders",
    ("encoders/patch",),
    "madeleine_bench.patch_encoders",
)


def shipped_patch_encoders() -> dict[str, PatchEncoderEntry]:
    """Return the patch encoders whose cards ship with the package, by name, sorted.

    Raises:
        InputError: a card is broken, or is not called as its file is.
    """
    return _REGISTRY.shipped("encoders/patch")


find_patch_encoder = _REGISTRY.find


def load_patch_encoder(
    entry: PatchEncoderEntry,
    device: Device = "auto",
    precision: Precision = "auto",
    weights: Path | None = None,
) -> PatchEncoder:
    """Return the patch encoder, made from its card and placed. This runs the code the card names.

    Args:
        entry: what was found.
        device: "auto" takes the GPU where there is one.
        precision: "auto" is fp32 on a CPU and fp16 on a GPU.
        weights: the user's own copy of weights that do not ship.

    Raises:
        InputError: the code or the weights are absent or unfit, or there is no such device.
    """
    encoder = cast(PatchEncoder, _REGISTRY.make(entry, _checked_weights(entry, weights)))
    if isinstance(encoder, BasePatchEncoder):
        encoder.place(device, precision)
    return encoder


def patch_fingerprint(entry: PatchEncoderEntry, weights: Path | None = None) -> str:
    """Return the hash of the card, the weights and third-party code: what a feature depends on.

    Our own code is known by the card's revision, which a test ties to the features: features
    cost days of a GPU, and must not all count as stale for a change that moves none of them.
    Weights that a hub would give are known by name alone, so a hub that changes them in place goes
    unseen; `weights` makes the hash of the file part of it. Device and precision are left out: they
    move the last digits, not the meaning.

    Raises:
        InputError: the weights are absent or are not those of the card; the code is not found.
    """
    path = _checked_weights(entry, weights)
    source = code_file(entry.path, entry.card.implementation)
    return hash_json(
        {
            "card": entry.card.model_dump(mode="json", include=_SCORED),
            "weights": None if path is None else hash_file(path),
            "code": None if source.is_relative_to(_HERE) else hash_code([source]),
        }
    )


def _checked_weights(entry: PatchEncoderEntry, given: Path | None) -> Path | None:
    """Return the weights file to use, checked against the card; None to ask the hub, or for none.

    Raises:
        InputError: it is absent, has another hash, or there is nothing it could be the weights of.
    """
    declared = entry.card.weights
    if given is not None and declared is None:
        raise InputError(f"--weights {given}: {entry.card.name} has no weights; leave it out")
    path = given if given is not None else entry.weights_path
    if path is None or declared is None:
        return None
    if declared.sha256 is not None:
        check_weights_file(entry.path, path, declared.sha256)
    elif not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    return path

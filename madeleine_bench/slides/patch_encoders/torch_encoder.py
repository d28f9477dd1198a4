"""What every patch encoder that is a network does: batches, resizing, precision, device."""

import textwrap
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable
from madeleine_bench.slides.patch_encoders import BasePatchEncoder, Device, Precision
from madeleine_bench.specs.card import PatchEncoderCard

# A CPU spends its time on memory, not on arithmetic, once activations outgrow its caches: four
# at a time take 18 ms a patch, 32 take 34 (EfficientNet-Lite0 from 256 px, one thread).
_MICRO_BATCH = {"cpu": 4, "cuda": 32}
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class TorchPatchEncoder(BasePatchEncoder):
    """A patch encoder that is an nn.Module; a subclass sets `self.model` in its constructor.

    Patches go through in micro-batches of one size, the last one filled up with copies. So the
    shapes the arithmetic sees never change, and a feature does not depend on the batch its patch
    comes in: equal bits in all we measured on a CPU (one and two threads), 1e-5 relative for sure.
    """

    model: nn.Module

    def __init__(self, card: PatchEncoderCard, weights: Path | None = None) -> None:
        super().__init__(card, weights)
        self.device = torch.device("cpu")
        self.half: torch.dtype | None = None
        self.mean, self.std = (
            torch.tensor(values or (fill,) * 3).mul(255).reshape(1, 3, 1, 1)
            for values, fill in ((card.mean, 0.0), (card.std, 1.0))
        )

    def place(self, device: Device, precision: Precision) -> None:
        """Move the model to a device, in evaluation mode, and set the precision.

        Raises:
            InputError: there is no GPU, or fp16 is asked of a CPU.
        """
        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise InputError(
                "--device cuda: torch sees no NVIDIA GPU; leave it out, or install torch for CUDA"
            )
        self.device = torch.device("cuda" if gpu and device != "cpu" else "cpu")
        self.half = _autocast_type(self.device, precision)
        self.mean, self.std = self.mean.to(self.device), self.std.to(self.device)
        # Patches are stored with colours last, so convolutions that read them so save a copy.
        self.model.eval().requires_grad_(False)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised pixels (batch x 3 x px x px), batch x dim."""
        features: Tensor = self.model(pixels)
        return features

    def embed(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of one or more patches, batch x dim, float32 at any precision."""
        size = _MICRO_BATCH[self.device.type]
        parts = [patches[start : start + size] for start in range(0, len(patches), size)]
        return np.concatenate([self._embed_some(part) for part in parts])

    @torch.inference_mode()
    def _embed_some(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        size = _MICRO_BATCH[self.device.type]
        filled = patches[np.minimum(np.arange(size), len(patches) - 1)]
        pixels = torch.from_numpy(filled).to(self.device).permute(0, 3, 1, 2)
        autocast = (
            nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)
        )
        with autocast:
            features = self.forward(self._normalise(pixels))
        return features[: len(patches)].float().cpu().numpy()

    def _normalise(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels resized and normalised as the card says, float32."""
        side = self.card.input_px
        if side is not None and pixels.shape[-1] != side:
            # On a CPU torch resizes whole numbers itself, as Pillow does and ten times faster.
            pixels = pixels if pixels.device.type == "cpu" else pixels.float()
            pixels = F.interpolate(
                pixels, (side, side), mode=self.card.interpolation, antialias=True
            )
            pixels = pixels.float().round_().clamp_(0, 255)
        return (pixels.float() - self.mean) / self.std


def _autocast_type(device: torch.device, precision: Precision) -> torch.dtype | None:
    """Return the half type to compute in; None for float32.

    Raises:
        InputError: fp16 is asked of a CPU.
    """
    if precision == "auto":
        # fp16, not bf16: inference has no gradients to overflow, and 11 bits of mantissa against 8
        # keep features within 1e-3 of float32. A model that does overflow is caught by encode.
        precision = "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU; on a CPU use fp32 (or bf16)")
    return _HALF.get(precision)


_PICKLES = (b"PK\x03\x04", b"\x80\x02")  # torch.save since 1.6, and before
_TORCH_FILES = (".bin", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, on the CPU.

    A state dict may lie under `state_dict`, `model_state_dict` or `model`, and its names may begin
    with `module.`; both are undone.

    Raises:
        InputError: the file is absent, is of another kind, or holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    if path.suffix not in (".safetensors", *_TORCH_FILES):
        raise InputError(f"{path}: expected a weights file .safetensors, {', '.join(_TORCH_FILES)}")
    content, _ = read_content(path, plain=path.suffix == ".safetensors")
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: expected tensors by name, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: '{name}' is not a tensor but {type(value).__name__}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def read_content(path: Path, *, plain: bool) -> tuple[Any, Mapping[str, str]]:
    """Return what a weights file holds, on the CPU, and its metadata.

    Args:
        path: the file.
        plain: whether it is to be a safetensors file, and not one of torch.save.

    Raises:
        InputError: the file is absent, damaged, or could run code when it is read.
    """
    try:
        if plain:
            with safe_open(path, framework="pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in sorted(handle.keys())}
                return tensors, handle.metadata() or {}
        # Only with weights_only: a pickle may run any code, and weights come from third parties.
        with warnings.catch_warnings(action="ignore"):  # what torch advises leads to running code
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # a damaged file raises almost anything
        check_readable(path, error)
        with path.open("rb") as handle:
            pickled = handle.read(4).startswith(_PICKLES)
        if pickled and (plain or type(error).__name__ == "UnpicklingError"):
            raise InputError(
                f"{path}: refused: it holds more than tensors, and reading it could run code; "
                "save the state dict alone, or as .safetensors (official weights of Madeleine: "
                "mbench encoders import madeleine-official)"
            ) from error
        raise InputError(
            f"{path}: cannot be read as {'safetensors' if plain else 'a torch weights file'}: it "
            "is damaged or of another format; copy or download it again"
        ) from error


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, ignored: tuple[str, ...] = ()
) -> None:
    """Put tensors into a model; every one of the model's must be there and of its shape.

    Args:
        model: the model, changed in place.
        state: tensors by name; counters of batch norms may be missing, as in old files.
        path: where they were read, for the message.
        ignored: beginnings of names the model may lack, such as those of a classifier.

    Raises:
        InputError: a tensor is missing, misshapen or unknown; the first ones are named.
    """
    kept = {name: value for name, value in state.items() if not name.startswith(ignored)}
    try:
        model.load_state_dict(kept)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 500)
        raise InputError(f"{path}: are these weights of another model? {reason}") from error

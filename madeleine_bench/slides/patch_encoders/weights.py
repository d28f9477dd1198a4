"""Weights files of networks: read as tensors alone, and fitted to a model without a silent gap."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable

_TORCH_FILES = (".bin", ".pth", ".pt")
_COUNTER = "num_batches_tracked"  # of batch norms in training; files before torch 0.4.1 lack it
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
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: expected tensors by name, found {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: '{name}' is no tensor but {type(value).__name__}")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, ignored: tuple[str, ...] = ()
) -> None:
    """Put tensors into a model; every one of the model's must be there and of its shape.

    Args:
        model: the model, changed in place.
        state: tensors by name.
        path: where they were read, for the message.
        ignored: beginnings of names the model may lack, such as those of a classifier.

    Raises:
        InputError: a tensor is missing, misshapen or unknown; the first one is named.
    """
    own = {n: value for n, value in model.state_dict().items() if not n.endswith(_COUNTER)}
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith(ignored) and not name.endswith(_COUNTER)
    }
    for name, value in own.items():
        if name not in kept:
            hint = f"; the file begins with '{next(iter(state))}'"
            raise InputError(f"{path}: the tensor '{name}' of the model is missing{hint}")
        if kept[name].shape != value.shape:
            raise InputError(
                f"{path}: the tensor '{name}' has shape {tuple(kept[name].shape)}; the model "
                f"expects {tuple(value.shape)}"
            )
    if unknown := next((name for name in kept if name not in own), None):
        raise InputError(
            f"{path}: the model has no tensor '{unknown}'; are these weights of another model?"
        )
    model.load_state_dict(kept, strict=False)


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        check_readable(path, error)
        raise InputError(
            f"{path}: cannot be read as safetensors: it is damaged or of another format; download "
            "it again"
        ) from error


def _torch_file(path: Path) -> Any:
    # Only with weights_only: a pickle may run any code, and weights come from strangers.
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch advises leads to running code
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        if type(error).__name__ == "UnpicklingError":
            raise InputError(
                f"{path}: refused: it holds more than tensors, and reading it could run code; "
                "save the state dict alone, or as .safetensors"
            ) from error
        check_readable(path, error)
        raise InputError(
            f"{path}: cannot be read as a torch weights file: it is damaged or of another format; "
            "download it again"
        ) from error

"""Checkpoints: everything a run needs to go on, in one safetensors file, written atomically.

A hash over the content tells a damaged file, from which training would go on to other weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable, write_bytes
from madeleine_bench.hashing import canonical_json

FORMAT = 2  # 1 had no hash
_KEY = "mbench-checkpoint"
_PARTS = ("model", "moments", "best")


@dataclass
class RunState:
    """How far a run has come.

    Attributes:
        epoch: epochs that are finished.
        step: steps of the current epoch that are finished.
        sums: sums over those steps of each loss term, for the epoch's row of the log.
        seconds: training time of the current epoch so far.
        patches: patches seen in the current epoch so far.
        best: highest held-out score so far; None before the first.
        best_epoch: the epoch (from 1) of that score.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    patches: int = 0
    best: float | None = None
    best_epoch: int = 0


@dataclass
class Checkpoint:
    """What is trained, its optimiser, the best weights so far, and how far the run has come."""

    state: RunState
    model: dict[str, Tensor]
    moments: dict[str, Tensor]
    best: dict[str, Tensor]
    inputs: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash leaves the one before it.

    Raises:
        InputError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for part in _PARTS:
        for name, value in sorted(getattr(checkpoint, part).items()):
            tensors[f"{part}/{name}"] = value.detach().cpu().contiguous()
    about = {"format": FORMAT, "state": vars(checkpoint.state), "inputs": checkpoint.inputs}
    text = canonical_json({**about, "hash": _hash(about, tensors)})
    write_bytes(path, save(tensors, metadata={_KEY: text}))


def read_checkpoint(path: Path, inputs: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint of a run with the same inputs.

    Args:
        path: the file.
        inputs: recipe and data of the run that wants to go on.

    Raises:
        InputError: the file is broken or is no checkpoint, or it belongs to other inputs; the
            message names what differs.
    """
    remedy = "start again in another folder with --out, or delete this file"
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = about.pop("hash", None) if isinstance(about, dict) else None
        intact = stated == _hash(about, tensors)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        check_readable(path, error)
        raise InputError(f"{path}: not a readable checkpoint ({error}); {remedy}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this version of mbench; {remedy}")
    if not intact:
        raise InputError(f"{path}: damaged: it is not what was written; {remedy}")
    if differing := _differences(about["inputs"], inputs):
        raise InputError(
            f"{path}: it was written with other settings: {'; '.join(differing)}. "
            f"Resume with the same ones, or {remedy}"
        )
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    return Checkpoint(RunState(**about["state"]), **parts, inputs=about["inputs"])


def optimiser_moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of AdamW by the names of the parameters; empty before the first step."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_moments(
    model: nn.Module, optimiser: torch.optim.Optimizer, moments: dict[str, Tensor]
) -> None:
    """Give AdamW the state that `optimiser_moments` returned."""
    for name, parameter in model.named_parameters():
        if f"step/{name}" in moments:
            state = optimiser.state[parameter]
            state["step"] = moments[f"step/{name}"].clone()
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = moments[f"{key}/{name}"].to(parameter.device).clone()


def _hash(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(canonical_json(about).encode())
    for name, value in sorted(tensors.items()):
        digest.update(canonical_json([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differences(old: Any, new: Any, place: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{place} was {old}, now {new}"]

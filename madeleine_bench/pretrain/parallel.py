"""Training on several processes: each works on its share of the cases of one global batch.

Every process computes the contrastive loss of the whole batch, in which only its own embeddings
carry gradient, and the transport loss of its own pairs over the number of all pairs. The sum of
the gradients over the processes is then the gradient of one process with the whole batch.

The processes may be on several machines: torchrun tells each of them its place in the environment.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from madeleine_bench.errors import InputError

_PATIENCE = timedelta(days=2)  # packing a large cohort outlasts the half hour that gloo waits


@dataclass(frozen=True)
class Group:
    """The processes of one run and this one's place among them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: where this process computes.
        patient: the same processes in a group that waits for as long as packing takes.
    """

    rank: int
    size: int
    device: torch.device
    patient: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is, of all machines, the process that writes files and speaks."""
        return self.rank == 0


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """Yield the group that torchrun describes in the environment; alone without torchrun.

    LOCAL_RANK, the number of a process on its own machine, chooses its GPU.

    Args:
        device: "cpu", "cuda" or "auto" (cuda where there is one).

    Raises:
        InputError: there is no GPU for `device` "cuda", or fewer than processes on this machine;
            the environment is not one that torchrun makes, or the processes do not find together.
    """
    size = _number("WORLD_SIZE", 1)
    chosen = _choose_device(device, _number("LOCAL_RANK", 0))
    if size == 1:
        yield Group(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"WORLD_SIZE is {size}, and the processes do not find together: "
            f"{str(error).splitlines()[0]}; start all by torchrun (docs/scale.md), and look "
            "whether MASTER_ADDR and MASTER_PORT can be reached from here, or unset WORLD_SIZE"
        ) from error
    try:
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Group(_number("RANK", 0), size, chosen, patient)
    finally:
        dist.destroy_process_group()


def gather_rows(group: Group, rows: Tensor) -> Tensor:
    """Return the rows of every process, in order of rank; only this process's carry gradient.

    `rows` must have the same shape in every process.
    """
    if group.size == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(group.size)]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[group.rank] = rows
    return torch.cat(parts)


def sum_over(group: Group, value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes; it carries no gradient."""
    total = value.detach().clone()
    if group.size > 1:
        dist.all_reduce(total)
    return total


def sum_gradients(group: Group, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes.

    A parameter without a gradient gets zeros, alone too: AdamW passes over one that has none, and
    which ones have none may differ between processes.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if group.size > 1:
            dist.all_reduce(parameter.grad)


def barrier(group: Group) -> None:
    """Wait until every process is here, for hours if need be."""
    if group.size > 1:
        dist.barrier(group.patient)


def any_of(group: Group, flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return bool(sum_over(group, torch.tensor(float(flag), device=group.device)) > 0)


def _number(name: str, default: int) -> int:
    """Return a number from the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"{name} in the environment is '{text}'; expected a number from torchrun")
    return int(text)


def _choose_device(device: str, local_rank: int) -> torch.device:
    there = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if there else "cpu"
    if device == "cuda" and not there:
        raise InputError(
            "--device cuda: PyTorch sees no GPU here (torch.cuda.is_available() is false); use "
            "--device cpu, or install a CUDA build of torch and check the driver with nvidia-smi"
        )
    if device == "cuda" and local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} (from 0) of this machine has no GPU of its own: there are "
            f"{torch.cuda.device_count()}; give torchrun as many --nproc-per-node"
        )
    return torch.device("cuda", local_rank) if device == "cuda" else torch.device(device)

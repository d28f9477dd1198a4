"""Whether transport runs as fused kernels: the choice, and a check on the device before first use.

On a CPU it never does. On a GPU the environment variable MBENCH_TRANSPORT decides:

- `auto`, the default: the kernels, once they have given what torch's operations give on random
  costs of the size at hand. Where they do not, or cannot be compiled, one warning says so and
  torch's operations are used.
- `torch`: torch's operations.
- `triton`: the kernels, or an error that says why not.
"""

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.losses import ipot_torch

SETTING, CHOICES = "MBENCH_TRANSPORT", ("auto", "torch", "triton")
SIZES = range(2, 4097)  # tokens of a side that the kernels are made for
# Float32 leaves plans some 1e-6 apart and gradients some 1e-5; a kernel that errs, far more.
_PLAN_APART, _GRADIENT_APART = 1e-4, 1e-2
_PAIRS = 2
_RUNS = ((0.5, 30, 1.0), (0.1, 20, 0.2))  # beta and iterations in use, and a range of costs


def takes(cost: Tensor) -> bool:
    """Return whether the kernels take a cost, pair x n x m.

    Raises:
        InputError: MBENCH_TRANSPORT is set to something unknown.
        CheckFailed: it asks for the kernels, and they do not work on the cost's device.
    """
    if cost.device.type != "cuda" or cost.dtype != torch.float32:
        return False
    chosen, (_, n, m) = choice(), cost.shape
    if chosen == "torch" or n not in SIZES or m not in SIZES:
        return False
    why = fault(cost.device, n, m, warn=chosen == "auto")
    if why and chosen == "triton":
        raise CheckFailed(
            f"{SETTING}=triton, but the kernels cannot be used on {cost.device}: {why}. "
            f"Unset it, or set it to torch"
        )
    return not why


def choice() -> str:
    """Return what MBENCH_TRANSPORT says, "auto" where it is not set.

    Raises:
        InputError: it says something unknown.
    """
    chosen = os.environ.get(SETTING) or CHOICES[0]
    if chosen not in CHOICES:
        raise InputError(
            f"environment variable {SETTING}: found '{chosen}', expected one of "
            f"{', '.join(CHOICES)}"
        )
    return chosen


@cache
def fault(device: torch.device, n: int, m: int, *, warn: bool) -> str:
    """Return why the kernels cannot be used for costs n x m on a device, "" where they can.

    Found out once for each size, in some tenths of a second.
    """
    try:
        why = _differs(device, n, m) if find_spec("triton") else "Triton is not installed"
    except Exception as error:  # noqa: BLE001 - a compiler or a driver may raise anything
        lines = str(error).strip().splitlines() or [""]
        why = f"{type(error).__name__}: {lines[0][:200]}"
    if why and warn:
        warnings.warn(
            f"transport runs without its fused kernels, slower and with the same result ({why}); "
            f"{SETTING}=torch silences this",
            RuntimeWarning,
            stacklevel=2,
        )
    return why


def _differs(device: torch.device, n: int, m: int) -> str:
    """Return how kernels and torch's operations differ on random costs, "" where they agree."""
    from madeleine_bench.losses import ipot_kernels

    stream = torch.Generator().manual_seed(0)
    shape = (_PAIRS, n, m)
    for beta, iterations, scale in _RUNS:
        cost, upstream = (torch.rand(shape, generator=stream).to(device) for _ in range(2))
        cost *= scale
        plan, trace = ipot_torch.iterate(cost, beta, iterations)
        found, found_trace = ipot_kernels.iterate(cost, beta, iterations)
        plan_apart = _apart(found, plan)
        gradient_apart = _apart(
            ipot_kernels.pull_back(upstream, found_trace, beta),
            ipot_torch.pull_back(upstream, trace, beta),
        )
        if not (plan_apart <= _PLAN_APART and gradient_apart <= _GRADIENT_APART):
            return (
                f"on random costs {n} x {m} plans differ by {plan_apart:.1e} and gradients by "
                f"{gradient_apart:.1e} of the largest entry"
            )
    return ""


def _apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest expected entry; NaN where one is."""
    return float((found - expected).abs().max() / expected.abs().max())

"""The two terms of graph transport, pair by pair, with gradients made along with the values.

A pair's terms depend on its own costs alone, so both functions walk over a few pairs at a time
and keep, instead of the iterations, only the gradient with respect to the costs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from madeleine_bench.losses.cosine import at_least_float32, without_autocast
from madeleine_bench.losses.ipot import iterate, parts, pull_back

Gradient = Literal["unrolled", "envelope"]
WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS = 0.5, 30
GROMOV_BETA, GROMOV_ITERATIONS, GROMOV_OUTER = 0.1, 20, 5


def wasserstein(cost: Tensor, *, gradient: Gradient = "unrolled") -> Tensor:
    """Return the cost of each pair's transport plan, (pair,); at least 0, lower is nearer.

    The plan is that of 30 IPOT steps, which is not converged: the value lies above the exact
    optimum (by a seventh to a third on tokens of slides).

    Args:
        cost: pair x n x m.
        gradient: "unrolled" differentiates the plan too; "envelope" holds it constant, which
            is exact at the optimum only.

    Raises:
        ValueError: the cost is not of shape pair x n x m, or `gradient` is unknown.

    References:
        Chen et al., Graph Optimal Transport for Cross-Domain Alignment (ICML 2020), section 2.

    Examples:
        >>> wasserstein(torch.full((1, 4, 3), 0.25))
        tensor([0.2500])
    """
    _check(cost, gradient)
    with without_autocast(cost):
        value: Tensor = _Wasserstein.apply(  # type: ignore[no-untyped-call]
            at_least_float32(cost), gradient if torch.is_grad_enabled() else None
        )
    return value


def gromov_wasserstein(
    cost_x: Tensor, cost_y: Tensor, *, gradient: Gradient = "unrolled"
) -> Tensor:
    """Return how far each pair's inner distances are from matching, (pair,); lower is nearer.

    The square loss between the two sets of distances under the plan of `gromov_plan`. The value
    can fall a little below 0, because the plan's rows do not sum to 1/n exactly.

    Where the tokens fall in tight clusters the plan amplifies rounding: in float32 such a value
    is good to some 1e-4.

    Args:
        cost_x: distances within x, pair x n x n.
        cost_y: distances within y, pair x m x m.
        gradient: "unrolled" holds the plan constant in the outer product only and differentiates
            it where it enters the linearised cost, as MADELEINE was trained; "envelope" holds
            it constant throughout.

    Raises:
        ValueError: a shape or `gradient` is wrong.

    References:
        Chen et al., Graph Optimal Transport (ICML 2020), section 2; Peyré et al.,
        Gromov-Wasserstein Averaging (ICML 2016), proposition 1 (the square loss).
    """
    _check_within(cost_x, cost_y)
    _check(cost_x, gradient)
    with without_autocast(cost_x):
        value: Tensor = _GromovWasserstein.apply(  # type: ignore[no-untyped-call]
            at_least_float32(cost_x),
            at_least_float32(cost_y),
            gradient if torch.is_grad_enabled() else None,
        )
    return value


def gromov_plan(cost_x: Tensor, cost_y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plan and the cost linearised at it, both pair x n x m, without gradient.

    From the uniform plan, five times: linearise, then 20 IPOT steps.

    Args:
        cost_x: distances within x, pair x n x n.
        cost_y: distances within y, pair x m x m.

    Raises:
        ValueError: a shape is wrong.
    """
    _check_within(cost_x, cost_y)
    with torch.no_grad(), without_autocast(cost_x):
        steps, cost = _linearise(at_least_float32(cost_x), at_least_float32(cost_y))
    return steps[-1].plan, cost


class _Wasserstein(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost: Tensor, gradient: Gradient | None) -> Tensor:
        wanted = gradient if ctx.needs_input_grad[0] else None
        value = cost.new_empty(len(cost))
        slope = torch.empty_like(cost) if wanted else None
        for pairs in parts(cost):
            part = cost[pairs]
            plan, trace = iterate(part, WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS)
            value[pairs] = (part * plan).sum(dim=(1, 2))
            if slope is None:
                continue
            if wanted == "unrolled":
                plan += pull_back(part, trace, WASSERSTEIN_BETA)
            slope[pairs] = plan
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * upstream[:, None, None], None


class _GromovWasserstein(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost_x: Tensor, cost_y: Tensor, gradient: Gradient | None) -> Tensor:
        wanted = gradient if any(ctx.needs_input_grad) else None
        value = cost_x.new_empty(len(cost_x))
        slopes = (torch.zeros_like(cost_x), torch.zeros_like(cost_y)) if wanted else ()
        wider = cost_x if cost_x.shape[1] > cost_y.shape[1] else cost_y
        for pairs in parts(wider):
            x, y = cost_x[pairs], cost_y[pairs]
            steps, cost = _linearise(x, y)
            value[pairs] = (cost * steps[-1].plan).sum(dim=(1, 2))
            if wanted:
                _add_slopes(x, y, steps, wanted, *(slope[pairs] for slope in slopes))
        ctx.save_for_backward(*slopes)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        slope_x, slope_y = ctx.saved_tensors
        scale = upstream[:, None, None]
        return slope_x * scale, slope_y * scale, None


@dataclass(frozen=True)
class _Outer:
    """One outer step: its plan, cost_x @ plan, and the iterations that made the plan."""

    plan: Tensor
    half: Tensor
    trace: Any


def _linearise(x: Tensor, y: Tensor) -> tuple[list[_Outer], Tensor]:
    base = x.square().mean(dim=2)[:, :, None] + y.square().mean(dim=2)[:, None, :]
    # The uniform plan makes the first product one of two vectors.
    cost = torch.baddbmm(base, x.mean(dim=2)[:, :, None], y.mean(dim=2)[:, None, :], alpha=-2.0)
    steps = []
    for _ in range(GROMOV_OUTER):
        plan, trace = iterate(cost, GROMOV_BETA, GROMOV_ITERATIONS)
        half = torch.bmm(x, plan)
        steps.append(_Outer(plan, half, trace))
        cost = torch.baddbmm(base, half, y.mT, alpha=-2.0)
    return steps, cost


def _add_slopes(
    x: Tensor, y: Tensor, steps: list[_Outer], gradient: Gradient, slope_x: Tensor, slope_y: Tensor
) -> None:
    """Add the gradient of the value to `slope_x` and `slope_y`, which start at zero."""
    flow = steps[-1].plan  # with respect to the linearised cost of the step at hand
    rows, columns = flow.sum(dim=2), flow.sum(dim=1)
    for step in reversed(steps):
        to_half = torch.bmm(flow, y).mul_(-2.0)
        slope_x.baddbmm_(to_half, step.plan.mT)
        slope_y.baddbmm_(flow.mT, step.half, alpha=-2.0)
        if gradient == "envelope":
            break
        flow = pull_back(torch.bmm(x.mT, to_half), step.trace, GROMOV_BETA)
        rows, columns = rows + flow.sum(dim=2), columns + flow.sum(dim=1)
    else:
        mean_x, mean_y = x.mean(dim=2)[:, None, :], y.mean(dim=2)[:, None, :]
        slope_x.add_(torch.bmm(mean_y, flow.mT).mT, alpha=-2.0 / x.shape[1])
        slope_y.add_(torch.bmm(mean_x, flow).mT, alpha=-2.0 / y.shape[1])
    slope_x.addcmul_(x, rows[:, :, None], value=2.0 / x.shape[1])
    slope_y.addcmul_(y, columns[:, :, None], value=2.0 / y.shape[1])


def _check(cost: Tensor, gradient: Gradient) -> None:
    if cost.ndim != 3 or 0 in cost.shape[1:]:
        raise ValueError(f"cost must be pair x n x m with n, m >= 1, found {tuple(cost.shape)}")
    if gradient not in ("unrolled", "envelope"):
        raise ValueError(f"gradient must be 'unrolled' or 'envelope', found {gradient!r}")


def _check_within(cost_x: Tensor, cost_y: Tensor) -> None:
    for cost in (cost_x, cost_y):
        if cost.ndim != 3 or cost.shape[1] != cost.shape[2] or len(cost) != len(cost_x):
            raise ValueError(
                "costs within must be pair x n x n and pair x m x m, "
                f"found {tuple(cost_x.shape)} and {tuple(cost_y.shape)}"
            )

"""Graph optimal transport between two sets of tokens: how far apart, and how differently shaped.

The threshold of a pair's distances is its own and constant to the gradient, and zero tokens get no
gradient. `published` does as the released MADELEINE code: the threshold comes from all pairs of the
call, and its minimum and maximum carry gradient: 99 % of it then sits on a handful of tokens. Zero
tokens get the gradient of a division by 1e-12.

Which tokens go in, and whether pairs are summed (released code) or averaged, is up to the caller.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from madeleine_bench.losses.cosine import at_least_float32, cosine_distance, without_autocast
from madeleine_bench.losses.ipot import iterate, parts, pull_back

WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS = 0.5, 30
GROMOV_BETA, GROMOV_ITERATIONS, GROMOV_OUTER = 0.1, 20, 5


def wasserstein(cost: Tensor) -> Tensor:
    """Return the cost of each pair's transport plan, (pair,); at least 0, lower is nearer.

    The plan is that of 30 IPOT steps, which is not converged: the value lies above the exact
    optimum (by a seventh to a third on tokens of slides).

    Args:
        cost: pair x n x m.

    References:
        Chen et al., Graph Optimal Transport for Cross-Domain Alignment (ICML 2020), section 2.

    Examples:
        >>> wasserstein(torch.full((1, 4, 3), 0.25))
        tensor([0.2500])
    """
    with without_autocast(cost):
        value: Tensor = _Wasserstein.apply(  # type: ignore[no-untyped-call]
            at_least_float32(cost), torch.is_grad_enabled()
        )
    return value


def gromov_wasserstein(cost_x: Tensor, cost_y: Tensor) -> Tensor:
    """Return how far each pair's inner distances are from matching, (pair,); lower is nearer.

    The square loss between the two sets of distances under a plan that comes
    from the uniform one by five times linearising and 20 IPOT steps. The value
    can fall a little below 0, because the plan's rows do not sum to 1/n exactly.

    The gradient holds the plan constant in the outer product only and differentiates it where it
    enters the linearised cost, as MADELEINE was trained.

    Where the tokens fall in tight clusters the plan amplifies rounding: in float32 such a value
    is good to some 1e-4.

    Args:
        cost_x: distances within x, pair x n x n.
        cost_y: distances within y, pair x m x m.

    References:
        Chen et al., Graph Optimal Transport (ICML 2020), section 2; Peyré et al.,
        Gromov-Wasserstein Averaging (ICML 2016), proposition 1 (the square loss).
    """
    with without_autocast(cost_x):
        value: Tensor = _GromovWasserstein.apply(  # type: ignore[no-untyped-call]
            at_least_float32(cost_x),
            at_least_float32(cost_y),
            torch.is_grad_enabled(),
        )
    return value


class _Wasserstein(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost: Tensor, grad_enabled: bool) -> Tensor:
        value = cost.new_empty(len(cost))
        slope = torch.empty_like(cost) if grad_enabled and ctx.needs_input_grad[0] else None
        for pairs in parts(cost):
            part = cost[pairs]
            plan, trace = iterate(part, WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS)
            value[pairs] = (part * plan).sum(dim=(1, 2))
            if slope is not None:
                slope[pairs] = plan + pull_back(part, trace, WASSERSTEIN_BETA)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * upstream[:, None, None], None


class _GromovWasserstein(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost_x: Tensor, cost_y: Tensor, grad_enabled: bool) -> Tensor:
        wanted = grad_enabled and any(ctx.needs_input_grad)
        value = cost_x.new_empty(len(cost_x))
        slopes = (torch.zeros_like(cost_x), torch.zeros_like(cost_y)) if wanted else ()
        wider = cost_x if cost_x.shape[1] > cost_y.shape[1] else cost_y
        for pairs in parts(wider):
            x, y = cost_x[pairs], cost_y[pairs]
            steps, cost = _linearise(x, y)
            value[pairs] = (cost * steps[-1].plan).sum(dim=(1, 2))
            if wanted:
                _add_slopes(x, y, steps, *(slope[pairs] for slope in slopes))
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
    x: Tensor, y: Tensor, steps: list[_Outer], slope_x: Tensor, slope_y: Tensor
) -> None:
    """Add the gradient of the value to `slope_x` and `slope_y`, which start at zero."""
    flow = steps[-1].plan  # with respect to the linearised cost of the step at hand
    rows, columns = flow.sum(dim=2), flow.sum(dim=1)
    for step in reversed(steps):
        to_half = torch.bmm(flow, y).mul_(-2.0)
        slope_x.baddbmm_(to_half, step.plan.mT)
        slope_y.baddbmm_(flow.mT, step.half, alpha=-2.0)
        flow = pull_back(torch.bmm(x.mT, to_half), step.trace, GROMOV_BETA)
        rows, columns = rows + flow.sum(dim=2), columns + flow.sum(dim=1)
    mean_x, mean_y = x.mean(dim=2)[:, None, :], y.mean(dim=2)[:, None, :]
    slope_x.add_(torch.bmm(mean_y, flow.mT).mT, alpha=-2.0 / x.shape[1])
    slope_y.add_(torch.bmm(mean_x, flow).mT, alpha=-2.0 / y.shape[1])
    slope_x.addcmul_(x, rows[:, :, None], value=2.0 / x.shape[1])
    slope_y.addcmul_(y, columns[:, :, None], value=2.0 / y.shape[1])


PUBLISHED_TOKENS = 256


@dataclass(frozen=True)
class TransportTerms:
    """The two terms of every pair, each (pair,); lower is nearer.

    Attributes:
        wasserstein: cost of moving the tokens of x onto those of y.
        gromov: mismatch of the distances within x and within y.
    """

    wasserstein: Tensor
    gromov: Tensor


def graph_transport(x: Tensor, y: Tensor, *, published: bool = False) -> TransportTerms:
    """Return the Wasserstein and the Gromov-Wasserstein term of every pair of token sets.

    Costs are cosine distances above a threshold. All in float32 (float64 for float64 tokens),
    even under autocast. Invariant to the order of tokens and to their positive scaling; with a
    threshold per pair, a pair's terms do not depend on the other pairs.

    Args:
        x: (pair, n, dim).
        y: (pair, m, dim), of the same device and type.
        published: thresholds and gradients as in the released code.

    References:
        Chen et al., Graph Optimal Transport for Cross-Domain Alignment (ICML 2020), section 2;
        Jaume et al., Multistain Pretraining for Slide Representation Learning (ECCV 2024).

    Examples:
        >>> tokens = torch.eye(3)[None]
        >>> terms = graph_transport(tokens, tokens)
        >>> terms.wasserstein.round(decimals=4), terms.gromov.round(decimals=4)
        (tensor([0.]), tensor([0.3600]))

        Tokens at equal distances can be matched in any order, so the Gromov-Wasserstein plan
        stays uniform: 2 * .9^2 * (n - 1) / n^2.
    """
    across, within_x, within_y = (
        thresholded(cosine_distance(a, b, mute_zero=not published), published=published)
        for a, b in ((x, y), (x, x), (y, y))
    )
    return TransportTerms(
        wasserstein=wasserstein(across), gromov=gromov_wasserstein(within_x, within_y)
    )


def thresholded(distance: Tensor, *, published: bool = False) -> Tensor:
    """Return how far distances exceed their minimum plus a tenth of their range, at least 0.

    Args:
        distance: pair x n x m.
        published: minimum and maximum are of all pairs instead of each, and carry gradient.
    """
    if len(distance) == 0:
        return distance
    dims = (0, 1, 2) if published else (1, 2)
    low, high = distance.amin(dims, keepdim=True), distance.amax(dims, keepdim=True)
    threshold = low + 0.1 * (high - low)
    return torch.relu(distance - (threshold if published else threshold.detach()))

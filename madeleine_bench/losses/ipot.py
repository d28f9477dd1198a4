"""IPOT: transport plans by proximal point iterations, and the exact gradient through them.

The iteration, from a plan T = 1 and s = 1 (whose scale is free), is

    Q = exp(-C / beta) * T,   d = 1 / (n Q s),   s = 1 / (m Q^T d),   T = diag(d) Q diag(s).

With the scalings gathered, T_t = diag(u_t) K_t diag(v_t) where K_t = exp(-t C / beta), and
the iteration is Sinkhorn's on a kernel that sharpens at each step, started from w_t:

    u_t = 1 / (n K_t w_t),   v_t = 1 / (m K_t^T u_t),   w_(t+1) = v_t^2 / v_(t-1).

So K_t is one product with exp(-C / beta) away from its neighbours, forth and back, and the
gradient needs little more than the vectors u, v and w. Before K_t leaves the range of floats it
takes in its scalings (it is absorbed), after which u, v and w count from there. Rows may be
scaled freely: T does not change when a constant is added to a row of C, so each row starts at
cost 0.

Two implementations give the same numbers to rounding: `ipot_torch` everywhere, `ipot_kernels` on
a GPU where `fused` says so.

References:
    Xie et al., A Fast Proximal Point Method for Computing Exact Wasserstein Distance (UAI
    2019), algorithm 1, with uniform marginals and one inner step.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from madeleine_bench.losses import ipot_torch
from madeleine_bench.losses.cosine import at_least_float32, without_autocast
from madeleine_bench.losses.fused import takes
from madeleine_bench.losses.ipot_torch import Iterations

if TYPE_CHECKING:
    from madeleine_bench.losses.ipot_kernels import LogScalings

# What one pair x n x m tensor of pairs walked over together may take: on a CPU some of them
# must stay in cache; on a GPU a launch costs more than the arithmetic of a few pairs.
_PART_BYTES = {"cpu": 2**20, "cuda": 2**26}


def parts(cost: Tensor) -> Iterator[slice]:
    """Yield the ranges of pairs to walk over together."""
    budget = _PART_BYTES.get(cost.device.type, _PART_BYTES["cpu"])
    size = max(1, budget // (cost[0].numel() * cost.element_size())) if len(cost) else 1
    yield from (slice(first, first + size) for first in range(0, len(cost), size))


def iterate(
    cost: Tensor, beta: float, iterations: int
) -> "tuple[Tensor, Iterations | LogScalings]":
    """Return the plan after the given iterations, pair x n x m, and how it came about.

    Columns of the plan sum to 1/m to rounding, rows to 1/n as far as the iteration converged.

    Args:
        cost: pair x n x m, finite.
        beta: strength of the proximal term, in units of cost.
        iterations: at least 1.
    """
    if takes(cost):
        from madeleine_bench.losses import ipot_kernels

        return ipot_kernels.iterate(cost, beta, iterations)
    return ipot_torch.iterate(cost, beta, iterations)


def pull_back(upstream: Tensor, trace: "Iterations | LogScalings", beta: float) -> Tensor:
    """Return the gradient with respect to the cost, given that with respect to the plan.

    The exact adjoint of the unrolled iteration.

    Args:
        upstream: pair x n x m.
        trace: from `iterate`.
        beta: as given to `iterate`.
    """
    if isinstance(trace, Iterations):
        return ipot_torch.pull_back(upstream, trace, beta)
    from madeleine_bench.losses import ipot_kernels

    return ipot_kernels.pull_back(upstream, trace, beta)


def ipot(cost: Tensor, beta: float, iterations: int) -> Tensor:
    """Return the transport plan of each pair, pair x n x m, differentiable in the cost.

    Only the cost is kept for the backward pass, which runs the iteration again a few pairs at
    a time.

    Args:
        cost: pair x n x m.
        beta: positive; smaller is nearer to the exact plan, and less smooth.
        iterations: at least 1.

    Raises:
        ValueError: a shape, beta or the number of iterations is out of range.

    References:
        Xie et al., A Fast Proximal Point Method for Computing Exact Wasserstein Distance
        (UAI 2019), algorithm 1.

    Examples:
        >>> ipot(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), beta=0.5, iterations=1)
        tensor([[[0.4404, 0.0596],
                 [0.0596, 0.4404]]])
    """
    if cost.ndim != 3 or 0 in cost.shape[1:]:
        raise ValueError(f"cost must be pair x n x m with n, m >= 1, found {tuple(cost.shape)}")
    if not beta > 0 or iterations < 1:
        raise ValueError(f"beta and iterations must be positive, found {beta} and {iterations}")
    plan: Tensor = _Ipot.apply(  # type: ignore[no-untyped-call]
        at_least_float32(cost), beta, iterations
    )
    return plan


class _Ipot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cost: Tensor, beta: float, iterations: int) -> Tensor:
        ctx.save_for_backward(cost)
        ctx.beta, ctx.iterations = beta, iterations
        plan = torch.empty_like(cost)
        with without_autocast(cost):
            for pairs in parts(cost):
                plan[pairs], _ = iterate(cost[pairs], beta, iterations)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (cost,) = ctx.saved_tensors
        gradient = torch.empty_like(cost)
        with without_autocast(cost):
            for pairs in parts(cost):
                _, trace = iterate(cost[pairs], ctx.beta, ctx.iterations)
                gradient[pairs] = pull_back(upstream[pairs], trace, ctx.beta)
        return gradient, None, None

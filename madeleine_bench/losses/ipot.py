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

References:
    Xie et al., A Fast Proximal Point Method for Computing Exact Wasserstein Distance (UAI
    2019), algorithm 1, with uniform marginals and one inner step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_GROWTH = 0.35  # of the logarithm of the largest float: how far a kernel may fall unabsorbed


@dataclass(frozen=True)
class Iterations:
    """What one run of the iteration leaves behind, enough to differentiate it.

    Attributes:
        step: exp(-C / beta), pair x n x m, scaled to 1 at each row's smallest cost.
        row: u_t, iteration x pair x 1 x n.
        column: v_t, iteration x pair x 1 x m.
        start: w_t, iteration x pair x 1 x m.
        absorb_every: iterations between absorptions.
        kernels: K_t as it was before each absorption and at the end, each pair x n x m.
    """

    step: Tensor
    row: Tensor
    column: Tensor
    start: Tensor
    absorb_every: int
    kernels: tuple[Tensor, ...]


def iterate(
    cost: Tensor, beta: float, iterations: int, *, absorb_every: int | None = None
) -> tuple[Tensor, Iterations]:
    """Return the plan after the given iterations, pair x n x m, and how it came about.

    Columns of the plan sum to 1/m to rounding, rows to 1/n as far as the iteration converged.

    Args:
        cost: pair x n x m, finite.
        beta: strength of the proximal term, in units of cost.
        iterations: at least 1.
        absorb_every: iterations between absorptions; by default as many as the range of the
            cost allows, and 1 on a GPU, where asking for the range would halt the launches.
    """
    pairs, n, m = cost.shape
    exponent = (cost.amin(dim=2, keepdim=True) - cost).div_(beta)
    every = absorb_every or _absorb_every(exponent, iterations)
    step = exponent.exp_()
    rows = cost.new_empty(iterations, pairs, 1, n)
    columns, starts = cost.new_empty(2, iterations, pairs, 1, m)
    kernel, kernels = step.clone(), []
    starts[0].fill_(1.0)
    before: Tensor | None = None
    for t, (row, column, start) in enumerate(zip(rows, columns, starts, strict=True)):
        # A row vector on the left: batched products with a column on the right are far slower.
        torch.bmm(start, kernel.mT, out=row).mul_(float(n)).reciprocal_()
        torch.bmm(row, kernel, out=column).mul_(float(m)).reciprocal_()
        if t + 1 == iterations:
            break
        growth = column if before is None else column / before
        if (t + 1) % every == 0:
            kernels.append(kernel)
            kernel = (kernel * row.mT).mul_(column)
            before = None
            starts[t + 1] = growth
        else:
            before = column
            torch.mul(column, growth, out=starts[t + 1])
        kernel.mul_(step)
    trace = Iterations(step, rows, columns, starts, every, (*kernels, kernel))
    return (kernel * rows[-1].mT).mul_(columns[-1]), trace


def pull_back(upstream: Tensor, trace: Iterations, beta: float) -> Tensor:
    """Return the gradient with respect to the cost, given that with respect to the plan.

    The exact adjoint of the unrolled iteration: two products of a matrix and a vector for each
    iteration, and the sum over iterations nested as in Horner's scheme.

    Args:
        upstream: pair x n x m.
        trace: from `iterate`.
        beta: as given to `iterate`.
    """
    iterations, pairs, _, n = trace.row.shape
    m = trace.column.shape[-1]
    kernels = list(trace.kernels)
    kernel = kernels.pop().clone()
    back = trace.step.reciprocal()
    left, right = upstream.new_empty(pairs, 2, n), upstream.new_empty(pairs, 2, m)
    nested = (upstream * trace.row[-1].mT).mul_(trace.column[-1])
    flow = nested * kernel
    last_row, to_column = flow.sum(dim=2)[:, None, :], flow.sum(dim=1)[:, None, :]
    nested.mul_(float(iterations))
    later = torch.zeros_like(to_column)
    for t in range(iterations - 1, -1, -1):
        row, column, start = trace.row[t], trace.column[t], trace.start[t]
        through_column = torch.mul(column, to_column).mul_(-float(m))
        to_row = torch.bmm(through_column, kernel.mT).mul_(row)
        if t + 1 == iterations:
            to_row += last_row  # rows before the last are made anew from the next start
        through_row = to_row.mul_(row).mul_(-float(n))
        to_start = torch.bmm(through_row, kernel).mul_(start)
        torch.cat((row, through_row), dim=1, out=left)
        torch.cat((through_column, start), dim=1, out=right)
        nested.baddbmm_(left.mT, right, alpha=t + 1)
        nested.mul_(trace.step)
        to_column, later = torch.add(-later, to_start, alpha=2.0), to_start
        if t == 0:
            break
        if t % trace.absorb_every == 0:
            nested.mul_(trace.row[t - 1].mT).mul_(trace.column[t - 1])
            kernel = kernels.pop().clone()
        else:
            kernel.mul_(back)
    return nested.mul_(-1.0 / beta)


def _absorb_every(exponent: Tensor, iterations: int) -> int:
    if exponent.device.type != "cpu":
        return 1
    steepest = -float(exponent.min())
    room = _GROWTH * math.log(torch.finfo(exponent.dtype).max)
    if not steepest > room / iterations:
        return iterations
    return max(1, int(room / steepest))


# What one pair x n x m tensor of pairs walked over together may take: on a CPU some of them
# must stay in cache; on a GPU a launch costs more than the arithmetic of a few pairs.
_PART_BYTES = {"cpu": 2**20, "cuda": 2**26}


def parts(cost: Tensor) -> Iterator[slice]:
    """Yield the ranges of pairs to walk over together."""
    budget = _PART_BYTES.get(cost.device.type, _PART_BYTES["cpu"])
    size = max(1, budget // (cost[0].numel() * cost.element_size())) if len(cost) else 1
    yield from (slice(first, first + size) for first in range(0, len(cost), size))

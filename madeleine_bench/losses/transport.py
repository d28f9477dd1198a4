"""Graph optimal transport between two sets of tokens: how far apart, and how differently shaped.

The threshold of a pair's distances is its own and constant to the gradient, and zero tokens get no
gradient. `published` does as the released MADELEINE code: the threshold comes from all pairs of the
call, and its minimum and maximum carry gradient: 99 % of it then sits on a handful of tokens. Zero
tokens get the gradient of a division by 1e-12.

Which tokens go in, and whether pairs are summed (released code) or averaged, is up to the caller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import at_least_float32, cosine_distance, without_autocast

WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS = 0.5, 30
GROMOV_BETA, GROMOV_ITERATIONS, GROMOV_OUTER = 0.1, 20, 5


def ipot(cost: Tensor, beta: float, iterations: int) -> Tensor:
    """Return the plan of the proximal point iteration with uniform marginals, pair x n x m.

    Columns of the plan sum to 1/m to rounding, rows to 1/n as far as the iteration converged.

    Args:
        cost: pair x n x m, finite.
        beta: strength of the proximal term, in units of cost.
        iterations: at least 1.

    References:
        Xie et al., A Fast Proximal Point Method for Computing Exact Wasserstein Distance (UAI
        2019), algorithm 1, with one inner step.
    """
    pairs, n, m = cost.shape
    # A constant added to a row of the cost does not change the plan.
    kernel = torch.exp((cost.amin(dim=2, keepdim=True).detach() - cost) / beta)
    plan, column = torch.ones_like(cost), cost.new_full((pairs, 1, m), 1.0 / m)
    for _ in range(iterations):
        plan = kernel * plan
        row = 1.0 / (n * torch.bmm(column, plan.mT))
        column = 1.0 / (m * torch.bmm(row, plan))
        plan = row.mT * plan * column
    return plan


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
        cost = at_least_float32(cost)
        return (cost * ipot(cost, WASSERSTEIN_BETA, WASSERSTEIN_ITERATIONS)).sum(dim=(1, 2))


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
        plan, cost = gromov_plan(at_least_float32(cost_x), at_least_float32(cost_y))
        return (cost * plan.detach()).sum(dim=(1, 2))


def gromov_plan(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plan of `gromov_wasserstein` and the cost linearised at it, pair x n x m each."""
    base = x.square().mean(dim=2)[:, :, None] + y.square().mean(dim=2)[:, None, :]
    plan = torch.full_like(base, 1.0 / (base.shape[1] * base.shape[2]))
    for _ in range(GROMOV_OUTER):
        cost = base - 2.0 * torch.bmm(torch.bmm(x, plan), y.mT)
        plan = ipot(cost, GROMOV_BETA, GROMOV_ITERATIONS)
    return plan, base - 2.0 * torch.bmm(torch.bmm(x, plan), y.mT)


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

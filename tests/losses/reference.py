"""The transport and contrastive losses as plain as they read: slow, memory-hungry, by autograd.

Nothing here is shared with the package. Every iteration is a batched torch expression that
autograd records, so a backward pass keeps some hundreds of pair x n x m tensors alive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - cosine of every token of x with every token of y, pair x n x m."""
    x = x / (x.norm(dim=2, keepdim=True) + 1e-12)
    y = y / (y.norm(dim=2, keepdim=True) + 1e-12)
    return 1.0 - torch.bmm(x, y.transpose(1, 2))


def thresholded(distance: Tensor, *, per_pair: bool, detach: bool) -> Tensor:
    """Return the part of a distance above its minimum plus a tenth of its range."""
    if per_pair:
        rows = [thresholded(d[None], per_pair=False, detach=detach) for d in distance]
        return torch.cat(rows)
    low, high = distance.min(), distance.max()
    threshold = low + 0.1 * (high - low)
    return torch.relu(distance - (threshold.detach() if detach else threshold))


def ipot(cost: Tensor, beta: float, iterations: int) -> Tensor:
    """Return the plan of the proximal point iteration, uniform marginals, pair x n x m."""
    pairs, n, m = cost.shape
    kernel = torch.exp(-cost / beta)
    plan = cost.new_ones(pairs, n, m)
    sigma = cost.new_full((pairs, m, 1), 1.0 / m)
    for _ in range(iterations):
        q = kernel * plan
        delta = 1.0 / (n * torch.bmm(q, sigma))
        sigma = 1.0 / (m * torch.bmm(q.transpose(1, 2), delta))
        plan = delta * q * sigma.transpose(1, 2)
    return plan


def wasserstein(cost: Tensor) -> Tensor:
    """Return the cost of moving every pair by the 30-step plan, (pair,)."""
    return (cost * ipot(cost, 0.5, 30)).sum(dim=(1, 2))


def gromov(cost_x: Tensor, cost_y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plan and the linearised cost after five outer steps, both pair x n x m."""
    pairs, n, m = cost_x.shape[0], cost_x.shape[1], cost_y.shape[1]
    base = (cost_x**2).mean(dim=2)[:, :, None] + (cost_y**2).mean(dim=2)[:, None, :]
    plan = cost_x.new_full((pairs, n, m), 1.0 / (n * m))
    for _ in range(5):
        cost = base - 2.0 * torch.bmm(torch.bmm(cost_x, plan), cost_y.transpose(1, 2))
        plan = ipot(cost, 0.1, 20)
    return plan, base - 2.0 * torch.bmm(torch.bmm(cost_x, plan), cost_y.transpose(1, 2))


def gromov_wasserstein(cost_x: Tensor, cost_y: Tensor) -> Tensor:
    """Return the Gromov-Wasserstein term; the plan is constant in the outer product only."""
    plan, cost = gromov(cost_x, cost_y)
    return (cost * plan.detach()).sum(dim=(1, 2))


@dataclass(frozen=True)
class Costs:
    """The three thresholded distances of a call: across, within x, within y."""

    across: Tensor
    within_x: Tensor
    within_y: Tensor


def costs(x: Tensor, y: Tensor, *, per_pair: bool, detach: bool) -> Costs:
    """Return the three thresholded distances of token sets."""
    return Costs(
        *(
            thresholded(cosine_distance(a, b), per_pair=per_pair, detach=detach)
            for a, b in ((x, y), (x, x), (y, y))
        )
    )


def graph_transport(x: Tensor, y: Tensor, *, per_pair: bool, detach: bool) -> tuple[Tensor, Tensor]:
    """Return the Wasserstein and the Gromov-Wasserstein term of every pair."""
    found = costs(x, y, per_pair=per_pair, detach=detach)
    return wasserstein(found.across), gromov_wasserstein(found.within_x, found.within_y)


def info_nce(query: Tensor, key: Tensor, *, temperature: float, symmetric: bool) -> Tensor:
    """Return the mean cross-entropy of each row's own partner among all, row by row."""
    query = query / query.norm(dim=1, keepdim=True)
    key = key / key.norm(dim=1, keepdim=True)
    logits = query @ key.T / temperature

    def one_way(rows: Tensor) -> Tensor:
        losses = [torch.logsumexp(row, 0) - row[i] for i, row in enumerate(rows)]
        return torch.stack(losses).mean()

    forward = one_way(logits)
    return (forward + one_way(logits.T)) / 2.0 if symmetric else forward

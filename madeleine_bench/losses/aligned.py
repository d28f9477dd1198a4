"""The local objective of the preset "aligned": tokens of partner patches alike, others apart.

Which patches are partners says a plan that does not depend on the model (`losses.plan`), so that
no gradient flows through a transport problem. Both losses subtract the mean of each side of a pair
from its tokens and normalise them first: what all tokens of a slide share, the stain above all,
says nothing about where a patch belongs, and it is what a collapse adds.
"""

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import at_least_float32, unit_rows, without_autocast

COVARIANCE_WEIGHT = 0.04


def partner_info_nce(u: Tensor, v: Tensor, plan: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the cross-entropy in nats of finding a token's partner; a scalar, lower is better.

    -1/2 sum_ij P_ij [log softmax_j(u_i . v_j / T) + log softmax_i(u_i . v_j / T)] / sum P, where
    both softmaxes run over the tokens of the other side of all pairs of the call. 0 if no token has
    a partner. In float32 (float64 for float64 tokens) even under autocast.

    Args:
        u: tokens of the H&E slides, pair x n x dim, of any length.
        v: tokens of the slides of the other stain, pair x m x dim.
        plan: weight of the partners, pair x n x m, at least 0; a row of zeros has no partner and
            serves as a negative only.
        temperature: positive.

    References:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding (2018),
        equation 4, with a transport plan in the place of one partner a row.
    """
    with without_autocast(u):
        u, v, weight = centred_units(u), centred_units(v), _weights(u, plan)
        first, second = u.flatten(0, 1), v.flatten(0, 1)
        logits = first @ second.mT / temperature
        partners = u @ v.mT / temperature  # the blocks of `logits` on its diagonal
        found = 2.0 * (weight * partners).sum()
        all_second, all_first = logits.logsumexp(dim=1), logits.logsumexp(dim=0)
        reached = weight.sum(dim=2).flatten() @ all_second + weight.sum(dim=1).flatten() @ all_first
        return (reached - found) / 2.0


def partner_pull(u: Tensor, v: Tensor, plan: Tensor) -> Tensor:
    """Return how far partners are apart plus how much tokens are alike; a scalar, lower is better.

    sum_ij P_ij (1 - u_i . v_j) / sum P, plus the mean over both sides of mean_d relu(1 - sd_d) +
    .04 |off-diagonal covariance|^2 / dim. The last two are taken of sqrt(dim) times the centred
    unit tokens of all pairs of the call: a standard deviation of 1 in each dimension, without
    covariance, is what tokens have that point evenly into all directions.

    Args:
        u: tokens of the H&E slides, pair x n x dim, of any length.
        v: tokens of the slides of the other stain, pair x m x dim.
        plan: weight of the partners, pair x n x m, at least 0.

    References:
        Bardes et al., VICReg (ICLR 2022), section 4.1 (variance and covariance terms).
    """
    with without_autocast(u):
        u, v, weight = centred_units(u), centred_units(v), _weights(u, plan)
        apart = weight.sum() - (weight * (u @ v.mT)).sum()
        return apart + (_alikeness(u) + _alikeness(v)) / 2.0


def centred_units(tokens: Tensor) -> Tensor:
    """Return tokens less the mean of their slide, of length 1: (..., token, dim) as they come."""
    tokens = at_least_float32(tokens)
    return unit_rows(tokens - tokens.mean(dim=-2, keepdim=True))


def _weights(u: Tensor, plan: Tensor) -> Tensor:
    """Return the plan with sum 1 (0 if it has no mass), in the type of the tokens."""
    plan = plan.to(at_least_float32(u).dtype)
    return plan / plan.sum().clamp_min(torch.finfo(plan.dtype).tiny)


def _alikeness(units: Tensor) -> Tensor:
    """Return the variance and the covariance term of one side, pair x token x dim."""
    tokens = units.flatten(0, 1) * units.shape[-1] ** 0.5
    tokens = tokens - tokens.mean(dim=0)
    covariance = tokens.mT @ tokens / len(tokens)
    variance = covariance.diagonal()
    spread = (variance + 1e-4).sqrt()  # VICReg's constant: the root has a finite slope at 0
    off_diagonal = covariance.square().sum() - variance.square().sum()
    alike: Tensor = torch.relu(1.0 - spread).mean() + (
        COVARIANCE_WEIGHT / len(variance) * off_diagonal
    )
    return alike

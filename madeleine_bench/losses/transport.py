"""Graph optimal transport between two sets of tokens: how far apart, and how differently shaped.

Differences from the released MADELEINE code are options, and two presets hold them together:

- `CORRECTED`: the threshold of a pair's distances is its own and constant to the gradient.
- `PUBLISHED`: the threshold comes from all pairs of the call (of the group), and its minimum
  and maximum carry gradient: 99 % of it then sits on a handful of tokens. Zero tokens get the
  gradient of a division by 1e-12.

Which tokens go in, and whether pairs are summed (released code) or averaged, is up to the caller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import cosine_distance
from madeleine_bench.losses.wasserstein import Gradient, gromov_wasserstein, wasserstein


@dataclass(frozen=True)
class TransportOptions:
    """How transport is computed.

    Attributes:
        per_pair_threshold: the threshold is of each pair's own distances, not of its group's.
        detach_threshold: the threshold is constant to the gradient.
        mute_zero_tokens: tokens of length 0 get no gradient.
        gradient: "unrolled" is that of the iterations, "envelope" holds the plans constant.
    """

    per_pair_threshold: bool = True
    detach_threshold: bool = True
    mute_zero_tokens: bool = True
    gradient: Gradient = "unrolled"


PUBLISHED_TOKENS = 256
CORRECTED = TransportOptions()
PUBLISHED = TransportOptions(
    per_pair_threshold=False, detach_threshold=False, mute_zero_tokens=False
)


@dataclass(frozen=True)
class TransportTerms:
    """The two terms of every pair, each (pair,); lower is nearer.

    Attributes:
        wasserstein: cost of moving the tokens of x onto those of y.
        gromov: mismatch of the distances within x and within y.
    """

    wasserstein: Tensor
    gromov: Tensor


def graph_transport(
    x: Tensor, y: Tensor, *, options: TransportOptions = CORRECTED, groups: Tensor | None = None
) -> TransportTerms:
    """Return the Wasserstein and the Gromov-Wasserstein term of every pair of token sets.

    Costs are cosine distances above a threshold. All in float32 (float64 for float64 tokens),
    even under autocast. Invariant to the order of tokens and to their positive scaling; with a
    threshold per pair, a pair's terms do not depend on the other pairs.

    Args:
        x: (pair, n, dim).
        y: (pair, m, dim), of the same device and type.
        options: `CORRECTED`, `PUBLISHED` or a choice in between.
        groups: (pair,) integers; pairs with the same integer share a threshold where it is not
            per pair, so one call does for several stains. None: all pairs share it.

    Raises:
        ValueError: a shape is wrong or a side has no tokens.

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
    _check_tokens(x, y, groups)
    across, within_x, within_y = (
        thresholded(
            cosine_distance(a, b, mute_zero=options.mute_zero_tokens),
            per_pair=options.per_pair_threshold,
            detach=options.detach_threshold,
            groups=groups,
        )
        for a, b in ((x, y), (x, x), (y, y))
    )
    return TransportTerms(
        wasserstein=wasserstein(across, gradient=options.gradient),
        gromov=gromov_wasserstein(within_x, within_y, gradient=options.gradient),
    )


def published_tokens(tokens: Tensor, limit: int = PUBLISHED_TOKENS) -> Tensor:
    """Return the tokens that released MADELEINE transports: for each pair as many as pairs.

    Asked for a random `limit` of the tokens, it draws positions among the pairs instead, so the
    first tokens are taken, whatever their number; their order does not matter.

    Args:
        tokens: (pair, token, dim).
        limit: the most tokens to take.
    """
    return tokens[:, : min(len(tokens), limit)]


def thresholded(
    distance: Tensor,
    *,
    per_pair: bool,
    detach: bool,
    groups: Tensor | None = None,
    share: float = 0.1,
) -> Tensor:
    """Return how far distances exceed their minimum plus a share of their range, at least 0.

    Args:
        distance: pair x n x m.
        per_pair: minimum and maximum of each pair rather than of each group.
        detach: hold minimum and maximum constant to the gradient.
        groups: (pair,) integers, see `graph_transport`.
        share: of the range between minimum and maximum, in [0, 1].
    """
    if len(distance) == 0:
        return distance
    if per_pair:
        group = torch.arange(len(distance), device=distance.device)
    elif groups is None:
        group = torch.zeros(len(distance), dtype=torch.int64, device=distance.device)
    else:
        group = torch.unique(groups, return_inverse=True)[1]
    low = _extreme(distance, group, "amin", detach)
    high = _extreme(distance, group, "amax", detach)
    return torch.relu(distance - (low + share * (high - low))[:, None, None])


def _extreme(distance: Tensor, group: Tensor, which: str, detach: bool) -> Tensor:
    """Return the minimum or maximum over each pair's group, (pair,)."""
    constant = distance.detach()
    of_pair = constant.amin(dim=(1, 2)) if which == "amin" else constant.amax(dim=(1, 2))
    reduced = torch.zeros_like(of_pair).scatter_reduce(
        0, group, of_pair, reduce=which, include_self=False
    )
    extreme = reduced[group]
    if detach:
        return extreme
    # Entries that tie share the gradient evenly, over all pairs of the group.
    attained = (constant == extreme[:, None, None]).to(distance.dtype)
    count = torch.zeros_like(of_pair).index_add(0, group, attained.sum(dim=(1, 2)))
    mean = (distance * attained).sum(dim=(1, 2)) / count[group]
    return torch.zeros_like(of_pair).index_add(0, group, mean)[group]


def _check_tokens(x: Tensor, y: Tensor, groups: Tensor | None) -> None:
    if x.ndim != 3 or y.ndim != 3 or len(x) != len(y) or x.shape[2] != y.shape[2]:
        raise ValueError(
            "tokens must be (pair, n, dim) and (pair, m, dim), "
            f"found {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.shape[1] == 0 or y.shape[1] == 0:
        raise ValueError(f"each side needs a token, found {x.shape[1]} and {y.shape[1]}")
    if groups is not None and groups.shape != x.shape[:1]:
        raise ValueError(f"groups must be ({len(x)},), found {tuple(groups.shape)}")

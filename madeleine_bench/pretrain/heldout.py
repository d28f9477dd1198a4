"""How good the embeddings are on held-out cases, by criteria that need no label.

References:
    Garrido et al., "RankMe", ICML 2023 (smooth rank).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.pretrain.batches import CaseBatch
from madeleine_bench.pretrain.objective import embed, pool_halves

_ROUNDING = 1e-7
_TOKENS_A_SLIDE = 64


@dataclass(frozen=True)
class HeldOut:
    """What was measured on held-out cases.

    Attributes:
        retrieval: mean reciprocal rank (0-1, higher is better) of the partner slide among all
            held-out slides of its kind: each stain found from H&E, mean over stains; for
            Intra-SSL one half of a slide found from the other.
        recall_at_1: share of queries whose partner comes first (0-1).
        chance: the mean reciprocal rank of guessing.
        smooth_rank: effective number of dimensions of the H&E embeddings.
        token_cosine: mean cosine between projected tokens of an H&E slide; near 1 is collapse.
    """

    retrieval: float
    recall_at_1: float
    chance: float
    smooth_rank: float
    token_cosine: float


@torch.inference_mode()
def evaluate_held_out(
    model: Madeleine, batches: Iterable[CaseBatch], stains: int, *, views: bool
) -> HeldOut:
    """Return the measures of a model in evaluation mode, in float32.

    Args:
        model: set to evaluation mode here, and back to what it was.
        batches: all held-out cases.
        stains: number of stains of the cohort.
        views: look for halves of H&E slides (Intra-SSL) instead of other stains.
    """
    training = model.training
    model.eval()
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    embeddings: list[Tensor] = []
    cosines: list[Tensor] = []
    for batch in batches:
        made = embed(model, batch, stains)
        he = made.row_of[:, 0][made.row_of[:, 0] >= 0]
        embeddings.append(made.slides[he.to(made.slides.device)].float())
        rows = made.token_rows(he, min(_TOKENS_A_SLIDE, max(batch.lengths)))
        tokens = model.project_tokens(made.tokens[rows.to(made.tokens.device)])
        cosines.append(mean_token_cosine(tokens.float()))
        if views:
            pairs[0].append(pool_halves(model, made))
            continue
        for stain in range(1, stains):
            left, right = (r.to(made.slides.device) for r in made.pairs(stain))
            pairs[stain].append((made.slides[left], made.slides[right]))
    model.train(training)
    whole = (map(torch.cat, zip(*of_stain, strict=True)) for of_stain in pairs.values())
    ranks = [partner_ranks(query, key) for query, key in whole if len(query) >= 2]
    return HeldOut(
        retrieval=_mean([float((1.0 / rank).mean()) for rank in ranks]),
        recall_at_1=_mean([float((rank == 1).double().mean()) for rank in ranks]),
        chance=_mean([float((1.0 / torch.arange(1, len(r) + 1)).mean()) for r in ranks]),
        smooth_rank=smooth_rank(torch.cat(embeddings)),
        token_cosine=float(torch.cat(cosines).mean()),
    )


def partner_ranks(query: Tensor, key: Tensor) -> Tensor:
    """Return the rank (from 1, float64) of each query's partner, the key of the same row.

    Keys are ordered by cosine; equal ones share the mean of their ranks, so that a model that
    maps every slide to one point scores chance.
    """
    unit = torch.nn.functional.normalize
    cosine = unit(query.double(), dim=1) @ unit(key.double(), dim=1).T
    own = cosine.diagonal().unsqueeze(1)
    better = (cosine > own + 1e-9).sum(dim=1)
    equal = ((cosine - own).abs() <= 1e-9).sum(dim=1)
    return better + (equal + 1) / 2.0


def smooth_rank(embeddings: Tensor) -> float:
    """Return the effective number of dimensions: exp of the entropy of the singular values.

    `embeddings` is slide x width. The value lies between 1 and min(slide, width).
    """
    gram = embeddings.double()
    gram = gram @ gram.T if len(gram) < gram.shape[1] else gram.T @ gram
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    share = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny) + _ROUNDING
    return float(torch.exp(-(share * share.log()).sum()))


def mean_token_cosine(tokens: Tensor) -> Tensor:
    """Return for each slide the mean cosine over pairs of its tokens; slide x token x dim."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    count = unit.shape[1]
    if count < 2:
        return tokens.new_zeros(0)
    total = unit.sum(dim=1).square().sum(dim=-1)
    return (total - unit.square().sum(dim=(1, 2))) / (count * (count - 1))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

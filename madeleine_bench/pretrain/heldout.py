"""How good the embeddings are on held-out cases, by criteria that need no label.

References:
    Garrido et al., "RankMe", ICML 2023 (smooth rank).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor

from madeleine_bench.losses.aligned import centred_units
from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.models.mil.base import bag_means
from madeleine_bench.pretrain.batches import CaseBatch, Regions
from madeleine_bench.pretrain.embedded import embed, pool_halves
from madeleine_bench.pretrain.presets import Preset

_ROUNDING = 1e-7
_CONFIDENCE = 0.95
_TOKENS_A_SLIDE = 64
_MATCHED = 0.5  # share of the mass of a token that reaches the region


@dataclass(frozen=True)
class HeldOut:
    """What was measured on held-out cases; None has no meaning for the objective.

    Attributes:
        retrieval: mean reciprocal rank (0-1, higher is better) of the partner slide among all
            held-out slides of its kind: each stain found from H&E, mean over stains; for
            Intra-SSL one half of a slide found from the other.
        recall_at_1: share of queries whose partner comes first (0-1).
        chance: the mean reciprocal rank of guessing.
        mean_pool: the retrieval of the mean of plain features, on the same patches.
        gain_low: what `retrieval` gains over `mean_pool` at least, by 95% confidence: one-sided
            Student interval of the gains of the cases (at least -1).
        smooth_rank: effective number of dimensions of the H&E embeddings.
        token_cosine: mean cosine between projected tokens of an H&E slide; near 1 is collapse.
        token_rank: effective number of dimensions of these tokens, of all slides together.
        plan_partners: mean of exp(entropy) of the partners that the plan gives a token.
        map_error: median distance, in sides of a patch, between the partners that the plan gives a
            token and the patch whose token is most like it, both in the region of the slide.
    """

    retrieval: float
    recall_at_1: float
    chance: float
    mean_pool: float | None
    gain_low: float | None
    smooth_rank: float
    token_cosine: float
    token_rank: float
    plan_partners: float | None = None
    map_error: float | None = None

    def measured(self) -> dict[str, float]:
        """Return what has a meaning for the objective, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def describe(self) -> str:
        """Return the measures in a few words."""
        plain = "" if self.mean_pool is None else f", mean-pool {self.mean_pool:.3f}"
        return (
            f"held out: retrieval {self.retrieval:.3f}{plain}, chance {self.chance:.3f}, "
            f"smooth rank {self.smooth_rank:.1f}, token cosine {self.token_cosine:.2f}"
        )


@torch.inference_mode()
def evaluate_held_out(
    model: Madeleine,
    batches: Iterable[CaseBatch],
    stains: int,
    preset: Preset,
    *,
    views: bool,
) -> HeldOut:
    """Return the measures of a model in evaluation mode, in float32.

    Args:
        model: set to evaluation mode here, and back to what it was.
        batches: all held-out cases.
        stains: number of stains of the cohort.
        preset: says what the tokens are.
        views: look for halves of H&E slides (Intra-SSL) instead of other stains.
    """
    training = model.training
    model.eval()
    pairs: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
    cases = 0
    embeddings: list[Tensor] = []
    tokens_of_he: list[Tensor] = []
    maps: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        made = embed(model, batch, stains)
        he = made.row_of[:, 0][made.row_of[:, 0] >= 0]
        embeddings.append(made.slides[he.to(made.slides.device)].float())
        everyone = torch.arange(len(batch.lengths))
        tokens = preset.tokens(model, made, everyone, min(_TOKENS_A_SLIDE, max(batch.lengths)))
        tokens_of_he.append(tokens[he.to(tokens.device)].float())
        if views:
            pairs[0].append(pool_halves(model, made))
            continue
        plain = bag_means(batch.patches.float(), batch.lengths)
        for stain in range(1, stains):
            sides = made.pairs(stain)
            there = [side.to(made.slides.device) for side in sides]
            embedded = (rows[side] for rows in (made.slides, plain) for side in there)
            pairs[stain].append((*embedded, cases + batch.case[sides[0]]))
            if batch.regions is not None:
                of_sides = (tokens[side] for side in there)
                maps.append(_measure_map(batch.regions, sides[1], *of_sides))
        cases += batch.cases
    model.train(training)
    whole = [
        [torch.cat(part) for part in zip(*of_stain, strict=True)] for of_stain in pairs.values()
    ]
    whole = [parts for parts in whole if len(parts[0]) >= 2]
    ranks = [partner_ranks(query, key) for query, key, *_ in whole]
    plain_ranks = [] if views else [partner_ranks(*parts[2:4]) for parts in whole]
    partners, errors = (
        (torch.cat(part) for part in zip(*maps, strict=True)) if maps else (None, None)
    )
    return HeldOut(
        retrieval=_reciprocal(ranks),
        recall_at_1=_mean([float((rank == 1).double().mean()) for rank in ranks]),
        chance=_mean([float((1.0 / torch.arange(1, len(r) + 1)).mean()) for r in ranks]),
        mean_pool=None if views else _reciprocal(plain_ranks),
        gain_low=None if views else least_gain(ranks, plain_ranks, [parts[4] for parts in whole]),
        smooth_rank=smooth_rank(torch.cat(embeddings)),
        token_cosine=float(torch.cat([mean_token_cosine(part) for part in tokens_of_he]).mean()),
        token_rank=smooth_rank(torch.cat([part.flatten(0, 1) for part in tokens_of_he])),
        plan_partners=None if partners is None else float(partners.mean()),
        map_error=None if errors is None else float(errors.nanmedian()),
    )


def _measure_map(
    regions: Regions, other: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Return partners and map error of the tokens that have partners; see `HeldOut`.

    Args:
        regions: of the batch.
        other: rows of the slides of the other stain in it.
        first: tokens of the H&E slides, pair x token x dim.
        second: tokens of the others.
    """
    plan = regions.partners[other.to(regions.partners.device)].cpu().double()
    mass = plan.sum(dim=2)
    share = plan / mass.clamp(min=torch.finfo(torch.float64).tiny)[..., None]
    partners = torch.special.entr(share).sum(dim=2).exp()
    places = regions.places[other]
    nearest = (centred_units(first) @ centred_units(second).mT).argmax(dim=2).cpu()
    reached = torch.take_along_dim(places, nearest[..., None], dim=1)
    errors = torch.linalg.vector_norm(reached - share @ places, dim=2)
    matched = mass > _MATCHED
    return partners[matched], errors[matched]


def least_gain(ranks: list[Tensor], plain: list[Tensor], cases: list[Tensor]) -> float:
    """Return what ranks gain over those of plain features at least, as `HeldOut.gain_low`.

    A gain is a difference of reciprocal ranks; its mean over the stains of a case counts once.

    Args:
        ranks: of the partner, from 1, for each stain; (query,).
        plain: the same by the mean of plain features.
        cases: number of the case that asks.
    """
    if not ranks:
        return -1.0
    gains = (1.0 / torch.cat(ranks) - 1.0 / torch.cat(plain)).cpu().numpy()
    of_case = pd.Series(gains).groupby(torch.cat(cases).numpy()).mean().to_numpy(np.float64)
    if len(of_case) < 2:
        return -1.0
    error = of_case.std(ddof=1) / len(of_case) ** 0.5
    margin = float(student.ppf(_CONFIDENCE, len(of_case) - 1)) * error
    return max(float(of_case.mean() - margin), -1.0)


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


def _reciprocal(ranks: list[Tensor]) -> float:
    """Return the mean over stains of the mean reciprocal rank."""
    return _mean([float((1.0 / rank).mean()) for rank in ranks])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

"""What is minimised: contrast and transport between stains, and contrast of two views of a slide.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859), section 3.3: global objective (InfoNCE between the
    H&E slide and each other stain) and local objective (graph optimal transport of their tokens);
    Intra-SSL, section 4.2: InfoNCE between two views of the H&E slide alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import info_nce
from madeleine_bench.losses.transport import PUBLISHED_TOKENS, graph_transport
from madeleine_bench.models.madeleine import Madeleine, published_stain_order
from madeleine_bench.pretrain.batches import CaseBatch, on_device
from madeleine_bench.pretrain.parallel import Group, gather_rows, sum_over
from madeleine_bench.pretrain.recipe import ObjectiveRecipe


@dataclass(frozen=True)
class Loss:
    """The loss of one global batch.

    Attributes:
        total: scalar; its gradient, summed over the processes, is that of the global batch.
        terms: each part before weighting, and "loss", their weighted sum; no gradient.
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """A batch with what the model makes of it.

    Attributes:
        batch: the packed slides.
        slides: slide x width.
        tokens: patch x head x width; the rows of a slide follow those of the slide before it.
        scores: patch x head, attention before the softmax.
        stains: number of stains of the cohort, those absent from the batch too.
    """

    batch: CaseBatch
    slides: Tensor
    tokens: Tensor
    scores: Tensor
    stains: int

    @cached_property
    def row_of(self) -> Tensor:
        """The row of each slide in `slides`, -1 where there is none: case x stain, on the CPU."""
        table = torch.full((self.batch.cases, self.stains), -1)
        table[self.batch.case, self.batch.stain] = torch.arange(len(self.batch.case))
        return table

    def by_case(self, rows: Tensor) -> Tensor:
        """Return slide x width as case x stain x width, zeros where there is no slide."""
        padded = torch.cat([rows, torch.zeros_like(rows[:1])])
        return padded[on_device(self.row_of, rows.device)]

    def pairs(self, stain: int) -> tuple[Tensor, Tensor]:
        """Return the rows of H&E slides and, case by case, those of the other stain."""
        both = (self.row_of[:, 0] >= 0) & (self.row_of[:, stain] >= 0)
        return self.row_of[both, 0], self.row_of[both, stain]

    def token_rows(self, slides: Tensor, count: int) -> Tensor:
        """Return slide x count rows of `tokens`: a random sample, as patches lie in random order.

        A slide with fewer patches repeats them in turn.
        """
        lengths = torch.tensor(self.batch.lengths)
        starts = lengths.cumsum(0) - lengths
        return starts[slides, None] + torch.arange(count) % lengths[slides, None]


def embed(model: Madeleine, batch: CaseBatch, stains: int, *, published: bool = False) -> Embedded:
    """Return what the model makes of a batch.

    `published` gives slides the stain encodings that the released training code gives them: it
    numbers slides that lie case by case as if they lay stain by stain.
    """
    codes = None
    if model.stains:
        codes = batch.stain
        if published:
            order = published_stain_order(batch.cases, stains)
            codes = order[batch.case * stains + batch.stain]
        codes = codes.repeat_interleave(torch.tensor(batch.lengths))
        codes = on_device(codes, batch.patches.device)
    patches = batch.patches
    if not torch.is_autocast_enabled(patches.device.type):
        patches = patches.to(model.projector.weight.dtype)
    slides, tokens, scores = model(patches, batch.lengths, codes)
    return Embedded(batch, slides, tokens, scores, stains)


def pool_halves(model: Madeleine, made: Embedded) -> tuple[Tensor, Tensor]:
    """Return two embeddings of each slide, slide x width each: of either half of its patches."""
    halves = [half for n in made.batch.lengths for half in (n // 2, n - n // 2)]
    views = model.pool(made.tokens, made.scores, halves)
    return views[0::2], views[1::2]


def cross_stain_loss(
    model: Madeleine, batch: CaseBatch, stains: int, recipe: ObjectiveRecipe, group: Group
) -> Loss:
    """Return the loss between the H&E slide of each case and its slides of other stains.

    "corrected": mean over stains of InfoNCE and of the mean transport cost (Wasserstein +
    Gromov-Wasserstein) of the stain's pairs, on `recipe.tokens` tokens a slide. "published": sums
    over stains and pairs, and on as many tokens a slide as the stain has pairs, at most 256.
    A stain with fewer than two pairs in the global batch takes no part.
    """
    published = recipe.preset == "published"
    made = embed(model, batch, stains, published=published)
    present = _present(group, made)
    counts = (present[:, :1] & present).sum(dim=0).tolist()
    used = [stain for stain in range(1, stains) if counts[stain] >= 2]
    if not used:
        return Loss(made.slides.sum() * 0.0)
    share = 1.0 if published else 1.0 / len(used)
    contrast = _contrast(gather_rows(group, made.by_case(made.slides)), present, used, recipe)
    parts = {"global": (1.0, share * contrast)}
    if recipe.local_weight > 0.0:
        transport = _published_transport if published else _corrected_transport
        cost = share * transport(model, made, used, counts, recipe)
        parts["local"] = (recipe.local_weight, cost)
    if recipe.intra_weight > 0.0:
        intra = _view_contrast(model, made, group, present, [0, *used], recipe)
        parts["intra"] = (recipe.intra_weight, intra)
    return _weighed(parts, group)


def view_loss(
    model: Madeleine, batch: CaseBatch, stains: int, recipe: ObjectiveRecipe, group: Group
) -> Loss:
    """Return InfoNCE between two random halves of the patches of each H&E slide (Intra-SSL)."""
    made = embed(model, batch, stains)
    present = _present(group, made)
    intra = _view_contrast(model, made, group, present, [0], recipe)
    return _weighed({"intra": (1.0, intra)}, group)


def _present(group: Group, made: Embedded) -> Tensor:
    """Return which slides the global batch has: case x stain, on the CPU."""
    here = made.row_of >= 0
    if group.size == 1:
        return here  # to the device and back would wait until the model has run
    return gather_rows(group, here.float().to(made.slides.device)).cpu() > 0


def _weighed(parts: Mapping[str, tuple[float, Tensor]], group: Group) -> Loss:
    """Return the sum of weighted terms; of "local" each process has its own pairs' share alone."""
    total = torch.stack([weight * value for weight, value in parts.values()]).sum()
    terms = {
        name: sum_over(group, value) if name == "local" else value.detach()
        for name, (_, value) in parts.items()
    }
    weighted = [weight * terms[name] for name, (weight, _) in parts.items()]
    terms["loss"] = torch.stack(weighted).sum()
    return Loss(total, terms)


def _contrast(
    slides: Tensor, present: Tensor, used: Sequence[int], recipe: ObjectiveRecipe
) -> Tensor:
    """Return the sum over stains of InfoNCE between H&E and the stain; case x stain x width."""
    losses = []
    for stain in used:
        both = (present[:, 0] & present[:, stain]).nonzero().squeeze(1)
        both = on_device(both, slides.device)
        he, other = slides[both, 0], slides[both, stain]
        losses.append(info_nce(he, other, temperature=recipe.temperature))
    return torch.stack(losses).sum()


def _view_contrast(
    model: Madeleine,
    made: Embedded,
    group: Group,
    present: Tensor,
    used: Sequence[int],
    recipe: ObjectiveRecipe,
) -> Tensor:
    """Return the mean over stains of InfoNCE between two random halves of each slide's patches."""
    first, second = (gather_rows(group, made.by_case(view)) for view in pool_halves(model, made))
    losses = []
    for stain in used:
        there = on_device(present[:, stain].nonzero().squeeze(1), first.device)
        losses.append(
            info_nce(first[there, stain], second[there, stain], temperature=recipe.temperature)
        )
    return torch.stack(losses).mean()


def _corrected_transport(
    model: Madeleine,
    made: Embedded,
    used: Sequence[int],
    counts: Sequence[int],
    recipe: ObjectiveRecipe,
) -> Tensor:
    """Return the sum over stains of the mean transport cost; this process's share of it."""
    pairs = [made.pairs(stain) for stain in used]
    he, other = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    share = [torch.full_like(rows, counts[s]) for s, (rows, _) in zip(used, pairs, strict=True)]
    if not len(he):
        return made.tokens.sum() * 0.0
    slides, position = torch.unique(torch.cat([he, other]), return_inverse=True)
    rows = on_device(made.token_rows(slides, recipe.tokens), made.tokens.device)
    tokens = model.project_tokens(made.tokens[rows])
    left, right = on_device(position, tokens.device).chunk(2)
    cost = graph_transport(tokens[left], tokens[right])
    return ((cost.wasserstein + cost.gromov) / on_device(torch.cat(share), tokens.device)).sum()


def _published_transport(
    model: Madeleine,
    made: Embedded,
    used: Sequence[int],
    counts: Sequence[int],
    recipe: ObjectiveRecipe,
) -> Tensor:
    """Return the sum over stains and pairs of the transport cost, quirks of the release included.

    The released code permutes the batch axis where it means to sample tokens, so a stain of n
    pairs uses the first n tokens of each slide.
    """
    sums = []
    for stain in used:
        count = min(counts[stain], PUBLISHED_TOKENS)
        he, other = (
            model.project_tokens(
                made.tokens[on_device(made.token_rows(s, count), made.tokens.device)]
            )
            for s in made.pairs(stain)
        )
        cost = graph_transport(he, other, published=True)
        sums.append((cost.wasserstein + cost.gromov).sum())
    return torch.stack(sums).sum()

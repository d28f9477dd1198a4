"""What is minimised: contrast and local loss between stains, contrast of two views of a slide.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859), section 3.3: global objective (InfoNCE between the
    H&E slide and each other stain) and local objective (graph optimal transport of their tokens);
    Intra-SSL, section 4.2: InfoNCE between two views of the H&E slide alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from madeleine_bench.losses.cosine import info_nce
from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.pretrain.batches import CaseBatch, on_device
from madeleine_bench.pretrain.embedded import Embedded, embed, pool_halves
from madeleine_bench.pretrain.parallel import Group, gather_rows, sum_over
from madeleine_bench.pretrain.presets import PRESETS
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


def cross_stain_loss(
    model: Madeleine, batch: CaseBatch, stains: int, recipe: ObjectiveRecipe, group: Group
) -> Loss:
    """Return the loss between the H&E slide of each case and its slides of other stains.

    InfoNCE of the slide embeddings of each stain, and the local loss of the preset. A stain with
    fewer than two pairs in the global batch takes no part.
    """
    preset = PRESETS[recipe.preset]
    made = embed(model, batch, stains, published=preset.published_codes)
    present = _present(group, made)
    counts = (present[:, :1] & present).sum(dim=0).tolist()
    used = [stain for stain in range(1, stains) if counts[stain] >= 2]
    if not used:
        return Loss(made.slides.sum() * 0.0)
    share = preset.share(len(used))
    contrast = _contrast(gather_rows(group, made.by_case(made.slides)), present, used, recipe)
    parts = {"global": (1.0, share * contrast)}
    if recipe.local_weight > 0.0:
        local = preset.local(model, made, present, used, recipe, group)
        parts["local"] = (recipe.local_weight, share * local)
    if recipe.intra_weight > 0.0:
        intra = _view_contrast(model, made, group, present, [0, *used], recipe)
        parts["intra"] = (recipe.intra_weight, intra)
    return _weighed(parts, group, {"local"} if preset.splits_local else set())


def view_loss(
    model: Madeleine, batch: CaseBatch, stains: int, recipe: ObjectiveRecipe, group: Group
) -> Loss:
    """Return InfoNCE between two random halves of the patches of each H&E slide (Intra-SSL)."""
    made = embed(model, batch, stains)
    present = _present(group, made)
    intra = _view_contrast(model, made, group, present, [0], recipe)
    return _weighed({"intra": (1.0, intra)}, group, set())


def _present(group: Group, made: Embedded) -> Tensor:
    """Return which slides the global batch has: case x stain, on the CPU."""
    here = made.row_of >= 0
    if group.size == 1:
        return here  # to the device and back would wait until the model has run
    return gather_rows(group, here.float().to(made.slides.device)).cpu() > 0


def _weighed(parts: Mapping[str, tuple[float, Tensor]], group: Group, split: set[str]) -> Loss:
    """Return the sum of weighted terms; of those in `split` each process has a share alone."""
    total = torch.stack([weight * value for weight, value in parts.values()]).sum()
    terms = {
        name: sum_over(group, value) if name in split else value.detach()
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

"""The presets of the objective: what each samples, minimises and couples.

`corrected` is the objective of the paper, `published` that of the released code with its quirks,
`aligned` has a local objective that does not collapse. A preset overrides what it does otherwise.

References:
    Jaume et al., ECCV 2024 (arXiv 2408.02859), section 3.3; the quirks: docs/pretraining.md.
"""

from collections.abc import Sequence
from math import cos, pi

import torch
from torch import Tensor

from madeleine_bench.losses.aligned import partner_pull
from madeleine_bench.losses.transport import PUBLISHED_TOKENS, graph_transport
from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.pretrain.batches import on_device
from madeleine_bench.pretrain.embedded import Embedded, in_model_type
from madeleine_bench.pretrain.parallel import Group, gather_rows
from madeleine_bench.pretrain.recipe import ObjectiveRecipe, OptimiserRecipe, PresetName

# The published warm-up begins at this share of the highest rate.
_PUBLISHED_START = 1e-5


class Preset:
    """The objective of the paper ("corrected"), and what the other presets override.

    Attributes:
        published_codes: slides get the stain encodings of the released code.
        splits_local: each process has the local loss of its own pairs alone; else of all.
        several_processes: the loss does not depend on which process has which case.
        model: class of the slide encoder.
        draws_regions: batches hold corresponding regions, by transport plans.
    """

    published_codes = False
    splits_local = True
    several_processes = True
    draws_regions = False
    model: type[Madeleine] = Madeleine

    def learning_rate(
        self, step: int, steps_per_epoch: int, epochs: int, optimiser: OptimiserRecipe
    ) -> float:
        """Return the learning rate of a step.

        The highest rate is reached at the last step of the warm-up, the final rate exactly at the
        last step of the run.

        Args:
            step: from 0, over the whole run.
            steps_per_epoch: steps of one epoch.
            epochs: of the whole run; fewer than the warm-up's are refused by the recipe.
            optimiser: the rates, and the epochs of warm-up.

        Examples:
            >>> optimiser = OptimiserRecipe(learning_rate=1e-4, warmup_epochs=2)
            >>> [f"{Preset().learning_rate(step, 3, 6, optimiser):.1e}" for step in (0, 5, 17)]
            ['1.7e-05', '1.0e-04', '1.0e-08']
        """
        warmup = steps_per_epoch * optimiser.warmup_epochs
        if step < warmup:
            return optimiser.learning_rate * (step + 1) / warmup
        peak = max(warmup - 1, 0)
        return _fall(optimiser, (step - peak) / max(steps_per_epoch * epochs - 1 - peak, 1))

    def share(self, stains: int) -> float:
        """Return the weight of each of the stains that take part."""
        return 1.0 / stains

    def tokens(self, model: Madeleine, made: Embedded, slides: Tensor, count: int) -> Tensor:
        """Return tokens of some slides, slide x token x dim; `count` of each at most."""
        rows = on_device(made.token_rows(slides, count), made.tokens.device)
        return model.project_tokens(made.tokens[rows])

    def local(
        self,
        model: Madeleine,
        made: Embedded,
        present: Tensor,
        used: Sequence[int],
        recipe: ObjectiveRecipe,
        group: Group,
    ) -> Tensor:
        """Return the sum over stains of the local loss; this process's share if `splits_local`.

        Here it is the mean transport cost (Wasserstein + Gromov-Wasserstein) of the stain's pairs.

        Args:
            model: that made the batch.
            made: the batch of this process.
            present: which slides the global batch has, case x stain, on the CPU.
            used: stains with two pairs or more in the global batch.
            recipe: number of tokens.
            group: the processes.
        """
        counts = (present[:, :1] & present).sum(dim=0)
        pairs = [made.pairs(stain) for stain in used]
        he, other = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        share = [counts[s].expand(len(rows)) for s, (rows, _) in zip(used, pairs, strict=True)]
        if not len(he):
            return made.tokens.sum() * 0.0
        slides, position = torch.unique(torch.cat([he, other]), return_inverse=True)
        tokens = self.tokens(model, made, slides, recipe.tokens)
        left, right = on_device(position, tokens.device).chunk(2)
        cost = graph_transport(tokens[left], tokens[right])
        return ((cost.wasserstein + cost.gromov) / on_device(torch.cat(share), tokens.device)).sum()


class Published(Preset):
    """The objective of the released code.

    The recipe couples two more: no clipping of gradients, and a dropout of .25 in the attention.
    Two differ from the released code: losses are in float32 (there in bf16 under autocast), and
    the epoch is chosen by held-out retrieval (there by the rank of training embeddings).
    """

    published_codes = True
    several_processes = False

    def learning_rate(
        self, step: int, steps_per_epoch: int, epochs: int, optimiser: OptimiserRecipe
    ) -> float:
        """Return the learning rate of a step.

        The warm-up begins at 1e-5 of the highest rate, one more epoch than declared passes before
        the fall begins, and so the run ends above the final rate.
        """
        warmup = steps_per_epoch * optimiser.warmup_epochs
        if step < warmup:
            share = _PUBLISHED_START + (1.0 - _PUBLISHED_START) * step / warmup
            return optimiser.learning_rate * share
        past = max(step - warmup - steps_per_epoch, 0)
        return _fall(optimiser, past / (steps_per_epoch * epochs - warmup))

    def share(self, stains: int) -> float:
        """Return 1: terms are summed over stains."""
        return 1.0

    def local(
        self,
        model: Madeleine,
        made: Embedded,
        present: Tensor,
        used: Sequence[int],
        recipe: ObjectiveRecipe,
        group: Group,
    ) -> Tensor:
        """Return the sum over stains and pairs of the transport cost, quirks included.

        The released code permutes the batch axis where it means to sample tokens, so a stain of n
        pairs uses the first n tokens of each slide.
        """
        sums = []
        for stain in used:
            pairs = made.pairs(stain)
            count = min(len(pairs[0]), PUBLISHED_TOKENS)
            he, other = (self.tokens(model, made, slides, count) for slides in pairs)
            cost = graph_transport(he, other, published=True)
            sums.append((cost.wasserstein + cost.gromov).sum())
        return torch.stack(sums).sum()


class Aligned(Preset):
    """Tokens of partner patches alike, of others apart; partners by a plan made beforehand.

    Patches are sampled from corresponding regions. The model adds what it learns to the mean of
    plain features, and to plain tokens.
    """

    splits_local = False
    draws_regions = True
    model = AlignedMadeleine

    def tokens(self, model: Madeleine, made: Embedded, slides: Tensor, count: int) -> Tensor:
        """Return the tokens of the regions of some slides, slide x token x dim."""
        regions = made.batch.regions
        assert regions is not None
        assert isinstance(model, AlignedMadeleine)
        rows = on_device(slides, regions.patches.device)
        patches = in_model_type(regions.patches[rows], model)
        means = regions.means[rows, None].to(patches.dtype)
        stains = made.batch.stain[slides].repeat_interleave(patches.shape[1])
        codes = on_device(stains, patches.device) if model.stains else None
        learned, _ = model.embed_patches(patches.flatten(0, 1), codes)
        learned = torch.unflatten(learned, 0, patches.shape[:2])
        tokens: Tensor = model.aligned_tokens(patches, means, learned)
        return tokens

    def local(
        self,
        model: Madeleine,
        made: Embedded,
        present: Tensor,
        used: Sequence[int],
        recipe: ObjectiveRecipe,
        group: Group,
    ) -> Tensor:
        """Return the sum over stains of `partner_pull` of the tokens of all pairs."""
        regions = made.batch.regions
        assert regions is not None
        everyone = torch.arange(len(made.batch.lengths))
        tokens = self.tokens(model, made, everyone, recipe.tokens)
        tokens = gather_rows(group, made.by_case(tokens))
        partners = gather_rows(group, made.by_case(regions.partners))
        losses = []
        for stain in used:
            both = (present[:, 0] & present[:, stain]).nonzero().squeeze(1)
            both = on_device(both, tokens.device)
            plan = partners[both, stain]
            losses.append(partner_pull(tokens[both, 0], tokens[both, stain], plan))
        return torch.stack(losses).sum()


PRESETS: dict[PresetName, Preset] = {
    "corrected": Preset(),
    "published": Published(),
    "aligned": Aligned(),
}


def _fall(optimiser: OptimiserRecipe, past: float) -> float:
    """Return the rate when a share `past` (0-1) of the half cosine is over."""
    highest, final = optimiser.learning_rate, optimiser.final_learning_rate
    return final + (highest - final) * (1.0 + cos(pi * past)) / 2.0

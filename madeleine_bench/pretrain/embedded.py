"""A batch of slides with what the model makes of it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from madeleine_bench.models.madeleine import Madeleine, published_stain_order
from madeleine_bench.pretrain.batches import CaseBatch, on_device


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
        """Return (slide, ...) as (case, stain, ...), zeros where there is no slide."""
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
    patches = in_model_type(batch.patches, model)
    slides, tokens, scores = model(patches, batch.lengths, codes)
    return Embedded(batch, slides, tokens, scores, stains)


def in_model_type(patches: Tensor, model: Madeleine) -> Tensor:
    """Return patches in the number type of a model; autocast chooses its own."""
    if torch.is_autocast_enabled(patches.device.type):
        return patches
    return patches.to(model.projector.weight.dtype)


def pool_halves(model: Madeleine, made: Embedded) -> tuple[Tensor, Tensor]:
    """Return two embeddings of each slide, slide x width each: of either half of its patches."""
    halves = [half for n in made.batch.lengths for half in (n // 2, n - n // 2)]
    views = model.pool(made.tokens, made.scores, halves, made.batch.patches)
    return views[0::2], views[1::2]

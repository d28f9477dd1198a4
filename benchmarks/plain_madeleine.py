"""Madeleine's training step written the plain way, to measure ours against.

The same weights, cases and patches give the same loss as the package's `objective: corrected`, by
code as one writes it first: every case has a bag for every stain, zeros where it has no slide, and
all go through the model; a head is every fourth channel, read with a stride; the projector of
tokens sees all of them; the stains' transport is computed one after the other, by the slow
reference of the tests, through whose iterations autograd goes; and each step waits for its losses.
"""

import importlib.util
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madeleine_bench.pretrain.batches import CaseBatch
from madeleine_bench.pretrain.recipe import ObjectiveRecipe

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "losses" / "reference.py"
_TOKEN_DIM = 128
_SHARE = 0.1  # of the range of a pair's distances: what lies below counts as no distance


class Gate(nn.Module):
    """One head of gated attention, with the names of the official weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.attention_b = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
        self.attention_c = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return raw attention, slide x patch x 1, of tokens, slide x patch x width."""
        scores: Tensor = self.attention_c(self.attention_a(tokens) * self.attention_b(tokens))
        return scores


class Pooling(nn.Module):
    """The pre-attention network and its heads; channel e * heads + h is feature e of head h."""

    def __init__(self, dim: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((dim, width), (width, width), (width, width * heads)):
            layers += [nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.GELU()]
            layers += [nn.Dropout(dropout)]
        self.pre_attn = nn.Sequential(*layers)
        self.attn = nn.ModuleList(Gate(width) for _ in range(heads))

    def forward(self, bags: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled tokens, slide x (width * heads), and tokens, slide x patch x the same."""
        tokens = self.pre_attn(bags)
        heads = tokens.unflatten(-1, (-1, len(self.attn)))
        pooled = []
        for number, gate in enumerate(self.attn):
            head = heads[..., number]
            pooled.append((gate(head).softmax(dim=1) * head).sum(dim=1))
        return torch.stack(pooled, dim=-1).flatten(1), tokens


class PlainMadeleine(nn.Module):
    """The slide encoder over bags of equal length; takes the state dict of `Madeleine`."""

    def __init__(self, dim: int, width: int, heads: int, dropout: float) -> None:
        """Make the layers; without stain encodings."""
        super().__init__()
        self.token_projector = nn.Linear(width * heads, _TOKEN_DIM)
        self.wsi_embedders = Pooling(dim, width, heads, dropout)
        self.projector = nn.Linear(width * heads, width)

    def forward(self, bags: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings, slide x width, and projected tokens, slide x patch x 128."""
        pooled, tokens = self.wsi_embedders(bags)
        return self.projector(pooled), self.token_projector(tokens)


def padded(batch: CaseBatch, stains: int) -> tuple[Tensor, Tensor]:
    """Return bags, (case * stain) x patch x dim, zeros for absent slides, and who is there.

    The second is case x stain, on the CPU.

    Raises:
        ValueError: the slides have not all the same number of patches.
    """
    if len(set(batch.lengths)) != 1:
        raise ValueError("padded bags need slides of one number of patches")
    slot = batch.case * stains + batch.stain
    dim = batch.patches.shape[1]
    bags = batch.patches.new_zeros(batch.cases * stains, batch.lengths[0], dim)
    bags[slot.to(bags.device)] = torch.unflatten(batch.patches, 0, (-1, batch.lengths[0]))
    present = torch.zeros(batch.cases * stains, dtype=torch.bool)
    present[slot] = True
    return bags, torch.unflatten(present, 0, (batch.cases, stains))


def first_cases(batch: CaseBatch, count: int) -> CaseBatch:
    """Return the slides of the first cases of a batch alone."""
    slides = int((batch.case < count).sum())
    return replace(
        batch,
        patches=batch.patches[: sum(batch.lengths[:slides])],
        lengths=batch.lengths[:slides],
        case=batch.case[:slides],
        stain=batch.stain[:slides],
        cases=min(count, batch.cases),
    )


def plain_loss(
    model: PlainMadeleine, batch: CaseBatch, stains: int, recipe: ObjectiveRecipe
) -> dict[str, Tensor]:
    """Return the terms "global" and "local" and their weighted sum "loss"; H&E is stain 0."""
    bags, present = padded(batch, stains)
    if not torch.is_autocast_enabled(bags.device.type):
        bags = bags.to(model.projector.weight.dtype)
    embeddings, tokens = (made.unflatten(0, (batch.cases, stains)).float() for made in model(bags))
    reference = slow_reference()
    contrasts, costs = [], []
    for stain in range(1, stains):
        pairs = present[:, 0] & present[:, stain]
        if pairs.sum() < 2:
            continue
        with _in_float32(bags):
            he, other = embeddings[pairs, 0], embeddings[pairs, stain]
            contrasts.append(contrast(he, other, recipe.temperature))
            x, y = (tokens[pairs, kind, : recipe.tokens] for kind in (0, stain))
            across, within_x, within_y = (
                thresholded(reference.cosine_distance(a, b)) for a, b in ((x, y), (x, x), (y, y))
            )
            both = reference.wasserstein(across) + reference.gromov_wasserstein(within_x, within_y)
            costs.append(both.mean())
    terms = {"global": torch.stack(contrasts).mean(), "local": torch.stack(costs).mean()}
    return {**terms, "loss": terms["global"] + recipe.local_weight * terms["local"]}


def plain_step(
    model: PlainMadeleine,
    optimiser: torch.optim.Optimizer,
    batch: CaseBatch,
    stains: int,
    recipe: ObjectiveRecipe,
    precision: AbstractContextManager[None],
    clip_norm: float | None,
) -> Mapping[str, float]:
    """Return the loss terms of one step of the optimiser, which has then been taken."""
    with precision:
        terms = plain_loss(model, batch, stains, recipe)
    optimiser.zero_grad()
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimiser.step()
    return {name: value.item() for name, value in terms.items()}


def contrast(he: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Return symmetric InfoNCE between slides and their partners, row by row."""
    logits = F.normalize(he, dim=1) @ F.normalize(other, dim=1).T / temperature
    partner = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2.0


def thresholded(distance: Tensor) -> Tensor:
    """Return distances above their pair's minimum plus a tenth of its range, else 0."""
    low, high = (
        extreme(distance.detach(), dim=(1, 2), keepdim=True) for extreme in (torch.amin, torch.amax)
    )
    return torch.relu(distance - (low + _SHARE * (high - low)))


def slow_reference() -> ModuleType:
    """Return the slow reference of the tests' losses, loaded from its file once."""
    name = "slow_reference_of_losses"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REFERENCE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _in_float32(tensor: Tensor) -> AbstractContextManager[None]:
    return torch.autocast(tensor.device.type, enabled=False)

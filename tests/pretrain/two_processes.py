"""Run by torchrun in test_parallel.py: one step's loss and gradient, written by the first rank."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from madeleine_bench.models.aligned import AlignedMadeleine
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.batches import CaseBatch, Regions, rank_share
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import Group, process_group, sum_gradients
from madeleine_bench.pretrain.recipe import ObjectiveRecipe

CASES, STAINS, DIM, TOKENS = 5, 3, 7, 3


def bag(case: int, stain: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(10 * case + stain)
    return torch.randn(4 + (case + 2 * stain) % 5, DIM, generator=stream, dtype=torch.float64)


def batch_of(cases: list[int], room: int, device: str | torch.device = "cpu") -> CaseBatch:
    """Stain 2 is there for cases 0 and 1 alone: both lie in the first rank's share."""
    keys = [(c, s) for c in cases for s in range(STAINS) if s < 2 or c < 2]
    bags = [bag(*key) for key in keys]
    return CaseBatch(
        patches=torch.cat(bags).to(device),
        lengths=tuple(map(len, bags)),
        case=torch.tensor([cases.index(c) for c, _ in keys]),
        stain=torch.tensor([s for _, s in keys]),
        cases=room,
        regions=Regions(
            patches=torch.stack([part[:TOKENS] for part in bags]).to(device),
            means=torch.stack([part.mean(dim=0) for part in bags]).to(device),
            partners=torch.stack([bag(c, s)[:TOKENS, :TOKENS].square() for c, s in keys]).to(
                device
            ),
            places=torch.zeros(len(keys), TOKENS, 2),
        ),
    )


def measure(group: Group) -> dict[str, torch.Tensor]:
    """Return each term and the gradient, summed over the processes, for each objective."""
    share = rank_share(torch.arange(CASES).numpy(), group.rank, group.size)
    batch = batch_of([int(c) for c in share], -(-CASES // group.size), group.device)
    found = {}
    for name, preset, kind, objective in (
        ("madeleine", "corrected", Madeleine, cross_stain_loss),
        ("aligned", "aligned", AlignedMadeleine, cross_stain_loss),
        ("intra-ssl", "corrected", Madeleine, view_loss),
    ):
        model = kind(DIM, 6, 2).double().eval()
        initialise(model, 1)
        model.to(group.device)
        recipe = ObjectiveRecipe(preset=preset, temperature=0.2, intra_weight=0.5, tokens=TOKENS)
        loss = objective(model, batch, STAINS, recipe, group)
        loss.total.backward()
        sum_gradients(group, model.parameters())
        found |= {f"{name}/term/{key}": value.clone() for key, value in loss.terms.items()}
        found |= {f"{name}/grad/{key}": p.grad.clone() for key, p in model.named_parameters()}
    return found


if __name__ == "__main__":
    with process_group("cpu") as ours:
        result = measure(ours)
        if ours.is_first:
            save_file(result, Path(sys.argv[1]))

"""A loss and its gradient ask their device for nothing: on the meta device, which has no numbers.

What a CUDA tensor would be waited for (`item`, `nonzero`, a mask as an index) raises there, and a
copy from the host by other means than `on_device`, which does not wait, is counted.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from madeleine_bench.models.madeleine import Madeleine
from madeleine_bench.pretrain import batches, embedded, objective, presets
from madeleine_bench.pretrain.batches import CaseBatch, Regions
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.presets import PRESETS
from madeleine_bench.pretrain.recipe import ObjectiveRecipe

META = torch.device("meta")
STAINS, DIM = 4, 7


class Copies(TorchDispatchMode):
    """Counts copies between the host and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        made = operation(*arguments, **(named or {}))
        tensors = [a for a in (*arguments, made) if isinstance(a, torch.Tensor)]
        if "copy" in str(operation) and len({t.device.type for t in tensors}) > 1:
            self.found += 1
        return made


@pytest.fixture(autouse=True)
def on_meta(monkeypatch):
    """The meta device knows no autocast, and what `on_device` sends does not count."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    for module in (objective, embedded, presets, batches):
        monkeypatch.setattr(
            module, "on_device", lambda index, device: torch.empty_like(index, device=device)
        )


def batch(lengths=None):
    """Four cases with H&E and ER, every second one with stain 2, the others with stain 3."""
    keys = [(c, s) for c in range(4) for s in range(STAINS) if s < 2 or c % 2 == s % 2]
    lengths = tuple(5 + number % 3 if lengths is None else lengths for number in range(len(keys)))
    case, stain = (torch.tensor(part) for part in zip(*keys, strict=True))
    regions = Regions(
        torch.empty(len(keys), 4, DIM, device=META),
        torch.empty(len(keys), DIM, device=META),
        torch.empty(len(keys), 4, 4, device=META),
        torch.zeros(len(keys), 4, 2),
    )
    return CaseBatch(torch.empty(sum(lengths), DIM, device=META), lengths, case, stain, 4, regions)


@pytest.mark.parametrize("lengths", [5, None], ids=["equal", "unequal"])
@pytest.mark.parametrize("stains", [0, STAINS])
@pytest.mark.parametrize("preset", ["corrected", "published", "aligned"])
def test_loss_and_gradient_of_stains(preset, stains, lengths):
    model = PRESETS[preset].model(DIM, 6, 2, stains=stains).to(META)
    recipe = ObjectiveRecipe(preset=preset, tokens=4, temperature=0.2, intra_weight=0.3)
    with Copies() as copies:
        loss = cross_stain_loss(model, batch(lengths), STAINS, recipe, Group(0, 1, META))
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert set(loss.terms) == {"global", "local", "intra", "loss"}
    assert copies.found == 0


def test_loss_and_gradient_of_views():
    model = Madeleine(DIM, 6, 2).to(META)
    with Copies() as copies:
        loss = view_loss(model, batch(), STAINS, ObjectiveRecipe(), Group(0, 1, META))
        loss.total.backward()
    assert copies.found == 0


def test_a_question_would_be_noticed():
    with pytest.raises(Exception, match=r"meta tensors|Meta tensors|meta device"):
        torch.empty(3, device=META).sum().item()
    with Copies() as copies:
        torch.arange(3).to(META)
    assert copies.found == 1

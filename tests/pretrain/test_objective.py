"""The whole loss: against the golden numbers, and what must not change it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from madeleine_bench.losses.cosine import info_nce
from madeleine_bench.losses.transport import graph_transport
from madeleine_bench.models.madeleine import Madeleine, initialise
from madeleine_bench.pretrain.batches import CaseBatch
from madeleine_bench.pretrain.embedded import embed
from madeleine_bench.pretrain.objective import cross_stain_loss, view_loss
from madeleine_bench.pretrain.parallel import Group
from madeleine_bench.pretrain.recipe import ObjectiveRecipe
from tests.models.test_madeleine import GOLDEN, needs_golden, recipe_model

ALONE = Group(0, 1, torch.device("cpu"))
STAINS, DIM = 4, 7


def packed(bags: dict[tuple[int, int], torch.Tensor], cases: int) -> CaseBatch:
    """A batch from bags by (case, stain)."""
    keys = sorted(bags)
    return CaseBatch(
        patches=torch.cat([bags[key] for key in keys]),
        lengths=tuple(len(bags[key]) for key in keys),
        case=torch.tensor([case for case, _ in keys]),
        stain=torch.tensor([stain for _, stain in keys]),
        cases=cases,
    )


def some_bags(seed=0, cases=5):
    """Bags of unequal length in which stain 2 is rare and stain 3 is of one case alone."""
    stream = torch.Generator().manual_seed(seed)
    there = [
        (c, s) for c in range(cases) for s in range(STAINS) if s < 2 or (c in (1, 4) and s == 2)
    ]
    there.append((0, 3))
    return {
        key: torch.randn(5 + (3 * key[0] + key[1]) % 4, DIM, generator=stream, dtype=torch.float64)
        for key in there
    }


def small_model(**options):
    model = Madeleine(DIM, 6, 2, **options).double().eval()
    initialise(model, 1)
    return model


@needs_golden
@pytest.mark.parametrize("temperature", [0.1, 0.001])
def test_the_published_loss_equals_the_reference(temperature):
    with np.load(GOLDEN / "madeleine_golden.npz") as golden:
        mask = golden["madeleine/loss_mask"]
        expected = float(golden[f"madeleine/total_loss_T{temperature}"])
    x = torch.from_numpy(np.random.RandomState(103).standard_normal((5, 5, 12, 512)))
    bags = {(c, s): x[c, s] for c in range(5) for s in range(5) if s == 0 or mask[c, s - 1]}
    recipe = ObjectiveRecipe(preset="published", temperature=temperature)
    loss = cross_stain_loss(recipe_model(), packed(bags, 5), 5, recipe, ALONE)
    assert loss.total.item() == pytest.approx(expected, rel=1e-10)
    assert float(loss.terms["loss"]) == loss.total.item()


@needs_golden
def test_the_published_stain_encodings_are_in_the_wrong_order_as_released():
    with np.load(GOLDEN / "madeleine_golden.npz") as golden:
        expected = torch.from_numpy(golden["madeleine_se/slide"])
    x = torch.from_numpy(np.random.RandomState(102).standard_normal((2, 5, 12, 512)))
    batch = packed({(c, s): x[c, s] for c in range(2) for s in range(5)}, 2)
    model = recipe_model(stains=5)
    made = embed(model, batch, 5, published=True)
    torch.testing.assert_close(made.slides.view(2, 5, 512), expected, rtol=1e-10, atol=1e-12)
    right = embed(model, batch, 5)
    assert not torch.allclose(right.slides, made.slides)


def test_the_corrected_loss_is_the_sum_worked_out_by_hand():
    model, bags = small_model(), some_bags()
    recipe = ObjectiveRecipe(temperature=0.2, local_weight=0.7, intra_weight=0.3, tokens=3)
    loss = cross_stain_loss(model, packed(bags, 5), STAINS, recipe, ALONE)

    def slide(case, stain):
        return model.encode(bags[case, stain])

    def tokens(case, stain):
        made, _ = model.embed_patches(bags[case, stain])
        return model.project_tokens(made[:3])

    def halves(case, stain, which):
        bag = bags[case, stain]
        return model.encode(bag[: len(bag) // 2] if which == 0 else bag[len(bag) // 2 :])

    contrast, local, views = [], [], []
    for stain, cases in ((1, range(5)), (2, (1, 4))):  # stain 3 has one pair: it takes no part
        he, other = (torch.stack([slide(c, s) for c in cases]) for s in (0, stain))
        contrast.append(info_nce(he, other, temperature=0.2))
        x, y = (torch.stack([tokens(c, s) for c in cases]) for s in (0, stain))
        terms = graph_transport(x, y)
        local.append((terms.wasserstein + terms.gromov).mean())
    for stain, cases in ((0, range(5)), (1, range(5)), (2, (1, 4))):
        first, second = (torch.stack([halves(c, stain, w) for c in cases]) for w in (0, 1))
        views.append(info_nce(first, second, temperature=0.2))
    means = [torch.stack(values).mean() for values in (contrast, local, views)]
    for name, mean in zip(("global", "local", "intra"), means, strict=True):
        assert float(loss.terms[name]) == pytest.approx(mean.item(), rel=1e-10)
    assert loss.total.item() == pytest.approx(
        (means[0] + 0.7 * means[1] + 0.3 * means[2]).item(), rel=1e-10
    )


def test_views_alone_train_on_he_alone():
    model, bags = small_model(), {k: v for k, v in some_bags().items() if k[1] == 0}
    loss = view_loss(model, packed(bags, 5), 1, ObjectiveRecipe(temperature=0.3), ALONE)
    first, second = (
        torch.stack(
            [
                model.encode(b[: len(b) // 2] if which == 0 else b[len(b) // 2 :])
                for b in bags.values()
            ]
        )
        for which in (0, 1)
    )
    expected = info_nce(first, second, temperature=0.3)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-10)
    assert set(loss.terms) == {"intra", "loss"}


def test_the_order_of_cases_does_not_matter():
    model, bags = small_model(stains=STAINS), some_bags()
    recipe = ObjectiveRecipe(temperature=0.2, tokens=4)
    turned = {(4 - case, stain): bag for (case, stain), bag in bags.items()}
    losses = [
        cross_stain_loss(model, packed(b, 5), STAINS, recipe, ALONE).total for b in (bags, turned)
    ]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0.0)


def test_a_batch_without_pairs_has_no_loss_and_no_gradient():
    model = small_model()
    batch = packed({k: v for k, v in some_bags().items() if k[1] == 0}, 5)
    loss = cross_stain_loss(model, batch, STAINS, ObjectiveRecipe(tokens=4), ALONE)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_weight_of_zero_leaves_the_term_out():
    model, batch = small_model(), packed(some_bags(), 5)
    recipe = ObjectiveRecipe(temperature=0.2, local_weight=0.0, tokens=4)
    assert set(cross_stain_loss(model, batch, STAINS, recipe, ALONE).terms) == {"global", "loss"}


def test_half_precision_of_the_model_leaves_the_losses_in_float32():
    model, batch = small_model().float(), packed(some_bags(), 5)
    batch = replace(batch, patches=batch.patches.half())
    recipe = ObjectiveRecipe(temperature=0.2, tokens=4)
    exact = cross_stain_loss(model, batch, STAINS, recipe, ALONE)
    with torch.autocast("cpu", torch.bfloat16):
        rough = cross_stain_loss(model, batch, STAINS, recipe, ALONE)
    assert rough.total.dtype == exact.total.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.05, atol=0.02)

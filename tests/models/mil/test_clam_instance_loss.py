"""CLAM's instance loss by hand: which patches it takes, and what it asks of them."""

import math

import numpy as np
import pytest
import torch

from madeleine_bench.models.mil import ClamSb
from madeleine_bench.models.mil.base import initialise_network

DIM, CLASSES = 5, 3
LENGTHS = (9, 1, 5)
LABEL = torch.tensor([2, 0, 1])


def ready(outputs=CLASSES, **options):
    network = ClamSb(DIM, outputs, width=6, attention_dim=4, dropout=0.0, **options)
    initialise_network(network, 4)
    return network.double().train()


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(LENGTHS), DIM, generator=generator, dtype=torch.float64)


def smooth_svm(scores, target):
    """log sum_j exp(margin of j + s_j - s_target), margin 1 for all but the target."""
    return math.log(sum(math.exp((j != target) + s - scores[target]) for j, s in enumerate(scores)))


def by_hand(network, patches, instances, *, subtyping):
    hidden = network.patch_layer(patches).detach()
    _, weights = network.pooling(network.patch_layer(patches), LENGTHS)
    attention = weights.detach().numpy()
    scores = network.instance_head(hidden).detach().numpy().reshape(-1, CLASSES, 2)
    total, start = 0.0, 0
    for length, own in zip(LENGTHS, LABEL.tolist(), strict=True):
        ranked = start + np.argsort(-attention[start : start + length])
        count = min(instances, length // 2)
        most, least = ranked[:count], ranked[len(ranked) - count :]
        for c in range(CLASSES):
            if c == own:
                terms = [smooth_svm(scores[i, c], 1) for i in most]
                terms += [smooth_svm(scores[i, c], 0) for i in least]
            else:
                terms = [smooth_svm(scores[i, c], 0) for i in most] if subtyping else []
            if terms:
                total += np.mean(terms) / (CLASSES if subtyping else 1)
        start += length
    return total / len(LENGTHS)


@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("instances", [1, 3, 8])
def test_equals_the_sum_by_hand(instances, subtyping):
    network = ready(instances=instances, subtyping=subtyping)
    patches = draw()
    output = network(patches, LENGTHS)
    assert output.auxiliary_share == 0.3
    found = output.auxiliary(LABEL)
    assert found.shape == ()
    expected = by_hand(network, patches, instances, subtyping=subtyping)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_other_classes_are_asked_only_in_subtyping():
    for subtyping, expected in ((False, [1]), (True, [0, 1, 2])):
        network = ready(instances=2, subtyping=subtyping)
        network(draw()[:9], [9]).auxiliary(torch.tensor([1])).backward()
        rows = network.instance_head.weight.grad.abs().sum(dim=1).reshape(CLASSES, 2).sum(dim=1)
        assert np.flatnonzero(rows).tolist() == expected


def test_reaches_the_patch_layer_but_not_the_attention():
    network = ready(instances=2)
    network(draw(), LENGTHS).auxiliary(LABEL).backward()
    assert network.patch_layer[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.pooling.parameters())
    assert network.head.weight.grad is None


def test_a_bag_of_one_patch_adds_nothing():
    network = ready()
    loss = network(draw()[:1], [1]).auxiliary(torch.tensor([0]))
    assert loss.item() == 0.0


def test_is_none_in_evaluation_and_float32_under_autocast():
    network = ready().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(draw().float(), LENGTHS).auxiliary(LABEL)
    assert loss.dtype == torch.float32
    assert network.eval()(draw().float(), LENGTHS).auxiliary is None

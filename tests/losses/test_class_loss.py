"""Cross-entropy with class weights: a loop, invariances, precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.classes import balanced_weights, class_loss


def draw(seed, bags=7, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(bags, classes, generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (bags,), generator=generator)
    weights = 0.1 + torch.rand(classes, generator=generator, dtype=torch.float64)
    return logits, label, weights


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), weighted=st.booleans())
def test_equals_a_loop(seed, weighted):
    logits, label, weights = draw(seed)
    total = norm = 0.0
    for row, k in zip(logits.numpy(), label.numpy(), strict=True):
        weight = weights[k].item() if weighted else 1.0
        total -= weight * (row[k] - math.log(sum(math.exp(x) for x in row)))
        norm += weight
    found = class_loss(logits, label, weights if weighted else None)
    assert found.shape == ()
    assert found.item() == pytest.approx(total / norm, rel=1e-12)


def test_a_number_added_to_all_logits_and_a_scale_of_all_weights_change_nothing():
    logits, label, weights = draw(1)
    expected = class_loss(logits, label, weights).item()
    assert class_loss(logits + 7, label, 3 * weights).item() == pytest.approx(expected, rel=1e-12)
    assert class_loss(logits, label, weights[[1, 2, 0]]).item() != pytest.approx(expected)


def test_balanced_weights_give_every_class_the_same_say():
    label = torch.tensor([0, 0, 0, 2, 1, 1])
    weights = balanced_weights(label, 3)
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights * torch.bincount(label), 2.0)
    assert weights[label].mean().item() == pytest.approx(1.0)


def test_is_float32_under_autocast_and_for_half_precision():
    logits, label, weights = draw(2)
    low = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = class_loss(low, label, weights)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(class_loss(low.double(), label, weights).item(), rel=1e-6)

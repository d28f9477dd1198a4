"""CORN: the paper's sums written out, closed forms, invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.classes import level_probabilities, ordered_levels_loss


def draw(seed, bags=6, levels=4, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(bags, levels - 1, generator=generator, dtype=torch.float64)
    return logits, torch.randint(levels, (bags,), generator=generator)


def by_subsets(logits, level):
    """The loss as the paper has it: for each rank, a subset of the bags."""
    total = pairs = 0.0
    for k in range(logits.shape[1]):
        for x, y in zip(logits[:, k].tolist(), level.tolist(), strict=True):
            if y < k:  # the condition "level >= k" fails
                continue
            probability = 1 / (1 + math.exp(-x))
            total -= math.log(probability if y > k else 1 - probability)
            pairs += 1
    return total / pairs


@settings(max_examples=25)
@given(seed=st.integers(0, 9999))
def test_equals_the_sums_over_conditional_subsets(seed):
    logits, level = draw(seed)
    found = ordered_levels_loss(logits, level)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_subsets(logits, level), rel=1e-9)


def test_two_levels_are_plain_binary_cross_entropy():
    logits, level = draw(3, levels=2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], level.double())
    assert ordered_levels_loss(logits, level).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_passed_level_no_longer_matters():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    ordered_levels_loss(logits, torch.tensor([0, 2])).backward()
    assert logits.grad is not None
    assert (logits.grad[0] != 0).tolist() == [True, False, False]
    assert (logits.grad[1] != 0).tolist() == [True, True, True]


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), scale=st.sampled_from([0.1, 3.0, 300.0]))
def test_probabilities_are_a_distribution_and_tell_the_products(seed, scale):
    logits, _ = draw(seed, levels=5, scale=scale)
    found = level_probabilities(logits)
    assert found.shape == (6, 5)
    assert bool((found >= 0).all())
    np.testing.assert_allclose(found.sum(dim=1), 1.0, rtol=1e-12)
    exceeds = logits.sigmoid().cumprod(dim=1)
    np.testing.assert_allclose(1 - np.cumsum(found.numpy(), axis=1)[:, :-1], exceeds, atol=1e-12)


def test_probabilities_of_float32_add_up_as_well():
    found = level_probabilities(draw(5, levels=6)[0].float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.sum(dim=1), 1.0, atol=3e-7)


def test_the_minimum_is_where_the_probabilities_are_the_frequencies():
    level = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    logits = torch.tensor([[0.7, 0.5 / 0.7]], dtype=torch.float64).logit().requires_grad_()
    ordered_levels_loss(logits.expand(10, 2), level).backward()
    np.testing.assert_allclose(logits.grad, 0, atol=1e-15)
    np.testing.assert_allclose(level_probabilities(logits.detach())[0], [0.3, 0.2, 0.5])


def test_is_float32_under_autocast():
    logits, level = draw(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ordered_levels_loss(logits.bfloat16(), level)
    assert found.dtype == torch.float32
    expected = ordered_levels_loss(logits.bfloat16().double(), level)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)

"""Discrete-time survival: sums by hand, pycox's formula, closed forms, edges, wrong inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.survival import (
    alive_beyond,
    discrete_time_loss,
    interval_edges,
    interval_of,
    survival_risk,
)


def draw(seed, bags=6, bins=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(bags, bins, generator=generator, dtype=torch.float64)
    interval = torch.randint(bins, (bags,), generator=generator)
    return logits, interval, torch.rand(bags, generator=generator) < 0.5


@settings(max_examples=25)
@given(seed=st.integers(0, 9999))
def test_equals_the_sums_by_hand(seed):
    logits, interval, event = draw(seed)
    total = 0.0
    for row, k, died in zip(logits.tolist(), interval.tolist(), event.tolist(), strict=True):
        hazard = [1 / (1 + math.exp(-x)) for x in row]
        lived = [math.log(1 - h) for h in hazard]
        total -= math.log(hazard[k]) + sum(lived[:k]) if died else sum(lived[: k + 1])
    found = discrete_time_loss(logits, interval, event)
    assert found.shape == ()
    assert found.item() == pytest.approx(total / len(logits), rel=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 9999))
def test_equals_the_formula_of_pycox(seed):
    # pycox.models.loss.nll_logistic_hazard: cumulated binary cross-entropy, read at the index.
    logits, interval, event = draw(seed)
    target = torch.zeros_like(logits).scatter(1, interval[:, None], event[:, None].double())
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    expected = each.cumsum(1).gather(1, interval[:, None]).mean()
    found = discrete_time_loss(logits, interval, event)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_comes_after_the_last_interval_lived_does_not_matter():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    discrete_time_loss(logits, torch.tensor([0, 1]), torch.tensor([True, False])).backward()
    assert logits.grad is not None
    # An event pulls its hazard up (negative gradient), intervals lived through pull theirs down.
    assert logits.grad.sign().tolist() == [[-1, 0, 0], [1, 1, 0]]


def test_the_minimum_is_the_life_table():
    interval = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    event = torch.tensor([True, True, False, True, False, False, True, True, True, False])
    deaths_of_those_who_reach_it = torch.tensor([2 / 10, 2 / 7, 2 / 3], dtype=torch.float64)
    logits = deaths_of_those_who_reach_it.logit().requires_grad_()
    discrete_time_loss(logits.expand(10, 3), interval, event).backward()
    np.testing.assert_allclose(logits.grad, 0, atol=1e-15)


def test_huge_logits_give_finite_loss_and_gradient():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = discrete_time_loss(logits, torch.tensor([1, 1]), torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == pytest.approx((2e4 + 1e4) / 2)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_is_float32_under_autocast():
    logits, interval, event = draw(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = discrete_time_loss(logits.bfloat16(), interval, event)
        risk = survival_risk(logits.bfloat16())
    assert found.dtype == risk.dtype == torch.float32
    expected = discrete_time_loss(logits.bfloat16().double(), interval, event)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), bins=st.integers(1, 6))
def test_edges_share_the_events_out(seed, bins):
    rng = np.random.default_rng(seed)
    time, event = rng.exponential(900.0, 60), rng.random(60) < 0.7
    edges = interval_edges(time, event, bins)
    assert edges.dtype == np.float64
    assert edges.shape == (bins + 1,)
    assert (edges[0], edges[-1]) == (0.0, time.max())
    counts = np.bincount(interval_of(time[event], edges), minlength=bins)
    assert counts.max() - counts.min() <= 2


def test_a_time_is_in_the_interval_that_ends_with_it():
    edges = np.array([0.0, 10.0, 20.0, 30.0])
    time = np.array([0.0, 10.0, 10.1, 20.0, 30.0, 31.0])
    assert interval_of(time, edges).tolist() == [0, 0, 1, 1, 2, 2]
    assert interval_of(time, np.array([0.0, 5.0])).tolist() == [0] * 6


def test_risk_is_minus_the_sum_of_survival_and_rises_with_every_hazard():
    logits, _, _ = draw(9)
    hazard = logits.sigmoid().numpy()
    expected = -np.cumprod(1 - hazard, axis=1).sum(axis=1)
    np.testing.assert_allclose(survival_risk(logits), expected, rtol=1e-12)
    for k in range(logits.shape[1]):
        worse = logits.clone()
        worse[:, k] += 0.5
        assert bool((survival_risk(worse) > survival_risk(logits)).all())


def test_alive_is_the_product_at_edges_and_linear_between():
    logits, _, _ = draw(10, bags=3)
    edges = np.array([0.0, 100.0, 250.0, 300.0, 1000.0])
    hazard = logits.sigmoid().numpy()
    at_edges = np.concatenate([np.ones((3, 1)), np.cumprod(1 - hazard, axis=1)], axis=1)
    np.testing.assert_allclose(alive_beyond(logits, edges, edges), at_edges, rtol=1e-12)
    middle = (at_edges[:, 1] + at_edges[:, 2]) / 2
    np.testing.assert_allclose(alive_beyond(logits, edges, [175.0])[:, 0], middle, rtol=1e-12)
    later = alive_beyond(logits, edges, [1000, 5000])
    assert (later[:, 0] == later[:, 1]).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 9999))
def test_alive_falls_from_one_and_stays_a_probability(seed):
    logits, _, _ = draw(seed)
    edges = np.array([0.0, 3.0, 4.0, 8.0, 9.0])
    found = alive_beyond(100 * logits, edges, [0, 0.5, 3, 3.5, 7, 9, 11])
    assert found.dtype == np.float64
    assert found.shape == (6, 7)
    assert (found[:, 0] == 1).all()
    assert (np.diff(found, axis=1) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("time", "event", "bins", "message"),
    [
        ([1.0, 2.0], [False, False], 2, "no event"),
        ([5.0, 5.0, 5.0], [True, True, True], 2, "take fewer bins"),
        ([0.0, 0.0, 5.0], [True, True, False], 2, "take fewer bins"),
    ],
)
def test_edges_refuse_events_that_fill_no_intervals(time, event, bins, message):
    with pytest.raises(ValueError, match=message):
        interval_edges(np.array(time), np.array(event), bins)

"""The partial likelihood against risk sets by hand, scikit-survival, pycox and in limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.linear_model.coxph import CoxPHOptimizer

from madeleine_bench.losses.survival import partial_likelihood_loss


def draw(seed, bags=9, *, ties):
    rng = np.random.default_rng(seed)
    risk = 2 * rng.standard_normal(bags)
    time = rng.integers(1, 5, bags).astype(float) if ties else rng.permutation(bags) + 1.0
    event = rng.random(bags) < 0.6
    event[0] = True
    return risk, time, event


def loss_of(risk, time, event):
    return partial_likelihood_loss(*(torch.from_numpy(np.asarray(x)) for x in (risk, time, event)))


def by_risk_sets(risk, time, event):
    terms = [
        math.log(sum(math.exp(r) for r, t in zip(risk, time, strict=True) if t >= time[i]))
        - risk[i]
        for i in range(len(risk))
        if event[i]
    ]
    return sum(terms) / len(terms)


@settings(max_examples=30)
@given(seed=st.integers(0, 9999), ties=st.booleans())
def test_equals_risk_sets_by_hand(seed, ties):
    risk, time, event = draw(seed, ties=ties)
    found = loss_of(risk, time, event)
    assert found.shape == ()
    assert found.item() == pytest.approx(by_risk_sets(risk, time, event), rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_objective_and_gradient_of_scikit_survival(ties):
    _, time, event = draw(4, bags=12, ties=ties)
    features = np.random.default_rng(5).standard_normal((12, 3))
    weights = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64, requires_grad=True)
    optimiser = CoxPHOptimizer(features, event, time, alpha=np.zeros(3), ties="breslow")
    found = partial_likelihood_loss(
        torch.from_numpy(features) @ weights, torch.from_numpy(time), torch.from_numpy(event)
    )
    found.backward()
    at = weights.detach().numpy()
    optimiser.update(at)
    bags_per_event = len(time) / event.sum()  # scikit-survival divides by the bags
    assert found.item() == pytest.approx(bags_per_event * optimiser.nlog_likelihood(at), rel=1e-12)
    np.testing.assert_allclose(weights.grad, bags_per_event * optimiser.gradient, rtol=1e-10)


@settings(max_examples=15)
@given(seed=st.integers(0, 9999))
def test_equals_the_formula_of_pycox_without_ties(seed):
    # pycox.models.loss.cox_ph_loss, whose epsilon of 1e-7 in the logarithm is left out.
    risk, time, event = draw(seed, ties=False)
    order = np.argsort(-time)
    log_h, observed = risk[order], event[order].astype(float)
    log_sum = np.log(np.cumsum(np.exp(log_h - log_h.max()))) + log_h.max()
    expected = -((log_h - log_sum) * observed).sum() / observed.sum()
    assert loss_of(risk, time, event).item() == pytest.approx(expected, rel=1e-12)


def test_tied_events_share_one_risk_set():
    risk, time, event = [0.3, -0.2, 1.0], [5.0, 5.0, 9.0], [True, True, False]
    shared = math.log(math.exp(0.3) + math.exp(-0.2) + math.exp(1.0))
    expected = (2 * shared - 0.3 + 0.2) / 2
    assert loss_of(risk, time, event).item() == pytest.approx(expected, rel=1e-12)


def test_order_of_bags_and_a_common_risk_change_nothing():
    risk, time, event = draw(7, ties=True)
    expected = loss_of(risk, time, event).item()
    order = np.random.default_rng(1).permutation(len(risk))
    assert loss_of(risk[order], time[order], event[order]).item() == pytest.approx(expected)
    assert loss_of(risk + 40, time, event).item() == pytest.approx(expected)
    assert loss_of(risk, 1e4 * time, event).item() == pytest.approx(expected)


def test_is_zero_with_zero_gradient_where_no_event_was_seen():
    risk = torch.tensor([0.5, -2.0, 3.0], requires_grad=True)
    loss = partial_likelihood_loss(risk, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3).bool())
    loss.backward()
    assert loss.item() == 0.0
    assert risk.grad is not None
    assert risk.grad.tolist() == [0.0, 0.0, 0.0]


def test_is_finite_for_risks_whose_exponential_is_not():
    risk = torch.tensor([1e4, -1e4, 5e3], requires_grad=True)
    time, event = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, True, False])
    loss = partial_likelihood_loss(risk, time, event)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)  # the second dies first, 2e4 behind the first
    assert risk.grad is not None
    assert bool(risk.grad.isfinite().all())


def test_is_float32_under_autocast():
    risk, time, event = draw(8, ties=True)
    low = torch.from_numpy(risk).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = partial_likelihood_loss(low, torch.from_numpy(time), torch.from_numpy(event))
    assert found.dtype == torch.float32
    expected = by_risk_sets(low.double().tolist(), time, event)
    assert found.item() == pytest.approx(expected, rel=1e-6)

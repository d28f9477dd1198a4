"""Both terms and their gradients against autograd and closed forms."""

import math

import pytest
import torch

from madeleine_bench.losses.transport import gromov_plan, gromov_wasserstein, wasserstein
from tests.losses import reference
from tests.losses.conftest import relative


def costs(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def within(seed: int, pairs: int, n: int) -> torch.Tensor:
    """Distances of a set to itself; not symmetric, so that a wrong transpose shows."""
    return costs(seed, pairs, n, n) * (1 - torch.eye(n, dtype=torch.float64))


def gradients(term, upstream, *inputs):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    value = term(*inputs)
    value.backward(upstream)
    return [value.detach(), *(tensor.grad for tensor in inputs)]


UPSTREAM = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)


def test_wasserstein_equals_the_slow_reference():
    cost = costs(0, 3, 7, 5)
    found = gradients(wasserstein, UPSTREAM, cost)
    for ours, slow in zip(found, gradients(reference.wasserstein, UPSTREAM, cost), strict=True):
        assert relative(ours, slow) < 1e-10


def test_gromov_equals_the_slow_reference():
    inputs = within(0, 3, 7), within(1, 3, 5)
    found = gradients(gromov_wasserstein, UPSTREAM, *inputs)
    slow = gradients(reference.gromov_wasserstein, UPSTREAM, *inputs)
    for ours, theirs in zip(found, slow, strict=True):
        assert relative(ours, theirs) < 1e-8
    for ours, theirs in zip(gromov_plan(*inputs), reference.gromov(*inputs), strict=True):
        assert relative(ours, theirs) < 1e-9


def test_two_by_two_in_closed_form():
    """W(c) = c q / (1 + q) with q = exp(-60 c), and its derivative through q."""
    c = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    swap = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    value = wasserstein(c * swap)
    value.sum().backward()
    share = 1 / (1 + math.exp(60 * 0.02))
    assert value.item() == pytest.approx(0.02 * share, rel=1e-12)
    assert c.grad.item() == pytest.approx(share - 60 * 0.02 * share * (1 - share), rel=1e-10)


def test_a_constant_cost_is_what_it_costs():
    cost = torch.full((1, 5, 3), 0.7, dtype=torch.float64, requires_grad=True)
    value = wasserstein(cost)
    value.backward()
    assert value.item() == pytest.approx(0.7, rel=1e-12)
    assert cost.grad.sum().item() == pytest.approx(1.0, rel=1e-9)


def test_single_points_in_closed_form():
    """One token a side: W is its cost, GW the squared difference of the inner distances."""
    x, y = torch.tensor([[[0.3]]]).requires_grad_(), torch.tensor([[[0.8]]]).requires_grad_()
    value = gromov_wasserstein(x, y)
    value.backward()
    assert value.item() == pytest.approx(0.25, rel=1e-5)
    assert (x.grad.item(), y.grad.item()) == pytest.approx((-1.0, 1.0), rel=1e-5)
    assert wasserstein(torch.tensor([[[0.4]]])).item() == pytest.approx(0.4)


def test_equidistant_points_in_closed_form():
    """All distances d: the plan stays uniform, GW = d^2 (a + b - 2 a b), a and b the shares."""
    n, m, d = 6, 4, 0.9
    x, y = (d * (1 - torch.eye(k, dtype=torch.float64))[None] for k in (n, m))
    a, b = (n - 1) / n, (m - 1) / m
    assert gromov_wasserstein(x, y).item() == pytest.approx(d * d * (a + b - 2 * a * b), rel=1e-9)

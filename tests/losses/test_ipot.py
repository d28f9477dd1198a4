"""The plan and its gradient against autograd, closed forms and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.transport import ipot
from tests.losses import reference
from tests.losses.conftest import relative


def costs(seed: int, shape=(3, 6, 4), scale: float = 1.8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.rand(shape, generator=generator, dtype=torch.float64)


def plan_and_gradient(cost, beta, iterations, upstream, term=ipot):
    cost = cost.clone().requires_grad_()
    plan = term(cost, beta, iterations)
    plan.backward(upstream)
    return plan.detach(), cost.grad


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    beta=st.sampled_from([0.5, 0.1, 0.03]),
    iterations=st.sampled_from([1, 2, 3, 20, 30]),
)
def test_equals_the_slow_reference(seed, n, m, beta, iterations):
    cost, upstream = costs(seed, (2, n, m)), costs(seed + 1, (2, n, m))
    found = plan_and_gradient(cost, beta, iterations, upstream)
    slow = plan_and_gradient(cost, beta, iterations, upstream, reference.ipot)
    torch.testing.assert_close(found[0], slow[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found[1], slow[1], rtol=1e-7, atol=1e-9)


def test_columns_sum_exactly_and_rows_nearly():
    plan = ipot(costs(0, (3, 9, 4)), 0.5, 30)
    torch.testing.assert_close(plan.sum(dim=1), torch.full((3, 4), 0.25, dtype=plan.dtype))
    assert (plan.sum(dim=2) * 9 - 1).abs().max() < 0.2
    assert (plan >= 0).all()


def test_two_by_two_in_closed_form():
    """By symmetry the plan is [[1, q], [q, 1]] / (2 + 2 q) with q = exp(-t c / beta)."""
    cost = torch.tensor([[[0.0, 0.1], [0.1, 0.0]]], dtype=torch.float64)
    q = math.exp(-30 * 0.1 / 0.5)
    expected = torch.tensor([[[1.0, q], [q, 1.0]]], dtype=torch.float64) / (2 + 2 * q)
    torch.testing.assert_close(ipot(cost, 0.5, 30), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 5, 1), (2, 1, 1)])
def test_one_token_leaves_no_choice(shape):
    plan, gradient = plan_and_gradient(costs(0, shape), 0.1, 20, costs(1, shape))
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / (shape[1] * shape[2])))
    assert gradient.abs().max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_order_of_tokens_and_a_constant_on_a_row_do_not_matter(seed):
    cost = costs(seed)
    plan = ipot(cost, 0.5, 30)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(6, generator=generator), torch.randperm(4, generator=generator)
    permuted = ipot(cost[:, rows][:, :, columns], 0.5, 30)
    assert relative(permuted, plan[:, rows][:, :, columns]) < 1e-10
    assert relative(ipot(cost + costs(seed + 1, (3, 6, 1)), 0.5, 30), plan) < 1e-10


@pytest.mark.parametrize("scale", [0.0, 2.0, 6.5])
@pytest.mark.parametrize(("beta", "iterations"), [(0.5, 30), (0.1, 20)])
def test_float32_is_near_float64(scale, beta, iterations):
    cost, upstream = costs(0, (2, 40, 30), scale), costs(1, (2, 40, 30))
    exact = plan_and_gradient(cost, beta, iterations, upstream)
    found = plan_and_gradient(cost.float(), beta, iterations, upstream.float())
    assert relative(found[0].double(), exact[0]) < 1e-5
    difference = (found[1].double() - exact[1]).abs().max()
    assert difference <= 1e-3 * exact[1].abs().max() + 1e-7

"""The plan and its gradient against autograd, closed forms and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses import ipot as module
from madeleine_bench.losses.ipot import ipot, iterate, pull_back
from tests.losses import reference
from tests.losses.conftest import relative


def costs(seed: int, shape=(3, 6, 4), scale: float = 1.8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.rand(shape, generator=generator, dtype=torch.float64)


def plan_and_gradient(solver, cost, beta, iterations, upstream):
    cost = cost.clone().requires_grad_()
    plan = solver(cost, beta, iterations)
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
    found = plan_and_gradient(ipot, cost, beta, iterations, upstream)
    slow = plan_and_gradient(reference.ipot, cost, beta, iterations, upstream)
    torch.testing.assert_close(found[0], slow[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found[1], slow[1], rtol=1e-7, atol=1e-9)


def test_gradcheck():
    cost = costs(0, (2, 4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: ipot(c, 0.5, 6), (cost,))


@pytest.mark.parametrize("every", [1, 2, 3, 7, 30])
def test_absorptions_change_nothing(every):
    cost, upstream = costs(0), costs(1)
    plan, trace = iterate(cost, 0.5, 30, absorb_every=every)
    assert len(trace.kernels) == math.ceil(30 / every)
    slow = plan_and_gradient(reference.ipot, cost, 0.5, 30, upstream)
    assert relative(plan, slow[0]) < 1e-12
    assert relative(pull_back(upstream, trace, 0.5), slow[1]) < 1e-10


def test_a_steeper_cost_is_absorbed_more_often():
    often = [iterate(costs(0, scale=scale), 0.1, 20)[1].absorb_every for scale in (0.1, 9, 300)]
    assert often == sorted(often, reverse=True)
    assert often[0] == 20
    assert often[-1] == 1


def test_walking_over_parts_changes_nothing(monkeypatch):
    cost, upstream = costs(0, (5, 6, 4)), costs(1, (5, 6, 4))
    whole = plan_and_gradient(ipot, cost, 0.5, 30, upstream)
    monkeypatch.setitem(module._PART_BYTES, "cpu", 2 * 6 * 4 * 8)
    assert [p.start for p in module.parts(cost)] == [0, 2, 4]
    for found, expected in zip(
        plan_and_gradient(ipot, cost, 0.5, 30, upstream), whole, strict=True
    ):
        assert relative(found, expected) < 1e-12


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
    cost = costs(0, shape).requires_grad_()
    plan = ipot(cost, 0.1, 20)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / (shape[1] * shape[2])))
    plan.backward(costs(1, shape))
    assert cost.grad.abs().max() < 1e-9


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
    exact = plan_and_gradient(ipot, cost, beta, iterations, upstream)
    found = plan_and_gradient(ipot, cost.float(), beta, iterations, upstream.float())
    assert relative(found[0].double(), exact[0]) < 1e-5
    difference = (found[1].double() - exact[1]).abs().max()
    assert difference <= 1e-3 * exact[1].abs().max() + 1e-7


def test_costs_in_half_precision_are_taken_in_float32():
    half = costs(0).bfloat16()
    plan = ipot(half, 0.5, 30)
    assert plan.dtype == torch.float32
    assert torch.equal(plan, ipot(half.float(), 0.5, 30))


def test_no_pairs_give_no_plans():
    assert ipot(torch.zeros(0, 3, 2), 0.5, 30).shape == (0, 3, 2)


@pytest.mark.parametrize("shape", [(3, 2), (1, 0, 2), (1, 2, 0)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match="cost must be pair x n x m"):
        ipot(torch.zeros(shape), 0.5, 30)


@pytest.mark.parametrize(("beta", "iterations"), [(0.0, 3), (-0.5, 3), (math.nan, 3), (0.5, 0)])
def test_beta_and_iterations_must_be_positive(beta, iterations):
    with pytest.raises(ValueError, match="must be positive"):
        ipot(torch.zeros(1, 2, 2), beta, iterations)

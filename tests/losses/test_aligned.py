"""The aligned local losses against plain loops, finite differences, closed forms, invariances."""

import math

import pytest
import torch

from madeleine_bench.losses.aligned import centred_units, partner_info_nce, partner_pull

LOSSES = [partner_info_nce, partner_pull]


def tokens(seed: int = 0, pairs: int = 2, n: int = 5, m: int = 4, dim: int = 3):
    generator = torch.Generator().manual_seed(seed)
    u, v, plan = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((pairs, n, dim), (pairs, m, dim), (pairs, n, m))
    )
    return u, v, plan.relu()


def slow_info_nce(u, v, plan, temperature):
    """-1/2 sum P [log softmax over the other side, both ways] / sum P, as the formula reads."""
    u, v = centred_units(u), centred_units(v)
    pairs, n, m = plan.shape
    total = 0.0
    for p in range(pairs):
        for i in range(n):
            for j in range(m):
                own = u[p, i] @ v[p, j] / temperature
                forth = sum(
                    math.exp(u[p, i] @ v[q, k] / temperature)
                    for q in range(pairs)
                    for k in range(m)
                )
                back = sum(
                    math.exp(u[q, k] @ v[p, j] / temperature)
                    for q in range(pairs)
                    for k in range(n)
                )
                total -= 0.5 * plan[p, i, j] * (2 * own - math.log(forth) - math.log(back))
    return total / plan.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_info_nce_equals_the_formula(temperature):
    u, v, plan = tokens()
    loss = partner_info_nce(u, v, plan, temperature)
    assert loss.item() == pytest.approx(slow_info_nce(u, v, plan, temperature).item(), rel=1e-12)


def test_pull_equals_the_formula():
    u, v, plan = tokens()
    units = [centred_units(side) for side in (u, v)]
    apart = (plan * (1 - torch.einsum("pid,pjd->pij", *units))).sum() / plan.sum()
    alike = 0.0
    for side in units:
        covariance = torch.cov(side.flatten(0, 1).mT * 3**0.5, correction=0)
        deviation = (covariance.diagonal() + 1e-4).sqrt()
        off = covariance - covariance.diagonal().diag()
        alike += (torch.relu(1 - deviation).mean() + 0.04 * (off**2).sum() / 3) / 2
    assert partner_pull(u, v, plan).item() == pytest.approx((apart + alike).item(), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_equals_finite_differences(loss):
    u, v, plan = tokens(3)
    u.requires_grad_()
    v.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, plan), (u, v), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_sides_stains_lengths_and_weight_of_the_plan_do_not_matter(loss):
    u, v, plan = tokens(1)
    value = loss(u, v, plan).item()
    for again in (
        loss(v, u, plan.mT),
        loss(u + 5.0, v - 2.0, plan),  # a stain shifts all tokens of its side
        loss(3.0 * u, 0.5 * v, plan),
        loss(u, v, 7.0 * plan),
        loss(u.flip(0), v.flip(0), plan.flip(0)),
        loss(u[:, [2, 0, 1, 4, 3]], v, plan[:, [2, 0, 1, 4, 3]]),
    ):
        assert again.item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_collapse_costs_and_partners_that_agree_pay(loss):
    u, _, _ = tokens(2, pairs=3, n=6, dim=8)
    plan = torch.eye(6, dtype=torch.float64).expand(3, 6, 6)
    agree = loss(u, u, plan)
    disagree = loss(u, u.roll(1, dims=1), plan)
    direction = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    along = torch.linspace(-1, 1, 6, dtype=torch.float64)[None, :, None] * direction
    collapsed = loss(along.expand(3, 6, 8), along.expand(3, 6, 8), plan)
    assert agree < disagree
    assert agree < collapsed


def test_uniform_tokens_leave_info_nce_to_chance():
    loss = partner_info_nce(torch.ones(2, 5, 3), torch.ones(2, 4, 3), torch.ones(2, 5, 4))
    assert loss.item() == pytest.approx((math.log(10) + math.log(8)) / 2, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_partners_has_a_finite_gradient(loss):
    u, v, _ = tokens()
    u.requires_grad_()
    value = loss(u, v, torch.zeros(2, 5, 4))
    value.backward()
    assert value.isfinite()
    assert u.grad.isfinite().all()
    assert loss is partner_pull or (value == 0 and (u.grad == 0).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_full_precision_under_autocast(loss):
    u, v, plan = (tensor.float() for tensor in tokens())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(u.requires_grad_(), v, plan)
    assert cast.dtype == torch.float32
    assert cast.item() == loss(u, v, plan).item()

"""The Triton kernels against torch's operations: in the interpreter here, compiled on a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses import ipot as ipot_module
from madeleine_bench.losses import ipot_torch
from madeleine_bench.losses.transport import CORRECTED, PUBLISHED, graph_transport
from tests.losses.conftest import relative

kernels = pytest.importorskip(
    "madeleine_bench.losses.ipot_kernels",
    reason="no Triton here: CPU builds of torch do not bring it",
    exc_type=ImportError,
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNS = [(0.5, 30), (0.1, 20)]


def costs(seed: int, shape, scale: float = 1.0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.rand(shape, generator=generator, dtype=dtype)).to(DEVICE)


def plan_and_gradient(solver, cost, upstream, beta, iterations):
    plan, trace = solver.iterate(cost, beta, iterations)
    return plan, solver.pull_back(upstream, trace, beta)


def compare(cost, upstream, beta, iterations, plan=1e-10, gradient=1e-8):
    found = plan_and_gradient(kernels, cost, upstream, beta, iterations)
    slow = plan_and_gradient(ipot_torch, cost, upstream, beta, iterations)
    assert found[0].isfinite().all()
    assert found[1].isfinite().all()
    assert relative(found[0], slow[0]) < plan
    assert (found[1] - slow[1]).abs().max() <= gradient * slow[1].abs().max() + 1e-9


@settings(max_examples=8)
@given(
    seed=st.integers(0, 9999),
    n=st.integers(2, 9),
    m=st.integers(2, 9),
    pairs=st.integers(1, 3),
    run=st.sampled_from([(0.5, 30), (0.1, 20), (0.5, 1), (0.1, 2)]),
)
def test_any_small_cost_in_float64(seed, n, m, pairs, run):
    shape = (pairs, n, m)
    compare(costs(seed, shape), costs(seed + 1, shape), *run)


@pytest.mark.parametrize("shape", [(1, 20, 130), (1, 130, 20), (1, 33, 256), (2, 64, 64)])
def test_costs_in_blocks_of_rows_and_in_one_piece_in_float64(shape):
    compare(costs(0, shape), costs(1, shape), 0.5, 6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("scale", [0.0, 5.0, 60.0])
def test_flat_and_steep_costs_in_float64(scale, run):
    shape = (2, 9, 6)
    compare(costs(0, shape, scale), costs(1, shape), *run)


@pytest.mark.parametrize(("beta", "iterations", "scale"), [(0.5, 30, 1.0), (0.1, 20, 0.5)])
def test_float32_is_as_near_to_float64_as_promised(beta, iterations, scale):
    shape = (2, 70, 48)
    cost, upstream = costs(0, shape, scale), costs(1, shape)
    plan, gradient = plan_and_gradient(ipot_torch, cost, upstream, beta, iterations)
    found = plan_and_gradient(kernels, cost.float(), upstream.float(), beta, iterations)
    value, exact = (torch.sum(cost * p, dim=(1, 2)) for p in (found[0].double(), plan))
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
    assert relative(found[0].double(), plan) < 1e-5
    assert relative(found[1].double(), gradient) < 1e-4


@pytest.mark.parametrize("run", RUNS)
def test_a_column_that_no_row_wants_stays_finite_in_float32(run):
    cost = costs(0, (1, 12, 9), 0.1, torch.float32)
    cost[:, :, 4] += 30.0
    cost[:, 3] += 50.0
    plan, gradient = plan_and_gradient(kernels, cost, cost, *run)
    assert plan.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(plan.sum(dim=1), torch.full_like(plan[:, 0], 1 / 9))


def test_costs_need_not_be_contiguous():
    cost, upstream = costs(0, (2, 5, 7)).mT, costs(1, (2, 5, 7)).mT
    compare(cost, upstream, 0.5, 3)


def test_no_pairs_give_no_plans():
    cost = costs(0, (0, 3, 2))
    plan, gradient = plan_and_gradient(kernels, cost, cost, 0.5, 30)
    assert plan.shape == gradient.shape == (0, 3, 2)


def clustered(seed: int, n: int, zeros: int) -> torch.Tensor:
    """Tokens in tight clusters, the last ones zero: pair x n x dim, float32."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(3, 8, generator=generator)
    rows = centre[torch.randint(3, (2, n), generator=generator)]
    rows = rows + 0.3 * torch.randn(2, n, 8, generator=generator)
    rows[:, n - zeros :] = 0.0
    return rows.to(DEVICE)


@pytest.mark.parametrize("options", [CORRECTED, PUBLISHED], ids=["corrected", "published"])
@pytest.mark.parametrize("zeros", [0, 2])
def test_terms_and_gradients_of_tokens(monkeypatch, options, zeros):
    sides = clustered(0, 14, zeros), clustered(1, 11, 0)
    found = []
    for fused in (True, False):
        monkeypatch.setattr(ipot_module, "takes", lambda cost, fused=fused: fused)
        x, y = (side.clone().requires_grad_() for side in sides)
        terms = graph_transport(x, y, options=options)
        (terms.wasserstein.sum() + terms.gromov.sum()).backward()
        found.append((terms.wasserstein.detach(), terms.gromov.detach(), x.grad, y.grad))
    assert all(array.isfinite().all() for array in found[0])
    for ours, theirs in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(found[0][2:], found[1][2:], strict=True):
        error = (ours - theirs).norm(dim=2) / theirs.norm(dim=2).clamp(min=1e-6)
        assert error.max() < 5e-3

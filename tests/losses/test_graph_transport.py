"""Graph transport of tokens: golden arrays, slow reference, invariances, hostile tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.cosine import cosine_distance
from madeleine_bench.losses.transport import (
    graph_transport,
    gromov_plan,
    gromov_wasserstein,
    ipot,
    thresholded,
    wasserstein,
)
from tests.losses import reference
from tests.losses.conftest import relative

GOLDEN_CASES = ("got_sq", "got_rect", "got_zero")


def tokens(seed: int, pairs: int = 3, n: int = 6, m: int = 4, dim: int = 5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(pairs, size, dim, generator=generator, dtype=torch.float64) for size in (n, m)
    )


def terms_and_gradients(x, y, **how):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    terms = graph_transport(x, y, **how)
    (terms.wasserstein.sum() + 3.0 * terms.gromov.sum()).backward()
    return terms.wasserstein.detach(), terms.gromov.detach(), x.grad, y.grad


def slow_terms_and_gradients(x, y, *, per_pair, detach):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    w, gw = reference.graph_transport(x, y, per_pair=per_pair, detach=detach)
    (w.sum() + 3.0 * gw.sum()).backward()
    return w.detach(), gw.detach(), x.grad, y.grad


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_steps(golden, case):
    v, q = golden[f"{case}/v"], golden[f"{case}/q"]
    across = thresholded(cosine_distance(v, q), published=True)
    found = {
        "cos_distance": cosine_distance(v, q),
        "cost": across,
        "ipot_plan": ipot(across, 0.5, 30),
        "wd": wasserstein(across)[:, None],
        "Cs": thresholded(cosine_distance(v, v), published=True),
        "Ct": thresholded(cosine_distance(q, q), published=True),
    }
    found["gw_plan"], found["gw_cost"] = gromov_plan(found["Cs"], found["Ct"])
    found["gwd"] = gromov_wasserstein(found["Cs"], found["Ct"])[:, None]
    for name, array in found.items():
        assert relative(array, golden[f"{case}/{name}"]) < 1e-10, name


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_loss_and_gradients(golden, case):
    v = golden[f"{case}/v"].clone().requires_grad_()
    q = golden[f"{case}/q"].clone().requires_grad_()
    terms = graph_transport(v, q, published=True)
    loss = terms.wasserstein.sum() + terms.gromov.sum()
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"{case}/got"].item(), rel=1e-10)
    for found, name in ((v.grad, "grad_v"), (q.grad, "grad_q")):
        expected = golden[f"{case}/{name}"]
        # Token by token: the gradient of a zero token is 1e11 times that of the others.
        error = (found - expected).norm(dim=2) / expected.norm(dim=2)
        assert error.max() < 1e-8, name


@pytest.mark.parametrize("case", ["got_sq", "got_zero"])
def test_golden_subsample_is_the_first_tokens(golden, case):
    # As many tokens as pairs, the first ones.
    v, q = (each[:, : len(each)] for each in (golden[f"{case}/{side}"] for side in "vq"))
    terms = graph_transport(v, q, published=True)
    loss = terms.wasserstein.sum() + terms.gromov.sum()
    assert loss.item() == pytest.approx(golden[f"{case}/got_subsample256"].item(), rel=1e-10)


@pytest.mark.parametrize("published", [True, False])
def test_equals_the_slow_reference(published):
    x, y = tokens(0)
    found = terms_and_gradients(x, y, published=published)
    slow = slow_terms_and_gradients(x, y, per_pair=not published, detach=not published)
    for ours, theirs in zip(found, slow, strict=True):
        assert relative(ours, theirs) < 1e-8


@pytest.mark.parametrize("published", [False, True])
def test_float32_is_near_float64(published):
    x, y = tokens(0, n=40, m=30, dim=32)
    exact = terms_and_gradients(x, y, published=published)
    found = terms_and_gradients(x.float(), y.float(), published=published)
    tolerances = (2e-5, 2e-5, 1e-3, 1e-3)
    for ours, double, tolerance in zip(found, exact, tolerances, strict=True):
        assert ours.dtype == torch.float32
        assert relative(ours.double(), double) < tolerance


def test_threshold_in_closed_form():
    distance = torch.tensor([[[0.0, 1.0], [0.05, 0.5]], [[1.0, 3.0], [2.0, 1.5]]])
    per_pair = thresholded(distance)
    torch.testing.assert_close(
        per_pair, torch.tensor([[[0.0, 0.9], [0.0, 0.4]], [[0.0, 1.8], [0.8, 0.3]]])
    )
    whole = thresholded(distance, published=True)
    torch.testing.assert_close(
        whole, torch.tensor([[[0.0, 0.7], [0.0, 0.2]], [[0.7, 2.7], [1.7, 1.2]]])
    )


def test_tied_extremes_share_the_gradient_over_the_group():
    distance = torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]], requires_grad=True)
    thresholded(distance, published=True).sum().backward()
    # Three entries lie above the threshold .9 * low + .1 * high; each extreme is shared by three.
    expected = torch.tensor([[[-0.9, -0.9, 0.9]], [[-0.9, 0.9, 0.9]]])
    torch.testing.assert_close(distance.grad, expected)


def test_a_pair_does_not_depend_on_its_batch_mates_unless_published():
    x, y = tokens(0)
    corrected, published = (graph_transport(x, y, published=p) for p in (False, True))
    for pair in range(3):
        one = slice(pair, pair + 1)
        alone = graph_transport(x[one], y[one])
        assert relative(corrected.wasserstein[one], alone.wasserstein) < 1e-12
        assert relative(corrected.gromov[one], alone.gromov) < 1e-11
    alone = graph_transport(x[:1], y[:1], published=True)
    assert relative(published.wasserstein[:1], alone.wasserstein) > 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_order_of_tokens_their_length_and_rotations_do_not_matter(seed):
    x, y = tokens(seed)
    generator = torch.Generator().manual_seed(seed)
    found = terms_and_gradients(x, y)
    order = torch.randperm(6, generator=generator)
    permuted = terms_and_gradients(x[:, order], y)
    assert relative(permuted[2], found[2][:, order]) < 1e-6
    length = torch.rand(3, 6, 1, generator=generator, dtype=torch.float64) + 0.1
    basis = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    longer = graph_transport(x * length, y)
    rotated = graph_transport(x @ basis, y @ basis)
    for name, expected in zip(("wasserstein", "gromov"), found, strict=False):
        torch.testing.assert_close(getattr(longer, name), expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(getattr(rotated, name), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(permuted[0], found[0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(permuted[1], found[1], rtol=1e-8, atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 9999))
def test_order_of_pairs_does_not_matter(seed):
    x, y = tokens(seed, pairs=4)
    order = torch.tensor([2, 0, 3, 1])
    for published in (False, True):
        found = terms_and_gradients(x, y, published=published)
        permuted = terms_and_gradients(x[order], y[order], published=published)
        for again, first in zip(permuted[:2], found[:2], strict=True):
            torch.testing.assert_close(again, first[order], rtol=1e-8, atol=1e-10)


def hostile(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (side.float() for side in tokens(0, pairs=2, n=12, m=9, dim=16))
    if kind == "identical":
        x, y = torch.ones_like(x), torch.ones_like(y)
    elif kind == "same on both sides":
        y = x.clone()
    elif kind == "orthogonal":
        x, y = torch.eye(16)[:12].repeat(2, 1, 1), torch.eye(16)[7:].repeat(2, 1, 1)
    elif kind == "zero":
        x = torch.zeros_like(x)
    elif kind == "some zero":
        x[0, :5], y[1, 3] = 0.0, 0.0
    elif kind == "antipodal":
        x, y = torch.ones_like(x), -torch.ones_like(y)
    elif kind == "one outlier":
        x, y = torch.ones_like(x), torch.ones_like(y)
        x[:, 0], y[:, 0] = -1.0, -1.0
    elif kind == "two opposite clusters":
        x, y = x.sign().mul(0.01).add(1.0), y.mul(0.01).add(1.0)
        x[:, ::2] *= -1.0
        y[:, ::3] *= -1.0
    elif kind == "one token":
        x, y = x[:, :1], y[:, :1]
    elif kind == "one token a side":
        x = x[:, :1]
    elif kind == "one pair":
        x, y = x[:1], y[:1]
    elif kind == "tiny":
        x, y = x * 1e-6, y * 1e-6
    elif kind == "huge":
        x, y = x * 1e6, y * 1e6
    return x, y


HOSTILE = (
    "identical",
    "same on both sides",
    "orthogonal",
    "zero",
    "some zero",
    "antipodal",
    "one outlier",
    "two opposite clusters",
    "one token",
    "one token a side",
    "one pair",
    "tiny",
    "huge",
)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tokens_stay_finite_in_float32(kind, published):
    x, y = hostile(kind)
    w, gw, x_grad, y_grad = terms_and_gradients(x, y, published=published)
    assert all(array.isfinite().all() for array in (w, gw, x_grad, y_grad))
    assert ((w >= 0) & (w <= 2)).all()
    exact = graph_transport(x.double(), y.double(), published=published)
    torch.testing.assert_close(w.double(), exact.wasserstein, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gw.double(), exact.gromov, rtol=1e-3, atol=1e-4)


def test_zero_tokens_get_no_gradient_unless_published():
    x, y = hostile("some zero")
    corrected = terms_and_gradients(x, y)[2]
    assert (corrected[0, :5] == 0).all()
    assert corrected.abs().max() < 10.0
    assert terms_and_gradients(x, y, published=True)[2][0, :5].abs().max() > 1e6


def test_full_precision_under_autocast():
    x, y = (side.float() for side in tokens(0))
    plain = graph_transport(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = graph_transport(x, y)
        half = graph_transport(x.bfloat16(), y.bfloat16())
    assert torch.equal(cast.wasserstein, plain.wasserstein)
    assert torch.equal(cast.gromov, plain.gromov)
    rounded = graph_transport(x.bfloat16().float(), y.bfloat16().float())
    assert half.gromov.dtype == torch.float32
    assert torch.equal(half.gromov, rounded.gromov)


def test_half_precision_tokens_get_their_gradient():
    x, y = (side.bfloat16().requires_grad_() for side in tokens(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = graph_transport(x, y)
    (terms.wasserstein.sum() + terms.gromov.sum()).backward()
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


def test_no_pairs_give_no_terms():
    terms = graph_transport(torch.zeros(0, 4, 5), torch.zeros(0, 3, 5), published=True)
    assert terms.wasserstein.shape == terms.gromov.shape == (0,)

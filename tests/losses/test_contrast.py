"""InfoNCE against the reference implementation, a slow one, closed forms and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.losses.cosine import info_nce
from tests.losses import reference


def rows(seed: int, cases: int = 7, dim: int = 5, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(cases, dim, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("temperature", ["0.1", "0.001"])
@pytest.mark.parametrize("case", ["nce", "nce_hard"])
def test_golden_values_and_gradients(golden, case, temperature):
    query = golden[f"{case}/query"].clone().requires_grad_()
    key = golden[f"{case}/key"].clone().requires_grad_()
    loss = info_nce(query, key, temperature=float(temperature))
    loss.backward()
    expected = golden[f"{case}/T{temperature}_sym/loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-300)
    for found, name in ((query.grad, "query"), (key.grad, "key")):
        wanted = golden[f"{case}/T{temperature}_sym/grad_{name}"]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8 * float(wanted.abs().max()))
    one_way = info_nce(query, key, temperature=float(temperature), symmetric=False)
    expected = golden[f"{case}/T{temperature}_asym/loss"]
    assert one_way.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-300)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 9999),
    temperature=st.sampled_from([1.0, 0.1, 0.01]),
    symmetric=st.booleans(),
)
def test_equals_the_slow_reference(seed, temperature, symmetric):
    query, key = rows(seed), rows(seed + 1)
    found = info_nce(query, key, temperature=temperature, symmetric=symmetric)
    slow = reference.info_nce(query, key, temperature=temperature, symmetric=symmetric)
    assert found.item() == pytest.approx(slow.item(), rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.001])
def test_orthonormal_partners_in_closed_form(temperature):
    loss = info_nce(torch.eye(6, 8), torch.eye(6, 8), temperature=temperature)
    assert loss.item() == pytest.approx(math.log1p(5 * math.exp(-1 / temperature)), abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.001])
def test_identical_rows_leave_it_to_chance(temperature):
    query = torch.ones(6, 4, requires_grad=True)
    loss = info_nce(query, torch.ones(6, 4), temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(6), abs=1e-5)
    assert query.grad.isfinite().all()


def test_one_case_has_nothing_to_tell_apart():
    assert info_nce(rows(0, cases=1), rows(1, cases=1), temperature=0.1).item() == 0.0


def test_low_temperature_counts_the_margin_in_temperatures():
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = info_nce(query, query.flip(0), temperature=0.001, symmetric=False)
    assert loss.item() == pytest.approx(1000.0)


def test_a_zero_row_is_finite_and_gets_no_gradient():
    query, key = rows(0, dtype=torch.float32), rows(1, dtype=torch.float32)
    query[2], key[3] = 0.0, 0.0
    query.requires_grad_()
    key.requires_grad_()
    loss = info_nce(query, key, temperature=0.001)
    loss.backward()
    assert loss.isfinite()
    assert query.grad.isfinite().all()
    assert (query.grad[2] == 0).all()
    assert (key.grad[3] == 0).all()
    assert (query.grad[0] != 0).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), scale=st.floats(1e-3, 1e3))
def test_order_of_cases_length_of_rows_and_side_do_not_matter(seed, scale):
    query, key = rows(seed), rows(seed + 1)
    loss = info_nce(query, key, temperature=0.1).item()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    for again in (
        info_nce(query[order], key[order], temperature=0.1),
        info_nce(query * scale, key / scale, temperature=0.1),
        info_nce(key, query, temperature=0.1),
    ):
        assert again.item() == pytest.approx(loss, rel=1e-9)


def test_full_precision_under_autocast():
    query, key = rows(0, dtype=torch.float32), rows(1, dtype=torch.float32)
    plain = info_nce(query, key, temperature=0.001)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = info_nce(query, key, temperature=0.001)
        half = info_nce(query.bfloat16(), key.bfloat16(), temperature=0.001)
    assert cast.dtype == half.dtype == torch.float32
    assert cast.item() == plain.item()
    rounded = info_nce(query.bfloat16().float(), key.bfloat16().float(), temperature=0.001)
    assert half.item() == rounded.item()


def test_float64_stays_float64():
    assert info_nce(rows(0), rows(1), temperature=0.1).dtype == torch.float64

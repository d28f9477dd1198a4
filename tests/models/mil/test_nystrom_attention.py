"""Nystrom attention against the exact attention that it approximates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.models.mil import self_attention
from madeleine_bench.models.mil.self_attention import (
    NystromAttention,
    attend,
    pseudo_inverse,
    run_means,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(seed, tokens, heads=2, dim=8, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, heads, tokens, dim)
    query, key, value = torch.randn(shape, generator=generator, dtype=torch.float64)
    return scale * query / dim**0.5, key, value


def exact(query, key, value):
    return (query @ key.mT).softmax(dim=-1) @ value


def through_landmarks(query, key, value, landmarks, steps=6):
    """As `attend` does where tokens exceed landmarks, also where they do not."""
    few_queries, few_keys = run_means(query, landmarks), run_means(key, landmarks)
    inverse = pseudo_inverse((few_queries @ few_keys.mT).softmax(dim=-1), steps)
    found = (few_queries @ key.mT).softmax(dim=-1) @ value
    return (query @ few_keys.mT).softmax(dim=-1) @ inverse @ found


def test_no_more_tokens_than_landmarks_are_attended_to_exactly():
    inputs = draw(0, 12)
    for landmarks in (12, 256):
        torch.testing.assert_close(attend(*inputs, landmarks), exact(*inputs))
    assert not torch.allclose(attend(*inputs, 11), exact(*inputs))


def test_more_tokens_than_landmarks_go_through_them():
    inputs = draw(1, 30)
    torch.testing.assert_close(attend(*inputs, 7), through_landmarks(*inputs, 7))


@settings(max_examples=10)
@given(seed=st.integers(0, 999))
def test_tends_to_exact_attention_when_every_token_is_a_landmark(seed):
    inputs = draw(seed, 10, scale=3.0)
    expected = exact(*inputs)
    far, near, at = (
        (through_landmarks(*inputs, 10, steps) - expected).abs().max().item()
        for steps in (2, 8, 40)
    )
    assert far > near > at
    assert at < 1e-6


def test_is_exact_where_neighbours_are_equal():
    # Each landmark is the mean of equal tokens, so nothing is lost by it.
    few = draw(2, 6, scale=3.0)
    many = tuple(x.repeat_interleave(5, dim=1) for x in few)
    torch.testing.assert_close(attend(*many, 6, steps=40), exact(*many), rtol=1e-6, atol=1e-6)


def test_pseudo_inverse_is_that_of_linear_algebra():
    matrix = (3 * torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(3))).double()
    matrix = matrix.softmax(dim=-1)
    torch.testing.assert_close(
        pseudo_inverse(matrix, 40), torch.linalg.pinv(matrix), rtol=1e-6, atol=1e-6
    )


def test_pseudo_inverse_of_one_head_does_not_hang_on_another():
    matrix = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(4)).softmax(dim=-1)
    torch.testing.assert_close(pseudo_inverse(matrix, 6)[1:2], pseudo_inverse(matrix[1:2], 6))


@pytest.mark.parametrize(("tokens", "runs"), [(12, 4), (13, 4), (15, 4), (9, 8), (5, 5)])
def test_runs_cover_all_tokens_once_and_differ_by_one(tokens, runs):
    values = torch.arange(float(tokens)).reshape(1, tokens, 1)
    expected = [part.mean().item() for part in torch.tensor_split(values.flatten(), runs)]
    assert run_means(values, runs).flatten().tolist() == pytest.approx(expected)


def test_attends_in_float32_under_autocast(monkeypatch):
    seen = []

    def watch(query, key, value, landmarks):
        seen.append((query.dtype, key.dtype, value.dtype, torch.is_autocast_enabled("cpu")))
        return value

    monkeypatch.setattr(self_attention, "attend", watch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        NystromAttention(8, 2, 4, 0.0)(torch.zeros(9, 8))
    assert seen == [(torch.float32, torch.float32, torch.float32, False)]

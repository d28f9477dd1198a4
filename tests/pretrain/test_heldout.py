"""Measures of held-out cases: golden rank, closed forms, and that they leave the model alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.pretrain.heldout import (
    evaluate_held_out,
    least_gain,
    mean_token_cosine,
    partner_ranks,
    smooth_rank,
)
from madeleine_bench.pretrain.presets import PRESETS
from tests.models.test_madeleine import GOLDEN, needs_golden
from tests.pretrain.test_objective import STAINS, packed, small_model, some_bags


@needs_golden
def test_smooth_rank_equals_the_reference():
    with np.load(GOLDEN / "madeleine_golden.npz") as golden:
        embeddings = torch.from_numpy(golden["rank/embeds"])
        unrounded, rounded = float(golden["rank/unrounded"]), float(golden["rank/value"])
    assert smooth_rank(embeddings) == pytest.approx(unrounded, rel=1e-10)
    assert round(smooth_rank(embeddings), 2) == rounded


@given(st.integers(1, 6), st.integers(0, 9))
def test_smooth_rank_counts_equal_orthogonal_directions(dims, extra):
    embeddings = torch.zeros(dims + extra, 7)
    embeddings[:dims, :dims] = torch.eye(dims)
    assert smooth_rank(embeddings) == pytest.approx(dims, abs=1e-3)


def test_smooth_rank_of_a_collapsed_model_is_one():
    assert smooth_rank(torch.ones(9, 5)) == pytest.approx(1.0, abs=1e-3)


def test_partner_ranks_by_hand():
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    query = torch.tensor([[2.0, 0.1], [3.0, 0.2], [-1.0, 0.1]])
    assert partner_ranks(query, key).tolist() == [1.0, 2.0, 1.0]


@given(st.integers(2, 9))
def test_one_point_for_every_slide_ranks_in_the_middle(cases):
    ranks = partner_ranks(torch.ones(cases, 3), torch.ones(cases, 3))
    assert ranks.tolist() == [(cases + 1) / 2] * cases


def test_mean_token_cosine_equals_the_mean_over_pairs():
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    slow = [
        np.mean([float(u[i] @ u[j]) for i in range(5) for j in range(5) if i != j]) for u in unit
    ]
    np.testing.assert_allclose(mean_token_cosine(tokens), slow, rtol=1e-12)
    assert len(mean_token_cosine(tokens[:, :1])) == 0


@pytest.mark.parametrize("views", [False, True])
def test_batches_of_held_out_cases_do_not_change_the_measures(views):
    model, bags = small_model().train(), some_bags()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = [packed(bags, 5)]
    parts = [
        packed({(c - low, s): b for (c, s), b in bags.items() if low <= c < high}, high - low)
        for low, high in ((0, 2), (2, 5))
    ]
    one, two = (
        evaluate_held_out(model, b, STAINS, PRESETS["corrected"], views=views)
        for b in (whole, parts)
    )
    for name in ("retrieval", "recall_at_1", "chance", "smooth_rank") + ("gain_low",) * (not views):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-9)
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_the_least_gain_by_hand():
    """Gains of 1/2, 1/4 and 0 for three cases, one of which asks in two stains."""
    ranks = [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0])]
    plain = [torch.tensor([2.0, 4.0, 2.0]), torch.tensor([4.0 / 3.0])]
    cases = [torch.tensor([0, 1, 2]), torch.tensor([2])]
    gains = np.array([0.5, 0.25, (-0.25 + 0.25) / 2])
    deviation = gains.std(ddof=1) / 3**0.5
    expected = gains.mean() - 2.919986 * deviation  # 95% quantile of Student's t, 2 degrees
    assert least_gain(ranks, plain, cases) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cases_show_no_gain(count):
    one = [torch.ones(1)] * count
    assert least_gain(one, [2 * part for part in one], [torch.zeros(1)] * count) == -1.0


def test_equal_gains_are_certain():
    ranks, plain = [torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 2.0])]
    assert least_gain(ranks, plain, [torch.tensor([0, 1])]) == 0.5


def test_a_perfect_model_retrieves_every_partner():
    bags = {
        (c, s): torch.eye(7, dtype=torch.float64)[c : c + 1] * 3 for c in range(5) for s in (0, 1)
    }
    found = evaluate_held_out(
        small_model(), [packed(bags, 5)], 2, PRESETS["corrected"], views=False
    )
    assert found.retrieval == found.recall_at_1 == 1.0
    assert found.chance == pytest.approx(sum(1 / n for n in range(1, 6)) / 5)
    assert math.isfinite(found.smooth_rank)

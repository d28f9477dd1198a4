"""Rows drawn by sorting hashed numbers: distinct, uniform, and a slide's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from madeleine_bench.pretrain.batches import draw_rows, hash_counter

CPU = torch.device("cpu")


def drawn(keys, counts, most, device=CPU) -> list[list[int]]:
    """Rows drawn of slides that lie one after the other, from 0 in each."""
    counts = np.array(counts)
    begins = np.cumsum(counts) - counts
    rows = draw_rows(keys, begins, counts, most, device).cpu()
    parts = rows.split(np.minimum(counts, most).tolist())
    return [(part - begin).tolist() for part, begin in zip(parts, begins, strict=True)]


@given(
    slides=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 40)), min_size=1, max_size=6
    ),
    most=st.integers(1, 50),
)
def test_a_slide_gives_different_rows_of_its_own(slides, most):
    keys, counts = zip(*slides, strict=True)
    for (_, count), rows in zip(slides, drawn(keys, counts, most), strict=True):
        assert len(rows) == len(set(rows)) == min(count, most)
        assert set(rows) <= set(range(count))


@given(
    slides=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 40)), min_size=2, max_size=5
    )
)
def test_a_slide_does_not_depend_on_its_neighbours(slides):
    keys, counts = zip(*slides, strict=True)
    alone = [drawn([key], [count], 7)[0] for key, count in slides]
    assert drawn(keys, counts, 7) == alone
    assert drawn(keys[::-1], counts[::-1], 7) == alone[::-1]


def test_fewer_rows_are_the_first_of_more():
    few, many = drawn([5], [30], 6)[0], drawn([5], [30], 20)[0]
    assert many[:6] == few


def test_pairs_of_rows_are_drawn_uniformly():
    """Ordered pairs, so that neither a row nor an order is preferred."""
    count, draws = 6, 30_000
    keys = (np.arange(draws) * 7 + 3).tolist()
    rows = np.array(drawn(keys, [count] * draws, 2))
    seen = np.bincount(rows[:, 0] * count + rows[:, 1], minlength=count * count)
    seen = seen.reshape(count, count)
    assert not seen.diagonal().any()
    each = seen[~np.eye(count, dtype=bool)]
    expected = draws / len(each)
    statistic = ((each - expected) ** 2 / expected).sum()
    assert 0.001 < chi2.sf(statistic, len(each) - 1) < 0.999


def test_the_first_of_many_rows_is_uniform_over_a_long_slide():
    count, draws, bins = 3000, 400, 10
    rows = np.array(drawn(range(draws), [count] * draws, 50)).ravel()
    seen = np.bincount(rows * bins // count, minlength=bins)
    expected = len(rows) / bins
    assert 0.001 < chi2.sf(((seen - expected) ** 2 / expected).sum(), bins - 1) < 0.999


def smallest(key: int, count: int, most: int) -> list[int]:
    """The same rows by plain integers: SplitMix64 in Python, sorted by its 44 highest bits."""
    bits, numbers = 2**64 - 1, []
    for row in range(count):
        z = (key + (row + 1) * 0x9E3779B97F4A7C15) & bits
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        numbers.append((z ^ (z >> 31)) >> 20)
    return sorted(range(count), key=numbers.__getitem__)[:most]


def test_the_rows_of_a_seed_are_fixed():
    """They decide what a GPU trains on: a change here is a change of every run on one."""
    keys, counts = [0, 2**64 - 1, 12345], [9, 4, 1000]
    expected = [smallest(key, count, 5) for key, count in zip(keys, counts, strict=True)]
    assert drawn(keys, counts, 5) == expected


def test_hashes_are_those_of_splitmix64():
    key = torch.full((5,), 1234567)
    found = hash_counter(key, torch.arange(5)).numpy().view(np.uint64).tolist()
    assert found == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip


def test_more_slides_than_there_is_room_for():
    many = 2**19 + 1
    with pytest.raises(ValueError, match="524289 slides in a draw"):
        draw_rows(range(many), np.zeros(many, np.int64), np.ones(many, np.int64), 1, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_draws_the_rows_of_a_cpu():
    keys, counts = list(range(50)), list(range(2000, 2050))
    assert drawn(keys, counts, 500, torch.device("cuda")) == drawn(keys, counts, 500)

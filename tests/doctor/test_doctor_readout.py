"""The probes of site, stain and patch count: found where they are, at chance where they are not."""

import numpy as np
import pytest

from madeleine_bench.embeddings import cloud
from madeleine_bench.embeddings.cloud import Readout, predicted_number, read_word

CASES = [f"c{n}" for n in range(40)]
WORDS = ["east", "west"] * 20


def noise(seed, width=6):
    return np.random.default_rng(seed).standard_normal((40, width))


def test_a_planted_word_is_read_and_a_p_value_is_never_zero():
    matrix = noise(0)
    matrix[:, 3] += np.array([4.0 * (word == "east") for word in WORDS])
    found = read_word(matrix, WORDS, CASES)
    assert isinstance(found, Readout)
    assert found.accuracy > 0.9
    assert found.p_value == 1 / (1 + cloud.PERMUTATIONS)
    assert (found.words, found.slides) == (2, 40)


def test_without_a_word_p_values_are_uniform(monkeypatch):
    """An exact test: of 60 nulls, about one in five has p at most .2."""
    monkeypatch.setattr(cloud, "PERMUTATIONS", 39)
    p_values = [read_word(noise(seed), WORDS, CASES).p_value for seed in range(60)]
    assert 4 <= sum(p <= 0.2 for p in p_values) <= 22
    assert 0.35 < np.mean(p_values) < 0.65


def test_slides_of_a_case_do_not_teach_each_other():
    """Each case has a look of its own; slides of it across folds would make the site known."""
    cases = [f"c{n // 4}" for n in range(80)]
    sites = [("east", "west")[(n // 4) % 2] for n in range(80)]
    looks = np.random.default_rng(7).standard_normal((20, 30))
    matrix = np.array([looks[n // 4] for n in range(80)])
    found = read_word(matrix, sites, cases)
    assert found.p_value > 0.05


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([""] * 40, "none known"),
        (["east"] * 40, "found 1 (1 known)"),
        (["east"] * 36 + ["west"] * 4, "found 1 (2 known)"),
    ],
)
def test_too_few_words_are_skipped_with_the_reason(words, reason):
    assert reason in read_word(noise(0), words, CASES)


def test_the_permuted_word_of_a_case_stays_whole():
    rng = np.random.default_rng(0)
    cases = ["a", "a", "b", "b", "c", "c"]
    drawn = cloud._permuted(np.array([0, 0, 1, 1, 2, 2]), cases, rng)
    assert (drawn[::2] == drawn[1::2]).all()
    assert sorted(drawn) == [0, 0, 1, 1, 2, 2]
    mixed = cloud._permuted(np.array([0, 1, 0, 1, 0, 1]), cases, rng)
    assert sorted(mixed) == [0, 0, 0, 1, 1, 1]


def test_a_number_is_predicted_and_a_constant_column_does_no_harm():
    matrix = noise(1)
    matrix[:, 2] = 5.0
    values = matrix[:, 0] - 2.0 * matrix[:, 4]
    made = predicted_number(matrix, values, CASES)
    assert np.corrcoef(made, values)[0, 1] > 0.9
    assert np.isfinite(predicted_number(np.ones((40, 2)), values, CASES)).all()

"""Units kept to stop early: whole cases, a share of each stratum."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from madeleine_bench.finetuning.training import keep_for_validation
from madeleine_bench.seeds import rng_for


def objects(values):
    return np.array(values, dtype=object)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=40),
    st.floats(0.0, 0.5),
    st.integers(0, 99),
)
def test_no_case_is_on_both_sides_and_no_unit_is_lost(units, share, seed):
    case = objects([f"c{c}" for c, _ in units])
    stratum = objects([f"s{s}" for _, s in units])
    train = np.arange(len(units))[::2]
    kept, validation = keep_for_validation(train, case, stratum, share, rng_for("keep", seed))
    assert sorted([*kept, *validation]) == train.tolist()
    assert not set(case[kept]) & set(case[validation])
    assert len(kept)


def test_each_stratum_gives_its_share():
    stratum = objects(["a"] * 80 + ["b"] * 20)
    case = objects([str(i) for i in range(100)])
    _, validation = keep_for_validation(np.arange(100), case, stratum, 0.15, rng_for("share"))
    assert (stratum[validation] == "a").sum() == 12
    assert (stratum[validation] == "b").sum() == 3


def test_the_only_case_of_a_stratum_is_trained_on():
    stratum = objects(["a", "a", "a", "b"])
    case = objects(["1", "2", "3", "4"])
    kept, _ = keep_for_validation(np.arange(4), case, stratum, 0.5, rng_for("one"))
    assert 3 in kept


def test_a_share_of_zero_keeps_none():
    case = objects([str(i) for i in range(10)])
    kept, validation = keep_for_validation(np.arange(10), case, case, 0.0, rng_for("none"))
    assert not len(validation)
    assert kept.tolist() == list(range(10))

"""Scores of other features: a column of their own, under a label of its own, with gains of its own.

Before, a board held one column for an encoder and a revision, and the newest record of a task won,
whatever features it was scored from.
"""

import random

from madeleine_bench.hashing import hash_json
from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import compare, controls_ahead
from madeleine_bench.leaderboard.sensitivity import sensitivity
from tests.leaderboard.records import (
    CATALOGUE,
    CORE,
    draws_of,
    features,
    full_row,
    make_record,
    varied_row,
)

A, B, UNI = features("A"), features("B"), features("A", "uni")
UNDECLARED = features("A", None)
HASH_A, HASH_B = (hash_json(word)[:6] for word in "AB")
TASK = CORE[0]


def board_of(records):
    (board,) = build_boards(records, CATALOGUE)
    return board


def scores(records, task=TASK):
    """Return the score of each column on a task."""
    return {c.label: c.cells[task.id].value for c in board_of(records).columns}


def compared(records):
    return compare(board_of(records), draws_of)


def test_two_feature_folders_are_two_columns_whichever_is_the_newer():
    """Before: one column, of the newer record: .437 was shown as .760."""
    older = make_record("mean-pool", TASK, 0.437, features=A, created="2026-01-01")
    newer = make_record("mean-pool", TASK, 0.760, features=B, created="2026-02-01")
    expected = {f"mean-pool · conch {HASH_A}": 0.437, f"mean-pool · conch {HASH_B}": 0.760}
    assert scores([older, newer]) == expected
    assert scores([newer, older]) == expected


def test_one_set_of_features_needs_no_word_in_the_label():
    assert scores([make_record("a", TASK, 0.7, features=A)]) == {"a": 0.7}
    other_cohort = next(task for task in CORE if task.cohort != TASK.cohort)
    more = make_record("a", other_cohort, 0.6, features=B)
    assert set(scores([make_record("a", TASK, 0.7, features=A), more])) == {"a"}


def test_patch_encoders_are_named_where_there_are_several():
    records = [make_record("a", TASK, 0.7, features=A), make_record("a", TASK, 0.8, features=UNI)]
    assert scores(records) == {"a · conch": 0.7, "a · uni": 0.8}
    unnamed = make_record("a", TASK, 0.6, features=UNDECLARED)
    assert scores([*records, unnamed]) == {
        "a · conch": 0.7, "a · uni": 0.8, f"a · features {HASH_A}": 0.6,
    }  # fmt: skip
    later = make_record("a", TASK, 0.5, features=A, revision="2")
    assert set(scores([*records, later])) == {"a@1 · conch", "a@1 · uni", "a@2 · conch"}


def test_the_newest_record_counts_within_one_set_of_features():
    old = make_record("a", TASK, 0.5, features=A, created="2026-01-01")
    new = make_record("a", TASK, 0.6, features=A, created="2026-02-01")
    other = make_record("a", TASK, 0.7, features=B, created="2026-03-01")
    assert sorted(scores([new, other, old]).values()) == [0.6, 0.7]


def test_hashes_that_begin_alike_are_shown_longer():
    """A submitter may claim any hash; with one label for two columns, one would hide the other."""
    forged = {**A, "content": A["content"][:8] + "0" * 56}
    records = [
        make_record("a", TASK, 0.7, features=A),
        make_record("a", TASK, 0.1, features=forged),
    ]
    found = scores(records)
    assert sorted(found.values()) == [0.1, 0.7]
    spoofed = {"patch_encoder": f"conch {HASH_A}", "content": hash_json("C")}
    more = [make_record("a", TASK, 0.8, features=B), make_record("a", TASK, 0.2, features=spoofed)]
    assert len(scores([records[0], *more])) == 3


def by_label(records):
    return {c.label: c for c in board_of(records).columns}


def test_the_features_of_most_encoders_are_the_ones_compared():
    records = full_row("a", 0.7, features=A) + full_row("b", 0.6, features=A)
    found = by_label([*records, *full_row("c", 0.9, features=B)])
    assert found[f"c · conch {HASH_B}"].unranked.startswith(
        "scored on other features than the rest"
    )
    assert not found[f"c · conch {HASH_B}"].complete
    assert found[f"a · conch {HASH_A}"].rank == 1
    # One encoder is one vote, however many tasks it has.
    few = [make_record(name, TASK, 0.5, features=A) for name in ("a", "b")]
    found = by_label([*few, *full_row("c", 0.9, features=B)])
    assert not found[f"c · conch {HASH_B}"].cells[TASK.id].comparable
    assert all(found[f"{name} · conch {HASH_A}"].cells[TASK.id].comparable for name in "ab")


def test_a_vote_that_ends_even_goes_to_the_features_scored_last():
    """Bags that were added later, with all encoders run again: the new scores are the board's."""
    old = full_row("a", 0.7, features=A, data="old") + full_row("b", 0.6, features=A, data="old")
    new = [
        *full_row("a", 0.8, features=B, data="new", created="2026-02-01"),
        *full_row("b", 0.9, features=B, data="new", created="2026-02-01"),
    ]
    records = old + new
    random.Random(0).shuffle(records)
    found = by_label(records)
    assert (found[f"b · conch {HASH_B}"].rank, found[f"a · conch {HASH_B}"].rank) == (1, 2)
    assert "other features" in found[f"a · conch {HASH_A}"].unranked


def test_other_patch_encoders_are_ranked_beside_each_other():
    found = by_label(full_row("a", 0.7, features=A) + full_row("a", 0.8, features=UNI))
    assert (found["a · uni"].rank, found["a · conch"].rank) == (1, 2)


def test_what_nobody_recomputed_has_no_say():
    claims = [
        record
        for name in ("x", "y", "z")
        for record in full_row(name, 0.9, features=B, verification="V0")
    ]
    found = by_label([*full_row("a", 0.7, features=A), *claims])
    assert found[f"a · conch {HASH_A}"].rank == 1


def test_gains_are_over_mean_pool_of_the_same_features():
    """Before: an encoder on A stood beside mean-pool on B, its gain included."""
    pooled = varied_row("mean-pool", 0.6, 1, kind="baseline", features=A)
    found = compared([*pooled, *varied_row("b", 0.7, 2, features=UNI)])
    assert found.standings["b · uni"].gain is None
    assert found.baselines == {"mean-pool · conch": "mean-pool · conch"}
    other = varied_row("mean-pool", 0.65, 3, kind="baseline", features=UNI)
    found = compared([*pooled, *other, *varied_row("b", 0.7, 2, features=UNI)])
    assert found.baselines["b · uni"] == "mean-pool · uni"
    alone = compared([*other, *varied_row("b", 0.7, 2, features=UNI)])
    assert found.standings["b · uni"].gain == alone.standings["b"].gain
    assert found.standings["mean-pool · conch"].gain is None


def test_one_cohort_of_other_features_leaves_no_gain():
    pooled = varied_row("mean-pool", 0.6, 1, kind="baseline", features=A)
    mixed = [make_record("b", t, 0.7, features=UNI if t.cohort == TASK.cohort else A) for t in CORE]
    found = compared([*pooled, *mixed])
    assert set(found.standings) == {"mean-pool · conch"}


def test_a_control_is_compared_with_mean_pool_of_the_same_features():
    gains = {("site-only · uni", "mean-pool · uni"): (0.01, 0.09)}

    def ahead(records):
        return controls_ahead(board_of(records), TASK, lambda column: False, gains)

    pooled = full_row("mean-pool", 0.7, kind="baseline", features=A)
    control = full_row("site-only", 0.8, kind="control", features=UNI)
    assert ahead(pooled + control) == []
    same = full_row("mean-pool", 0.75, kind="baseline", features=UNI)
    (found,) = ahead(pooled + control + same)
    assert tuple(found.values())[:3] == ("site-only · uni", 0.8, 0.75)


def test_old_records_are_as_they_were_while_there_are_no_others():
    found = compared(varied_row("mean-pool", 0.6, 1, kind="baseline") + varied_row("b", 0.7, 2))
    assert found.baselines["b"] == "mean-pool"
    assert set(found.standings) == {"mean-pool", "b"}


def test_old_records_stand_apart_from_those_that_state_their_features():
    old = make_record("a", TASK, 0.5, embeddings="other")
    new = make_record("a", TASK, 0.6, features=A, created="2025-01-01")
    assert scores([old, new]) == {"a · features not recorded": 0.5, "a · conch": 0.6}


def test_protocols_are_compared_over_one_set_of_features():
    tasks = [task for task in CORE if task.labels.type == "binary"]
    protocols = ["linear-probe/v1", "few-shot/v1"]
    shift = {"linear-probe/v1": 0.0, "few-shot/v1": 0.1}
    records = [
        make_record(name, task, 0.6 + shift[p] + 0.01 * k, features=own, protocol=p)
        for k, name in enumerate("abc")
        for task in tasks
        for p in protocols
        for own in (A, UNI)
    ]
    odd = [make_record("a", tasks[0], 0.99, features=B, protocol=p) for p in protocols]
    found = sensitivity(records + odd, CATALOGUE, "phantom", protocols, tasks)
    assert set(found.ranked) == {f"{n} · {e}" for n in "abc" for e in ("conch", "uni")}
    assert found.rankings[0].means["a · conch"] == found.rankings[0].means["a · uni"]

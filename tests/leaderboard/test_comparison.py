"""Who is better, and are we sure: properties of the comparison, and its parts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import compare, family_weights
from madeleine_bench.stats.clusters import cluster_mean, clusters_of
from tests.leaderboard.records import CATALOGUE, CORE, draws_of, make_record, varied_row


def compared(records, catalogue=CATALOGUE, protocol=None):
    (board,) = build_boards(records, catalogue, protocol)
    return compare(board, draws_of)


def three(seed):
    return (
        varied_row("mean-pool", 0.7, seed, kind="baseline")
        + varied_row("b", 0.75, seed + 1)
        + varied_row("c", 0.72, seed + 2)
    )


def by_pair(found):
    return {frozenset((p.first, p.second)): p for p in found.pairs}


@settings(max_examples=4)
@given(st.integers(0, 100), st.randoms())
def test_the_order_of_records_does_not_matter(seed, random):
    records = three(seed)
    shuffled = list(records)
    random.shuffle(shuffled)
    assert compared(shuffled) == compared(records)


@settings(max_examples=4)
@given(st.integers(0, 100))
def test_a_copy_ties_with_its_original(seed):
    found = compared([*three(seed), *varied_row("copy", 0.75, seed + 1)])
    pair = by_pair(found)[frozenset(("b", "copy"))]
    assert (pair.mean, pair.p_cases, pair.p_cohorts, pair.across.p_value) == (0, 1, 1, 1)
    assert not pair.better
    assert not pair.beyond
    one, other = found.standings["b"], found.standings["copy"]
    assert one == other
    assert found.critical_difference.mean_ranks["b"] == found.critical_difference.mean_ranks["copy"]


@settings(max_examples=4)
@given(st.integers(0, 100), st.floats(0.5, 0.9))
def test_one_encoder_more_moves_no_mean_and_no_paired_test(seed, level):
    before, after = (
        compared(three(seed)),
        compared([*three(seed), *varied_row("new", level, seed + 9)]),
    )
    for label, standing in before.standings.items():
        assert after.standings[label].mean == standing.mean
        assert after.standings[label].gain == standing.gain
    later = by_pair(after)
    for key, pair in by_pair(before).items():
        for name in ("first", "mean", "across", "p_cases", "p_cohorts"):
            assert getattr(later[key], name) == getattr(pair, name)
        assert later[key].p_holm >= pair.p_holm


@settings(max_examples=4)
@given(st.integers(0, 100), st.integers(0, 20))
def test_a_missing_task_is_never_averaged_away(seed, missing):
    records = [r for r in three(seed) if (r.encoder.name, r.task.id) != ("b", CORE[missing].id)]
    found = compared(records)
    assert set(found.standings) == {"mean-pool", "c"}
    assert list(by_pair(found)) == [frozenset(("c", "mean-pool"))]


def test_estimates_are_those_of_their_parts():
    records = varied_row("mean-pool", 0.6, 1, kind="baseline") + varied_row("b", 0.7, 2)
    found = compared(records).standings
    (board,) = build_boards(records, CATALOGUE)
    cells = {c.label: c.cells for c in board.columns}
    weights = family_weights([t.family for t in board.tasks])
    clusters = clusters_of([t.cohort for t in board.tasks], weights.tolist())
    assert clusters.weights.sum() == pytest.approx(1)
    gain = [cells["b"][t.id].corrected - cells["mean-pool"][t.id].corrected for t in board.tasks]
    expected = cluster_mean(gain, clusters)
    assert (found["b"].gain.value, found["b"].gain.ci95) == (expected.value, expected.ci95)
    assert found["b"].mean.value == pytest.approx(
        next(c.mean for c in board.columns if c.label == "b")
    )
    scale = np.array([1 / (1 - t.metric.chance) for t in board.tasks])
    draws = [
        (draws_of(cells["b"][t.id].record) - draws_of(cells["mean-pool"][t.id].record)) * s
        for t, s in zip(board.tasks, scale, strict=True)
    ]
    error = 1.5 * np.std(weights @ np.stack(draws), ddof=1)
    low, high = found["b"].gain.ci95_cases
    assert (high - low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)
    assert found["mean-pool"].gain is None


def test_a_clear_winner_is_marked_and_leads_its_own_group():
    records = (
        varied_row("mean-pool", 0.55, 1, kind="baseline")
        + varied_row("b", 0.55, 7)
        + varied_row("best", 0.85, 3)
    )
    found = compared(records)
    marks = {(p.first, p.second) for p in found.pairs if p.better}
    assert marks == {("best", "mean-pool"), ("best", "b")}
    assert [found.standings[n].tie_group for n in ("best", "b", "mean-pool")] == [1, 2, 2]
    assert found.standings["best"].rank_ci95[0] == 1
    assert found.pairs_note == ""


def test_controls_are_measured_and_never_paired():
    found = compared(three(1) + varied_row("oracle", 0.9, 5, kind="control"))
    assert "oracle" in found.standings
    assert found.standings["oracle"].tie_group is None
    assert not any("oracle" in (p.first, p.second) for p in found.pairs)


def test_what_nobody_recomputed_is_never_resampled():
    claims = varied_row("claims", 0.9, 9, verification="V0")
    (board,) = build_boards(three(1) + claims, CATALOGUE)

    def draws(record):
        assert record.verification != "V0"
        return draws_of(record)

    assert set(compare(board, draws).standings) == {"mean-pool", "b", "c"}


def test_few_tasks_give_no_marks_and_say_so(tmp_path):
    kidney = [t for t in CORE if t.cohort == "bwh-kidney"]
    catalogue = type(CATALOGUE)({t.id: t for t in kidney}, CATALOGUE.cohorts, CATALOGUE.protocols)
    records = [make_record("a", t, 0.9) for t in kidney] + [
        make_record("b", t, 0.6) for t in kidney
    ]
    found = compared(records, catalogue)
    (pair,) = found.pairs
    assert not pair.better
    assert pair.p_cohorts is None
    assert "fewer than 6 tasks" in found.pairs_note
    assert found.critical_difference is None
    assert found.standings["a"].rank_ci95 is None
    assert found.standings["a"].mean.ci95 is None
    assert found.baselines == {}


def test_nobody_complete_is_said():
    found = compared([make_record("a", CORE[0], 0.9)])
    assert (found.standings, found.pairs) == ({}, ())
    assert "every task" in found.pairs_note

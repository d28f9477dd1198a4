"""Who is better, and are we sure: properties of the comparison, and its parts by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.comparison import (
    Grid,
    compare,
    compare_subsets,
    family_weights,
    make_grid,
    pair_verdicts,
    rank_intervals,
)
from madeleine_bench.stats.ranks import cluster_mean, clusters_of, letter_display
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


def test_a_family_has_standings_of_its_own_and_with_few_tasks_no_marks():
    (board,) = build_boards(three(0), CATALOGUE)
    found = compare_subsets(board, draws_of)
    assert set(found) == {t.family for t in board.tasks if t.id in board.ranked_ids}
    for family, subset in found.items():
        assert set(subset.standings) == {"mean-pool", "b", "c"}
        for column in board.columns:
            own = subset.standings[column.label].mean
            assert own.value == pytest.approx(column.families[family])
            assert own.ci95_cases[0] < own.value < own.ci95_cases[1]
    assert "fewer than 6 tasks" in found["subtyping"].pairs_note
    assert found["molecular-status"].pairs_note == ""


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
    assert (pair.mean, pair.p_cases, pair.p_signed_rank, pair.across.p_value) == (0, 1, 1, 1)
    assert not pair.better
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
        for name in ("first", "mean", "across", "p_cases", "p_signed_rank"):
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
    tasks = [t for t in board.tasks if t.cohort != "aidpath"]  # 25 slides: too few for a rank
    assert [t.id for t in tasks] == [t.id for t in board.tasks if t.id in board.ranked_ids]
    weights = family_weights([t.family for t in tasks])
    clusters = clusters_of([t.cohort for t in tasks], weights.tolist())
    assert clusters.weights.sum() == pytest.approx(1)
    gain = [cells["b"][t.id].corrected - cells["mean-pool"][t.id].corrected for t in tasks]
    expected = cluster_mean(gain, clusters)
    assert (found["b"].gain.value, found["b"].gain.ci95) == expected
    assert found["b"].mean.value == pytest.approx(
        next(c.mean for c in board.columns if c.label == "b")
    )
    scale = np.array([1 / (1 - t.metric.chance) for t in tasks])
    draws = [
        (draws_of(cells["b"][t.id].record) - draws_of(cells["mean-pool"][t.id].record)) * s
        for t, s in zip(tasks, scale, strict=True)
    ]
    error = np.std(weights @ np.stack(draws), ddof=1)
    low, high = found["b"].gain.ci95_cases
    assert (high - low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)
    assert found["mean-pool"].gain is None


def test_a_clear_winner_is_marked_and_has_a_letter_of_its_own():
    records = (
        varied_row("mean-pool", 0.55, 1, kind="baseline")
        + varied_row("b", 0.55, 7)
        + varied_row("best", 0.85, 3)
    )
    found = compared(records)
    marks = {(p.first, p.second) for p in found.pairs if p.better}
    assert marks == {("best", "mean-pool"), ("best", "b")}
    assert [found.standings[n].letters for n in ("best", "b", "mean-pool")] == ["a", "b", "b"]
    assert found.standings["best"].rank_ci95[0] == 1
    assert found.pairs_note == ""


def test_controls_are_measured_and_never_paired():
    found = compared(three(1) + varied_row("oracle", 0.9, 5, kind="control"))
    assert "oracle" in found.standings
    assert found.standings["oracle"].letters == ""
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
    assert "fewer than 6 tasks" in found.pairs_note
    assert found.critical_difference is None
    assert found.standings["a"].rank_ci95 is None
    assert found.standings["a"].mean.ci95 is None
    assert found.baselines == {}


def test_nobody_complete_is_said():
    found = compared([make_record("a", CORE[0], 0.9)])
    assert (found.standings, found.pairs) == ({}, ())
    assert "every task" in found.pairs_note


# --- the verdicts on random grids, against the rules done by hand ---


def random_grid(seed: int, encoders: int, tasks: int, ties: bool) -> Grid:
    """Return a grid of scores; some encoders are equal, some differ a little or by one task."""
    rng = np.random.default_rng(seed)
    chosen = [t for t in CORE if t.cohort != "aidpath"][:tasks]
    scores = 0.6 + rng.choice([0.0, 0.02, 0.1], size=(encoders, 1)) * np.ones(tasks)
    scores = scores + 0.03 * rng.standard_normal((encoders, tasks))
    if rng.uniform() < 0.3:
        scores[0, 0] = 0.99  # a task that leaked
    if ties:
        scores = np.round(scores, 2)
    draws = [[s + 0.02 * rng.standard_normal(40) for s in row] for row in scores]
    return make_grid(chosen, [f"e{i}" for i in range(encoders)], scores, draws)


def by_hand(grid: Grid, first: str, second: str) -> tuple[float, float]:
    """Return the two p-values of a pair in the direction of its mean, the plain way."""
    gap = np.round(grid.difference(first, second), 12)
    mean = sum(w * g for w, g in zip(grid.weights, grid.difference(first, second), strict=True))
    sizes = [abs(g) for g in gap]
    rank = [sum(s < own for s in sizes) + (sizes.count(own) + 1) / 2 for own in sizes]
    moving = [r for r, g in zip(rank, gap, strict=True) if g]
    won = sum(r for r, g in zip(rank, gap, strict=True) if g > 0)
    totals = [
        sum(r for r, up in zip(moving, signs, strict=True) if up)
        for signs in itertools.product((False, True), repeat=len(moving))
    ]
    far = [t >= won - 1e-9 if mean > 0 else t <= won + 1e-9 for t in totals]
    draws = grid.case_means[grid.labels.index(first)] - grid.case_means[grid.labels.index(second)]
    error = math.sqrt(sum((d - draws.mean()) ** 2 for d in draws) / (len(draws) - 1))
    cases = math.erfc(abs(mean) / error / math.sqrt(2)) if error else float(mean == 0)
    return min(1.0, 2 * float(np.mean(far))), cases


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(6, 9), st.booleans())
def test_marks_letters_and_ranks_are_those_done_by_hand(seed, encoders, tasks, ties):
    grid = random_grid(seed, encoders, tasks, ties)
    order = sorted(grid.labels, key=lambda label: -grid.estimate(label).value)
    pairs = pair_verdicts(grid, order)
    expected = {pair: by_hand(grid, *pair) for pair in itertools.combinations(order, 2)}
    left = sorted(expected, key=lambda pair: max(expected[pair]))
    adjusted, highest = {}, 0.0
    for step, pair in enumerate(left):
        highest = max(highest, min(1.0, (len(left) - step) * max(expected[pair])))
        adjusted[pair] = highest
    for pair in pairs:
        key = pair.first, pair.second
        assert (pair.p_signed_rank, pair.p_cases) == pytest.approx(expected[key], abs=1e-9)
        assert pair.p_holm == pytest.approx(adjusted[key], abs=1e-9)
        assert pair.better == (adjusted[key] < 0.05 and pair.mean > 0)
        if pair.better:  # never on the strength of evidence for the other
            assert pair.across.p_greater < 0.05
    marked = {(p.first, p.second) for p in pairs if p.better}
    letters = letter_display(order, marked)
    for first, second in itertools.combinations(order, 2):
        assert bool(set(letters[first]) & set(letters[second])) == ((first, second) not in marked)
    for label, (low, high) in rank_intervals(grid, order).items():
        assert 1 <= low <= high <= encoders
        assert label in order


def test_one_leaked_task_marks_nobody():
    """1 win and 20 losses: was "better on these cohorts", p .0022 being evidence against it."""
    tasks = CORE
    scores = np.array([[0.99, *[0.6] * 20], [0.51, *(0.601 + 0.0005 * i for i in range(20))]])
    rng = np.random.default_rng(0)
    draws = [[s + 0.001 * rng.standard_normal(40) for s in row] for row in scores]
    grid = make_grid(tasks, ["leaked", "sound"], scores, draws)
    (pair,) = pair_verdicts(grid, ["leaked", "sound"])
    assert (pair.across.wins, pair.across.losses) == (1, 20)
    assert pair.mean > 0
    assert pair.across.p_value < 0.05
    assert pair.p_signed_rank == 1.0
    assert not pair.better

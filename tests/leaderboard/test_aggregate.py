"""The board: what is averaged, what is ranked, and what never is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.leaderboard.aggregate import build_boards, summarise
from madeleine_bench.leaderboard.export import to_csv
from tests.leaderboard.records import CATALOGUE, CORE, full_row, make_record, varied_row


def columns(records, **more):
    (board,) = build_boards(records, CATALOGUE, **more)
    return {column.label: column for column in board.columns}


def test_mean_is_over_families_of_chance_corrected_scores():
    values = {"subtyping": 0.9, "molecular-status": 0.7}
    records = [make_record("a", t, values.get(t.family, 0.6)) for t in CORE]
    corrected: dict[str, list[float]] = {}
    for task in CORE:
        score, chance = values.get(task.family, 0.6), task.metric.chance
        corrected.setdefault(task.family, []).append((score - chance) / (1 - chance))
    expected = sum(sum(v) / len(v) for v in corrected.values()) / len(corrected)
    assert columns(records)["a"].mean == pytest.approx(expected)


def test_chance_is_zero_and_perfect_is_one():
    chance = [make_record("a", t, t.metric.chance) for t in CORE]
    found = columns(chance + full_row("b", 1.0))
    assert found["a"].mean == 0.0
    assert found["b"].mean == 1.0
    assert (found["b"].rank, found["a"].rank) == (1, 2)


def test_a_missing_task_is_never_averaged_away():
    found = columns(full_row("a", 0.9)[:-1] + full_row("b", 0.6))
    assert (found["a"].mean, found["a"].rank, found["a"].coverage) == (None, None, 20)
    assert "20 of 21" in found["a"].unranked
    assert found["b"].rank == 1


def test_a_control_is_shown_and_takes_no_rank():
    found = columns(full_row("a", 0.7) + full_row("oracle", 1.0, kind="control"))
    assert (found["oracle"].rank, found["a"].rank, found["a"].mean_rank) == (None, 1, 1.0)


def test_other_data_is_not_ranked():
    odd = full_row("c", 0.95)
    odd[0] = make_record("c", CORE[0], 0.95, data="other")
    found = columns(full_row("a", 0.7) + full_row("b", 0.7) + odd)
    assert CORE[0].id in found["c"].unranked
    assert (found["a"].rank, found["b"].rank) == (1, 1)


def test_phantom_and_real_never_share_a_board():
    records = (
        full_row("a", 0.7)
        + full_row("a", 0.8, source="local")
        + full_row("a", 0.5, variant="signal-0")
    )
    boards = build_boards(records, CATALOGUE)
    assert [b.name for b in boards] == ["local", "phantom", "phantom-signal-0"]
    assert [b.is_phantom for b in boards] == [False, True, True]


def test_the_newest_record_counts_and_old_versions_do_not():
    old = make_record("a", CORE[0], 0.9, created="2025-01-01")
    new = make_record("a", CORE[0], 0.6, created="2026-06-01")
    stale = make_record("a", CORE[0], 0.95, version=CORE[0].version + 1, created="2027-01-01")
    assert columns([new, stale, old])["a"].cells[CORE[0].id].value == 0.6


def test_two_revisions_are_two_columns():
    found = columns(full_row("a", 0.7) + full_row("a", 0.8, revision="2"))
    assert found["a@2"].rank == 1
    assert found["a@1"].rank == 2


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(42)), st.floats(0.5, 1.0), st.floats(0.5, 1.0))
def test_the_order_of_records_does_not_matter_and_a_third_moves_no_mean(order, one, two):
    records = full_row("a", one) + full_row("b", two)
    plain = columns(records)
    shuffled = columns([records[i] for i in order])
    assert shuffled == plain
    more = columns(records + full_row("c", 0.75))
    assert more["a"].mean == plain["a"].mean
    copied = columns(records + full_row("a2", one))
    assert copied["a2"].rank == copied["a"].rank


def test_exports_hold_every_number():
    boards = build_boards(full_row("a", 0.7) + full_row("=b", 0.8)[:3], CATALOGUE)
    lines = to_csv(boards).splitlines()
    assert len(lines) == 1 + 2 * 21
    assert sum(",absent," in line for line in lines) == 18
    assert not any(",=b" in line for line in lines)
    assert all(line.startswith("PHANTOM,phantom,") for line in lines[1:])


def test_what_nobody_recomputed_is_shown_unranked_and_sets_no_reference():
    reported = full_row("claims", 0.99, verification="V0", data="other")
    found = columns(full_row("a", 0.7) + reported + full_row("claims2", 0.9, verification="V0"))
    assert (found["a"].rank, found["a"].mean_rank) == (1, 1.0)
    assert "recomputed" in found["claims2"].unranked
    assert "other data" in found["claims"].unranked
    mixed = full_row("m", 0.7)
    mixed[3] = make_record("m", CORE[3], 0.7, verification="V0")
    assert columns(mixed)["m"].verification == "V0"
    assert columns(full_row("v", 0.7, verification="V1"))["v"].verification == "V1"


def test_a_claimed_chance_level_is_not_believed():
    found = columns(full_row("a", 0.7) + full_row("b", 0.7, chance=1.0, verification="V0"))
    assert found["b"].mean == found["a"].mean


def test_a_recomputed_record_is_never_hidden_by_a_reported_one():
    old = make_record("a", CORE[0], 0.6, created="2025-01-01", verification="V1")
    claim = make_record("a", CORE[0], 0.9, created="2027-01-01", verification="V0")
    assert columns([old, claim])["a"].cells[CORE[0].id].value == 0.6


def test_contamination_is_by_cohort_and_unknown_is_not_clean():
    known = columns(full_row("a", 0.7, training_cohorts=["bcnb"]))["a"].cells
    assert {c.contamination for t, c in known.items() if t.startswith("bcnb")} == {"contaminated"}
    assert {c.contamination for t, c in known.items() if t.startswith("tcga")} == {"clean"}
    unknown = columns(full_row("a", 0.7, training_cohorts=None))["a"].cells
    assert {cell.contamination for cell in unknown.values()} == {"unknown"}


def test_win_rate_and_mean_rank_by_hand():
    found = columns(full_row("a", 0.7) + full_row("b", 0.7) + full_row("c", 0.6))
    assert found["a"].win_rate == pytest.approx(0.75)
    assert found["c"].win_rate == 0.0
    assert (found["a"].mean_rank, found["c"].mean_rank) == (1.5, 3.0)
    assert columns(full_row("a", 0.7))["a"].win_rate is None


@settings(max_examples=20)
@given(st.sets(st.integers(0, 20), min_size=1), st.integers(0, 5))
def test_a_summary_of_some_tasks_is_that_of_its_definition(chosen, seed):
    records = varied_row("a", 0.7, seed) + varied_row("b", 0.7, seed + 100)
    records += [r for r in varied_row("c", 0.7, seed + 200) if r.task.id != CORE[0].id]
    (board,) = build_boards(records, CATALOGUE)
    tasks = [CORE[i] for i in sorted(chosen)]
    found = summarise(board.columns, tasks)
    assert set(found) == {"a", "b"} | ({"c"} if 0 not in chosen else set())
    cells = {c.label: c.cells for c in board.columns if c.label in found}
    for label, summary in found.items():
        families = {t.family: [] for t in tasks}
        for t in tasks:
            families[t.family].append(cells[label][t.id].corrected)
        means = [sum(v) / len(v) for v in families.values()]
        assert summary.mean == pytest.approx(sum(means) / len(means))
        wins = sum(
            cells[label][t.id].value > other[t.id].value
            for t in tasks
            for name, other in cells.items()
            if name != label
        )
        assert summary.win_rate == pytest.approx(wins / len(tasks) / (len(found) - 1))
        assert summary.rank == 1 + sum(o.mean > summary.mean for o in found.values())
    assert sum(s.mean_rank for s in found.values()) == pytest.approx(
        len(found) * (len(found) + 1) / 2
    )
    assert summarise(board.columns, []) == {}

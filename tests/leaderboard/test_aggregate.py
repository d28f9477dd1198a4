"""The board: what is averaged, what is ranked, and what never is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.leaderboard.aggregate import build_boards
from madeleine_bench.leaderboard.export import export_boards, to_csv, to_markdown
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import Record, record_id

CATALOGUE = load_catalogue()
CORE = CATALOGUE.select(["all"])


def make_record(
    encoder, task, value, kind="encoder", source="phantom", variant="", data="h", **more
):
    content = {
        "resume_key": "k",
        "source": source,
        "variant": variant,
        "encoder": {
            "name": encoder, "revision": more.get("revision", "1"), "title": encoder, "kind": kind,
            "fingerprint": "f", "training_cohorts": [],
        },
        "task": {
            "id": task.id, "version": more.get("version", task.version), "task_hash": data,
            "family": task.family, "cohort": task.cohort,
        },
        "protocol": more.get("protocol", task.protocols[0]),
        "scoring_version": 1,
        "inputs": {
            "embeddings": "e", "labels": "l", "splits": "s", "n": 10, "dim": 2, "missing": {},
        },
        "scores": {
            "main": {
                "metric": task.metric.name, "value": value, "chance": task.metric.chance,
                "ci95": (value, value), "method": "m",
            },
            "secondary": {},
        },
        "folds": [],
        "predictions": {"path": "p", "hash": "h", "rows": 1},
        "provenance": {"created": more.get("created", "2026-01-01")},
        "status": "ok",
    }  # fmt: skip
    bare = Record.model_construct(**content, record_id="").model_dump(mode="json", warnings=False)
    full = {"schema_version": 1, "verification": "none", **bare}
    return Record.model_validate({**full, "record_id": record_id(full)})


def full_row(encoder, value, **more):
    return [make_record(encoder, task, value, **more) for task in CORE]


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
    assert "PHANTOM" not in to_markdown(boards[0])
    assert "PHANTOM" in to_markdown(boards[1])


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
    content = json.loads(export_boards(boards, "json"))
    assert content[0]["columns"][0]["cells"][CORE[0].id]["value"] == 0.7
    assert export_boards(boards, "markdown").count("\n| ") >= 21


def test_a_record_refuses_nan_and_a_changed_number():
    with pytest.raises(ValueError, match="NaN"):
        make_record("a", CORE[0], 0.7).model_validate(
            {**make_record("a", CORE[0], 0.7).model_dump(mode="json"), "folds": [
                {"key": {"repeat": 0, "fold": 0}, "value": float("nan"), "n_train": 1, "n_test": 1,
                 "converged": True}]}
        )  # fmt: skip
    content = make_record("a", CORE[0], 0.7).model_dump(mode="json")
    content["scores"]["main"]["value"] = 0.8
    with pytest.raises(ValueError, match="altered"):
        Record.model_validate(content)

"""Tracks: own tasks and core tasks of cohorts that can be had rank beside the core tasks."""

import json
from dataclasses import replace

import pytest

from madeleine_bench.leaderboard.aggregate import build_boards, in_track
from madeleine_bench.leaderboard.comparison import compare
from madeleine_bench.leaderboard.export import to_csv
from madeleine_bench.leaderboard.sources import Sources
from madeleine_bench.results.store import ResultStore
from madeleine_bench.specs.task import TaskSpec
from tests.leaderboard.records import CATALOGUE, CORE, draws_of, full_row, make_record, varied_row

OPEN = {"tcga-breast", "bcnb", "aidpath"}
OWN = [
    TaskSpec.model_validate(
        {
            "id": f"mine-{n}", "cohort": "bcnb", "stains": ["H&E"],
            "labels": {"type": "binary", "column": "x", "classes": ["no", "yes"]},
            "expected": {"n": 40, "classes": {"no": 20, "yes": 20}},
        }
    )
    for n in range(3)
]  # fmt: skip
WITH_OWN = replace(CATALOGUE, tasks={**CATALOGUE.tasks, **{task.id: task for task in OWN}})


def own_row(encoder, value, tasks=OWN[:2], **more):
    return [make_record(encoder, task, value, **more) for task in tasks]


def test_core_open_is_the_twelve_core_tasks_of_cohorts_that_can_be_had():
    chosen = [task for task in CORE if in_track(task, CATALOGUE, "core-open")]
    assert len(chosen) == 12
    assert {task.cohort for task in chosen} == OPEN
    assert chosen == [task for task in CORE if task.cohort in OPEN]


def test_an_encoder_without_the_private_cohorts_is_ranked_on_core_open():
    outside = [r for r in varied_row("outside", 0.8, 1) if r.task.cohort in OPEN]
    records = varied_row("whole", 0.7, 2) + outside
    (core,) = build_boards(records, CATALOGUE, track="core")
    assert [column.label for column in core.ranked] == ["whole"]
    (board,) = build_boards(records, CATALOGUE, track="core-open")
    assert board.title == "phantom-core-open"
    assert {column.label for column in board.ranked} == {"whole", "outside"}
    assert {task.cohort for task in board.tasks} == OPEN
    assert compare(board, draws_of).standings["outside"].mean.ci95 is not None


def test_own_tasks_rank_among_themselves_on_those_that_have_a_score():
    records = own_row("a", 0.7) + own_row("b", 0.8) + own_row("half", 0.9, OWN[:1])
    records += own_row("coin", 1.0, kind="control")
    (board,) = build_boards(records, WITH_OWN, track="own")
    assert board.title == "phantom-own"
    assert board.core_ids == ("mine-0", "mine-1")
    assert [(c.label, c.rank) for c in board.ranked] == [("b", 1), ("a", 2)]
    (half,) = (column for column in board.columns if column.label == "half")
    assert half.unranked == "incomplete: 1 of 2 tasks"
    assert to_csv([board]).splitlines()[1].startswith("PHANTOM,phantom-own,b,encoder,1,mine-0")


def test_own_tasks_move_nothing_on_the_core_board():
    core = varied_row("a", 0.7, 1) + varied_row("b", 0.72, 2)
    extra = make_record("a", CATALOGUE.tasks["cptac-breast-er"], 0.6)
    (before,) = build_boards([*core, extra], CATALOGUE)
    (after,) = build_boards([*core, extra, *own_row("a", 0.9)], WITH_OWN, track="core")
    assert after == before
    assert compare(after, draws_of) == compare(before, draws_of)
    assert "cptac-breast-er" in {task.id for task in after.tasks}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Records of two encoders on core tasks and on two own tasks, whose mbench.toml is here."""
    monkeypatch.chdir(tmp_path)
    text = '[cohorts.bcnb]\nfeatures = "f"\nlabels = "l.csv"\n'
    for task in OWN:
        labels = '{ type = "binary", column = "x", classes = ["no", "yes"] }'
        text += f'[tasks.{task.id}]\ncohort = "bcnb"\nlabels = {labels}\n'
    (tmp_path / "mbench.toml").write_text(text)
    for encoder, value in (("mean-pool", 0.7), ("max-pool", 0.6)):
        for record in full_row(encoder, value) + own_row(encoder, value):
            path = tmp_path / "results" / "records" / "phantom" / f"{record.record_id}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(record.model_dump_json())
    assert len(list(ResultStore(tmp_path / "results").records())) == 46
    return tmp_path / "results"


def test_show_prints_the_core_board_and_that_of_own_tasks(mbench, results, monkeypatch):
    monkeypatch.setattr(Sources, "draws", lambda self, record: draws_of(record))
    said = mbench("leaderboard", "show", "--results", results)
    assert said.code == 0, said.err
    assert "bcnb-er" not in said.out
    said = mbench("leaderboard", "show", "--results", results, "--tasks")
    core, own = said.out.split("Board 'phantom-own'")
    assert "Board 'phantom' " in core
    assert "mine-0" not in core
    assert "mine-0" in own
    assert "bcnb-er" not in own
    said = mbench("leaderboard", "show", "--results", results, "--track", "core-open", "--tasks")
    assert "Board 'phantom-core-open'" in said.out
    assert "tasks: 10, tasks with too few patients for a rank: 2" in " ".join(said.out.split())
    assert "mgh-breast" not in said.out


def test_a_track_without_records_is_refused(mbench, results):
    for path in (results / "records" / "phantom").iterdir():
        if "mine-" in path.read_text():
            path.unlink()
    said = mbench("leaderboard", "show", "--results", results, "--track", "own")
    assert said.code == 2
    assert "no records for track own" in said.err
    said = mbench("leaderboard", "show", "--results", results, "--track", "open")
    assert said.code == 2
    assert "'open' is not one of" in said.err


def test_the_page_has_own_tasks_on_a_board_of_their_own(results, tmp_path):
    from madeleine_bench.leaderboard.document import leaderboard_document
    from madeleine_bench.leaderboard.page import page_files
    from madeleine_bench.leaderboard.sources import Sources
    from madeleine_bench.specs.workspace import Workspace

    sources = Sources([results], Workspace().tasks())
    sources.draws = draws_of
    boards = sources.boards([None], tracks=["core", "own"])
    plain = [replace(board, tasks=[t for t in board.tasks if t.labels.type != "survival"])
             for board in boards]  # fmt: skip
    assert compare(boards[1], draws_of).pairs_note == "no task has enough cases for a rank"
    document = leaderboard_document([(b, compare(b, draws_of)) for b in plain], sources)
    assert [board["track"] for board in document["boards"]] == ["core", "own"]
    assert {t["access"] for t in document["boards"][0]["tasks"]} == {
        "open",
        "on-request",
        "private",
    }
    pages = page_files(json.loads(json.dumps(document)))
    assert "Board phantom-own/primary" in pages["index.html"]
    assert "tasks/phantom/primary-own/mine-0.html" in pages
    assert "2 own" in pages["index.html"]

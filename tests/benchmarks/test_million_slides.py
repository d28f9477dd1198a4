"""The plan for a million slides: its simulation, and that the page quotes it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import million_slides
from benchmarks.queue_simulation import HOUR_S, Phase, Site, simulate

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
PHASE = Phase("tests", tasks=2000, compute_s=30.0, spread=0.4, bytes_read=0.0)
QUIET = Site(task_s=0.0, disk_bytes_per_s=1e9, deaths_per_hour=0.0, return_s=60.0)


def committed():
    path = ROOT / "benchmarks" / "results" / "million_slides.json"
    return json.loads(path.read_text())


def test_the_page_quotes_the_committed_results():
    found = committed()
    for line in million_slides.markdown_rows(found):
        assert line in PAGE
    for sentence in million_slides.sentences(found):
        assert sentence in PAGE
    assert found["slides"] == million_slides.SLIDES
    assert {name: tuple(row) for name, row in found["assumed"].items()} == million_slides.ASSUMED
    assert all(source for _, _, source in million_slides.ASSUMED.values())


def test_it_breaks_where_the_page_says():
    broken = {(row["phase"], row["workers"]): row["bottleneck"] for row in committed()["rows"]}
    assert [broken["extract, a GPU", n] for n in (1, 8, 64, 512)] == ["workers"] + ["disk"] * 3
    assert [broken["extract, a core", n] for n in (64, 512)] == ["workers", "disk"]
    assert [broken["embed", n] for n in (1, 8, 64, 512)] == ["workers"] * 2 + ["disk"] * 2
    assert {broken["evaluate", n] for n in (1, 8, 64, 512)} == {"workers"}


def test_the_simulation_is_of_the_committed_costs():
    found = committed()
    (rows,) = [million_slides.simulated(found["measured"], (512,))]
    kept = {(row["phase"], row["workers"]): row for row in found["rows"]}
    for row in rows:
        assert row["hours"] == pytest.approx(kept[row["phase"], 512]["hours"], rel=0.01)
        assert row["bottleneck"] == kept[row["phase"], 512]["bottleneck"]
    assert million_slides.storage(found["measured"]).keys() == found["storage"].keys()


def test_one_worker_alone_takes_the_sum_of_its_tasks():
    went = simulate(PHASE, 1, QUIET)
    assert went.hours == pytest.approx(went.ideal_hours)
    assert went.hours == pytest.approx(PHASE.tasks * PHASE.compute_s / HOUR_S, rel=0.05)
    assert (went.bottleneck, went.deaths, went.redone) == ("workers", 0, 0)
    assert went.busy["workers"] == pytest.approx(1.0)


def test_more_workers_take_less_but_never_less_than_their_share():
    hours = [simulate(PHASE, workers, QUIET).hours for workers in (1, 4, 16, 64)]
    assert hours == sorted(hours, reverse=True)
    for workers in (4, 64):
        went = simulate(PHASE, workers, QUIET)
        assert went.hours >= went.ideal_hours
        assert went.hours < 1.2 * went.ideal_hours


def test_a_slow_scheduler_bounds_the_tasks_of_an_hour():
    went = simulate(PHASE, 500, replace(QUIET, task_s=1.0))
    assert went.bottleneck == "scheduler"
    assert went.hours == pytest.approx(PHASE.tasks * 1.0 / HOUR_S, rel=0.1)
    assert went.busy["scheduler"] > 0.9


def test_a_slow_disk_bounds_the_bytes_of_an_hour():
    went = simulate(replace(PHASE, bytes_read=2e9), 500, QUIET)
    assert went.bottleneck == "disk"
    assert went.hours == pytest.approx(PHASE.tasks * 2.0 / HOUR_S, rel=0.1)


def test_deaths_cost_hours_and_every_task_is_done_all_the_same():
    deadly = replace(QUIET, deaths_per_hour=10.0)
    went = simulate(PHASE, 8, deadly)
    assert went.deaths >= went.redone > 50
    assert went.hours > simulate(PHASE, 8, QUIET).hours
    done = went.busy["workers"] * went.hours * 8
    assert done == pytest.approx(8 * went.ideal_hours), "the work of all tasks, once each"
    assert went == simulate(PHASE, 8, deadly)


def test_more_workers_than_tasks_do_not_help():
    few = replace(PHASE, tasks=10)
    assert simulate(few, 100, QUIET).hours == pytest.approx(simulate(few, 10, QUIET).hours, rel=0.5)


@pytest.mark.slow
def test_the_script_runs_at_toy_size(tmp_path, monkeypatch, capsys):
    arguments = ["x", "--quick", "--out", str(tmp_path), "--docs", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    million_slides.main()
    found = json.loads((tmp_path / "million_slides.json").read_text())
    assert found.keys() == committed().keys()
    assert found["measured"].keys() == committed()["measured"].keys()
    assert all(value > 0 for value in found["measured"].values())
    assert (tmp_path / "million_slides.svg").read_text().startswith("<svg")
    assert capsys.readouterr().out.splitlines() == million_slides.markdown_rows(found)

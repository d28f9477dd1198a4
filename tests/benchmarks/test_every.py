"""The driver of the benchmarks: what it runs, what it says of failures, and the page it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import every

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_quotes_the_committed_results():
    page = every.PAGE.read_text(encoding="utf-8")
    assert every.with_tables(page) == page
    assert len(every.table().splitlines()) > 20


def test_memory_hardly_grows_with_the_cohort():
    curves = json.loads((every.RESULTS / "growth.json").read_text())["curves"]
    (slides,) = [curve for curve in curves if curve["axis"] == "slides"]
    assert slides["size_ratio"] == 16
    assert slides["memory"]["ratio"] <= 1.2


def test_the_goals_of_the_few_shot_sweep_and_the_bootstrap_are_met():
    found = json.loads((every.RESULTS / "few_shot_speed.json").read_text())
    for task in found["tasks"]:
        assert task["times_faster"]["all"] >= 10
        assert task["plain_s"]["bootstrap_resamples_run"] == 100
        assert task["largest_difference_of_probabilities"]["newton-cholesky"] < 1e-6
    assert [task["classes"] for task in found["tasks"]] == [2, 3, 6]
    assert all(each["times_faster"] >= 100 for each in found["bootstrap"])
    assert all(each["largest_difference"] < 1e-12 for each in found["bootstrap"])


def test_a_benchmark_that_fails_is_named_and_the_others_go_on(monkeypatch, capsys):
    ran = []

    def run(command, **options):
        ran.append(command[2])
        return subprocess.CompletedProcess(command, int(command[2] == "benchmarks.cox_speed"))

    monkeypatch.setattr(every.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["every.py", "--quick"])
    with pytest.raises(SystemExit, match="failed: cox_speed"):
        every.main()
    assert ran == [f"benchmarks.{each.name}" for each in every.BENCHMARKS]
    assert "--- cox_speed: 0 s, exit 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["few_shot_speed", "cox_speed"])
def test_a_benchmark_runs_at_toy_size(name, tmp_path):
    (each,) = (each for each in every.BENCHMARKS if each.name == name)
    assert every._run(each, tmp_path, quick=True)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert each.lines(found)


@pytest.mark.slow
def test_every_benchmark_runs_at_toy_size():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.every", "--quick"], cwd=ROOT, check=False
    )
    assert done.returncode == 0

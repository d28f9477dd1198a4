"""The growth curves: what is run, how it is measured, what a slope says, and the figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import growth
from benchmarks.growth import QUICK, Run, Sizes, curve, markdown_rows, meaning, runs, slopes
from benchmarks.growth_figure import growth_chart, ticks_around
from madeleine_bench.figures import styled_svg
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.config import load_config
from madeleine_bench.specs.loader import read_yaml

ROOT = Path(growth.__file__).resolve().parents[1]


def value_of(run, option):
    """All values of an option of a run."""
    return [b for a, b in zip(run.arguments, run.arguments[1:], strict=False) if a == option]


def points(sizes, seconds, memory):
    return [{"size": size, "seconds": seconds(size), "peak_mb": memory(size)} for size in sizes]


def made_up_curves():
    return [
        curve("slides", "mean-pool", points([100, 200, 400], lambda n: n / 50, lambda n: 400.0)),
        curve("patches", "mean-pool", points([64, 256], lambda n: 3.0, lambda n: 400.0 + n)),
        curve("patches", "untrained", points([64, 256], lambda n: n / 8, lambda n: 5.0 * n)),
    ]


def test_every_run_is_one_that_mbench_can_read(tmp_path):
    small = Sizes((1, 2), (8, 16), (1, 3), (1, 2), 1, 1)
    seen = []
    for run in runs(tmp_path, small):
        seen.append((run.axis, run.series, run.size))
        tasks = value_of(run, "--task")
        if run.axis == "patches":
            (config,) = value_of(run, "--config")
            entry = load_config(Path(config)).cohorts["aidpath"]
            assert len(list(Path(entry.features).glob("*.h5"))) == growth.BAGS
            continue
        (catalogue,) = value_of(run, "--catalogue")
        loaded = load_catalogue(Path(catalogue))
        assert [task.id for task in loaded.select(tasks)] == tasks
        size = loaded.cohorts["bcnb"].slides
        assert size == (run.size if run.axis == "slides" else growth.SLIDES)
        assert len(tasks) == (run.size if run.axis == "tasks" else 1)
        cards = value_of(run, "--encoder")
        assert len(cards) == (run.size if run.axis == "encoders" else 1)
        if run.axis == "encoders":
            assert [read_yaml(Path(card))["name"] for card in cards] == [
                Path(card).stem for card in cards
            ]
    assert seen == [
        ("slides", "mean-pool", 1058), ("slides", "mean-pool", 2116),
        ("patches", "mean-pool", 8), ("patches", "untrained", 8),
        ("patches", "mean-pool", 16), ("patches", "untrained", 16),
        ("tasks", "mean-pool", 1), ("tasks", "mean-pool", 3),
        ("encoders", "mean-pool", 1), ("encoders", "mean-pool", 2),
    ]  # fmt: skip


def test_a_power_law_has_its_exponent_as_slope():
    size = [1, 2, 4, 8]
    assert slopes(size, [3 * n**1.5 for n in size]) == {
        "slope": 1.5,
        "stderr": 0.0,
        "last_slope": 1.5,
    }
    fixed = slopes(size, [10.0 + n for n in size])
    assert 0 < fixed["slope"] < fixed["last_slope"] < 1
    assert slopes([1, 2], [5.0, 5.0]) == {"slope": 0.0, "stderr": 0.0, "last_slope": 0.0}


@pytest.mark.parametrize(
    ("slope", "said"), [(0.5, "slower than"), (1.0, "with the size"), (1.3, "faster than")]
)
def test_a_slope_in_words(slope, said):
    assert meaning(slope).startswith(said)


def test_a_curve_says_how_much_memory_grew():
    flat, _, steep = made_up_curves()
    assert (flat["memory"]["ratio"], flat["time"]["means"]) == (1.0, "with the size")
    assert (steep["memory"]["ratio"], steep["size_ratio"]) == (4.0, 4.0)
    assert markdown_rows([flat]) == [
        "| slides, mean-pool | 100 to 400 | 2.0 to 8.0 s | 1.00 | 1.00 | 400 to 400 MB | 1.00 |"
    ]


def test_ticks_span_the_points_and_leave_room():
    assert ticks_around(made_up_curves(), "peak_mb") == (200, 500, 1000, 2000)
    assert ticks_around(made_up_curves(), "seconds") == (2, 5, 10, 20, 50)


def test_the_figure_draws_every_curve():
    svg = styled_svg(growth_chart(made_up_curves()))
    for said in ("phantom", "seconds", "peak memory, MB", "slides", "patches a bag", "untrained"):
        assert said in svg
    assert svg.count(">1.00<") == 3  # the slopes: two of time, one of memory


def run_of(monkeypatch, code):
    monkeypatch.setattr(growth, "_MBENCH", (sys.executable, "-c", code))
    return Run("slides", "mean-pool", 7, ())


def test_a_measurement_is_the_peak_of_the_process_it_starts(tmp_path):
    """In a process of its own, as this one is larger than what it could measure."""
    code = (
        "import json, pathlib, sys; from benchmarks import growth\n"
        "for n in (50, 300):\n"
        "    growth._MBENCH = sys.executable, '-c', f'x = bytes(1) * {n * 2**20}'\n"
        "    run = growth.Run('slides', 'mean-pool', n, ())\n"
        "    print(json.dumps(growth.measure(run, pathlib.Path(sys.argv[1]), 2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    small, large = map(json.loads, done.stdout.splitlines())
    assert (small["size"], large["size"]) == (50, 300)
    assert large["peak_mb"] - small["peak_mb"] > 200
    assert small["seconds"] > 0


def test_a_run_that_fails_or_is_hidden_stops_the_benchmark(tmp_path, monkeypatch):
    failing = run_of(monkeypatch, "import sys; print('why'); sys.exit(3)")
    with pytest.raises(RuntimeError, match=r"exit 3\nwhy"):
        growth.measure(failing, tmp_path, 1)
    with pytest.raises(RuntimeError, match="hidden by our own"):
        growth.measure(run_of(monkeypatch, "pass"), tmp_path, 1)


@pytest.mark.slow
def test_the_script_runs_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "own_peak_mb", lambda: 0.0)  # a test process is a large one
    found = growth.measure_all(tmp_path, QUICK)
    assert [(one["axis"], one["series"]) for one in found] == [
        ("slides", "mean-pool"),
        ("patches", "mean-pool"),
        ("patches", "untrained"),
        ("tasks", "mean-pool"),
        ("encoders", "mean-pool"),
    ]
    assert all(len(one["points"]) == 2 for one in found)

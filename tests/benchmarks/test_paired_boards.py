"""The paired comparison of boards: from records to differences, verdicts, figure and script."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import phantom_madeleine
from benchmarks.forest_plot import Difference, forest_svg
from benchmarks.null_board import NULL_BOARD
from benchmarks.paired_scores import BoardScores, read_board
from benchmarks.paired_summary import (
    TaskComparison,
    family_means,
    pairs_over_tasks,
    protocol_groups,
    recovered,
)
from madeleine_bench.errors import InputError
from madeleine_bench.protocols.results import FitReport
from madeleine_bench.protocols.scoring import RESAMPLES, score, scored_units
from madeleine_bench.results.store import ResultStore
from madeleine_bench.runner.plan import Request
from madeleine_bench.runner.run import run
from madeleine_bench.seeds import rng_for
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.specs.record import MainScore
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.stats.bootstrap import case_weights
from madeleine_bench.stats.intervals import standard_error, t_interval
from madeleine_bench.stats.paired import PairedDifference
from tests.runner.test_run import Quiet

ENCODERS = ("mean-pool", "max-pool", "oracle")
PAIR = ("max-pool", "mean-pool")
TASK = "aidpath-ki67"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A results folder with both boards of one small task."""
    folder = tmp_path_factory.mktemp("boards")
    for signal in (1.0, 0.0):
        workspace = Workspace(folder, "phantom", phantom_signal=signal)
        report = run(Request(ENCODERS, (TASK,), workspace=workspace), Quiet())
        assert report.failures == []
    return folder


@pytest.fixture
def board(results: Path) -> BoardScores:
    return read_board(ResultStore(results), load_catalogue(), "phantom")


def seeded(task: str, protocol: str) -> np.random.Generator:
    return rng_for(task, protocol, "bootstrap")


# --- from records to differences ---


def test_stored_predictions_give_the_score_and_interval_of_their_record(board: BoardScores) -> None:
    assert len(board.cells) == 6
    for (_, name, protocol_name), record in board.cells.items():
        task, protocol = board.catalogue.tasks[name], board.catalogue.protocol(protocol_name)
        predictions = board.store.read_predictions(record)
        found = scored_units(task, protocol, predictions, "splits", "here", record.inputs.dim)
        once = np.ones((len(found.unit), 1), dtype=np.float32)
        main = record.scores.main
        assert found.scores(once)[0] == pytest.approx(main.value, abs=1e-12)
        rng = seeded(task.name, protocol.name)
        weights = case_weights(found.case, found.stratum, RESAMPLES, rng)
        if main.ci95 is None:  # aidpath has seven slides of its rarest class
            assert not found.design.covers
            continue
        error = standard_error(
            float(found.scores(weights).std(ddof=1)), found.design, found.draw_scores
        )
        df = found.design.degrees_of_freedom
        assert t_interval(main.value, error, df, 0.0, 1.0) == main.ci95


def test_survival_predictions_give_the_score_and_interval_of_scoring() -> None:
    catalogue = load_catalogue()
    task, protocol = catalogue.tasks["tcga-breast-os"], catalogue.protocol("cox/v2")

    rng = np.random.default_rng(0)
    n = 45
    predictions = pd.DataFrame(
        {
            "repeat": 0,
            "fold": np.arange(n) % 5,
            "unit_id": [f"u{i}" for i in range(n)],
            "case_id": [f"c{i // 2}" for i in range(n)],
            "time_days": rng.integers(1, 900, n).astype(float),
            # Nobody in fold 4 has an event: it stays at chance.
            "event": (np.arange(n) % 3 == 0) & (np.arange(n) % 5 != 4),
            "risk": rng.normal(size=n),
            "high_risk": rng.uniform(size=n) < 0.5,
        }
    )
    fits = [FitReport((0, fold), 36, 9, True) for fold in range(5)]
    scores, folds = score(task, protocol, predictions, fits)
    expected = scores.main
    found = scored_units(task, protocol, predictions, "splits", "here")
    assert [f.flag for f in folds][4] == "no events in test"
    assert found.scores(np.ones((n, 1)))[0] == pytest.approx(expected.value, abs=1e-12)
    rng = seeded(task.name, protocol.name)
    weights = case_weights(found.case, found.stratum, RESAMPLES, rng)
    assert expected.ci95 is None  # 12 events, 2.4 in a test set
    assert "too few cases" in expected.method
    assert found.scores(weights).std() > 0


def test_the_difference_is_that_of_the_records(board: BoardScores) -> None:
    for protocol in ("linear-probe/v2", "few-shot/v2"):
        found = board.paired(*PAIR, TASK, protocol)
        first, second = (board.record(e, TASK, protocol).scores.main.value for e in PAIR)
        assert found.difference == pytest.approx(first - second, abs=1e-12)
        assert found.ci95 is None  # seven slides of the rarest class
        assert 0 < found.p_value <= 1
        itself = board.paired("oracle", "oracle", TASK, protocol)
        assert (itself.difference, itself.p_value) == (0.0, 1.0)


def test_the_newest_record_of_a_cell_counts(board: BoardScores, monkeypatch) -> None:
    record = board.record("oracle", TASK, "few-shot/v2")
    older, newer = (
        record.model_copy(update={"provenance": {"created": day}, "record_id": day})
        for day in ("2024-05-01", "2024-05-02")
    )
    monkeypatch.setattr(ResultStore, "records", lambda self: iter([newer, older]))
    again = read_board(board.store, board.catalogue, "phantom")
    assert again.record("oracle", TASK, "few-shot/v2").record_id == "2024-05-02"
    assert read_board(board.store, board.catalogue, NULL_BOARD).cells == {}


def test_an_absent_record_is_named_with_its_command(board: BoardScores) -> None:
    with pytest.raises(InputError, match=r"no record of untrained on aidpath-ki67 .* mbench run"):
        board.paired("untrained", "oracle", TASK, "few-shot/v2")


def test_records_of_other_data_are_not_compared(board: BoardScores) -> None:
    key = ("oracle", TASK, "few-shot/v2")
    record = board.cells[key]
    other = record.model_copy(
        update={"task": record.task.model_copy(update={"task_hash": "f" * 64})}
    )
    mixed = replace(board, cells={**board.cells, key: other})
    with pytest.raises(InputError, match="needs the same splits, found ffffffffffff"):
        mixed.paired("oracle", "mean-pool", TASK, "few-shot/v2")


def test_predictions_without_their_split_are_refused(board: BoardScores) -> None:
    record = board.record("oracle", TASK, "few-shot/v2")
    predictions = board.store.read_predictions(record).drop(columns="draw")
    task, protocol = board.catalogue.tasks[TASK], board.catalogue.protocol("few-shot/v2")
    with pytest.raises(InputError, match=r"here: no column \['draw'\]"):
        scored_units(task, protocol, predictions, "splits", "here")


# --- verdicts ---


def make_cell(
    task: str, family: str, protocol: str = "probe", chance: float = 0.5, **values: float
) -> TaskComparison:
    scores = {
        name.replace("_", "-"): MainScore(
            metric="auroc", value=value, chance=chance, ci95=(0, 1), method="made up"
        )
        for name, value in values.items()
    }
    difference = scores["max-pool"].value - scores["mean-pool"].value
    paired = {PAIR: PairedDifference(difference, (difference - 0.1, difference + 0.1), 0.02)}
    return TaskComparison(task, protocol, family, "auroc", chance, scores, paired)


CELLS = [
    make_cell("a", "one", max_pool=0.7, mean_pool=0.6, oracle=0.8),
    make_cell("b", "one", max_pool=0.6, mean_pool=0.7, oracle=0.9),
    make_cell("c", "two", chance=0.0, max_pool=0.5, mean_pool=0.1, oracle=0.6),
]


def test_over_tasks_scores_are_chance_corrected() -> None:
    found = pairs_over_tasks(CELLS, [PAIR])[PAIR]
    assert found.families == pytest.approx({"one": 0.0, "two": 0.4})
    assert found.across.mean == pytest.approx(0.4 / 3)
    assert (found.across.wins, found.across.ties, found.across.losses) == (2, 0, 1)
    assert found.holm_p == found.across.p_value  # one pair: nothing to adjust for
    assert found.task_holm_p == pytest.approx({"a": 0.06, "b": 0.06, "c": 0.06})
    assert family_means(CELLS, "max-pool") == pytest.approx(
        {"one": 0.3, "two": 0.5, "mean over families": 0.4}
    )


def test_tests_over_tasks_are_adjusted_for_the_number_of_pairs() -> None:
    cells = [replace(cell, paired={**cell.paired, ("x", "y"): cell.paired[PAIR]}) for cell in CELLS]
    alone, both = (pairs_over_tasks(cells, pairs) for pairs in ([PAIR], [PAIR, ("x", "y")]))
    assert both[PAIR].holm_p == min(1.0, 2 * alone[PAIR].holm_p)


def test_headroom_is_the_way_from_mean_pool_to_the_oracle() -> None:
    assert recovered(CELLS[:1], "max-pool") == pytest.approx(0.5)
    assert recovered(CELLS[1:2], "max-pool") == pytest.approx(-0.5)
    # (.2 - .2 + .4) of (.4 + .4 + .5), corrected for chance
    assert recovered(CELLS, "max-pool") == pytest.approx(0.4 / 1.3)
    assert recovered(CELLS, "mean-pool") == 0.0
    assert recovered(CELLS, "oracle") == 1.0
    level = make_cell("d", "two", max_pool=0.7, mean_pool=0.9, oracle=0.9)
    assert recovered([level], "max-pool") is None
    without = make_cell("d", "two", max_pool=0.7, mean_pool=0.9)
    assert recovered([without], "max-pool") is None


def test_each_task_is_in_the_primary_group_once() -> None:
    cells = [
        make_cell(task, "one", protocol, max_pool=0.7, mean_pool=0.6)
        for task, protocol in [("a", "probe"), ("a", "few"), ("b", "cox"), ("c", "probe")]
    ]
    groups = protocol_groups(cells)
    assert {name: [(c.task, c.protocol) for c in own] for name, own in groups.items()} == {
        "primary": [("a", "probe"), ("b", "cox"), ("c", "probe")],
        "few": [("a", "few")],
    }


# --- the figure ---


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def make_points(width: float = 0.05) -> list[Difference]:
    return [
        Difference(pair, family, task, series, gain, gain - width, gain + width)
        for pair in ("a − b", "c − d")
        for family, task, gain in [("ihc-quantification", "t1", 0.02), ("subtyping", "t2", -0.04)]
        for series in ("probe", "few")
    ]


def test_the_forest_names_what_it_shows() -> None:
    svg = forest_svg(make_points(), "phantom things", "how to read", {"a − b": ["1 of 2 won"]})
    said = texts(svg)
    for word in ("PHANTOM things", "how to read", "a − b", "c − d", "1 of 2 won", "probe", "few"):
        assert word in said
    assert said.count("IHC quantification") == said.count("t1") == said.count("t2") == 1
    order = [said.index(word) for word in ("IHC quantification", "t1", "Subtyping", "t2")]
    assert order == sorted(order)
    again = forest_svg(make_points(), "phantom things", "how to read", {"a − b": ["1 of 2 won"]})
    assert svg == again


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    points = [Difference("a − b", "subtyping", f"t{i}", "probe", 0.0, -0.1, 0.1) for i in range(19)]
    wide = Difference("a − b", "subtyping", "wide", "probe", 0.0, -0.1, 4.0)
    plain, cut = (forest_svg(p, "", "", {}) for p in (points, [*points, wide]))
    shown = 'aria-roledescription="point"'
    assert plain.count(shown) == 19
    assert cut.count(shown) == 21
    assert "4" not in texts(cut)


def test_a_forest_without_a_point_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a point"):
        forest_svg([], "", "", {})


# --- the script ---


def call(monkeypatch, *arguments: str | Path) -> object:
    monkeypatch.setattr("sys.argv", ["phantom_madeleine.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        phantom_madeleine.main()
    return end.value.code


def test_the_script_writes_json_and_figure(results, tmp_path, monkeypatch, capsys) -> None:
    # Both boards are there; running them is the command line's own test.
    monkeypatch.setattr(phantom_madeleine, "run_boards", lambda *_: None)
    asked = ("--results", results, "--task", TASK, "--out", tmp_path, "--pair", *PAIR)
    assert call(monkeypatch, *asked, "--encoders", *ENCODERS) == 0
    found = json.loads((tmp_path / "phantom_madeleine.json").read_text())
    assert found["about"].startswith("PHANTOM")
    cell = found["tasks"][TASK]["few-shot/v2"]
    difference = cell["scores"]["max-pool"]["value"] - cell["scores"]["mean-pool"]["value"]
    paired = cell["paired"]["max-pool - mean-pool"]
    assert paired["difference"] == pytest.approx(difference, abs=1e-3)
    assert set(cell["recovered_headroom"]) == {"max-pool"}
    assert set(found["over_tasks"]) == {"primary", "few-shot/v2"}
    assert found["null"]["scores"] == 4
    assert found["null"]["paired"]["tests"] == 2
    assert "PHANTOM: paired differences of encoders" in texts(
        (tmp_path / "phantom_madeleine.svg").read_text()
    )
    said = capsys.readouterr().out
    assert "max-pool - mean-pool" in said
    assert "null board" in said


def test_without_a_pair_there_are_scores_and_no_figure(results, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(phantom_madeleine, "run_boards", lambda *_: None)
    asked = ("--results", results, "--task", TASK, "--out", tmp_path)
    assert call(monkeypatch, *asked, "--encoders", *ENCODERS) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["phantom_madeleine.json"]


def test_wrong_names_are_told(results, tmp_path, monkeypatch) -> None:
    asked = ("--results", results, "--out", tmp_path)
    code = call(monkeypatch, *asked, "--encoders", *ENCODERS, "--pair", "max-pool", "mean")
    assert code == "error: --pair names mean; add it to --encoders"
    code = call(monkeypatch, *asked, "--encoders", *ENCODERS, "--task", "aidpat")
    assert str(code).startswith("error: no task is called 'aidpat'; did you mean")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_ends_the_script_with_its_code(tmp_path, monkeypatch, capfd) -> None:
    asked = ("--results", tmp_path, "--out", tmp_path, "--task", TASK)
    assert call(monkeypatch, *asked, "--encoders", "mean-pol") == 2
    assert "mean-pool" in capfd.readouterr().err

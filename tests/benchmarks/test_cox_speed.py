"""The Cox benchmark: equal coefficients at toy size, and that the page quotes its results."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cox_speed
from benchmarks.cox_speed import cohort, main, markdown_rows, share_of_tied, sksurv_rotated
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Survival

PAGE = Path(cox_speed.__file__).resolve().parents[1] / "docs" / "protocols.md"


def test_at_toy_size_both_solvers_find_the_same_coefficients(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--repeats", "1", "--out", str(tmp_path)])
    main()
    report = json.loads((tmp_path / "cox_speed.json").read_text())
    assert len(report["rows"]) == 2
    for row in report["rows"]:
        assert row["largest_difference"]["tight"] < 1e-10
        assert row["largest_difference"]["as_timed"] < 1e-6
        assert set(row["seconds"]) == {"ours", "sksurv", "rotated"}
        assert row["residual"] <= 1e-9
    assert capsys.readouterr().out.splitlines() == markdown_rows(report["rows"])


def test_the_cohort_is_like_the_one_first_measured():
    """49% of 1,000 units with an event, 385 of them on a day shared with another."""
    rows, survival = cohort(20)
    assert rows.shape == (1000, 20)
    assert survival.event.mean() == pytest.approx(0.49, abs=0.03)
    assert share_of_tied(survival) == pytest.approx(0.385, abs=0.05)
    assert share_of_tied(Survival(np.array([1.0, 2.0, 2.0]), np.ones(3, dtype=bool))) == 2 / 3


def test_scikit_survival_finds_the_same_in_the_row_space():
    rows, survival = cohort(30)
    rows, survival = rows[:20] - rows[:20].mean(axis=0), survival.take(np.arange(20))
    method = load_catalogue().protocols["cox/v1"].method
    whole = cox_speed.sksurv_fit(rows, survival, method, 5.0)
    assert sksurv_rotated(rows, survival, method, 5.0) == pytest.approx(whole, abs=1e-7)


def test_the_page_quotes_the_committed_results():
    committed = json.loads((cox_speed.RESULTS / "cox_speed.json").read_text())
    assert {(row["n_train"], row["dim"]) for row in committed["rows"]} == {
        (n_train, cox_speed.DIM) for n_train in cox_speed.TRAIN
    }
    page = PAGE.read_text()
    for line in markdown_rows(committed["rows"]):
        assert line in page

"""docs/doctor.md quotes the committed results and the thresholds of the code."""

import json
from pathlib import Path

import pytest

from benchmarks import doctor_phantom
from madeleine_bench.encoders.contract import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "doctor.md").read_text()


def committed(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["doctor_phantom", "doctor_ucsb"])
def test_the_page_quotes_the_results(name):
    for line in doctor_phantom.markdown_rows(committed(name)["rows"]):
        assert line in PAGE


def test_the_page_has_no_row_that_no_result_has():
    rows = [row for name in ("doctor_phantom", "doctor_ucsb") for row in committed(name)["rows"]]
    known = set(doctor_phantom.markdown_rows(rows))
    starts = tuple(f"| {row['cohort']} |" for row in rows)
    assert {line for line in PAGE.splitlines() if line.startswith(starts)} == known


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_the_page_has_every_check_with_its_threshold(check):
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {check.name} |")][:1]
    assert line.endswith(f"| {check.threshold} |")


def test_the_results_are_of_every_encoder_that_has_an_embedding():
    rows = committed("doctor_phantom")["rows"]
    for cohort in doctor_phantom.COHORTS:
        found = {r["encoder"] for r in rows if (r["cohort"], r["slides"]) == (cohort, 64)}
        assert found == set(doctor_phantom.ENCODERS)


def test_encoders_that_are_no_control_neither_fail_nor_come_near():
    """What the thresholds stand on: no honest encoder is close to a failure."""
    honest = [
        row for row in committed("doctor_phantom")["rows"] if row["kind"] != "control"
    ]  # fmt: skip
    for row in honest:
        verdicts = {name: found["verdict"] for name, found in row["checks"].items()}
        assert "fail" not in verdicts.values()
        warned = {name for name, verdict in verdicts.items() if verdict == "warn"}
        assert warned <= ({"patch count", "site"} if row["encoder"] == "max-pool" else {"site"})
        assert row["checks"]["mean cosine"]["number"] < 0.96
        assert row["checks"]["half of the patches"]["number"] == 1.0


def test_a_row_of_the_table_marks_warnings_and_failures():
    checks = {name: {"verdict": "pass", "number": 0.5} for name in CHECKS}
    checks["patch count"] = {"verdict": "fail", "number": 1.0}
    checks["mean cosine"] = {"verdict": "skipped", "number": None}
    checks["width"] = {"verdict": "warn", "number": 9.0}
    readout = {"site": {"accuracy": 0.5, "chance": 0.25, "p": 0.1}, "stain": None}
    row = {"cohort": "c", "slides": 64, "encoder": "e", "checks": checks, "readout": readout}
    (line,) = doctor_phantom.markdown_rows([row])
    expected = "| c | 64 | `e` | - | 0.5 | 0.5 | 0.5 | **1!** | 0.50 of 0.25 | - | **width** |"
    assert line == expected

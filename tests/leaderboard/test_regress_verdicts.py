"""What the gate says of a cell, and what it never lets through."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madeleine_bench.errors import CheckFailed, InputError
from madeleine_bench.files import write_text
from madeleine_bench.leaderboard import regression as comparison_rules
from madeleine_bench.leaderboard.regression import (
    ALPHA,
    EXPLAINABLE,
    PASSING,
    VERDICTS,
    Explanations,
    RegressionFinding,
    SuiteCell,
    SuiteSpec,
    cells_of,
    compare,
    read_explanations,
    read_suite,
    records_by_cell,
)
from madeleine_bench.leaderboard.regression_gate import (
    check_renewable,
    explain,
    listed_cells,
    renew,
)
from madeleine_bench.results.store import ResultStore
from tests.leaderboard.regress_boards import (
    CATALOGUE,
    PROTOCOL,
    TASKS,
    add,
    asked,
    board,
    judged,
    predictions_of,
    words,
)

ER, PR = ("a", "bcnb-er"), ("a", "bcnb-pr")


@pytest.fixture
def before(tmp_path):
    """A baseline with a mediocre encoder `a` on two tasks."""
    return board(tmp_path / "baseline", {"a": 0.5})


@pytest.fixture
def now(tmp_path):
    return ResultStore(tmp_path / "now")


def test_a_store_against_itself_is_all_same(before):
    assert set(words(asked(before, before, "a")).values()) == {"same"}


def test_other_bytes_with_equal_scores_are_the_same(before, now):
    for task in TASKS:
        add(now, "a", task, predictions_of(0.5, nudge=1e-9))
    found = judged(asked(before, now, "a"))[ER]
    assert (found.verdict, found.why) == ("same", "equal scores")
    assert found.baseline_id != found.current_id


def test_another_draw_of_the_noise_is_noise(before, now):
    for task in TASKS:
        add(now, "a", task, predictions_of(0.5, seed=3))
    found = judged(asked(before, now, "a"))[ER]
    assert found.verdict == "noise"
    assert found.p_value is not None
    assert found.p_value > 0.05
    assert found.difference == pytest.approx(found.current - found.baseline)


def test_worse_and_better_predictions(before, now):
    add(now, "a", "bcnb-er", predictions_of(-0.5))
    add(now, "a", "bcnb-pr", predictions_of(3.0))
    found = judged(asked(before, now, "a"))
    assert (found[ER].verdict, found[PR].verdict) == ("regressed", "improved")
    assert not found[ER].passes
    assert not found[PR].passes
    low, high = found[ER].ci95
    assert low < found[ER].difference < high < 0


def test_a_significant_difference_of_no_consequence_is_noise(before, now, monkeypatch):
    for task in TASKS:
        add(now, "a", task, predictions_of(-0.5))
    comparison = asked(before, now, "a")
    monkeypatch.setattr(comparison_rules, "SMALLEST", 0.9)
    found = judged(comparison)[ER]
    assert (found.verdict, found.passes) == ("noise", True)
    assert "the least that counts" in found.why
    assert found.p_value < ALPHA


def test_a_cell_that_is_not_there_is_missing_and_a_cell_that_was_not_is_new(before, now):
    add(now, "a", "bcnb-er", predictions_of(0.5))
    add(now, "b", "bcnb-er", predictions_of(0.5))
    found = words(asked(before, now, "a", "b"))
    assert found == {
        ER: "same", PR: "missing", ("b", "bcnb-er"): "new", ("b", "bcnb-pr"): "missing",
    }  # fmt: skip


def test_a_suite_that_asks_for_less_does_not_hide_a_cell(before):
    fewer = replace(
        asked(before, before, "a"), cells=frozenset({SuiteCell("a", "bcnb-er", PROTOCOL)})
    )
    found = judged(fewer)
    assert (found[ER].verdict, found[PR].verdict) == ("same", "missing")
    assert "no longer asks" in found[PR].why


def test_a_failure_is_named_with_its_reason(before, now):
    failures = {SuiteCell("a", "bcnb-er", PROTOCOL): "slide 7: NaN"}
    found = judged(asked(before, now, "a"), failures=failures)
    assert (found[ER].verdict, found[ER].why) == ("failed", "slide 7: NaN")


def test_fits_that_failed_are_a_failure_even_where_the_score_is_the_same(before, now):
    for task in TASKS:
        add(now, "a", task, predictions_of(0.5), converged=False)
    found = judged(asked(before, now, "a"))[ER]
    assert found.verdict == "failed"
    assert "5 of 5 fits" in found.why


def test_a_record_of_before_the_run_does_not_stand_in_for_one_that_failed(before):
    since = "2026-02-01T00:00:00+00:00"
    assert set(words(asked(before, before, "a"), since=since).values()) == {"missing"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"task": {"task_hash": "x"}}, "declaration of task or protocol"),
        ({"task": {"task_hash": "x"}, "inputs": {"labels": "x"}}, "labels changed"),
        ({"task": {"task_hash": "x"}, "inputs": {"splits": "x"}}, "splits changed"),
        ({"scoring_version": 0}, "older than the baseline"),
        ({"task": {"task_hash": "x"}, "scoring_version": 2}, "without a new version"),
    ],
)
def test_other_data_without_a_new_version_is_incomparable(before, now, changes, why):
    for task in TASKS:
        add(now, "a", task, predictions_of(0.5), **changes)
    found = judged(asked(before, now, "a"))[ER]
    assert found.verdict == "incomparable"
    assert why in found.why


def test_a_new_scoring_version_is_a_new_version(before, now):
    for task in TASKS:
        add(now, "a", task, predictions_of(2.0), scoring_version=2)
    found = judged(asked(before, now, "a"))[ER]
    assert found.verdict == "new-version"
    assert found.passes
    assert "renew the baseline" in found.why


def test_a_new_task_version_is_a_new_version_and_the_old_one_does_not_count(before, now):
    raised = {
        **CATALOGUE.tasks,
        "bcnb-er": CATALOGUE.tasks["bcnb-er"].model_copy(update={"version": 2}),
    }
    catalogue = replace(CATALOGUE, tasks=raised)
    add(now, "a", "bcnb-pr", predictions_of(0.5))
    add(now, "a", "bcnb-er", predictions_of(0.5))
    comparison = replace(asked(before, now, "a"), catalogue=catalogue)
    assert words(comparison)[ER] == "missing"  # it is of version 1
    add(now, "a", "bcnb-er", predictions_of(0.9), task={"version": 2, "task_hash": "x"})
    assert words(comparison)[ER] == "new-version"


def test_a_protocol_that_the_suite_replaced_is_missing(before):
    cells = frozenset({SuiteCell("a", task, "linear-probe/v3") for task in TASKS})
    found = compare(replace(asked(before, before, "a"), cells=cells))
    assert {f.case.split(" ")[1] for f in found} == {"linear-probe/v2", "linear-probe/v3"}
    assert {f.verdict for f in found} == {"missing"}


def test_code_that_scores_otherwise_is_not_taken_for_the_encoder(before, now):
    """The stored predictions of a record no longer give its score."""
    main = next(iter(before.records())).scores.main
    other = {"scores": {"main": {**main.model_dump(), "value": 0.99}}}
    add(now, "a", "bcnb-er", predictions_of(0.5), **other)
    add(now, "a", "bcnb-pr", predictions_of(0.5, seed=3), **other)
    found = judged(asked(before, now, "a"))
    assert (found[ER].verdict, found[PR].verdict) == ("scorer-changed", "scorer-changed")
    assert "without a new scoring version" in found[PR].why


def test_other_code_under_the_same_revision_is_said(before, now):
    add(now, "a", "bcnb-er", predictions_of(-0.5), encoder={"fingerprint": "g"})
    add(now, "a", "bcnb-pr", predictions_of(0.5), encoder={"fingerprint": "g", "revision": "2"})
    found = judged(asked(before, now, "a"))
    assert "still says revision 1" in found[ER].why
    assert "revision 1 is now 2" in found[PR].why


def test_only_a_later_record_of_a_cell_counts(before, now):
    add(now, "a", "bcnb-er", predictions_of(-0.5), "2025-01-01")
    add(now, "a", "bcnb-er", predictions_of(0.5), "2026-06-01")
    add(now, "a", "bcnb-pr", predictions_of(0.5))
    assert words(asked(before, now, "a"))[ER] == "same"


@settings(max_examples=5)
@given(st.permutations(range(4)), st.sampled_from([0.3, 0.5, 2.5]))
def test_the_order_of_records_moves_no_verdict(tmp_path_factory, order, signal):
    folder = tmp_path_factory.mktemp("order")
    before = board(folder / "before", {"a": 0.5, "b": 0.5})
    wanted = [(e, t, i) for i, e in enumerate("ab") for t in TASKS]
    plain, shuffled = ResultStore(folder / "plain"), ResultStore(folder / "shuffled")
    for store, sequence in ((plain, range(4)), (shuffled, order)):
        for place, number in enumerate(sequence):
            encoder, task, seed = wanted[number]
            add(store, encoder, task, predictions_of(signal, seed), f"2026-01-0{place + 1}")
    assert compare(asked(before, plain, "b", "a")) == compare(asked(before, shuffled, "a", "b"))
    assert set(words(asked(plain, shuffled, "a", "b")).values()) == {"same"}


def test_every_word_is_ordered_and_a_failure_is_never_explained():
    assert set(VERDICTS) >= PASSING | EXPLAINABLE
    assert not PASSING & EXPLAINABLE
    assert "failed" not in EXPLAINABLE


def explained(finding, **changes):
    entry = {
        "verdict": "improved", "baseline": [finding.baseline_id[:12]],
        "reason": "a better recipe", **changes,
    }  # fmt: skip
    return Explanations.model_validate({"explained": [entry]})


@pytest.fixture
def improved(before, now):
    for task in TASKS:
        add(now, "a", task, predictions_of(3.0 if task == "bcnb-er" else 0.5))
    comparison = asked(before, now, "a")
    return comparison, compare(comparison)


def test_an_explained_improvement_passes(improved):
    comparison, findings = improved
    (found, other) = explain(findings, explained(findings[0]), comparison.cells)
    assert (found.passes, found.explained) == (True, "a better recipe")
    assert (other.verdict, other.explained) == ("same", "")


@pytest.mark.parametrize("changes", [{"baseline": ["0" * 12]}, {"verdict": "regressed"}])
def test_an_explanation_of_something_else_excuses_nothing(improved, changes):
    comparison, findings = improved
    found = explain(findings, explained(findings[0], **changes), comparison.cells)
    assert not found[0].passes


def test_an_explained_regression_still_fails_the_gate_but_may_be_renewed(before, now, tmp_path):
    for task in TASKS:
        add(now, "a", task, predictions_of(-0.5))
    comparison = asked(before, now, "a")
    findings = compare(comparison)
    with pytest.raises(CheckFailed, match="2 cells changed") as refused:
        check_renewable(findings, tmp_path / "explanations.yaml")
    assert findings[0].baseline_id[:12] in str(refused.value)
    reasons = explained(
        findings[0], verdict="regressed", baseline=[f.baseline_id for f in findings]
    )
    found = explain(findings, reasons, comparison.cells)
    assert not found[0].passes
    check_renewable(found, tmp_path / "explanations.yaml")


def test_a_hole_in_the_suite_cannot_be_explained(before, now):
    comparison = asked(before, now, "a")
    findings = compare(comparison)
    reasons = explained(findings[0], verdict="missing")
    assert not any(f.explained for f in explain(findings, reasons, comparison.cells))
    assert explain(findings, reasons, frozenset())[0].explained


def test_a_renewal_takes_what_changed_and_keeps_the_rest(before, now):
    kept = {r.task.id: r.record_id for r in before.records()}
    add(now, "a", "bcnb-er", predictions_of(3.0))
    add(now, "a", "bcnb-pr", predictions_of(0.5, seed=3))  # within noise
    findings = compare(asked(before, now, "a"))
    assert renew(before.folder, findings, before, now, ({}, {}), "phantom") == 1
    after = {r.task.id: r for r in before.records()}
    assert after["bcnb-pr"].record_id == kept["bcnb-pr"]
    assert (
        after["bcnb-er"].record_id
        == records_by_cell(now, "phantom")[SuiteCell("a", "bcnb-er", PROTOCOL)].record_id
    )
    assert words(asked(before, now, "a")) == {ER: "same", PR: "noise"}
    assert "/home/somebody" not in "".join(
        path.read_text() for path in before.folder.rglob("bcnb-er*/*.json")
    )
    assert {p.name for p in before.folder.parent.iterdir()} == {"baseline", "now"}


def test_a_first_baseline_is_made_and_an_equal_one_is_not_written_again(tmp_path, before):
    folder = tmp_path / "deep" / "first"
    first = ResultStore(folder)
    findings = compare(asked(first, before, "a"))
    assert renew(folder, findings, first, before, ({}, {}), "phantom") == 2
    assert words(asked(first, before, "a")) == {ER: "same", PR: "same"}
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert (
        renew(folder, compare(asked(first, before, "a")), first, before, ({}, {}), "phantom") == 0
    )
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_baseline_misses_a_record_that_was_deleted(tmp_path, before):
    folder = tmp_path / "first"
    first = ResultStore(folder)
    renew(folder, compare(asked(first, before, "a")), first, before, ({}, {}), "phantom")
    comparison = replace(asked(first, before, "a"), listed=listed_cells(folder))
    assert set(words(comparison).values()) == {"same"}
    next((folder / "records").rglob("bcnb-er*/*.json")).unlink()
    found = judged(comparison)[ER]
    assert (found.verdict, found.passes) == ("missing", False)
    assert "the baseline has lost its record" in found.why
    with pytest.raises(CheckFailed):
        check_renewable(list(judged(comparison).values()), tmp_path / "explanations.yaml")
    (folder / "cells.json").write_text('["x"]')
    with pytest.raises(InputError, match=r"cells\.json"):
        listed_cells(folder)
    assert listed_cells(before.folder) == {}


def test_a_renewal_leaves_files_of_something_else(tmp_path, before):
    write_text(tmp_path / "home" / "thesis.txt", "years of work")
    store = ResultStore(tmp_path / "home")
    renew(store.folder, compare(asked(store, before, "a")), store, before, ({}, {}), "phantom")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_renewal_with_altered_predictions_leaves_the_baseline(before, now):
    record = add(now, "a", "bcnb-er", predictions_of(3.0))
    add(now, "a", "bcnb-pr", predictions_of(0.5))
    findings = compare(asked(before, now, "a"))
    (now.folder / record.predictions.path).write_bytes(b"x")
    with pytest.raises(InputError, match="altered"):
        renew(before.folder, findings, before, now, ({}, {}), "phantom")
    assert {p.name for p in before.folder.parent.iterdir()} == {"baseline", "now"}
    assert len(list(before.records())) == 2


def suite(**changes):
    values = {"id": "s", "title": "t", "encoders": ["mean-pool"], "runs": [{"tasks": ["bcnb-er"]}]}
    return SuiteSpec.model_validate({**values, **changes})


def test_a_suite_is_encoders_times_tasks_times_protocols():
    task = CATALOGUE.tasks["bcnb-er"]
    assert cells_of(suite(), CATALOGUE) == {
        SuiteCell("mean-pool", "bcnb-er", name) for name in task.protocols
    }
    runs = [{"tasks": ["bcnb-er", "tcga-breast-os"], "protocols": ["linear-probe", "cox/v2"]}]
    assert {f"{c.task} {c.protocol}" for c in cells_of(suite(runs=runs), CATALOGUE)} == {
        "bcnb-er linear-probe/v2", "tcga-breast-os cox/v2",
    }  # fmt: skip
    with pytest.raises(InputError, match="survival"):
        cells_of(suite(runs=[{"tasks": ["bcnb-er"], "protocols": ["cox/v2"]}]), CATALOGUE)
    with pytest.raises(InputError, match="twice"):
        cells_of(suite(encoders=["mean-pool", "mean-pool"]), CATALOGUE)


def test_the_files_of_a_suite_name_their_faults(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("id: s\ntitle: t\nencoders: [cards/x.yaml, mean-pool]\nrunz: []\n")
    with pytest.raises(InputError, match=r"suite\.yaml:4: unknown key 'runz'; did you mean 'runs'"):
        read_suite(path)
    path.write_text("id: s\ntitle: t\nencoders: [cards/x.yaml, mean-pool]\nruns: [{tasks: [x]}]\n")
    assert read_suite(path).encoders == (str(tmp_path / "cards" / "x.yaml"), "mean-pool")
    assert read_explanations(tmp_path / "none.yaml") == Explanations()
    other = tmp_path / "explanations.yaml"
    other.write_text("explained:\n- {baseline: [x], verdict: failed}\n")
    with pytest.raises(InputError, match=r"explanations\.yaml:2"):
        read_explanations(other)


def test_a_finding_has_a_plain_name():
    finding = RegressionFinding("encoders", "a", "bcnb-er linear-probe/v2", "same", "w")
    assert finding.name == "encoder a: bcnb-er linear-probe/v2"
    assert json.dumps(finding.ci95) == "null"

"""Golden values of every protocol: fixed inputs, and no changed scorer slips by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.leaderboard import regression_golden as golden_values
from madeleine_bench.leaderboard.regression_golden import (
    SCORERS_FILE,
    golden_case,
    golden_cases,
    golden_input,
    golden_text,
    judge_scorers,
    largest_change,
    read_golden,
)
from madeleine_bench.leaderboard.sources import TOLERANCE
from madeleine_bench.metrics import cox
from madeleine_bench.protocols import logistic, scoring
from madeleine_bench.protocols.scorers import METRICS
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.catalogue import load_catalogue

CATALOGUE = load_catalogue()
SCORED = [p for p in CATALOGUE.protocols.values() if p.fusion == "late"]
CASES = [(p.name, labels) for p in SCORED for labels in p.labels]
# Retrieval and the nearest mean solve nothing and ridge regression is a closed form: no tolerance.
SOLVED = [
    (name, labels)
    for name, labels in CASES
    if not name.startswith("nearest-mean")
    and CATALOGUE.protocol(name).method.kind not in ("retrieval", "ridge-regression")
]
COMMITTED = resource_folder("leaderboard") / "regression" / "baseline" / SCORERS_FILE


@pytest.fixture(scope="module")
def golden():
    return golden_cases(CATALOGUE)


def with_method(name, **changes):
    """The protocol with other parameters and the same version."""
    protocol = CATALOGUE.protocol(name)
    method = protocol.method
    if method.kind != "cox":
        changes = {"model": method.model.model_copy(update=changes)}
    return protocol.model_copy(update={"method": method.model_copy(update=changes)})


def tolerance_of(name):
    method = CATALOGUE.protocol(name).method
    return method.tol if method.kind == "cox" else method.model.tol


def test_the_committed_values_are_those_of_this_tree(golden):
    found = judge_scorers(read_golden(COMMITTED), golden)
    assert [f.why for f in found if f.verdict != "same"] == []
    assert {(f.subject, f.case.split(" ")[0]) for f in found} == set(CASES)


def test_the_file_gives_back_what_was_written(golden, tmp_path):
    path = tmp_path / "scorers.json"
    path.write_text(golden_text(golden))
    assert read_golden(path) == golden
    assert golden_text(read_golden(path)) == path.read_text()


@pytest.mark.parametrize("text", ["", "[]", "{}x", '{"a b": {"x": 1}}', '{"a": {}}'])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "scorers.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"scorers\.json"):
        read_golden(path)


def test_protocols_that_train_networks_have_no_golden_values(golden):
    assert set(golden) == {" ".join(case) for case in CASES}
    assert not any(CATALOGUE.protocol(key.split()[0]).trains_networks for key in golden)


@pytest.mark.parametrize(("name", "labels"), SOLVED)
def test_a_looser_tolerance_moves_predictions(golden, name, labels):
    """1e-9 to 1e-4, as in a careless edit. Golden inputs that hid it would guard nothing."""
    loose = golden_case(with_method(name, tol=tolerance_of(name) * 1e5), labels)
    assert largest_change(golden[f"{name} {labels}"], loose) > 5 * TOLERANCE


@pytest.mark.parametrize(("name", "labels"), CASES)
def test_rounding_moves_nothing(golden, name, labels, monkeypatch):
    """What another machine's linear algebra does to the last digits is far below the tolerance."""
    rng = np.random.default_rng(0)

    def shaken(protocol, kind):
        whole = golden_input(protocol, kind)
        dust = 1.0 + 1e-13 * rng.standard_normal(whole.embeddings.shape)
        return whole._replace(embeddings=whole.embeddings * dust)

    monkeypatch.setattr(golden_values, "golden_input", shaken)
    case = golden_case(CATALOGUE.protocol(name), labels)
    assert largest_change(golden[f"{name} {labels}"], case) < TOLERANCE / 50
    (found,) = judge_scorers(
        {f"{name} {labels}": golden[f"{name} {labels}"]}, {f"{name} {labels}": case}
    )
    assert found.verdict == "same"


@pytest.mark.parametrize(("name", "labels"), CASES)
def test_inputs_are_fixed_and_are_no_toy(name, labels):
    protocol = CATALOGUE.protocol(name)
    one, other = golden_input(protocol, labels), golden_input(protocol, labels)
    assert one.units.hash == other.units.hash
    assert (one.embeddings * 4096 == np.round(one.embeddings * 4096)).all()
    counts = {"survival": 4, "continuous": 3, "multilabel": 0}
    assert len(one.task.secondary) == counts.get(labels, len(METRICS) - 1)


def test_scores_are_neither_at_chance_nor_perfect(golden):
    for key, case in golden.items():
        labels = key.split()[1]
        chance = 0.0 if labels in ("ordered", "continuous") else 0.5
        assert chance + 0.03 < case.scores["main"] < 0.95
        assert all(fit.startswith("True") for fit in case.fits)


@pytest.mark.parametrize(
    ("name", "labels", "change", "said"),
    [
        ("linear-probe/v1", "binary", {"tol": 1e-7}, "model.tol was 1e-08 and is 1e-07"),
        ("linear-probe/v1", "ordered", {"C": 2.0}, "model.C was 1.0 and is 2.0"),
        ("linear-probe/v1", "binary", {"max_iter": 9000}, "model.max_iter was 10000 and is 9000"),
        ("few-shot/v1", "multiclass", {"class_weight": "balanced"}, "model.class_weight was None"),
        ("cox/v1", "survival", {"tol": 1e-8}, "tol was 1e-09 and is 1e-08"),
        ("patho-bench-coxnet-007/v1", "survival", {"l1_ratio": 0.4}, "l1_ratio was 0.5 and is 0.4"),
    ],
)
def test_a_parameter_changed_under_its_version_is_named(golden, name, labels, change, said):
    case = golden_case(with_method(name, **change), labels)
    (found,) = judge_scorers(
        {f"{name} {labels}": golden[f"{name} {labels}"]}, {f"{name} {labels}": case}
    )
    assert found.verdict == "scorer-changed"
    assert said in found.why
    assert not found.passes


def test_a_parameter_that_moves_no_number_is_named_all_the_same(golden):
    case = golden_case(with_method("linear-probe/v1", max_iter=9000), "binary")
    assert case.predictions == golden["linear-probe/v1 binary"].predictions


def changed(golden):
    """The verdicts of the tree as it is now, but for what is the same."""
    found = judge_scorers(golden, golden_cases(CATALOGUE))
    return {f.subject: f for f in found if f.verdict != "same"}


def test_code_that_stops_the_solvers_early_is_seen(golden, monkeypatch):
    """The YAML says 1e-8, or 1e-4 where L-BFGS is part of the method; the code does otherwise.

    Newton's method goes past any tolerance in its last step; so it must both stop early and say
    that it is there.
    """
    full, fit = logistic.minimise, logistic._library_fit
    monkeypatch.setattr(
        logistic,
        "minimise",
        lambda *a, **k: replace(full(*a, **{**k, "max_iter": 1}), residual=np.zeros(len(a[2]))),
    )
    exact = changed(golden)
    monkeypatch.setattr(logistic, "minimise", full)
    monkeypatch.setattr(
        logistic,
        "_library_fit",
        lambda model, value, t: fit(model.model_copy(update={"tol": 1e-2}), value, t),
    )
    published = changed(golden)
    # A chosen penalty's last fit begins where the inner folds left it, one step from its end.
    assert set(exact) == {"few-shot/v1", "few-shot/v2", "linear-probe/v1"}
    assert set(published) == {
        "madeleine-fewshot/v2", "patho-bench-linprobe/v1", "titan-linprobe/v1"
    }  # fmt: skip
    for finding in (*exact.values(), *published.values()):
        assert finding.verdict == "scorer-changed"
        assert "predictions moved by up to" in finding.why
        assert " was " not in finding.why


def test_a_cox_solver_that_stops_early_is_seen(golden, monkeypatch):
    full = cox._search
    monkeypatch.setattr(cox, "_search", lambda o, n, tol, most: full(o, n, 1e-4, most))
    assert set(changed(golden)) == {"cox/v1", "cox/v2"}


def test_a_changed_metric_is_seen_where_no_prediction_moved(golden, monkeypatch):
    monkeypatch.setitem(METRICS, "brier", lambda label, probability: 0.25)
    found = changed(golden)
    assert "cox/v1" not in found
    assert found["linear-probe/v1"].why == "scores moved: brier; without a new version"


def test_a_new_scoring_version_is_a_new_version(golden, monkeypatch):
    monkeypatch.setattr(golden_values, "SCORING_VERSION", scoring.SCORING_VERSION + 1)
    monkeypatch.setitem(METRICS, "brier", lambda label, probability: 0.25)
    found = changed(golden)["linear-probe/v1"]
    assert (found.verdict, found.passes) == ("new-version", True)


def test_protocols_that_come_and_go(golden):
    key, other = "linear-probe/v1 binary", "linear-probe/v2 binary"
    case = golden[key]
    assert [f.verdict for f in judge_scorers({}, {key: case})] == ["new"]
    assert [f.verdict for f in judge_scorers({key: case}, {})] == ["missing"]
    replaced = judge_scorers({key: case}, {other: case})
    assert [f.verdict for f in replaced] == ["missing", "new"]
    moved = case.model_copy(update={"input": "x"})
    assert [f.verdict for f in judge_scorers({key: case}, {key: moved})] == ["incomparable"]


def test_the_golden_file_is_small_and_names_no_place():
    text = Path(COMMITTED).read_text()
    assert len(text) < 250_000
    assert str(Path.home()) not in text

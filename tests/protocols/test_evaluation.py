"""What every protocol promises: shape, order, bytes, and refusal of what cannot be scored."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from madeleine_bench.errors import InputError
from madeleine_bench.protocols.results import Evaluation
from madeleine_bench.specs.catalogue import load_catalogue
from madeleine_bench.types import Split, Splits, Units

CLASS_PROTOCOLS = [
    "linear-probe/v1",
    "linear-probe/v2",
    "few-shot/v1",
    "few-shot/v2",
    "nearest-mean/v1",
    "titan-linprobe/v1",
    "madeleine-fewshot/v2",
    "patho-bench-linprobe/v1",
    "retrieval/v1",
    "patho-bench-retrieval/v1",
]
COX_PROTOCOLS = [
    "cox/v1",
    "cox/v2",
    *(f"patho-bench-coxnet-{alpha}/v1" for alpha in ("001", "002", "007")),
]


@pytest.fixture(params=CLASS_PROTOCOLS + COX_PROTOCOLS)
def problem(request: Any, classes_of: Callable[..., Any], survival_of: Callable[..., Any]) -> Any:
    make = survival_of if request.param in COX_PROTOCOLS else classes_of
    return make(request.param)


def as_bytes(evaluation: Evaluation) -> bytes:
    buffer = io.BytesIO()
    evaluation.predictions.to_parquet(buffer)
    return buffer.getvalue()


def test_every_shipped_protocol_is_tested_here() -> None:
    """But for those that train networks (tests/finetuning), those that fuse slides otherwise before
    a protocol sees them (tests/data/test_case_bags.py), and that of numbers
    (test_numbers_and_columns.py)."""
    shipped = {p.name for p in load_catalogue().protocols.values() if p.fusion == "late"}
    assert shipped == {*CLASS_PROTOCOLS, *COX_PROTOCOLS, "ridge-regression/v1"}


def test_a_protocol_that_trains_networks_takes_no_embeddings(problem: Any) -> None:
    trained = problem.but(protocol=load_catalogue().protocol("finetune"))
    with pytest.raises(InputError, match="trains a network on bags"):
        trained.evaluate()


def test_predictions_hold_each_test_unit_of_each_split_once_and_sorted(problem: Any) -> None:
    evaluation = problem.evaluate()
    table, key = evaluation.predictions, list(problem.splits.key_names)
    assert list(table.columns[:4]) == [*key, "unit_id", "case_id"]
    assert table[[*key, "unit_id"]].equals(table[[*key, "unit_id"]].sort_values([*key, "unit_id"]))
    ids = problem.units.table["unit_id"].to_numpy()
    for split, report in zip(problem.splits, evaluation.fits, strict=True):
        rows = table[(table[key[0]] == split.key[0]) & (table[key[1]] == split.key[1])]
        assert rows["unit_id"].tolist() == ids[split.test].tolist()
        assert (report.key, report.n_train, report.n_test) == (
            split.key,
            len(split.train),
            len(split.test),
        )
        assert report.converged
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    assert {str(d) for d in numbers.dtypes} == {"int64", "float64"}


def test_the_same_input_gives_the_same_bytes(problem: Any) -> None:
    assert as_bytes(problem.evaluate()) == as_bytes(problem.evaluate())


def test_the_order_of_units_and_splits_does_not_move_a_byte(problem: Any) -> None:
    order = np.random.default_rng(1).permutation(len(problem.embeddings))
    place = np.argsort(order)
    shuffled = problem.but(
        embeddings=problem.embeddings[order],
        units=Units(problem.units.table.iloc[order].reset_index(drop=True), {}, {}, "toy"),
        splits=Splits(
            problem.splits.key_names,
            [Split(s.key, place[s.train], place[s.test]) for s in reversed(problem.splits.splits)],
            "toy",
        ),
    )
    assert as_bytes(shuffled.evaluate()) == as_bytes(problem.evaluate())
    assert shuffled.score() == problem.score()


def test_labels_of_test_units_do_not_reach_the_fit(problem: Any) -> None:
    before = problem.evaluate().predictions
    column = "event" if "event" in problem.units.table else "label"
    split = problem.splits.splits[0]
    table = problem.units.table.copy()
    table.loc[split.test, column] = table.loc[split.test[::-1], column].to_numpy()
    only = Splits(problem.splits.key_names, [split], "toy")
    after = problem.but(splits=only).with_table(table).evaluate().predictions
    shown = [c for c in before.columns if c.startswith("prob_") or c in ("risk", "high_risk")]
    assert before.iloc[: len(after)][shown].equals(after[shown])
    assert not before.iloc[: len(after)][column].equals(after[column])


def test_equal_embeddings_get_equal_predictions(problem: Any) -> None:
    few = np.repeat(problem.embeddings[:3], len(problem.embeddings) // 3, axis=0)
    few = few[np.random.default_rng(0).permutation(len(few))]
    table = problem.but(embeddings=few).evaluate().predictions
    for _, fold in table.groupby(list(table.columns[:2])):
        shown = [c for c in table.columns if c.startswith("prob_") or c == "risk"]
        assert len(fold[shown].drop_duplicates()) <= 3


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused_by_name(problem: Any, broken: float) -> None:
    embeddings = problem.embeddings.copy()
    embeddings[7, 2] = broken
    with pytest.raises(InputError, match=r"1 of \d+ embeddings hold NaN.*row 7 \(unit 'u0007'\)"):
        problem.but(embeddings=embeddings).evaluate()


def test_what_does_not_fit_together_is_refused(problem: Any) -> None:
    n_units = len(problem.embeddings)
    with pytest.raises(InputError, match=rf"expected \({n_units}, dim\)"):
        problem.but(embeddings=problem.embeddings[1:]).evaluate()
    with pytest.raises(InputError, match="expected"):
        problem.but(embeddings=problem.embeddings[:, :0]).evaluate()
    table = problem.units.table.copy()
    table.loc[3, "unit_id"] = "u0005"
    with pytest.raises(InputError, match="'u0005' occurs twice"):
        problem.with_table(table).evaluate()
    names = problem.splits.key_names
    for train, test in [([0, 1], [1, 2]), ([0, 0], [1]), ([0, 1], [n_units]), ([-1], [2])]:
        split = Split((0, 0), np.array(train), np.array(test))
        with pytest.raises(InputError, match=r"\(0, 0\).*another unit table"):
            problem.but(splits=Splits(names, [split], "toy")).evaluate()
    empty = Split((0, 0), np.array([0, 1]), np.array([], dtype=np.intp))
    with pytest.raises(InputError, match="tests on nothing"):
        problem.but(splits=Splits(names, [empty], "toy")).evaluate()
    with pytest.raises(InputError, match="no splits"):
        problem.but(splits=Splits(names, [], "toy")).evaluate()


def test_a_protocol_for_other_labels_is_refused(
    classes_of: Callable[..., Any], survival_of: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match="those of the task are binary"):
        classes_of().but(protocol=survival_of().protocol).evaluate()
    with pytest.raises(InputError, match="those of the task are survival"):
        survival_of().but(protocol=classes_of().protocol).evaluate()


def test_an_unknown_label_is_refused_with_the_closest(classes_of: Callable[..., Any]) -> None:
    problem = classes_of()
    table = problem.units.table.copy()
    table.loc[4, "label"] = "positiv"
    with pytest.raises(
        InputError, match="'u0004' has the label 'positiv'; did you mean 'positive'"
    ):
        problem.with_table(table).evaluate()


def test_a_negative_time_is_refused(survival_of: Callable[..., Any]) -> None:
    problem = survival_of()
    table = problem.units.table.copy()
    table.loc[4, "time_days"] = -3.0
    with pytest.raises(InputError, match="not negative"):
        problem.with_table(table).evaluate()


def test_predictions_survive_parquet(problem: Any, view_of: Callable[..., Any]) -> None:
    from madeleine_bench.protocols.scoring import score

    evaluation = problem.evaluate()
    stored = pd.read_parquet(io.BytesIO(as_bytes(evaluation)))
    again = score(problem.task, problem.protocol, stored, evaluation.fits)
    assert view_of(again) == problem.score()

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from madeleine_bench.data.audit import audit_splits, require_clean
from madeleine_bench.errors import InputError
from madeleine_bench.types import Split, Splits

Make = Callable[..., Any]


def split(key: tuple[int, int], train: list[int], test: list[int]) -> Split:
    return Split(key, np.array(train, dtype=np.intp), np.array(test, dtype=np.intp))


def folds(*parts: tuple[list[int], list[int]]) -> Splits:
    splits = [split((0, i), train, test) for i, (train, test) in enumerate(parts)]
    return Splits(("repeat", "fold"), splits, "hash")


def test_clean_folds_give_no_finding(make_units: Make) -> None:
    units = make_units("PNPN", ["A", "A", "B", "B"], ["X", "X", "Y", "Y"])
    clean = folds(([2, 3], [0, 1]), ([0, 1], [2, 3]))
    assert audit_splits(clean, units, "site-preserved") == []


def test_site_leak_is_found_only_where_sites_matter(make_units: Make) -> None:
    units = make_units("PNPN", None, ["X", "Y", "X", "Y"])
    leaky = folds(([2, 3], [0, 1]), ([0, 1], [2, 3]))
    assert audit_splits(leaky, units, "case-stratified") == []
    messages = [f.message for f in audit_splits(leaky, units, "site-preserved")]
    assert messages[0] == (
        "repeat 0, fold 0: site 'X' is in train (u0002) and in test (u0000), as are 1 other sites"
    )
    with pytest.raises(InputError, match="here: repeat 0, fold 0: site 'X'"):
        require_clean(leaky, units, "site-preserved", "here")


def test_case_leak_names_the_case_and_its_units(make_units: Make) -> None:
    units = make_units("PPNN", ["A", "A", "B", "C"])
    leaky = folds(([1, 3], [0, 2]), ([0, 2], [1, 3]))
    findings = [f for f in audit_splits(leaky, units, "case-stratified") if f.level == "error"]
    assert [f.message for f in findings] == [
        "repeat 0, fold 0: case 'A' is in train (u0001) and in test (u0000)",
        "repeat 0, fold 1: case 'A' is in train (u0000) and in test (u0001)",
    ]


def test_lacking_class_is_a_warning_and_passes(make_units: Make) -> None:
    units = make_units("PNPN")
    splits = folds(([1, 3], [0, 2]), ([0, 2], [1, 3]))
    findings = audit_splits(splits, units, "case-stratified")
    assert {f.level for f in findings} == {"warning"}
    assert "repeat 0, fold 0: no unit of class 'P' in train" in [f.message for f in findings]
    require_clean(splits, units, "case-stratified", "here")


def test_lacking_event_is_a_warning(make_units: Make) -> None:
    units = make_units("xxxx")
    table = units.table.drop(columns="label")
    table["time_days"], table["event"] = [1.0] * 4, [True, False, False, False]
    survival = type(units)(table, units.slides, {}, units.hash)
    splits = folds(([2, 3], [0, 1]), ([0, 1], [2, 3]))
    messages = [f.message for f in audit_splits(splits, survival, "case-stratified")]
    assert messages == ["repeat 0, fold 0: no event in train", "repeat 0, fold 1: no event in test"]


def test_never_and_twice_tested_units(make_units: Make) -> None:
    units = make_units("PNPN")
    splits = folds(([2, 3], [0, 1]), ([0, 3], [1, 2]))
    messages = [f.message for f in audit_splits(splits, units, "case-stratified")]
    assert "repeat 0: 1 unit(s) tested never (u0003)" in messages
    assert "repeat 0: 1 unit(s) tested more than once (u0001)" in messages


def test_unequal_draw_is_an_error(make_units: Make) -> None:
    units = make_units("PPNN")
    draw = Splits(("shots", "draw"), [split((1, 0), [0, 1], [2, 3])], "hash")
    messages = [f.message for f in audit_splits(draw, units, "few-shot") if f.level == "error"]
    assert messages == [
        "no split tests a unit of class 'P'",
        "shots 1, draw 0: trains on 0 unit(s) of class 'N'",
        "shots 1, draw 0: trains on 2 unit(s) of class 'P'",
    ]


def test_message_is_cut_short_and_says_so(make_units: Make) -> None:
    units = make_units("P" * 5 + "N" * 5, ["A"] * 10)
    leaky = folds(*(([i], [(i + 1) % 10]) for i in range(10)))
    with pytest.raises(InputError, match=r"fold 0.*fold 2.* \(and 7 more\)$"):
        require_clean(leaky, units, "case-stratified", "here")

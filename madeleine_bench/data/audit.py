"""What can be wrong with splits: leaks between train and test, and folds that cannot be scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.types import Split, Splits, Units

Scheme = Literal["case-stratified", "site-preserved", "few-shot"]
_SHOWN = 3


@dataclass(frozen=True)
class SplitFinding:
    """One thing found: an error makes the scores wrong, a warning leaves a fold unscorable."""

    level: Literal["error", "warning"]
    message: str


def audit_splits(splits: Splits, units: Units, scheme: Scheme) -> list[SplitFinding]:
    """Return what is wrong with splits of some units; an empty list when nothing is.

    Errors: a case, or with site-preserved folds a site, on both sides; a unit on both sides; a
    unit tested twice or never in a repeat; few-shot draws of unequal classes. Warnings: a side of
    a fold lacks a class or an event.
    """
    findings: list[SplitFinding] = []
    cases = _codes(units, "case_id")
    sites = _codes(units, "site") if scheme == "site-preserved" else None
    for split in splits:
        at = _at(splits, split)
        findings += _leaks(split, cases, "case", units, at)
        if sites is not None:
            findings += _leaks(split, sites, "site", units, at)
        findings += _outcomes(split, units, at)
    if scheme == "few-shot":
        findings += _shots(splits, units)
    else:
        findings += _coverage(splits, units)
    return findings


def require_clean(splits: Splits, units: Units, scheme: Scheme, where: str) -> None:
    """Check that splits have no error; warnings pass, as protocols score such folds at chance.

    Raises:
        InputError: there is an error; the message lists the first ones.
    """
    errors = [f.message for f in audit_splits(splits, units, scheme) if f.level == "error"]
    if errors:
        more = f" (and {len(errors) - _SHOWN} more)" if len(errors) > _SHOWN else ""
        raise InputError(f"{where}: {'; '.join(errors[:_SHOWN])}{more}")


def _codes(units: Units, column: str) -> NDArray[Any]:
    return np.unique(units.table[column].to_numpy(dtype=str), return_inverse=True)[1]


def _at(splits: Splits, split: Split) -> str:
    return ", ".join(f"{n} {k}" for n, k in zip(splits.key_names, split.key, strict=True))


def _leaks(
    split: Split, groups: NDArray[Any], what: str, units: Units, at: str
) -> list[SplitFinding]:
    """Return the groups that are on both sides of a split."""
    both = np.intersect1d(groups[split.train], groups[split.test])
    if not len(both):
        return []
    ids = units.table["unit_id"].to_numpy()
    names = units.table["case_id" if what == "case" else "site"].to_numpy()
    in_train = split.train[groups[split.train] == both[0]]
    in_test = split.test[groups[split.test] == both[0]]
    message = (
        f"{at}: {what} '{names[in_test[0]]}' is in train ({_some(ids[in_train])}) and in test "
        f"({_some(ids[in_test])})"
    )
    if len(both) > 1:
        message += f", as are {len(both) - 1} other {what}s"
    return [SplitFinding("error", message)]


def _outcomes(split: Split, units: Units, at: str) -> list[SplitFinding]:
    """Return which classes, or events, a side of a split lacks."""
    column = "label" if "label" in units.table else "event"
    values = units.table[column].to_numpy()
    wanted = sorted(set(values)) if column == "label" else [True]
    findings = []
    for side, rows in (("train", split.train), ("test", split.test)):
        lacking = [value for value in wanted if not (values[rows] == value).any()]
        for value in lacking:
            what = f"no unit of class '{value}'" if column == "label" else "no event"
            findings.append(SplitFinding("warning", f"{at}: {what} in {side}"))
    return findings


def _coverage(splits: Splits, units: Units) -> list[SplitFinding]:
    """Return the units that a repeat tests twice or never."""
    ids = units.table["unit_id"].to_numpy()
    findings = []
    for repeat in sorted({split.key[0] for split in splits}):
        tested = np.zeros(len(ids), dtype=int)
        for split in splits:
            if split.key[0] == repeat:
                np.add.at(tested, split.test, 1)
        for what, rows in (("never", ids[tested == 0]), ("more than once", ids[tested > 1])):
            if len(rows):
                message = f"repeat {repeat}: {len(rows)} unit(s) tested {what} ({_some(rows)})"
                findings.append(SplitFinding("error", message))
    return findings


def _shots(splits: Splits, units: Units) -> list[SplitFinding]:
    """Return the draws that do not train on the same number of units of each class."""
    labels = units.table["label"].to_numpy()
    findings = []
    for split in splits:
        for name in sorted(set(labels)):
            count = int((labels[split.train] == name).sum())
            if count != split.key[0]:
                message = f"{_at(splits, split)}: trains on {count} unit(s) of class '{name}'"
                findings.append(SplitFinding("error", message))
    return findings


def _some(ids: Sequence[str] | NDArray[Any]) -> str:
    shown = ", ".join(str(i) for i in ids[:_SHOWN])
    return f"{shown}, ..." if len(ids) > _SHOWN else shown

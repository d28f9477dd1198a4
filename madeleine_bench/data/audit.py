"""What can be wrong with splits: leaks between train and test, and folds that cannot be scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.types import Split, Splits, Units

Scheme = Literal["case-stratified", "site-preserved", "site-preserved-optimal", "few-shot"]
Level = Literal["error", "warning", "note"]
Kind = Literal[
    "case-leak",
    "site-leak",
    "duplicate",
    "look-alike",
    "coverage",
    "partial",
    "shots",
    "lacking-class",
    "label-conflict",
    "prevalence",
    "few-units",
    "time-unit",
    "balance",
    "changed",
    "lock",
    "unusable",
]
SITES_WHOLE: tuple[Scheme, ...] = ("site-preserved", "site-preserved-optimal")
SHOWN = 3

_ADVICE: dict[Kind, str] = {
    "case-leak": "put all units of a case into one fold",
    "site-leak": "put all cases of a site into one fold (mbench data split does)",
    "coverage": "list each unit once in each repeat",
    "shots": "list as many units of each class as the draw has shots",
    "lacking-class": "use fewer folds, or folds stratified by class (mbench data split)",
}


@dataclass(frozen=True)
class AuditFinding:
    """One thing found.

    Attributes:
        level: an error makes scores wrong, a warning makes them doubtful, a note is to be known.
        kind: what sort of thing it is (docs/audit.md).
        message: what was found, with its place.
        advice: what to do.
        fold: the split it was found in, such as "repeat 0, fold 1", or "".
        case_id: the first case concerned, or "".
        slide_ids: units or slides concerned, of leaks one on each side.
    """

    level: Level
    kind: Kind
    message: str
    advice: str = ""
    fold: str = ""
    case_id: str = ""
    slide_ids: tuple[str, ...] = ()


def audit_splits(splits: Splits, units: Units, scheme: Scheme) -> list[AuditFinding]:
    """Return what is wrong with splits of some units; an empty list when nothing is.

    Errors: a case, or with site-preserved folds a site, on both sides; a unit on both sides; a
    unit tested twice or never in a repeat; few-shot draws of unequal classes; a class, or events,
    that no split tests. Warnings: a side of a fold lacks a class or an event.
    """
    findings: list[AuditFinding] = []
    cases = _codes(units, "case_id")
    sites = _codes(units, "site") if scheme in SITES_WHOLE else None
    outcome = _Outcome(units)
    for split in splits:
        findings += _leaks(split, cases, "case", units, fold_name(splits, split))
        if sites is not None:
            findings += _leaks(split, sites, "site", units, fold_name(splits, split))
        findings += outcome.lacking(split, fold_name(splits, split))
    findings += outcome.untested()
    if scheme == "few-shot":
        findings += outcome.shots(splits)
    else:
        findings += _coverage(splits, units)
    return findings


def require_clean(splits: Splits, units: Units, scheme: Scheme, where: str) -> None:
    """Check that splits have no error; warnings pass, as protocols score such folds at chance.

    Raises:
        InputError: there is an error; the message lists the first ones.
    """
    refuse_errors(audit_splits(splits, units, scheme), where)


def refuse_errors(findings: Iterable[AuditFinding], where: str, hint: str = "") -> None:
    """Check that there is no error among findings.

    Raises:
        InputError: there is one; the message lists the first ones.
    """
    errors = [finding.message for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - SHOWN} more)" if len(errors) > SHOWN else ""
        raise InputError(f"{where}: {'; '.join(errors[:SHOWN])}{more}{hint}")


def outcome_of(units: Units) -> NDArray[Any]:
    """Return what folds are balanced by: the class of each unit, or whether its event was seen."""
    column = "label" if "label" in units.table else "event"
    return units.table[column].to_numpy().astype(str)


def fold_name(splits: Splits, split: Split) -> str:
    """Return the name of a split in messages, such as "repeat 0, fold 1"."""
    return ", ".join(f"{n} {k}" for n, k in zip(splits.key_names, split.key, strict=True))


def some(ids: Sequence[str] | NDArray[Any]) -> str:
    """Return the first few ids, and dots where there are more."""
    shown = ", ".join(str(i) for i in ids[:SHOWN])
    return f"{shown}, ..." if len(ids) > SHOWN else shown


def on_both_sides(split: Split, groups: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Return the groups with a unit to train on and one to test on, in order."""
    train, test = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    train[groups[split.train]] = True
    test[groups[split.test]] = True
    return np.flatnonzero(train & test)


def _codes(units: Units, column: str) -> NDArray[Any]:
    return np.unique(units.table[column].to_numpy(dtype=str), return_inverse=True)[1]


def _leaks(
    split: Split, groups: NDArray[Any], what: Literal["case", "site"], units: Units, at: str
) -> list[AuditFinding]:
    """Return the groups that are on both sides of a split."""
    both = on_both_sides(split, groups, len(groups))
    if not len(both):
        return []
    ids = units.table["unit_id"].to_numpy()
    names = units.table["case_id" if what == "case" else "site"].to_numpy()
    in_train = split.train[groups[split.train] == both[0]]
    in_test = split.test[groups[split.test] == both[0]]
    message = (
        f"{at}: {what} '{names[in_test[0]]}' is in train ({some(ids[in_train])}) and in test "
        f"({some(ids[in_test])})"
    )
    if len(both) > 1:
        message += f", as are {len(both) - 1} other {what}s"
    kind: Kind = "case-leak" if what == "case" else "site-leak"
    case_id = str(units.table["case_id"].iloc[in_test[0]])
    first = (str(ids[in_train[0]]), str(ids[in_test[0]]))
    return [AuditFinding("error", kind, message, _ADVICE[kind], at, case_id, first)]


class _Outcome:
    """Classes or events of units, counted in splits."""

    def __init__(self, units: Units) -> None:
        self.of_class = "label" in units.table
        names, self.codes = np.unique(outcome_of(units), return_inverse=True)
        self.names = [str(name) for name in names]
        # Of survival only events must be there; without any the column is all "False".
        self.wanted = self.names if self.of_class else ["True"]
        self.tested: set[str] = set()

    def counts(self, rows: NDArray[np.intp]) -> dict[str, int]:
        """Return how many units of each class, or with an event, there are among rows."""
        found = np.bincount(self.codes[rows], minlength=len(self.names))
        known = dict(zip(self.names, map(int, found), strict=True))
        return {name: known.get(name, 0) for name in self.wanted}

    def lacking(self, split: Split, at: str) -> list[AuditFinding]:
        """Return which classes, or events, a side of a split lacks."""
        findings = []
        for side, rows in (("train", split.train), ("test", split.test)):
            counts = self.counts(rows)
            if side == "test":
                self.tested |= {name for name, count in counts.items() if count}
            for name in (name for name, count in counts.items() if not count):
                what = f"no unit of class '{name}'" if self.of_class else "no event"
                message = f"{at}: {what} in {side}"
                advice = _ADVICE["lacking-class"]
                findings.append(AuditFinding("warning", "lacking-class", message, advice, at))
        return findings

    def untested(self) -> list[AuditFinding]:
        """Return the classes, or events, that no split seen so far tests."""
        return [
            AuditFinding(
                "error",
                "lacking-class",
                f"no split tests {f'a unit of class {name!r}' if self.of_class else 'an event'}",
                "list units of it to be tested",
            )
            for name in self.wanted
            if name not in self.tested
        ]

    def shots(self, splits: Splits) -> list[AuditFinding]:
        """Return the draws that do not train on the same number of units of each class."""
        findings = []
        for split in splits:
            at = fold_name(splits, split)
            for name, count in self.counts(split.train).items():
                if count != split.key[0]:
                    message = f"{at}: trains on {count} unit(s) of class '{name}'"
                    findings.append(AuditFinding("error", "shots", message, _ADVICE["shots"], at))
        return findings


def _coverage(splits: Splits, units: Units) -> list[AuditFinding]:
    """Return the units that a repeat tests twice or never."""
    ids = units.table["unit_id"].to_numpy()
    tested: dict[int, NDArray[np.intp]] = {}
    for split in splits:
        counts = tested.setdefault(split.key[0], np.zeros(len(ids), dtype=np.intp))
        np.add.at(counts, split.test, 1)
    findings = []
    for repeat, counts in sorted(tested.items()):
        for what, rows in (("never", ids[counts == 0]), ("more than once", ids[counts > 1])):
            if len(rows):
                message = f"repeat {repeat}: {len(rows)} unit(s) tested {what} ({some(rows)})"
                at, first = f"repeat {repeat}", tuple(map(str, rows))
                findings.append(
                    AuditFinding(
                        "error", "coverage", message, _ADVICE["coverage"], at, slide_ids=first
                    )
                )
    return findings

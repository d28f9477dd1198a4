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
    """One thing that is wrong, doubtful or to be known.

    Attributes:
        level: an error makes scores wrong, a warning makes them doubtful, a note is to be known.
        kind: what sort of thing it is (docs/audit.md).
        message: what it is, with its place.
        advice: what to do.
        fold: the split it is in, such as "repeat 0, fold 1", or "".
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
    columns = ["case_id", "site"] if scheme in SITES_WHOLE else ["case_id"]
    groups = [
        (column, *np.unique(units.table[column].to_numpy(dtype=str), return_inverse=True))
        for column in columns
    ]
    findings = [
        leak
        for split in splits
        for column, names, codes in groups
        for leak in _leaks(split, units, column, names, codes, fold_name(splits, split))
    ]
    findings += _outcome_findings(splits, units, scheme)
    return findings if scheme == "few-shot" else findings + _coverage(splits, units)


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


def outcome_counts(
    splits: Splits, units: Units
) -> tuple[list[str], NDArray[np.intp], NDArray[np.intp]]:
    """Return the classes, and by split and class how many units are trained on and tested.

    The classes of survival are "False" and "True": whether the event was seen.
    """
    outcome = outcome_of(units)
    names = np.unique(outcome) if "label" in units.table else np.array(["False", "True"])
    codes = np.searchsorted(names, outcome)
    counts = [
        [np.bincount(codes[rows], minlength=len(names)) for rows in (split.train, split.test)]
        for split in splits
    ]
    trained, tested = np.array(counts).transpose(1, 0, 2)
    return [str(name) for name in names], trained, tested


def _leaks(
    split: Split, units: Units, column: str, names: NDArray[Any], codes: NDArray[np.intp], at: str
) -> list[AuditFinding]:
    """Return the first case or site on both sides of a split, and how many others there are."""
    both = np.intersect1d(codes[split.train], codes[split.test])
    if not len(both):
        return []
    what, ids = column.removesuffix("_id"), units.table["unit_id"].to_numpy()
    train, test = (rows[codes[rows] == both[0]] for rows in (split.train, split.test))
    message = (
        f"{at}: {what} '{names[both[0]]}' is in train ({some(ids[train])}) and in test "
        f"({some(ids[test])})"
    )
    if len(both) > 1:
        message += f", as are {len(both) - 1} other {what}s"
    kind: Kind = "case-leak" if what == "case" else "site-leak"
    case_id = str(units.table["case_id"].iloc[test[0]])
    first = (str(ids[train[0]]), str(ids[test[0]]))
    return [AuditFinding("error", kind, message, _ADVICE[kind], at, case_id, first)]


def _outcome_findings(splits: Splits, units: Units, scheme: Scheme) -> list[AuditFinding]:
    """Return which classes, or events, a side of a split lacks, and unequal few-shot draws."""
    names, trained, tested = outcome_counts(splits, units)
    of_class = "label" in units.table
    # Of survival only events must be there.
    wanted = [i for i, name in enumerate(names) if of_class or name == "True"]
    lacking: list[AuditFinding] = []
    unequal: list[AuditFinding] = []
    for split, *sides in zip(splits, trained, tested, strict=True):
        at = fold_name(splits, split)
        for side, counts in zip(("train", "test"), sides, strict=True):
            for i in wanted:
                if not counts[i]:
                    what = f"unit of class '{names[i]}'" if of_class else "event"
                    message, advice = f"{at}: no {what} in {side}", _ADVICE["lacking-class"]
                    lacking.append(AuditFinding("warning", "lacking-class", message, advice, at))
        for i in wanted:
            if scheme == "few-shot" and sides[0][i] != split.key[0]:
                message = f"{at}: trains on {sides[0][i]} unit(s) of class '{names[i]}'"
                unequal.append(AuditFinding("error", "shots", message, _ADVICE["shots"], at))
    untested = [
        AuditFinding(
            "error",
            "lacking-class",
            f"no split tests {f'a unit of class {names[i]!r}' if of_class else 'an event'}",
            "list units of it to be tested",
        )
        for i in wanted
        if not tested[:, i].any()
    ]
    return lacking + untested + unequal


def _coverage(splits: Splits, units: Units) -> list[AuditFinding]:
    """Return the units that a repeat tests twice or never."""
    ids = units.table["unit_id"].to_numpy()
    findings = []
    for repeat in sorted({split.key[0] for split in splits}):
        tested = np.concatenate([split.test for split in splits if split.key[0] == repeat])
        counts = np.bincount(tested, minlength=len(ids))
        for what, rows in (("never", ids[counts == 0]), ("more than once", ids[counts > 1])):
            if len(rows):
                at, advice = f"repeat {repeat}", _ADVICE["coverage"]
                message = f"{at}: {len(rows)} unit(s) tested {what} ({some(rows)})"
                slides = tuple(map(str, rows))
                findings.append(
                    AuditFinding("error", "coverage", message, advice, at, slide_ids=slides)
                )
    return findings

"""What can be wrong with splits: leaks between train and test, and folds that cannot be scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.errors import InputError
from madeleine_bench.types import Split, Splits, Units

Scheme = Literal[
    "case-stratified", "site-preserved", "site-preserved-optimal", "hold-out", "few-shot"
]
Level = Literal["error", "warning", "note"]
SITES_WHOLE: tuple[Scheme, ...] = ("site-preserved", "site-preserved-optimal")
SHOWN = 3

# By kind of finding (docs/audit.md); other kinds have an advice of their own.
_ADVICE = {
    "case-leak": "put all units of a case into one fold",
    "site-leak": "put all cases of a site into one fold (mbench data split does)",
    "coverage": "right for a hold-out, Monte Carlo or official split; else list each unit once",
    "partial": (
        "Look at 'features' in mbench.toml and at the slide ids (mbench data status), or score "
        "the rest: mbench run --allow-partial"
    ),
    "shots": "list as many units of each class as the draw has shots",
    "lacking-class": "use fewer folds, or folds stratified by class (mbench data split)",
    "duplicate": "find out whose slide it is, and keep one of them in the label table",
    "unusable": "repair this first; the rest was not audited",
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
    kind: str
    message: str
    advice: str = ""
    fold: str = ""
    case_id: str = ""
    slide_ids: tuple[str, ...] = ()


def finding(
    level: Level,
    kind: str,
    message: str,
    advice: str = "",
    *,
    fold: str = "",
    case_id: Any = "",
    ids: Iterable[Any] = (),
) -> AuditFinding:
    """Return a finding, with the advice of its kind where it has none of its own."""
    advice = advice or _ADVICE[kind]
    return AuditFinding(level, kind, message, advice, fold, str(case_id), tuple(map(str, ids)))


def audit_splits(splits: Splits, units: Units, scheme: Scheme) -> list[AuditFinding]:
    """Return what is wrong with splits of some units; an empty list when nothing is.

    Errors: a case, or with site-preserved folds a site, on both sides, of which one side is train
    and validation; few-shot draws of unequal classes; a class, or events, that no split tests.
    Warnings: a side of a fold lacks a class or an event. A note: units tested twice or never in a
    repeat.
    """
    table, rows = units.table, np.arange(len(units.table))
    findings = leaks(splits, units, "case", table["case_id"].to_numpy(dtype=str), rows)
    if scheme in SITES_WHOLE:
        findings += leaks(splits, units, "site", table["site"].to_numpy(dtype=str), rows)
    findings += _outcome_findings(splits, units, scheme) if has_outcomes(units) else []
    return findings if scheme == "few-shot" else findings + _coverage(splits, units)


def require_clean(
    splits: Splits, units: Units, scheme: Scheme, where: str, *, covered: bool = False
) -> None:
    """Check that splits have no error; warnings pass, as protocols score such folds at chance.

    With `covered`, each repeat must also test each unit once.

    Raises:
        InputError: there is an error; the message lists the first ones.
    """
    findings = audit_splits(splits, units, scheme)
    wrong = [replace(f, level="error") if f.kind == "coverage" and covered else f for f in findings]
    refuse_errors(wrong, where)


def refuse_errors(findings: Iterable[AuditFinding], where: str, hint: str = "") -> None:
    """Check that there is no error among findings.

    Raises:
        InputError: there is one; the message lists the first ones.
    """
    errors = [each.message for each in findings if each.level == "error"]
    if errors:
        more = f" (and {len(errors) - SHOWN} more)" if len(errors) > SHOWN else ""
        raise InputError(f"{where}: {'; '.join(errors[:SHOWN])}{more}{hint}")


def outcome_of(units: Units, least: int = 1) -> NDArray[Any]:
    """Return what folds are balanced by: the class of each unit, or whether its event was seen.

    Of numbers the fifth in which it lies, from "1" for the lowest. Of several labels what they are
    together, such as "positive, , negative". There are fewer fifths, and rare combinations are one,
    where these would have fewer than `least` units.
    """
    table = units.table
    if "value" in table:
        return fifths(table["value"].to_numpy(), least).astype(str)
    if columns := [name for name in table if str(name).startswith("label_")]:
        together = table[columns].agg(", ".join, axis=1)
        rare = together.map(together.value_counts()) < least
        return together.mask(rare, "rare" if rare.sum() >= least else together.mode()[0]).to_numpy()
    return table["label" if "label" in table else "event"].to_numpy().astype(str)


def fifths(values: NDArray[np.float64], least: int = 1) -> NDArray[np.intp]:
    """Return in which fifth of the values each one lies, 1 to 5; of equal values the first first.

    With fewer than five times `least` values there are fewer parts, of at least so many each.
    """
    parts = min(5, max(1, len(values) // least))
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return 1 + rank * parts // len(values)


def has_outcomes(units: Units) -> bool:
    """Return whether units have classes or events, of which a fold can hold none or few."""
    return "label" in units.table or "event" in units.table


def fold_name(splits: Splits, split: Split) -> str:
    """Return the name of a split in messages, such as "repeat 0, fold 1"."""
    return ", ".join(f"{n} {k}" for n, k in zip(splits.key_names, split.key, strict=True))


def some(ids: Sequence[str] | NDArray[Any]) -> str:
    """Return the first few ids, and dots where there are more."""
    shown = ", ".join(str(i) for i in ids[:SHOWN])
    return f"{shown}, ..." if len(ids) > SHOWN else shown


def leaks(
    splits: Splits, units: Units, what: str, groups: NDArray[np.str_], rows: NDArray[np.intp]
) -> list[AuditFinding]:
    """Return of each split the first case or site on both sides, and how many others there are.

    Args:
        splits: of the units.
        units: the table of units.
        what: "case" or "site".
        groups: the case or site of each unit, or of each slide.
        rows: the row of the unit of each.
    """
    names, codes = np.unique(groups, return_inverse=True)
    ids, findings = units.table["unit_id"].to_numpy(), []
    for split in splits:
        fitted = np.concatenate([split.train, split.val])
        trained, tested = np.isin(rows, fitted), np.isin(rows, split.test)
        both = np.intersect1d(codes[trained], codes[tested])
        if not len(both):
            continue
        train, test = (np.unique(rows[side & (codes == both[0])]) for side in (trained, tested))
        place = fold_name(splits, split)
        side = "train" if train[0] in split.train else "validation"
        message = (
            f"{place}: {what} '{names[both[0]]}' is in {side} ({some(ids[train])}) and in test "
            f"({some(ids[test])})"
        )
        if len(both) > 1:
            message += f", as are {len(both) - 1} other {what}s"
        case_id, first = units.table["case_id"].iloc[test[0]], ids[[train[0], test[0]]]
        leak = finding("error", f"{what}-leak", message, fold=place, case_id=case_id, ids=first)
        findings.append(leak)
    return findings


def _outcome_findings(splits: Splits, units: Units, scheme: Scheme) -> list[AuditFinding]:
    """Return which classes, or events, a side of a split lacks, and unequal few-shot draws."""
    outcome = outcome_of(units)
    names = np.unique(outcome) if "label" in units.table else np.array(["False", "True"])
    codes = np.searchsorted(names, outcome)
    counts = [
        [np.bincount(codes[rows], minlength=len(names)) for rows in (split.train, split.test)]
        for split in splits
    ]
    trained, tested = np.array(counts).transpose(1, 0, 2)
    wanted = [f"unit of class '{name}'" for name in names]
    if "event" in units.table:  # of survival only events must be there
        wanted, trained, tested = ["event"], trained[:, 1:], tested[:, 1:]
    places = [fold_name(splits, split) for split in splits]
    findings = [
        finding(
            "warning",
            "lacking-class",
            f"{places[row]}: no {wanted[i]} in {'test' if side else 'train'}",
            fold=places[row],
        )
        for row, side, i in np.argwhere(np.stack([trained, tested], axis=1) == 0)
    ]
    for i in np.flatnonzero(~tested.any(axis=0)):
        message = f"no split tests {'an' if wanted == ['event'] else 'a'} {wanted[i]}"
        advice = "list units of it to be tested"
        findings.append(finding("error", "lacking-class", message, advice))
    if scheme == "few-shot":
        shots = np.array([split.key[0] for split in splits])
        for row, i in np.argwhere(trained != shots[:, None]):
            message = f"{places[row]}: trains on {trained[row, i]} unit(s) of class '{names[i]}'"
            findings.append(finding("error", "shots", message, fold=places[row]))
    return findings


def _coverage(splits: Splits, units: Units) -> list[AuditFinding]:
    """Return the units that a repeat tests twice or never."""
    ids = units.table["unit_id"].to_numpy()
    repeats = sorted({split.key[0] for split in splits})
    counts = np.zeros((len(repeats), len(ids)), dtype=np.intp)
    for split in splits:
        counts[repeats.index(split.key[0]), split.test] += 1
    findings = []
    for what, wrong in (("never", counts == 0), ("more than once", counts > 1)):
        if wrong.any():
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            units_there = ids[wrong[row]]
            more = int(wrong.any(axis=1).sum()) - 1
            also = f", and so in {more} other repeat(s)" if more else ""
            at = f"repeat {repeats[row]}"
            message = f"{at}: {len(units_there)} unit(s) tested {what} ({some(units_there)}){also}"
            findings.append(finding("note", "coverage", message, fold=at, ids=units_there))
    return findings

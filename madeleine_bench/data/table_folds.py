"""Folds made from a label table alone, before any task or feature is declared."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pandas as pd

from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.labels import check_agreed
from madeleine_bench.data.site_folds import FoldReport, balanced_folds, linked_groups
from madeleine_bench.data.splits import FOLD_KEYS, split_csv
from madeleine_bench.data.tables import missing_column, read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.report import Report, Table
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.specs.task import canonical_word


def split_table(
    path: Path,
    columns: Columns,
    outcome: Sequence[str],
    folds: int,
    unit: Literal["slide", "case"] = "case",
    missing: Sequence[str] = (),
    out: Path = Path("splits.csv"),
) -> Report:
    """Write folds that keep sites and cases whole, and return how balanced they are.

    Classes are nearest to proportional. Sites with slides of one case are kept together. Units
    without a label are left out.

    Args:
        path: a label table: .csv or .tsv.
        columns: which columns say what a row is; without a site only cases are kept whole.
        outcome: the column of classes; or those of follow-up, of which only matters whether it is
            there, and of the event, in two words.
        folds: how many folds, 2 or more.
        unit: whether the split file lists cases or slides, as the task does.
        missing: words that mean "no label"; the empty cell always does.
        out: the split file: columns repeat, fold, unit_id.

    Raises:
        InputError: the table cannot be read, a column is absent, a site is empty, slides of a
            case disagree, there are fewer than two classes, or too few sites or units of a class;
            or the split file is there with other folds.
    """
    if folds < 2:
        raise InputError(f"--folds must be at least 2, found {folds}")
    table = _read(path, columns, outcome, missing)
    table = table.assign(unit_id=table[f"{unit}_id"])
    labelled = table[table["outcome"] != ""]
    _check_outcome(labelled, outcome, path)
    if unit == "case":
        advice = "give all its slides one label, or divide slides (--unit slide)"
        check_agreed(labelled, "outcome", str(path), advice)
    # A slide without a label still ties its case to its site.
    rows = table[table["unit_id"].isin(labelled["unit_id"])]
    first = labelled.drop_duplicates("unit_id").sort_values("unit_id")
    ids = first["unit_id"].to_numpy(dtype=str)
    cases, sites, units = (
        rows[name].to_numpy(dtype=str) for name in ("case_id", "site", "unit_id")
    )
    groups = linked_groups(cases, None if columns.site is None else sites, units)
    try:
        fold, report = balanced_folds(first["outcome"].to_numpy(dtype=str), groups, ids, folds)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    listed = ((0, int(number), str(unit_id)) for number, unit_id in zip(fold, ids, strict=True))
    data = split_csv(FOLD_KEYS, listed)
    if out.exists() and (not out.is_file() or out.read_bytes() != data):
        raise InputError(
            f"{out} is there and holds something else; scores on other folds cannot be compared. "
            "Remove it, or give another --out"
        )
    write_bytes(out, data)
    without = sorted(set(table["unit_id"]) - set(ids))
    alike = look_alikes(rows["case_id"].unique(), cases=True)
    left_out = f"; {len(without)} without a label left out" if without else ""
    body: list[Table | str] = [f"{len(ids)} {unit}s in {folds} folds: {out}{left_out}"]
    body += _balance(report)
    if alike:
        spellings = " and ".join(f"'{one}'" for one in alike[0])
        body.append(
            f"Check the case ids: {len(alike)} group(s) may be spellings of one case, first "
            f"{spellings}; folds may part them. Write one spelling in the label table."
        )
    body.append(f'\nTo use them: splits = "{out}" under the task in mbench.toml (docs/audit.md)')
    return Report({"without": without, "look_alikes": alike, **asdict(report)}, body)


def _balance(report: FoldReport) -> list[Table | str]:
    """Return the counts of folds, and how near to proportional they are and could be."""
    shares = [sum(counts) / len(report.counts) for counts in zip(*report.counts, strict=True)]
    rows = [
        [str(fold), str(report.groups[fold]), *map(str, counts)]
        for fold, counts in enumerate(report.counts)
    ]
    rows.append(["share", "", *(f"{share:.1f}" for share in shares)])
    return [
        Table("", ["fold", f"{report.what}s", *report.labels], rows),
        f"{report.verdict[0].upper()}{report.verdict[1:]}.",
        f"Sum over folds and classes {report.total:.1f}, bound {report.total_bound:.1f}.",
        *(f"Large: {line}." for line in report.large),
    ]


def _read(
    path: Path, columns: Columns, outcome: Sequence[str], missing: Sequence[str]
) -> pd.DataFrame:
    """Return the table with a column "outcome": the word of the last column, "" for no label."""
    try:
        table = read_label_table(path, columns)
    except InputError as error:
        options = ". For folds, columns are named by --slide, --case, --site and --stain"
        hint = options if "mbench.toml" in str(error) else ""
        raise InputError(f"{error}{hint}") from error
    for name in outcome:
        if name not in table.columns:
            raise missing_column(name, list(table.columns), f"{path}: row 1")
    empty = table["site"] == ""
    if columns.site is not None and empty.any():
        raise InputError(
            f"{path}: the site of {empty.sum()} slide(s) is empty, first "
            f"'{table['slide_id'][empty].iloc[0]}'; fill it, or leave --site out to keep only "
            "cases whole"
        )
    word = table[outcome[-1]].map(canonical_word)
    without = word.isin([*map(canonical_word, missing)])
    for name in outcome[:-1]:
        without |= table[name] == ""
    return table.assign(outcome=word.mask(without, ""))


def _check_outcome(labelled: pd.DataFrame, outcome: Sequence[str], path: Path) -> None:
    words = sorted(set(labelled["outcome"]))
    name = outcome[-1]
    if len(words) < 2:
        there = f"only '{words[0]}'" if words else "no word"
        raise InputError(
            f"{path}: column '{name}' has {there} among {len(labelled)} slides with a label; folds "
            "are balanced by at least two classes"
        )
    if len(outcome) == 2 and len(words) > 2:
        raise InputError(
            f"{path}: column '{name}' has the words {', '.join(words[:6])}; expected two, for the "
            "event and for censored (--missing WORD takes one as no label)"
        )

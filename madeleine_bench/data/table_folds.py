"""Folds made from a label table alone, before any task or feature is declared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from madeleine_bench.data.ids import look_alikes
from madeleine_bench.data.site_folds import FoldReport, balanced_folds, linked_groups
from madeleine_bench.data.split_files import FOLD_KEYS, split_csv
from madeleine_bench.data.tables import missing_column, read_label_table
from madeleine_bench.errors import InputError
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.specs.task import canonical_word


@dataclass(frozen=True)
class FoldColumns:
    """Which columns of a label table folds are made from.

    Attributes:
        slide: id of the slide; each row has its own.
        case: id of the case (patient).
        site: where the case was treated; None keeps only cases whole.
        stain: stain of the slide; it plays no part, and is declared where there is such a column.
        label: the class; or None, and then
        time: follow-up, of which only matters whether it is there, and
        event: whether the event was seen, in two words.
    """

    slide: str
    case: str
    site: str | None = None
    stain: str | None = None
    label: str | None = None
    time: str | None = None
    event: str | None = None


@dataclass(frozen=True)
class TableFolds:
    """Folds of a label table.

    Attributes:
        data: the bytes of the split file: columns repeat, fold, unit_id.
        report: how balanced they are, and how balanced they could be.
        units: how many units were divided.
        without: units left out, as they have no label.
        look_alikes: ids of cases that may be spellings of one.
    """

    data: bytes
    report: FoldReport
    units: int
    without: tuple[str, ...]
    look_alikes: tuple[tuple[str, ...], ...]


def fold_table(
    path: Path,
    columns: FoldColumns,
    folds: int,
    unit: Literal["slide", "case"] = "case",
    missing: tuple[str, ...] = (),
) -> TableFolds:
    """Return folds that keep sites and cases whole, with classes nearest to proportional.

    Sites with slides of one case are kept together. Units without a label are left out.

    Args:
        path: a label table: .csv, .tsv or .parquet.
        columns: what its columns are.
        folds: how many folds, 2 or more.
        unit: whether the split file lists cases or slides, as the task does.
        missing: words that mean "no label"; the empty cell always does.

    Raises:
        InputError: the table cannot be read, a column is absent, a site is empty, slides of a
            case disagree, there are fewer than two classes, or too few sites or units of a class.
    """
    outcome = _outcome_columns(columns)
    if folds < 2:
        raise InputError(f"--folds must be at least 2, found {folds}")
    table = _read(path, columns)
    for name in outcome:
        if name not in table.columns:
            raise missing_column(name, list(table.columns), f"{path}: row 1")
    word = table[outcome[-1]].map(canonical_word)
    empty = word.isin(["", *map(canonical_word, missing)])
    for name in outcome[:-1]:
        empty |= table[name] == ""
    table = table.assign(outcome=word, unit_id=table["slide_id" if unit == "slide" else "case_id"])
    known = table[~empty]
    _check_outcome(known, columns, path)
    if unit == "case":
        _check_agreed(known, path)
    if columns.site is not None:
        _check_sites(table, path)
    # A slide without a label still ties its case to its site.
    rows = table[table["unit_id"].isin(known["unit_id"])]
    first = known.drop_duplicates("unit_id").sort_values("unit_id")
    ids = first["unit_id"].to_numpy(dtype=str)
    sites = None if columns.site is None else rows["site"].to_numpy(dtype=str)
    groups = linked_groups(
        rows["case_id"].to_numpy(dtype=str), sites, rows["unit_id"].to_numpy(dtype=str)
    )
    try:
        found, report = balanced_folds(first["outcome"].to_numpy(dtype=str), groups, ids, folds)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    listed = ((0, int(fold), str(unit_id)) for fold, unit_id in zip(found, ids, strict=True))
    without = sorted(set(table["unit_id"]) - set(ids))
    alike = tuple(look_alikes(rows["case_id"].unique(), cases=True))
    return TableFolds(split_csv(FOLD_KEYS, listed), report, len(ids), tuple(without), alike)


def _read(path: Path, columns: FoldColumns) -> pd.DataFrame:
    roles = Columns(slide=columns.slide, case=columns.case, site=columns.site, stain=columns.stain)
    try:
        return read_label_table(path, roles)
    except InputError as error:
        options = ". For folds, columns are named by --slide, --case, --site and --stain"
        hint = options if "mbench.toml" in str(error) else ""
        raise InputError(f"{error}{hint}") from error


def _outcome_columns(columns: FoldColumns) -> list[str]:
    """Return the columns that say what folds are balanced by, the one of words last."""
    survival = [name for name in (columns.time, columns.event) if name is not None]
    if columns.label is not None and not survival:
        return [columns.label]
    if columns.label is None and len(survival) == 2:
        return survival
    raise InputError(
        "say what folds are balanced by: --label COLUMN for classes, or --time COLUMN and "
        "--event COLUMN for survival"
    )


def _check_outcome(known: pd.DataFrame, columns: FoldColumns, path: Path) -> None:
    words = sorted(set(known["outcome"]))
    name = columns.label or columns.event
    if len(words) < 2:
        there = f"only '{words[0]}'" if words else "no word"
        raise InputError(
            f"{path}: column '{name}' has {there} among {len(known)} slides with a label; folds "
            "are balanced by at least two classes"
        )
    if columns.event is not None and len(words) > 2:
        raise InputError(
            f"{path}: column '{name}' has the words {', '.join(words[:6])}; expected two, for the "
            "event and for censored (--missing WORD takes one as no label)"
        )


def _check_agreed(known: pd.DataFrame, path: Path) -> None:
    different = known.drop_duplicates(["case_id", "outcome"])
    twice = different[different["case_id"].duplicated(keep=False)].sort_values(
        ["case_id", "slide_id"]
    )
    if len(twice):
        one, other = twice.iloc[0], twice.iloc[1]
        raise InputError(
            f"{path}: slides of case '{one['case_id']}' disagree: '{one['outcome']}' (slide "
            f"'{one['slide_id']}') and '{other['outcome']}' (slide '{other['slide_id']}'); give "
            "all its slides one label, or divide slides (--unit slide)"
        )


def _check_sites(table: pd.DataFrame, path: Path) -> None:
    unknown = table[table["site"] == ""]
    if len(unknown):
        raise InputError(
            f"{path}: the site of {len(unknown)} slide(s) is empty, first "
            f"'{unknown['slide_id'].iloc[0]}'; fill it, or leave --site out to keep only cases "
            "whole"
        )

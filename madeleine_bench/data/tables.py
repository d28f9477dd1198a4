"""Label tables: every cell kept as text, so that no reader guesses what a word or a gap means."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.errors import InputError
from madeleine_bench.files import check_readable
from madeleine_bench.specs.cohort import Columns
from madeleine_bench.specs.loader import did_you_mean
from madeleine_bench.specs.task import canonical_word

ROLE_COLUMNS = ("slide_id", "case_id", "stain", "site")
_ID_ROLES = ("slide_id", "case_id", "site")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}

Rows = list[tuple[int, list[str]]]


def read_label_table(
    path: Path,
    columns: Columns,
    default_stain: str = "H&E",
    exclude: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Return a label table, one row per slide, sorted by slide id; all cells are stripped text.

    Ids of slides, cases and sites are in their normal form (`canonical_id`).
    Columns are slide_id, case_id, stain, site (from the declared columns) and then every other
    column under its own name; an empty cell is "". Without a case column each slide is its own
    case, without a site column the site is "", without a stain column it is `default_stain`.

    Args:
        path: a .csv, .tsv or .parquet file; rows are counted from the header, which is row 1.
        columns: which columns say what a row is.
        default_stain: stain of every slide when no stain column is declared.
        exclude: by column of the file the patterns (globs) of cells whose rows are left out.

    Raises:
        InputError: the file cannot be read as a table, a declared column is absent, a slide id is
            empty or occurs twice, a case id is empty, or a stain is not of the vocabulary.
    """
    header, rows = read_cells(path)
    without = {n for _, numbers in _matching(header, rows, exclude, path) for n in numbers}
    if len(without) == len(rows):
        raise InputError(f"{path}: 'exclude' leaves no row of the table; check its patterns")
    rows = [row for row in rows if row[0] not in without]
    positions = _positions(header, columns, path)
    _check_rows(rows, positions, path)
    others = [i for i in range(len(header)) if i not in positions.values()]
    content = {role: [cells[place] for _, cells in rows] for role, place in positions.items()}
    for role in _ID_ROLES:
        if role in content:
            content[role] = [canonical_id(text) for text in content[role]]
    content.setdefault("case_id", content["slide_id"])
    content.setdefault("stain", [default_stain] * len(rows))
    content.setdefault("site", [""] * len(rows))
    content = {role: content[role] for role in ROLE_COLUMNS}
    content |= {header[i]: [cells[i] for _, cells in rows] for i in others}
    table = pd.DataFrame(content, dtype=str)
    return table.sort_values("slide_id", ignore_index=True)


def excluded_rows(path: Path, exclude: Mapping[str, Sequence[str]]) -> list[str]:
    """Return for each pattern of `exclude` how many rows of a label table it leaves out, in words.

    Raises:
        InputError: the file cannot be read as a table, or has no such column.
    """
    if not exclude:
        return []
    header, rows = read_cells(path)
    lines = []
    for rule, numbers in _matching(header, rows, exclude, path):
        shown = f" (row {', '.join(map(str, numbers[:3]))}{', ...' * (len(numbers) > 3)})"
        lines.append(
            f"{len(numbers)} of {len(rows)} rows of {path.name} are left out, as exclude = {rule} "
            f"says{shown * bool(numbers)}"
        )
    return lines


def _matching(
    header: list[str], rows: Rows, exclude: Mapping[str, Sequence[str]], path: Path
) -> Iterator[tuple[str, list[int]]]:
    """Yield each pattern as mbench.toml has it, and the numbers of the rows that it matches."""
    for name, patterns in exclude.items():
        if name not in header:
            raise missing_column(name, header, f"{path}: row 1: 'exclude' in mbench.toml")
        place = header.index(name)
        for pattern in patterns:
            numbers = [number for number, cells in rows if fnmatchcase(cells[place], pattern)]
            yield f'{{ {name} = "{pattern}" }}', numbers


def missing_column(name: str, columns: Sequence[str], where: str) -> InputError:
    """Return the error for a column that a table does not have; it is never matched by likeness."""
    hint = did_you_mean(name, columns)
    listed = f" The table has {', '.join(columns)}" if hint.endswith("?") else ""
    return InputError(f"{where}: no column is called '{name}'{hint}{listed}")


def decode(data: bytes, path: Path) -> str:
    """Return the text of a table, without the byte order mark that some programs write.

    Raises:
        InputError: it is not UTF-8; the message has the row.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: row {line} is not UTF-8 text (byte {data[error.start]:#04x}); save the table "
            "as UTF-8"
        ) from error


def read_cells(path: Path) -> tuple[list[str], Rows]:
    """Return header and numbered rows of a label table.

    Raises:
        InputError: the file cannot be read as a table.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else _read_text(path)


def _read_text(path: Path) -> tuple[list[str], Rows]:
    """Return header and numbered rows of a .csv or .tsv file."""
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        raise InputError(f"{path}: a label table is a .csv, .tsv or .parquet file")
    try:
        text = decode(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"cannot read the label table {path}: {error.strerror}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: Rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise InputError(f"{path}: row {reader.line_num}: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path}: the table has no rows; expected a header and a row per slide")
    header = rows[0][1]
    for other in (";", "\t", ","):
        if len(header) == 1 and other in header[0]:
            raise InputError(
                f"{path}: the header is one column, '{header[0][:60]}'; cells of a {path.suffix} "
                f"file are separated by {separator!r}, these seem to be by {other!r}"
            )
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path}: row {number} has {len(cells)} cells, the header has {len(header)}; put "
                "cells that hold the separator in double quotes"
            )
    return header, rows[1:]


def _read_parquet(path: Path) -> tuple[list[str], Rows]:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        check_readable(path, error)
        raise InputError(f"{path} is not a parquet file, or it is truncated or damaged") from error
    if table.empty:
        raise InputError(f"{path}: the table has no rows; expected a row per slide")
    columns = [[_cell(value) for value in table[name].tolist()] for name in table.columns]
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), 2)]
    return [str(name).strip() for name in table.columns], rows


def _cell(value: Any) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # exact, where a number of 20 digits has no float
    return value.strip() if isinstance(value, str) else canonical_word(value)


def _positions(header: list[str], columns: Columns, path: Path) -> dict[str, int]:
    """Return the place of the column of each role that is declared."""
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise InputError(f"{path}: row 1: column '{twice[0]}' occurs twice; rename one of them")
    names = {role: getattr(columns, role.removesuffix("_id")) for role in ROLE_COLUMNS}
    for role, name in names.items():
        key = role.removesuffix("_id")
        if name is not None and name not in header:
            advice = f'; name the right one with columns = {{ {key} = "..." }} in mbench.toml'
            if role != "slide_id":
                none = "every slide is a case of its own" if key == "case" else "there is none"
                advice += f', or say {key} = "" if {none}'
            raise InputError(f"{missing_column(name, header, f'{path}: row 1')}{advice}")
    for role in ROLE_COLUMNS:
        if role in header and role not in names.values():
            key = role.removesuffix("_id")
            raise InputError(
                f"{path}: row 1: there is a column '{role}', but it is not declared what it means; "
                f'add columns = {{ {key} = "{role}" }} to mbench.toml, or rename the column'
            )
    return {role: header.index(name) for role, name in names.items() if name is not None}


def _check_rows(rows: Rows, positions: dict[str, int], path: Path) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for number, cells in rows:
        spelling = cells[positions["slide_id"]]
        slide_id = canonical_id(spelling)
        for role in ("slide_id", "case_id"):
            if role in positions and not cells[positions[role]]:
                raise InputError(f"{path}: row {number}: the {role.replace('_', ' ')} is empty")
        if slide_id in seen:
            row, other = seen[slide_id]
            also = "" if other == spelling else f", as '{other}' and as '{spelling}'"
            raise InputError(
                f"{path}: slide '{slide_id}' stands in rows {row} and {number}{also}; each slide "
                "has one row"
            )
        seen[slide_id] = number, spelling

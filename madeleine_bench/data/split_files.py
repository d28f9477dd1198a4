"""Files of splits: columns repeat, fold, unit_id (who is tested) or shots, draw, unit_id (trained).

A file is read as it is; whether its splits leak is for the audit. Beside a file of ours lies its
SHA-256, as sha256sum writes it, since a changed digit makes other folds that are as clean.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.tables import decode
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.types import Split, Splits, Units

FOLD_KEYS = ("repeat", "fold")
SHOT_KEYS = ("shots", "draw")

Row = tuple[int, int, str]


def split_csv(key_names: tuple[str, str], rows: Iterable[Row]) -> bytes:
    """Return the bytes of a split file; its rows are sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*key_names, "unit_id"))
    writer.writerows(sorted(rows))
    return text.getvalue().encode()


def write_frozen(path: Path, data: bytes) -> None:
    """Write a split file and, before it, its SHA-256.

    Raises:
        InputError: the folder cannot be written.
    """
    write_text(_sum_path(path), f"{hash_bytes(data)}  {path.name}\n")
    write_bytes(path, data)


def read_frozen(path: Path) -> bytes:
    """Return the bytes of a split file, checked against its SHA-256 where that was written down.

    Raises:
        InputError: it cannot be read, or was changed.
    """
    data, noted = read_split_file(path), _sum_path(path)
    if noted.is_file() and read_split_file(noted).split()[:1] != [hash_bytes(data).encode()]:
        raise InputError(
            f"{path} was changed; remove it to have it made again (its SHA-256 is not that in "
            f"{noted.name})"
        )
    return data


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def read_split_file(path: Path) -> bytes:
    """Return the bytes of a split file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the split file {path}: {error.strerror}") from error


def key_names_of(path: Path) -> tuple[str, str]:
    """Return the kind of a given split file by its header.

    Raises:
        InputError: it cannot be read, or the header is of no kind.
    """
    header = _lines(path, read_split_file(path))[0]
    for names in (FOLD_KEYS, SHOT_KEYS):
        if header == [*names, "unit_id"]:
            return names
    raise InputError(
        f"{path}: row 1 is {','.join(header)}; expected repeat,fold,unit_id (which units are "
        "tested) or shots,draw,unit_id (which units are trained on)"
    )


def parse_splits(
    path: Path, data: bytes, key_names: tuple[str, str], units: Units, *, missing_allowed: bool
) -> Splits:
    """Return the splits of a file.

    Args:
        path: the file, for messages.
        data: its bytes.
        key_names: `FOLD_KEYS` or `SHOT_KEYS`, which its header must have.
        units: the units that are divided.
        missing_allowed: whether it may name units that have no label or no features.

    Raises:
        InputError: the file is broken or names a unit that there is not; the message has the row.
    """
    lines = _lines(path, data)
    if lines[0] != [*key_names, "unit_id"]:
        expected = ",".join((*key_names, "unit_id"))
        raise InputError(f"{path}: row 1 is {','.join(lines[0])}; expected {expected}")
    members = _members(path, lines, units, missing_allowed=missing_allowed)
    listed = {key: np.array(sorted(members[key]), dtype=np.intp) for key in sorted(members)}
    case, _ = pd.factorize(units.table["case_id"])
    splits = _Listed(tuple(listed.items()), case, trains=key_names == SHOT_KEYS)
    return Splits(key_names, splits, hash_bytes(data))


@dataclass(frozen=True)
class _Listed(Sequence[Split]):
    """Splits that are held as their file has them: the other side of one is made when asked for.

    Fifty draws of few shots leave nearly all units to test on, fifty times.

    Attributes:
        listed: key and sorted positions of each split, sorted by key.
        case: (unit,) a number for each case.
        trains: whether the listed units are trained on; then no other unit of their cases is tested
            on. Else they are tested on, and all others trained on.
    """

    listed: tuple[tuple[tuple[int, int], NDArray[np.intp]], ...]
    case: NDArray[np.intp]
    trains: bool

    def __len__(self) -> int:
        return len(self.listed)

    @overload
    def __getitem__(self, index: int) -> Split: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Split]: ...
    def __getitem__(self, index: int | slice) -> Split | Sequence[Split]:
        if isinstance(index, slice):
            return replace(self, listed=self.listed[index])
        key, rows = self.listed[index]
        if self.trains:
            others = np.flatnonzero(~np.isin(self.case, self.case[rows]))
            return Split(key, rows, others)
        return Split(key, np.setdiff1d(np.arange(len(self.case)), rows), rows)


def _lines(path: Path, data: bytes) -> list[list[str]]:
    try:
        lines = list(csv.reader(io.StringIO(decode(data, path), newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a split file: {error}") from error
    if len(lines) < 2:
        raise InputError(f"{path}: no splits in the file; expected a header and rows")
    return lines


def _members(
    path: Path, lines: list[list[str]], units: Units, *, missing_allowed: bool
) -> dict[tuple[int, int], set[int]]:
    """Return the rows of the unit table that a file lists under each key."""
    position = {unit_id: row for row, unit_id in enumerate(units.table["unit_id"])}
    left_out: set[str] = set()
    if missing_allowed:
        left_out = {i for ids in units.missing.values() for i in ids} - set(position)
    members: dict[tuple[int, int], set[int]] = defaultdict(set)
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != 3 or not (cells[0].isdecimal() and cells[1].isdecimal()):
            raise InputError(
                f"{path}: row {number} is '{','.join(cells)}'; expected two whole numbers and a "
                "unit id"
            )
        key, unit_id = (int(cells[0]), int(cells[1])), canonical_id(cells[2])
        if unit_id in left_out:
            members[key]  # The split stays, should all its units be left out.
        elif unit_id not in position:
            raise InputError(
                f"{path}: row {number}: no unit is called '{unit_id}'; units look like "
                f"'{units.table['unit_id'].iloc[0]}'"
            )
        elif position[unit_id] in members[key]:
            raise InputError(f"{path}: row {number}: '{unit_id}' stands twice in one split")
        else:
            members[key].add(position[unit_id])
    return members

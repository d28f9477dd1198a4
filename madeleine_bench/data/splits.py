"""Splits of a task, drawn once, frozen to a CSV file, and audited on every read.

Folds: columns repeat, fold, unit_id: which units are tested. Few-shot: columns shots, draw,
unit_id: which units are trained on; tested are all units of all other cases.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import Scheme, outcome_of, require_clean
from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.site_folds import balanced_folds, check_foldable, linked_groups
from madeleine_bench.data.tables import decode
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.specs.protocol import ProtocolSpec, ShotPlan
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.types import Split, Splits, Units

FOLD_KEYS = ("repeat", "fold")
SHOT_KEYS = ("shots", "draw")

Row = tuple[int, int, str]
SplitState = Literal["given", "frozen", "changed", "new"]


@dataclass(frozen=True)
class FoundSplits:
    """The splits that a run would use, as they are: not audited.

    Attributes:
        splits: the splits.
        path: their file, which is not there yet where `state` is "new".
        state: "given" by the user; "frozen" and as they would be drawn today; frozen and "changed"
            since; or "new".
    """

    splits: Splits
    path: Path
    state: SplitState


def frozen_splits(
    folder: Path,
    task: TaskSpec,
    protocol: ProtocolSpec,
    units: Units,
    given: Path | None = None,
) -> Splits:
    """Return the splits of a task under a protocol, from their file; the first call makes it.

    The same task and units give the same bytes, so processes that race write the same file.

    Args:
        folder: where files of splits lie.
        task: the task; its id and version seed the draws.
        protocol: few-shot protocols draw, all others use the folds of the task.
        units: the units to divide.
        given: a file to use in place of ours where its columns are those the protocol needs. It
            may name units that have no label or no features; those are passed over.

    Raises:
        InputError: there are too few cases, sites or units of a class; or the file is broken or
            leaks; the message names file, case and units.
    """
    scheme = scheme_of(task, protocol)
    splits = _given_splits(given, protocol, units)
    if splits is not None:
        require_clean(splits, units, scheme, str(given))
        return splits
    path = _frozen_path(folder, task, protocol, units)
    if not path.is_file():
        write_frozen(path, _drawn(task, protocol, units))
    splits = parse_splits(path, read_frozen(path), units)
    require_clean(splits, units, scheme, f"{path} was changed; remove it to have it made again")
    return splits


def find_splits(
    folder: Path,
    task: TaskSpec,
    protocol: ProtocolSpec,
    units: Units,
    given: Path | None = None,
) -> FoundSplits:
    """Return what `frozen_splits` would use, whatever is wrong with it; nothing is written.

    Raises:
        InputError: as `frozen_splits`, but for leaks.
    """
    splits = _given_splits(given, protocol, units)
    if given is not None and splits is not None:
        return FoundSplits(splits, given, "given")
    path = _frozen_path(folder, task, protocol, units)
    drawn = _drawn(task, protocol, units)
    data = read_bytes(path) if path.is_file() else drawn
    state: SplitState = "changed"
    if data == drawn:
        state = "frozen" if path.is_file() else "new"
    return FoundSplits(parse_splits(path, data, units), path, state)


def scheme_of(task: TaskSpec, protocol: ProtocolSpec) -> Scheme:
    """Return how a protocol divides the units of a task."""
    return "few-shot" if protocol.shot_plan else task.splits.scheme


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
    data, noted = read_bytes(path), _sum_path(path)
    if noted.is_file() and read_bytes(noted).split()[:1] != [hash_bytes(data).encode()]:
        raise InputError(
            f"{path} was changed; remove it to have it made again (its SHA-256 is not that in "
            f"{noted.name})"
        )
    return data


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a split file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the split file {path}: {error.strerror}") from error


def parse_splits(path: Path, data: bytes, units: Units, *, missing_allowed: bool = False) -> Splits:
    """Return the splits of a file; its header says of which kind they are.

    Args:
        path: the file, for messages.
        data: its bytes.
        units: the units that are divided.
        missing_allowed: whether it may name units that have no label or no features.

    Raises:
        InputError: the file is broken or names a unit that there is not; the message has the row.
    """
    try:
        lines = list(csv.reader(io.StringIO(decode(data, path), newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a split file: {error}") from error
    if len(lines) < 2:
        raise InputError(f"{path}: no splits in the file; expected a header and rows")
    kinds = [names for names in (FOLD_KEYS, SHOT_KEYS) if lines[0] == [*names, "unit_id"]]
    if not kinds:
        raise InputError(
            f"{path}: row 1 is {','.join(lines[0])}; expected repeat,fold,unit_id (which units are "
            "tested) or shots,draw,unit_id (which units are trained on)"
        )
    members = _members(path, lines, units, missing_allowed=missing_allowed)
    listed = {key: np.array(sorted(members[key]), dtype=np.intp) for key in sorted(members)}
    case, _ = pd.factorize(units.table["case_id"])
    splits = _Listed(tuple(listed.items()), case, trains=kinds[0] == SHOT_KEYS)
    return Splits(kinds[0], splits, hash_bytes(data))


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

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, listed=self.listed[index])
        key, rows = self.listed[index]
        if self.trains:
            others = np.flatnonzero(~np.isin(self.case, self.case[rows]))
            return Split(key, rows, others)
        return Split(key, np.setdiff1d(np.arange(len(self.case)), rows), rows)


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


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


def _given_splits(given: Path | None, protocol: ProtocolSpec, units: Units) -> Splits | None:
    """Return the splits of a given file where they are of the kind that a protocol needs."""
    if given is None:
        return None
    splits = parse_splits(given, read_bytes(given), units, missing_allowed=True)
    needed = SHOT_KEYS if protocol.shot_plan else FOLD_KEYS
    return splits if splits.key_names == needed else None


def _frozen_path(folder: Path, task: TaskSpec, protocol: ProtocolSpec, units: Units) -> Path:
    plan = protocol.shot_plan
    if plan is None:
        name = f"{task.splits.scheme}-{task.splits.repeats}x{task.splits.folds}"
    else:
        rule = "" if plan.rule == "distinct-cases" else f"{plan.rule}-"
        name = f"few-shot-{rule}{'-'.join(map(str, _shots(task, plan)))}x{plan.draws}"
    return folder / f"{task.name}-{name}-{units.hash[:12]}.csv"


def _drawn(task: TaskSpec, protocol: ProtocolSpec, units: Units) -> bytes:
    """Return the bytes of the split file of a task."""
    if protocol.shot_plan:
        return split_csv(SHOT_KEYS, _draw_shots(task, protocol.shot_plan, units))
    if task.splits.scheme == "site-preserved-optimal":
        return split_csv(FOLD_KEYS, _optimal_folds(task, units))
    return split_csv(FOLD_KEYS, _draw_folds(task, units))


def _shots(task: TaskSpec, few_shot: ShotPlan) -> tuple[int, ...]:
    return tuple(sorted(set(task.shots or few_shot.shots)))


def _draw_folds(task: TaskSpec, units: Units) -> Iterator[Row]:
    """Yield (repeat, fold, unit id) of every unit in every repeat."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    outcome = outcome_of(units)
    groups = _groups(task, units)
    folds = task.splits.folds
    what = "site" if task.splits.scheme == "site-preserved" else "case"
    table = pd.crosstab(groups, outcome)
    more = isinstance(task.labels, ClassLabels) and len(task.labels.classes) > 2
    with _named(task):
        check_foldable(table.to_numpy(), table.columns, what, folds, class_optional=more)
    ids = units.table["unit_id"].to_numpy()
    single = len(set(groups)) == len(groups)
    drawn_as = task.splits.like or task.id
    for repeat in range(task.splits.repeats):
        seed = seed_for(drawn_as, task.version, task.splits.scheme, folds, repeat) % 2**32
        options = {"n_splits": folds, "shuffle": True, "random_state": seed}
        if single:
            parts = StratifiedKFold(**options).split(ids, outcome)
        else:
            parts = StratifiedGroupKFold(**options).split(ids, outcome, groups)
        for fold, (_, test) in enumerate(parts):
            if not len(test):
                raise InputError(
                    f"{task.id}: the sites are so unequal that fold {fold} of {folds} stays empty; "
                    "give the task fewer folds under 'splits'"
                )
            yield from ((repeat, fold, str(unit_id)) for unit_id in ids[np.sort(test)])


def _optimal_folds(task: TaskSpec, units: Units) -> Iterator[Row]:
    """Yield (0, fold, unit id) of every unit, sites kept whole and classes nearest to their share.

    Sites that a case has slides in are kept together.
    """
    sites = _groups(task, units)
    groups = linked_groups(units.table["case_id"].to_numpy(dtype=str), sites)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    with _named(task):
        fold, _ = balanced_folds(outcome_of(units), groups, ids, task.splits.folds)
    for number, unit_id in zip(fold, ids, strict=True):
        yield 0, int(number), str(unit_id)


@contextmanager
def _named(task: TaskSpec) -> Iterator[None]:
    """Put the task before what is wrong with its folds."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{task.id}: {error}") from error


def _groups(task: TaskSpec, units: Units) -> NDArray[Any]:
    """Return what folds may not cut: the case, or with site-preserved folds the site."""
    if task.splits.scheme == "case-stratified":
        return units.table["case_id"].to_numpy(dtype=str)
    sites = units.table["site"].to_numpy(dtype=str)
    if (sites == "").any():
        unit_id = units.table["unit_id"].to_numpy()[sites == ""][0]
        raise InputError(
            f"{task.id}: folds keep sites whole, but the site of {int((sites == '').sum())} "
            f"unit(s) is unknown, first '{unit_id}'; fill the site column of the label table and "
            'name it with columns = { site = "..." } in mbench.toml'
        )
    return sites


def _draw_shots(task: TaskSpec, few_shot: ShotPlan, units: Units) -> Iterator[Row]:
    """Yield (shots, draw, unit id) of every unit trained on."""
    if "label" not in units.table:
        raise InputError(f"{task.id}: few-shot draws need classes; its labels are survival times")
    labels = units.table["label"].to_numpy(dtype=str)
    cases = units.table["case_id"].to_numpy(dtype=str)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    names = sorted(set(labels))
    for shots in _shots(task, few_shot):
        for name in names:
            if (count := len(set(cases[labels == name]))) <= shots:
                raise InputError(
                    f"{task.id}: class '{name}' has {count} case(s); {shots} shots a class leave "
                    "none to test on. Give the task smaller 'shots', or run another protocol "
                    "(--protocol linear-probe)"
                )
        for draw in range(few_shot.draws):
            if few_shot.rule == "madeleine":
                rows = _draw_as_madeleine(task, labels, shots, draw)
            else:
                drawn_as = task.splits.like or task.id
                rng = rng_for(drawn_as, task.version, "few-shot", shots, draw)
                rows = _draw(labels, cases, shots, rng)
            left = labels[~np.isin(cases, cases[rows])]
            if len(rows) < shots * len(names) or len(set(left)) < len(names):
                raise InputError(
                    f"{task.id}: cases hold slides of several classes, so {shots} shots of each "
                    "class leave a class without training or test cases; give the task smaller "
                    "'shots'"
                )
            yield from ((shots, draw, str(ids[row])) for row in sorted(rows))


def _draw(
    labels: NDArray[Any], cases: NDArray[Any], shots: int, rng: np.random.Generator
) -> list[int]:
    """Return the rows of one draw: `shots` of each class, no two of one case.

    The rarest class chooses first, lest another take the cases it shares with it.
    """
    names, counts = np.unique(labels, return_counts=True)
    rows: list[int] = []
    taken: set[str] = set()
    for name in names[np.argsort(counts, kind="stable")]:
        wanted = len(rows) + shots
        for row in rng.permutation(np.flatnonzero(labels == name)):
            if len(rows) < wanted and cases[row] not in taken:
                rows.append(int(row))
                taken.add(str(cases[row]))
    return rows


def _draw_as_madeleine(task: TaskSpec, labels: NDArray[Any], shots: int, draw: int) -> list[int]:
    """Return the rows of one draw as MADELEINE's few-shot script makes it (`ShotPlan`).

    The script draws slides from a table in the order of its file. The unit table is in the order of
    ids, so that the draw does not depend on a file. Two units of a draw may be of one case.
    """
    assert isinstance(task.labels, ClassLabels)
    random_state = np.random.RandomState(draw)
    rows: list[int] = []
    for name in task.labels.classes:
        members = pd.Series(np.flatnonzero(labels == name))
        rows += members.sample(min(shots, len(members)), random_state=random_state).tolist()
    return rows

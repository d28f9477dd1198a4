"""Splits of a task, drawn once, frozen to a CSV file, and audited on every read.

Folds: columns repeat, fold, unit_id: which units are tested; all others are trained on. Few-shot:
columns shots, draw, unit_id: which units are trained on; all units of all other cases are tested.
With a fourth column, role, both list every unit in use: train, val, test (or unused).
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import Scheme, has_outcomes, outcome_of, require_clean
from madeleine_bench.data.ids import canonical_id
from madeleine_bench.data.site_folds import balanced_folds, check_foldable, linked_groups
from madeleine_bench.data.tables import decode
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes, write_text
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.specs.protocol import ProtocolSpec, ShotPlan
from madeleine_bench.specs.task import ClassLabels, SplitScheme, TaskSpec
from madeleine_bench.types import Split, Splits, Units

FOLD_KEYS = ("repeat", "fold")
SHOT_KEYS = ("shots", "draw")
ROLES = ("train", "val", "test", "unused")

Row = tuple[int, int, str] | tuple[int, int, str, str]
_Key = tuple[int, int]
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
    changed = f"{path} was changed; remove it to have it made again"
    require_clean(splits, units, scheme, changed, covered=scheme != "hold-out")
    return splits


def drawn_splits(task: TaskSpec, protocol: ProtocolSpec, units: Units) -> Splits:
    """Return the splits of a task under a protocol as they are drawn, without a file.

    Raises:
        InputError: there are too few cases, sites or units of a class.
    """
    splits = parse_splits(Path("drawn splits"), _drawn(task, protocol, units), units)
    scheme = scheme_of(task, protocol)
    require_clean(splits, units, scheme, task.id, covered=scheme != "hold-out")
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
    """Return the bytes of a split file; its rows are sorted, and have a role or not."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ordered = sorted(rows)
    writer.writerow((*key_names, "unit_id", "role")[: len(ordered[0])])
    writer.writerows(ordered)
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
    kinds = [names for names in (FOLD_KEYS, SHOT_KEYS) if lines[0][:3] == [*names, "unit_id"]]
    if not kinds or lines[0][3:] not in ([], ["role"]):
        raise InputError(
            f"{path}: row 1 is {','.join(lines[0])}; expected repeat,fold,unit_id (which units are "
            "tested) or shots,draw,unit_id (which units are trained on), or one of them with a "
            f"fourth column, role: {', '.join(ROLES)}"
        )
    implied = "" if lines[0][3:] else ("test" if kinds[0] == FOLD_KEYS else "train")
    members = _members(path, lines, units, implied, missing_allowed=missing_allowed)
    case, _ = pd.factorize(units.table["case_id"])
    keys = tuple(sorted(members))
    splits = _Listed(keys, {key: _positions(members[key]) for key in keys}, case, implied)
    return Splits(kinds[0], splits, hash_bytes(data))


def _positions(roles: Mapping[str, set[int]]) -> dict[str, NDArray[np.intp]]:
    return {role: np.array(sorted(rows), dtype=np.intp) for role, rows in roles.items()}


@dataclass(frozen=True)
class _Listed(Sequence[Split]):
    """Splits that are held as their file has them: the other side of one is made when asked for.

    Fifty draws of few shots leave nearly all units to test on, fifty times.

    Attributes:
        keys: of the splits, sorted.
        listed: by key and role, sorted positions.
        case: (unit,) a number for each case.
        implied: the one role that the file lists: "test", and all other units are trained on; or
            "train", and all units of other cases are tested. "" where it lists every role.
    """

    keys: tuple[_Key, ...]
    listed: Mapping[_Key, Mapping[str, NDArray[np.intp]]]
    case: NDArray[np.intp]
    implied: str

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, keys=self.keys[index])
        key, none = self.keys[index], np.empty(0, dtype=np.intp)
        train, val, test = (self.listed[key].get(role, none) for role in ("train", "val", "test"))
        if self.implied == "train":
            test = np.flatnonzero(~np.isin(self.case, self.case[train]))
        elif self.implied == "test":
            train = np.setdiff1d(np.arange(len(self.case)), test)
        return Split(key, train, test, val)


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _members(
    path: Path, lines: list[list[str]], units: Units, implied: str, *, missing_allowed: bool
) -> dict[_Key, dict[str, set[int]]]:
    """Return the rows of the unit table that a file lists under each key and role."""
    position = {unit_id: row for row, unit_id in enumerate(units.table["unit_id"])}
    left_out: set[str] = set()
    if missing_allowed:
        left_out = {i for ids in units.missing.values() for i in ids} - set(position)
    members: dict[_Key, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    seen: set[tuple[_Key, str]] = set()
    for number, cells in enumerate(lines[1:], start=2):
        wrong = len(cells) != len(lines[0]) or not (cells[0].isdecimal() and cells[1].isdecimal())
        if wrong or (not implied and cells[3] not in ROLES):
            role = "" if implied else f", and a role ({', '.join(ROLES)})"
            raise InputError(
                f"{path}: row {number} is '{','.join(cells)}'; expected two whole numbers and a "
                f"unit id{role}"
            )
        key, unit_id = (int(cells[0]), int(cells[1])), canonical_id(cells[2])
        if unit_id in left_out:
            members[key]  # The split stays, should all its units be left out.
        elif unit_id not in position:
            raise InputError(
                f"{path}: row {number}: no unit is called '{unit_id}'; units look like "
                f"'{units.table['unit_id'].iloc[0]}'"
            )
        elif (key, unit_id) in seen:
            raise InputError(f"{path}: row {number}: '{unit_id}' occurs twice in one split")
        else:
            seen.add((key, unit_id))
            members[key][implied or cells[3]].add(position[unit_id])
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
        name += "-validation" * task.splits.validation
    else:
        rule = "" if plan.rule == "distinct-cases" else f"{plan.rule}-"
        name = f"few-shot-{rule}{'-'.join(map(str, _shots(task, plan, units)))}x{plan.draws}"
    return folder / f"{task.name}-{name}-{units.hash[:12]}.csv"


def _drawn(task: TaskSpec, protocol: ProtocolSpec, units: Units) -> bytes:
    """Return the bytes of the split file of a task."""
    if protocol.shot_plan:
        return split_csv(SHOT_KEYS, _draw_shots(task, protocol.shot_plan, units))
    optimal = task.splits.scheme == "site-preserved-optimal"
    folds = (_optimal_folds if optimal else _draw_folds)(task, units)
    if task.splits.scheme == "hold-out" or task.splits.validation:
        return split_csv(FOLD_KEYS, _with_roles(task.splits, list(folds)))
    return split_csv(FOLD_KEYS, folds)


def _with_roles(scheme: SplitScheme, rows: Sequence[tuple[int, int, str]]) -> Iterator[Row]:
    """Yield (repeat, fold, unit id, role) of every unit in every split, from the folds of units.

    A split tests its own fold and validates on the next one.
    """
    for split in range(1 if scheme.scheme == "hold-out" else scheme.folds):
        for repeat, fold, unit_id in rows:
            role = {0: "test", 1: "val"}.get((fold - split) % scheme.folds, "train")
            yield repeat, split, unit_id, role if scheme.validation or role == "test" else "train"


def left_out_shots(task: TaskSpec, protocol: ProtocolSpec, units: Units) -> str | None:
    """Return which numbers of shots a class of these units cannot fill, or None; they are skipped.

    Raises:
        InputError: as `frozen_splits`, of few-shot draws.
    """
    if (plan := protocol.shot_plan) is None:
        return None
    kept = _shots(task, plan, units)
    skipped = sorted(set(task.shots or plan.shots) - set(kept))
    if not skipped:
        return None
    name, count = _rarest(units)
    return (
        f"{task.id}, {protocol.name}: {', '.join(map(str, skipped))} shots a class are left out, "
        f"as class '{name}' has {count} cases; scored at {', '.join(map(str, kept))}"
    )


def _shots(task: TaskSpec, few_shot: ShotPlan, units: Units) -> tuple[int, ...]:
    """Return the numbers of shots that leave each class a case to test on, ascending."""
    if "label" not in units.table:
        raise InputError(
            f"{task.id}: few-shot draws need classes; its labels are {task.labels.type}"
        )
    name, count = _rarest(units)
    wanted = sorted(set(task.shots or few_shot.shots))
    if not (kept := tuple(shots for shots in wanted if shots < count)):
        raise InputError(
            f"{task.id}: class '{name}' has {count} case(s); {wanted[0]} shots a class leave none "
            "to test on. Give the task smaller 'shots', or run another protocol (--protocol "
            "linear-probe)"
        )
    return kept


def _rarest(units: Units) -> tuple[str, int]:
    """Return the class of the fewest cases, and how many these are."""
    counts = units.table.groupby("label")["case_id"].nunique()
    return str(counts.idxmin()), int(counts.min())


def _draw_folds(task: TaskSpec, units: Units) -> Iterator[tuple[int, int, str]]:
    """Yield (repeat, fold, unit id) of every unit in every repeat."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = task.splits.folds
    outcome = outcome_of(units, folds)
    groups = _groups(task, units)
    what = "site" if task.splits.scheme == "site-preserved" else "case"
    table = pd.crosstab(groups, outcome if has_outcomes(units) else outcome == "")
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


def _optimal_folds(task: TaskSpec, units: Units) -> Iterator[tuple[int, int, str]]:
    """Yield (0, fold, unit id) of every unit, sites kept whole and classes nearest to their share.

    Sites that a case has slides in are kept together.
    """
    sites = _groups(task, units)
    groups = linked_groups(units.table["case_id"].to_numpy(dtype=str), sites)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    with _named(task):
        outcome = outcome_of(units, task.splits.folds)
        fold, _ = balanced_folds(outcome, groups, ids, task.splits.folds)
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
    if task.splits.scheme in ("case-stratified", "hold-out"):
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
    labels = units.table["label"].to_numpy(dtype=str)
    cases = units.table["case_id"].to_numpy(dtype=str)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    names = sorted(set(labels))
    for shots in _shots(task, few_shot, units):
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

"""Splits of a task, drawn once, frozen to a CSV file, and audited on every read.

Folds: columns repeat, fold, unit_id: which units are tested. Few-shot: columns shots, draw,
unit_id: which units are trained on; tested are all units of all other cases.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.audit import Scheme, require_clean
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_bytes
from madeleine_bench.hashing import hash_bytes
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.specs.protocol import ProtocolSpec, ShotPlan
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import Split, Splits, Units

FOLD_KEYS = ("repeat", "fold")
SHOT_KEYS = ("shots", "draw")

Row = tuple[int, int, str]


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
    few_shot = protocol.shot_plan
    key_names = SHOT_KEYS if few_shot else FOLD_KEYS
    scheme: Scheme = "few-shot" if few_shot else task.splits.scheme
    if given is not None and _key_names(given) == key_names:
        return _read(given, key_names, units, scheme, missing_allowed=True)
    path = folder / f"{task.name}-{_plan_name(task, few_shot)}-{units.hash[:12]}.csv"
    if not path.is_file():
        rows = _draw_shots(task, few_shot, units) if few_shot else _draw_folds(task, units)
        write_bytes(path, _as_csv(key_names, rows))
    return _read(path, key_names, units, scheme, missing_allowed=False)


def _plan_name(task: TaskSpec, few_shot: ShotPlan | None) -> str:
    if few_shot is None:
        return f"{task.splits.scheme}-{task.splits.repeats}x{task.splits.folds}"
    return f"few-shot-{'-'.join(map(str, _shots(task, few_shot)))}x{few_shot.draws}"


def _shots(task: TaskSpec, few_shot: ShotPlan) -> tuple[int, ...]:
    return tuple(sorted(set(task.shots or few_shot.shots)))


def _draw_folds(task: TaskSpec, units: Units) -> Iterator[Row]:
    """Yield (repeat, fold, unit id) of every unit in every repeat."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    outcome = _outcome(units)
    groups = _groups(task, units)
    folds = task.splits.folds
    _check_foldable(task, outcome, groups)
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


def _outcome(units: Units) -> NDArray[Any]:
    """Return what folds are stratified by: the class, or whether the event was seen."""
    column = "label" if "label" in units.table else "event"
    return units.table[column].to_numpy().astype(str)


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


def _check_foldable(task: TaskSpec, outcome: NDArray[Any], groups: NDArray[Any]) -> None:
    folds = task.splits.folds
    what = "site" if task.splits.scheme == "site-preserved" else "case"
    if (count := len(set(groups))) < folds:
        raise InputError(
            f"{task.id}: {count} {what}(s) cannot fill {folds} folds; add slides, or give the task "
            "fewer folds under 'splits'"
        )
    for name in sorted(set(outcome)):
        # Sites are too few and too unequal to ask that each class be in as many as there are
        # folds; the audit reports the folds that lack one.
        members = groups[outcome == name]
        count = len(members) if what == "site" else len(set(members))
        if count < folds:
            named = {"True": "the event", "False": "no event"}.get(name, f"class '{name}'")
            counted = "unit(s)" if what == "site" else "case(s)"
            raise InputError(
                f"{task.id}: {count} {counted} of {named} cannot fill {folds} folds; add slides, "
                "or give the task fewer folds under 'splits'"
            )


def _draw_shots(task: TaskSpec, few_shot: ShotPlan, units: Units) -> Iterator[Row]:
    """Yield (shots, draw, unit id) of every unit trained on."""
    if "label" not in units.table:
        raise InputError(f"{task.id}: few-shot draws need classes; its labels are survival times")
    labels = units.table["label"].to_numpy(dtype=str)
    cases = units.table["case_id"].to_numpy(dtype=str)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    for shots in _shots(task, few_shot):
        _check_drawable(task, labels, cases, shots)
        for draw in range(few_shot.draws):
            drawn_as = task.splits.like or task.id
            rng = rng_for(drawn_as, task.version, "few-shot", shots, draw)
            rows = _draw(task, labels, cases, shots, rng)
            yield from ((shots, draw, str(ids[row])) for row in sorted(rows))


def _draw(
    task: TaskSpec,
    labels: NDArray[Any],
    cases: NDArray[Any],
    shots: int,
    rng: np.random.Generator,
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
    left = labels[~np.isin(cases, sorted(taken))]
    if len(rows) < shots * len(names) or len(set(left)) < len(names):
        raise InputError(
            f"{task.id}: cases hold slides of several classes, so {shots} shots of each class "
            "leave a class without training or test cases; give the task smaller 'shots'"
        )
    return rows


def _check_drawable(task: TaskSpec, labels: NDArray[Any], cases: NDArray[Any], shots: int) -> None:
    for name in sorted(set(labels)):
        if (count := len(set(cases[labels == name]))) <= shots:
            raise InputError(
                f"{task.id}: class '{name}' has {count} case(s); {shots} shots a class leave none "
                "to test on. Give the task smaller 'shots', or run another protocol (--protocol "
                "linear-probe/v1)"
            )


def _as_csv(key_names: tuple[str, str], rows: Iterator[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*key_names, "unit_id"))
    writer.writerows(sorted(rows))
    return text.getvalue().encode()


def _key_names(path: Path) -> tuple[str, str]:
    """Return the kind of a given split file by its header."""
    header = _lines(path)[1][0]
    for names in (FOLD_KEYS, SHOT_KEYS):
        if header == [*names, "unit_id"]:
            return names
    raise InputError(
        f"{path}: row 1 is {','.join(header)}; expected repeat,fold,unit_id (which units are "
        "tested) or shots,draw,unit_id (which units are trained on)"
    )


def _lines(path: Path) -> tuple[bytes, list[list[str]]]:
    try:
        data = path.read_bytes()
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except OSError as error:
        raise InputError(f"cannot read the split file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a split file: {error}") from error
    if len(lines) < 2:
        raise InputError(f"{path}: no splits in the file; expected a header and rows")
    return data, lines


def _read(
    path: Path, key_names: tuple[str, str], units: Units, scheme: Scheme, *, missing_allowed: bool
) -> Splits:
    """Return the splits of a file, checked."""
    data, lines = _lines(path)
    if lines[0] != [*key_names, "unit_id"]:
        expected = ",".join((*key_names, "unit_id"))
        raise InputError(f"{path}: row 1 is {','.join(lines[0])}; expected {expected}")
    members = _members(path, lines, units, missing_allowed=missing_allowed)
    cases = units.table["case_id"].to_numpy(dtype=str)
    splits = []
    for key, rows in sorted(members.items()):
        listed = np.array(sorted(rows), dtype=np.intp)
        if scheme == "few-shot":
            others = np.flatnonzero(~np.isin(cases, cases[listed]))
            splits.append(Split(key, listed, others.astype(np.intp)))
        else:
            others = np.setdiff1d(np.arange(len(cases)), listed)
            splits.append(Split(key, others.astype(np.intp), listed))
    result = Splits(key_names, tuple(splits), hash_bytes(data))
    advice = "" if missing_allowed else " was changed; remove it to have it made again"
    require_clean(result, units, scheme, f"{path}{advice}")
    return result


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
        key, unit_id = (int(cells[0]), int(cells[1])), cells[2]
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

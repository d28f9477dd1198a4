"""Splits of a task, drawn once, frozen to a CSV file, and audited on every read.

Folds: columns repeat, fold, unit_id: which units are tested. Few-shot: columns shots, draw,
unit_id: which units are trained on; tested are all units of all other cases.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madeleine_bench.data.audit import Scheme, outcome_of, require_clean
from madeleine_bench.data.site_folds import balanced_folds, linked_groups
from madeleine_bench.data.split_files import (
    FOLD_KEYS,
    SHOT_KEYS,
    Row,
    key_names_of,
    parse_splits,
    read_frozen,
    read_split_file,
    split_csv,
    write_frozen,
)
from madeleine_bench.errors import InputError
from madeleine_bench.seeds import rng_for, seed_for
from madeleine_bench.specs.protocol import ProtocolSpec, ShotPlan
from madeleine_bench.specs.task import ClassLabels, TaskSpec
from madeleine_bench.types import Splits, Units

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
    path = given
    if path is None or not _is_of(path, scheme):
        path = _frozen_path(folder, task, protocol, units)
        if not path.is_file():
            write_frozen(path, _drawn(task, protocol, units))
    data = read_split_file(path) if path == given else read_frozen(path)
    splits = _parsed(path, data, scheme, units, given)
    advice = "" if path == given else " was changed; remove it to have it made again"
    require_clean(splits, units, scheme, f"{path}{advice}")
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
    scheme = scheme_of(task, protocol)
    if given is not None and _is_of(given, scheme):
        data = read_split_file(given)
        return FoundSplits(_parsed(given, data, scheme, units, given), given, "given")
    path = _frozen_path(folder, task, protocol, units)
    there = path.is_file()
    drawn = _drawn(task, protocol, units)
    data = read_split_file(path) if there else drawn
    splits = _parsed(path, data, scheme, units, given)
    state: SplitState = "new" if not there else "frozen" if data == drawn else "changed"
    return FoundSplits(splits, path, state)


def scheme_of(task: TaskSpec, protocol: ProtocolSpec) -> Scheme:
    """Return how a protocol divides the units of a task."""
    return "few-shot" if protocol.shot_plan else task.splits.scheme


def _key_names(scheme: Scheme) -> tuple[str, str]:
    return SHOT_KEYS if scheme == "few-shot" else FOLD_KEYS


def _is_of(given: Path, scheme: Scheme) -> bool:
    """Return whether a given file has the columns that a protocol needs."""
    return key_names_of(given) == _key_names(scheme)


def _parsed(path: Path, data: bytes, scheme: Scheme, units: Units, given: Path | None) -> Splits:
    return parse_splits(path, data, _key_names(scheme), units, missing_allowed=path == given)


def _frozen_path(folder: Path, task: TaskSpec, protocol: ProtocolSpec, units: Units) -> Path:
    return folder / f"{task.name}-{_plan_name(task, protocol.shot_plan)}-{units.hash[:12]}.csv"


def _drawn(task: TaskSpec, protocol: ProtocolSpec, units: Units) -> bytes:
    """Return the bytes of the split file of a task."""
    if protocol.shot_plan:
        return split_csv(SHOT_KEYS, _draw_shots(task, protocol.shot_plan, units))
    if task.splits.scheme == "site-preserved-optimal":
        return split_csv(FOLD_KEYS, _optimal_folds(task, units))
    return split_csv(FOLD_KEYS, _draw_folds(task, units))


def _plan_name(task: TaskSpec, few_shot: ShotPlan | None) -> str:
    if few_shot is None:
        return f"{task.splits.scheme}-{task.splits.repeats}x{task.splits.folds}"
    rule = "" if few_shot.rule == "distinct-cases" else f"{few_shot.rule}-"
    return f"few-shot-{rule}{'-'.join(map(str, _shots(task, few_shot)))}x{few_shot.draws}"


def _shots(task: TaskSpec, few_shot: ShotPlan) -> tuple[int, ...]:
    return tuple(sorted(set(task.shots or few_shot.shots)))


def _draw_folds(task: TaskSpec, units: Units) -> Iterator[Row]:
    """Yield (repeat, fold, unit id) of every unit in every repeat."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    outcome = outcome_of(units)
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


def _optimal_folds(task: TaskSpec, units: Units) -> Iterator[Row]:
    """Yield (0, fold, unit id) of every unit, sites kept whole and classes nearest to their share.

    Sites that a case has slides in are kept together.
    """
    sites = _groups(task, units)
    groups = linked_groups(units.table["case_id"].to_numpy(dtype=str), sites)
    ids = units.table["unit_id"].to_numpy(dtype=str)
    try:
        found, _ = balanced_folds(outcome_of(units), groups, ids, task.splits.folds)
    except InputError as error:
        raise InputError(f"{task.id}: {error}") from error
    for fold, unit_id in zip(found, ids, strict=True):
        yield 0, int(fold), str(unit_id)


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
            leave = ""
            if isinstance(task.labels, ClassLabels) and len(task.labels.classes) > 2:
                leave = f', or leave the class out (without = ["{name}"] in mbench.toml)'
            raise InputError(
                f"{task.id}: {count} {counted} of {named} cannot fill {folds} folds; add slides, "
                f"or give the task fewer folds under 'splits'{leave}"
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
            if few_shot.rule == "madeleine":
                rows = _draw_as_madeleine(task, labels, shots, draw)
            else:
                drawn_as = task.splits.like or task.id
                rng = rng_for(drawn_as, task.version, "few-shot", shots, draw)
                rows = _draw(labels, cases, shots, rng)
            _check_draw(task, labels, cases, shots, rows)
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


def _check_draw(
    task: TaskSpec, labels: NDArray[Any], cases: NDArray[Any], shots: int, rows: list[int]
) -> None:
    """Check that a draw is full, and that the cases it leaves have units of every class."""
    n_classes = len(set(labels))
    left = labels[~np.isin(cases, cases[rows])]
    if len(rows) < shots * n_classes or len(set(left)) < n_classes:
        raise InputError(
            f"{task.id}: cases hold slides of several classes, so {shots} shots of each class "
            "leave a class without training or test cases; give the task smaller 'shots'"
        )


def _check_drawable(task: TaskSpec, labels: NDArray[Any], cases: NDArray[Any], shots: int) -> None:
    for name in sorted(set(labels)):
        if (count := len(set(cases[labels == name]))) <= shots:
            raise InputError(
                f"{task.id}: class '{name}' has {count} case(s); {shots} shots a class leave none "
                "to test on. Give the task smaller 'shots', or run another protocol (--protocol "
                "linear-probe)"
            )

"""tasks.lock: the hash of every core task on its phantom, so that no score moves unnoticed."""

import json
from collections.abc import Mapping
from pathlib import Path

from madeleine_bench.data.labels import build_units
from madeleine_bench.data.splits import drawn_splits
from madeleine_bench.errors import InputError
from madeleine_bench.phantoms.cohort import PhantomCohort
from madeleine_bench.specs.catalogue import Catalogue, task_hash
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import TaskSpec
from madeleine_bench.types import Splits, Units

Lock = Mapping[str, Mapping[str, Mapping[str, str]]]


def make_lock(catalogue: Catalogue) -> Lock:
    """Return {task@version: {protocol: {labels, splits, task_hash}}} for tasks with a phantom."""
    lock: dict[str, dict[str, dict[str, str]]] = {}
    for cohort in catalogue.cohorts.values():
        if cohort.phantom is None:
            continue
        data = PhantomCohort(cohort, catalogue.tasks_of(cohort.id))
        for task in catalogue.tasks_of(cohort.id):
            units = build_units(task, data, f"phantom {task.cohort}")
            lock[task.name] = {}
            for name in task.protocols:
                protocol = catalogue.protocols[name]
                splits = drawn_splits(task, protocol, units)
                lock[task.name][name] = lock_entry(task, protocol, units, splits)
    return lock


def lock_entry(
    task: TaskSpec, protocol: ProtocolSpec, units: Units, splits: Splits
) -> dict[str, str]:
    """Return the hashes that the lock holds of a task under a protocol."""
    hashes = {"labels": units.hash, "splits": splits.hash}
    return {**hashes, "task_hash": task_hash(task, protocol, units.hash, splits.hash)}


def moved_parts(entry: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the parts of a lock's entry that another one has not, or differently."""
    return [part for part in sorted(entry) if entry[part] != other.get(part)]


def lock_text(lock: Lock) -> str:
    """Return the text of a lock file."""
    return json.dumps(lock, indent=1, sort_keys=True) + "\n"


def read_lock(path: Path) -> Lock:
    """Return a lock file's content.

    Raises:
        InputError: the file is absent or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable lock ({error}); mbench tasks lock") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a lock: expected an object; mbench tasks lock")
    return content


def changes(old: Lock, new: Lock) -> list[str]:
    """Return a line for each task whose hash changed while its version did not.

    A protocol may give way to a later version of itself: that moves no score of the earlier one.
    """
    lines = []
    for name in sorted(old):
        for protocol, hashes in old[name].items():
            now = new.get(name, {}).get(protocol)
            if now is None:
                later = (other for other in new.get(name, {}) if _is_later(other, protocol))
                if name in new and not any(later):
                    lines.append(f"{name} {protocol}: no longer scored")
                continue
            if moved := moved_parts(hashes, now):
                lines.append(f"{name} {protocol}: {', '.join(moved)} changed")
    return lines


def _is_later(one: str, other: str) -> bool:
    """Return whether a protocol such as linear-probe/v2 is a later version of another one."""
    (name, version), (other_name, other_version) = (n.rsplit("/v", 1) for n in (one, other))
    return name == other_name and int(version) > int(other_version)

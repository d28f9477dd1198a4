"""The catalogue: every declared task, cohort and protocol, checked against each other."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_json
from madeleine_bench.resources import resource_folder
from madeleine_bench.specs.cohort import CohortSpec
from madeleine_bench.specs.loader import SpecT, did_you_mean, line_of, parse_spec, read_yaml
from madeleine_bench.specs.protocol import ProtocolSpec
from madeleine_bench.specs.task import EXTERNAL, TaskSpec, external_task

_SCORED_KEYS = {
    *("id", "version", "cohort", "unit", "stains", "labels", "splits", "metric", "shots"),
    "train_on",
}


@dataclass(frozen=True)
class Catalogue:
    """Tasks by id, cohorts by id, and protocols by versioned name, each in sorted order."""

    tasks: Mapping[str, TaskSpec]
    cohorts: Mapping[str, CohortSpec]
    protocols: Mapping[str, ProtocolSpec]

    def select(self, patterns: Iterable[str]) -> list[TaskSpec]:
        """Return the tasks that any pattern names: an id, a glob such as "bcnb-*", or "all".

        "all" is the core tasks; the extra ones are run by name. The id of an external task may be
        put together from those of two tasks (`external`).

        Raises:
            InputError: a pattern names no task, or an external one that cannot be trained so.
        """
        chosen: dict[str, TaskSpec] = {}
        for pattern in patterns:
            if not self.tasks:
                raise InputError(
                    "the catalogue has no tasks; --catalogue needs a folder with the layout of "
                    "tasks/"
                )
            matches = {
                task.id: task
                for task in self.tasks.values()
                if fnmatch.fnmatchcase(task.id, pattern)
                or (pattern == "all" and task.status == "core")
            }
            if not matches and (external := self.external(pattern)):
                self.training_task(external)
                matches = {pattern: external}
            if not matches:
                hint = did_you_mean(pattern, list(self.tasks))
                raise InputError(f"no task is called '{pattern}'{hint} (mbench tasks list)")
            chosen |= matches
        return [chosen[task_id] for task_id in sorted(chosen)]

    def external(self, name: str) -> TaskSpec | None:
        """Return the external task of an id such as cptac-breast-er-from-tcga-breast-er, or None.

        Whether it can be trained so, `training_task` checks.
        """
        tested, _, trained = name.partition(EXTERNAL)
        if tested not in self.tasks or trained not in self.tasks:
            return None
        return external_task(self.tasks[tested], self.tasks[trained])

    def training_task(self, task: TaskSpec, where: str = "") -> TaskSpec:
        """Return the task whose units an external task is trained on.

        Args:
            task: with the key `train_on`.
            where: begins the message.

        Raises:
            InputError: there is no such task, or it is of the same cohort, is external itself, or
                has another type of labels.
        """
        name, where = str(task.train_on), f"{where}{task.id}: 'train_on' names "
        if name not in self.tasks:
            hint = did_you_mean(name, list(self.tasks))
            raise InputError(f"{where}no task: '{name}'{hint} (mbench tasks list)")
        trained = self.tasks[name]
        if trained.train_on is not None:
            raise InputError(f"{where}{name}, which is an external task itself; name {trained.id}")
        if trained.cohort == task.cohort:
            raise InputError(
                f"{where}{name}, which is of the same cohort {task.cohort}; to train and test on "
                f"one cohort, run {name} itself, with splits of your own if need be"
            )
        if trained.labels.type != task.labels.type:
            kinds = f"{trained.labels.type} labels, and here they are {task.labels.type}"
            raise InputError(f"{where}{name}, which has {kinds}")
        return trained

    def cohorts_of(self, task: TaskSpec) -> list[str]:
        """Return the cohort of a task, and that of the task an external one is trained on."""
        return [task.cohort, *([self.training_task(task).cohort] if task.train_on else [])]

    def external_ids(
        self, words: Iterable[str], train_on: str | None, test_on: str | None
    ) -> list[str]:
        """Return the ids of the external tasks of two cohorts that words such as "er" name.

        Args:
            words: the end of the ids of a task in each of the cohorts, or the id of one of the two.
            train_on: id of the cohort to train on.
            test_on: id of the cohort to test on.

        Raises:
            InputError: a cohort is not named or there is none of its name, or not exactly one task
                of a cohort ends in a word.
        """
        if not train_on or not test_on:
            raise InputError("--train-on and --test-on each name a cohort; give both or neither")
        cohorts = [self.cohort(cohort_id).id for cohort_id in (test_on, train_on)]
        ids = []
        for word in words:
            for cohort_id in cohorts:
                word = word.removeprefix(f"{cohort_id}-")
            ids.append(EXTERNAL.join(self._ending_in(word, cohort_id) for cohort_id in cohorts))
        return ids

    def _ending_in(self, word: str, cohort_id: str) -> str:
        """Return the id of the one task of a cohort that ends in a word."""
        ids = [task.id for task in self.tasks_of(cohort_id) if task.train_on is None]
        exact = [i for i in ids if i in (word, f"{cohort_id}-{word}")]
        ending = exact or [
            task_id for task_id in ids if re.search(f"[-_]{re.escape(word)}$", task_id)
        ]
        if len(ending) != 1:
            raise InputError(
                f"--task {word}: {len(ending) or 'no'} tasks of cohort {cohort_id} end in it; its "
                f"tasks are {', '.join(ids) or 'none'}. Where the two cohorts name it differently, "
                "declare a task with 'train_on' in mbench.toml (docs/external-validation.md)"
            )
        return ending[0]

    def with_external(self, task_ids: Iterable[str]) -> "Catalogue":
        """Return the catalogue with those of the external tasks of some ids that it can make."""
        made = {name: self.external(name) for name in set(task_ids) - set(self.tasks)}
        tasks = {name: task for name, task in made.items() if task is not None}
        return replace(self, tasks=dict(sorted({**self.tasks, **tasks}.items()))) if tasks else self

    def protocol(self, name: str) -> ProtocolSpec:
        """Return a protocol by its versioned name, or the newest version by its id.

        Raises:
            InputError: no protocol has this name.
        """
        found = [p for p in self.protocols.values() if name in (p.name, p.id)]
        if found:
            return max(found, key=lambda protocol: protocol.version)
        hint = did_you_mean(name, list(self.protocols))
        raise InputError(f"no protocol is called '{name}'{hint}")

    def select_protocols(self, patterns: Iterable[str]) -> list[ProtocolSpec]:
        """Return the protocols that any pattern names: as in `protocol`, or a glob of names or ids.

        They come in the order of the patterns, each once.

        Raises:
            InputError: a pattern names no protocol, or one without a version several.
        """
        chosen: dict[str, ProtocolSpec] = {}
        for pattern in patterns:
            matches = [
                p
                for p in self.protocols.values()
                if any(fnmatch.fnmatchcase(name, pattern) for name in (p.name, p.id))
            ]
            if not is_glob(pattern):
                matches = [self.protocol(pattern)]
            elif not matches:
                hint = did_you_mean(pattern, list(self.protocols))
                raise InputError(f"no protocol matches '{pattern}'{hint}")
            chosen.update((protocol.name, protocol) for protocol in matches)
        return list(chosen.values())

    def cohort(self, cohort_id: str) -> CohortSpec:
        """Return a cohort.

        Raises:
            InputError: no cohort has this id.
        """
        if cohort_id not in self.cohorts:
            hint = did_you_mean(cohort_id, list(self.cohorts))
            raise InputError(f"no cohort is called '{cohort_id}'{hint} (mbench data status)")
        return self.cohorts[cohort_id]

    def tasks_of(self, cohort_id: str) -> list[TaskSpec]:
        """Return the tasks of one cohort, sorted by id."""
        return [task for task in self.tasks.values() if task.cohort == cohort_id]


def load_catalogue(folder: Path | None = None, base: Catalogue | None = None) -> Catalogue:
    """Return the catalogue under a folder laid out as tasks/ is; None takes the shipped one.

    With a base, the folder adds to its tasks, cohorts and protocols, and replaces none.

    Raises:
        InputError: a file is broken, an id occurs twice or differs from its file's name, a task
            names a cohort, stain or protocol that is not declared, or a protocol does not fit.
    """
    root = folder if folder is not None else resource_folder("tasks")
    if not root.is_dir():
        raise InputError(f"no folder {root}; a catalogue is a folder with the layout of tasks/")
    base = base or Catalogue({}, {}, {})
    cohorts = _load_all(CohortSpec, root / "cohorts", "id", taken=base.cohorts)
    cohorts = {
        name: cohort.model_copy(update={"labels": root / cohort.labels})
        if cohort.labels and name not in base.cohorts
        else cohort
        for name, cohort in cohorts.items()
    }
    protocols = _load_all(ProtocolSpec, root / "protocols", "name", taken=base.protocols)
    tasks = _load_all(TaskSpec, root, "id", cohorts, taken=base.tasks)
    for task in tasks.values():
        if base.tasks and task.id not in base.tasks and task.status == "core":
            raise InputError(f"{root / task.id}.yaml: only built-in tasks are core; drop 'status'")
        check_task(task, cohorts, protocols, root / f"{task.id}.yaml")
    catalogue = Catalogue(tasks, cohorts, protocols)
    for task in tasks.values():
        if task.train_on is not None:
            catalogue.training_task(task, f"{root / task.id}.yaml: ")
    return catalogue


def is_glob(pattern: str) -> bool:
    """Return whether a pattern has a wildcard, so that it may name several things."""
    return any(character in pattern for character in "*?[")


def task_hash(task: TaskSpec, protocol: ProtocolSpec, labels: str, splits: str) -> str:
    """Return the hash of everything about a task that moves a score.

    Titles, sources and licences are left out; `labels` and `splits` are content hashes.
    """
    scored = {k: v for k, v in task.model_dump(mode="json").items() if k in _SCORED_KEYS}
    if scored["splits"]["like"] is None:
        del scored["splits"]["like"]
    scored["labels"].pop("time_unit", None)  # `labels` is of days, whatever the table counts in
    fit = protocol.model_dump(mode="json", include={"id", "version", "method"})
    if protocol.fusion != "late":
        fit["fusion"] = protocol.fusion
    return hash_json({"task": scored, "protocol": fit, "labels": labels, "splits": splits})


def _load_all(
    model: type[SpecT],
    folder: Path,
    key: str,
    cohorts: Mapping[str, CohortSpec] | None = None,
    *,
    taken: Mapping[str, SpecT],
) -> dict[str, SpecT]:
    """Return what is taken and what the YAML files of a folder declare, by name.

    Tasks inherit from `cohorts`.
    """
    declared: dict[str, SpecT] = dict(taken)
    for path in sorted(folder.glob("*.yaml")):
        data = read_yaml(path)
        if cohorts is not None:
            data = with_defaults(data, cohorts, path, ())
        spec = parse_spec(model, data, path)
        name: str = getattr(spec, key)
        if name in taken:
            where = f"{path}:{line_of(path, ('id',))}"
            raise InputError(f"{where}: '{name}' is built in already; choose another id")
        expected = path.with_stem(name.replace("/", "-"))
        if path != expected:
            fault = "is declared already in" if expected.exists() else "must stand in a file"
            where = f"{path}:{line_of(path, ('id',))}"
            raise InputError(f"{where}: '{name}' {fault} {expected}; each id has a file of its own")
        declared[name] = spec
    return dict(sorted(declared.items()))


def with_defaults(
    data: dict[str, Any], cohorts: Mapping[str, CohortSpec], path: Path, place: tuple[str, ...]
) -> dict[str, Any]:
    """Return the keys of a task with those of its cohort where it has none.

    Args:
        data: the keys of the task.
        cohorts: by id.
        path: the file, for messages.
        place: where in the file the task stands.

    Raises:
        InputError: it names a cohort that is not declared.
    """
    cohort_id = data.get("cohort")
    if not isinstance(cohort_id, str):
        return data
    if cohort_id not in cohorts:
        hint = did_you_mean(cohort_id, list(cohorts))
        where = f"{path}:{line_of(path, (*place, 'cohort'))}"
        raise InputError(f"{where}: no cohort is called '{cohort_id}'{hint}")
    cohort = cohorts[cohort_id]
    return {"stains": list(cohort.stains), **cohort.task_defaults, **data}


def check_task(
    task: TaskSpec,
    cohorts: Mapping[str, CohortSpec],
    protocols: Mapping[str, ProtocolSpec],
    path: Path,
    place: tuple[str, ...] = (),
) -> None:
    """Check a task against its cohort and its protocols.

    Raises:
        InputError: the cohort lacks a stain, a protocol is not declared, or it does not fit.
    """
    cohort = cohorts[task.cohort]
    if absent := [stain for stain in task.stains if stain not in cohort.stains]:
        where = f"{path}:{line_of(path, (*place, 'stains'))}"
        raise InputError(f"{where}: cohort {cohort.id} has no stain {absent}")
    for name in task.protocols:
        fault = (
            misfit(task, protocols[name])
            if name in protocols
            else f"no protocol is called '{name}'{did_you_mean(name, list(protocols))}"
        )
        if fault:
            raise InputError(f"{path}:{line_of(path, (*place, 'protocols'))}: {fault}")


def embedded_name(task: TaskSpec, protocol: ProtocolSpec) -> str | None:
    """Return the name of the bags whose embeddings a protocol scores on a task.

    That of the cohort, or of its cases as bags of all their slides of the task's stains; None where
    the protocol trains networks, so that nothing is embedded first.
    """
    if protocol.trains_networks:
        return None
    if protocol.fusion != "early" or task.unit != "case":
        return task.cohort
    words = ("".join(c for c in stain.lower() if c.isalnum()) for stain in sorted(task.stains))
    return f"{task.cohort}-cases-{'-'.join(words)}"


def misfit(task: TaskSpec, protocol: ProtocolSpec) -> str | None:
    """Return why a protocol cannot score a task, or None when it can."""
    if task.labels.type not in protocol.labels:
        return (
            f"protocol {protocol.name} scores {', '.join(protocol.labels)} labels; "
            f"those of {task.id} are {task.labels.type}"
        )
    if task.train_on is not None and protocol.trains_networks:
        return (
            f"protocol {protocol.name} trains networks, which external tasks such as {task.id} do "
            "not support; name one that scores embeddings, such as linear-probe"
        )
    external = task.train_on is not None  # its shots are drawn from another task
    if not external and protocol.shot_plan and task.expected and task.expected.classes:
        smallest = min(task.expected.classes.values())
        if (most := max(task.shots or protocol.shot_plan.shots)) >= smallest:
            return (
                f"{most} shots a class, but the smallest class of {task.id} is expected "
                f"to have {smallest}; give the task smaller 'shots'"
            )
    return None

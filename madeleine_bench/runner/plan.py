"""The plan of a run: which cells there are, what each is made from, and what is missing."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from madeleine_bench.data.audit_cohort import coverage_line, require_coverage, require_sound
from madeleine_bench.data.case_bags import CaseBags, Groups, slide_groups
from madeleine_bench.data.embedded_cohort import EmbeddedCohort
from madeleine_bench.data.external import Side, external_splits, join_units, tested_units
from madeleine_bench.data.labels import build_units, far_values
from madeleine_bench.data.local import LocalCohort, match_notes
from madeleine_bench.data.splits import frozen_splits, left_out_shots, scheme_of
from madeleine_bench.embeddings.given import Given
from madeleine_bench.encoders.registry import EncoderEntry, find_encoder, fingerprint
from madeleine_bench.errors import InputError
from madeleine_bench.hashing import hash_code, hash_json
from madeleine_bench.protocols.scoring import SCORING_VERSION
from madeleine_bench.runner.checks import check_given, fitting_cards, patch_encoder_of, unstated
from madeleine_bench.runner.cohorts import (
    OpenCohort,
    board_of,
    open_embedded,
    open_folders,
    slides_with_bags,
    with_folders,
)
from madeleine_bench.runner.workers import ExecutorKind
from madeleine_bench.specs.card import EncoderCard
from madeleine_bench.specs.catalogue import (
    Catalogue,
    embedded_name,
    misfit,
    task_hash,
)
from madeleine_bench.specs.config import Config
from madeleine_bench.specs.protocol import SUPERVISED_PROTOCOL, ProtocolSpec
from madeleine_bench.specs.record import RecordFeatures
from madeleine_bench.specs.task import TaskSpec, external_task
from madeleine_bench.specs.workspace import Workspace
from madeleine_bench.types import CohortData, Split, Splits, Units

NOT_ENCODED = "could not be encoded"
Device = Literal["auto", "cpu", "cuda"]
Resume = Literal["only-missing", "never"]


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        encoders: names or card paths.
        tasks: ids, globs or "all".
        protocols: names; empty means those each task declares.
        workspace: results, cohorts, catalogue and worker processes.
        resume: "only-missing" computes what is not there; "never" computes everything again, in
            place of records of a changed encoder.
        device: where networks are trained; "auto" takes the GPU where there is one.
        executor: "local" runs jobs in processes of this machine, "dask" on a cluster.
        scheduler: of dask: an address or a queueing system; None starts workers here.
        time_limit_s: the most that an encoder may take for one slide; None sets no limit.
        allow_partial: score a task although many of its labelled units have no features.
        given: embeddings to score, in place of encoders to run; None runs encoders.
    """

    encoders: tuple[str, ...]
    tasks: tuple[str, ...]
    protocols: tuple[str, ...] = ()
    workspace: Workspace = field(default_factory=Workspace)
    resume: Resume = "only-missing"
    device: Device = "auto"
    executor: ExecutorKind = "local"
    scheduler: str | None = None
    time_limit_s: float | None = None
    allow_partial: bool = False
    given: Given | None = None


@dataclass(frozen=True)
class Assessment:
    """One task under one protocol, with its units and frozen splits: all but the encoder.

    `groups` says which embeddings of a unit are averaged, as the protocol fuses slides; None is the
    mean of all. `training` is the training side of an external task: a task of another cohort, and
    those of `units` that are its. `folders` are the feature folders of the sides, or "".
    """

    task: TaskSpec
    protocol: ProtocolSpec
    units: Units
    splits: Splits
    task_hash: str
    groups: Groups | None
    training: tuple[TaskSpec, Units] | None = None
    folders: tuple[str, ...] = ("",)

    @property
    def sides(self) -> tuple[TaskSpec, ...]:
        """The task, and the one that an external task is trained on: the cohorts to be embedded."""
        return self.task, *(self.training[:1] if self.training else [])

    def key(self, side: TaskSpec) -> str:
        """Return the key of the cohort of a side in the plan; see `OpenCohort.key`."""
        folder = self.folders[[task.cohort for task in self.sides].index(side.cohort)]
        return f"{side.cohort} {folder}".rstrip()

    def embedded(self, side: TaskSpec) -> str:
        """Return by what name the embeddings of a side are ready; see `ToEmbed.place`."""
        folder = self.key(side).removeprefix(side.cohort)
        return f"{embedded_name(side, self.protocol) or ''}{folder}"


@dataclass(frozen=True)
class Cell:
    """One record to come: an encoder, its fingerprint, and what it is assessed by."""

    entry: EncoderEntry
    fingerprint: str
    assessment: Assessment

    @property
    def name(self) -> tuple[str, str]:
        """Encoder, and task with protocol, and feature folder where the cohort has several."""
        each = self.assessment
        what = f"{each.task.name} {each.protocol.name} {each.folders[0]}".rstrip()
        return self.entry.card.name, what


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know before it starts to compute.

    Attributes:
        catalogue: the catalogue the tasks are of, with the variants that mbench.toml makes.
        cohorts: the cohorts in use, by their key: one for each feature folder.
        cells: every record that was asked for: tasks sorted, then protocols, then encoders.
        features: what identifies the features of each cohort, by its key.
        notes: what the user should know of the bags and of what is left out, a line each.
    """

    catalogue: Catalogue
    cohorts: dict[str, OpenCohort]
    cells: tuple[Cell, ...]
    features: dict[str, RecordFeatures]
    notes: tuple[str, ...] = ()

    @property
    def boards(self) -> list[str]:
        """The boards that the records of this run belong to, sorted."""
        return sorted({board_of(cohort.data) for cohort in self.cohorts.values()})


def make_plan(request: Request) -> Plan:
    """Return the plan of a run. All that can be wrong with the request is found here.

    Raises:
        InputError: an unknown name, a broken file, labels or splits that cannot be used.
    """
    workspace = request.workspace
    if workspace.jobs < 1:
        raise InputError(f"--jobs must be at least 1, found {workspace.jobs}")
    if request.time_limit_s is not None and not 0 < request.time_limit_s < math.inf:
        raise InputError(f"--time-limit must be above 0 seconds, found {request.time_limit_s:g}")
    catalogue, config = workspace.open()
    chosen = catalogue.select(request.tasks)
    cohort_ids = sorted({c for task in chosen for c in catalogue.cohorts_of(task)})
    encoders: Sequence[tuple[EncoderEntry, str]]
    if given := request.given:
        config = config.labelled(catalogue, cohort_ids)
        encoders = [(given.entry(workspace.results), given.table.hash)]
        opened = {each: [open_embedded(given, catalogue, each, config)] for each in cohort_ids}
        check_given(given, chosen, catalogue.select_protocols(request.protocols))
    else:
        encoders = _find_encoders(request.encoders)
        opened = {each: open_folders(workspace, catalogue, each, config) for each in cohort_ids}
    cards = [entry.card for entry, _ in encoders]
    every = [cohort for folders in opened.values() for cohort in folders]
    fitting: dict[str, list[EncoderCard]] = {}
    for folders in opened.values():
        fitting |= fitting_cards(cards, folders)
    cells: list[Cell] = []
    unfit: list[str] = []
    coverage: list[str] = []
    for declared, cohorts in with_folders(chosen, catalogue, opened):
        cohort = cohorts[declared.cohort]
        task, training = task_and_training(declared, catalogue, cohorts)
        taken = [fitting[each.key] for each in cohorts.values()]
        there = [(e, p) for e, p in encoders if all(e.card in fits for fits in taken)]
        if not there:
            continue
        wanted = {e.card.name: _protocols(request, catalogue, task, e.card) for e, _ in there}
        protocols = {p.name: p for own in wanted.values() for p in own}
        unfit += _left_out(task, catalogue.select_protocols(request.protocols))
        if not request.protocols and not all(wanted.values()):
            unfit += _left_out(task, [catalogue.protocol(SUPERVISED_PROTOCOL)])
        results, partial = workspace.results, request.allow_partial
        assessments = assess(
            cohort, task, [*protocols.values()], config, results, partial, training
        )
        coverage += _coverage(assessments[:1], cohorts)
        coverage += filter(None, (far_values(task, each.units) for each in assessments[:1]))
        for assessment in assessments:
            drawn_from = assessment.training or (task, assessment.units)
            if skipped := left_out_shots(drawn_from[0], assessment.protocol, drawn_from[1]):
                coverage.append(skipped)
            cells.extend(
                Cell(entry, print_, assessment)
                for entry, print_ in there
                if assessment.protocol in wanted[entry.card.name]
            )
    if not cells:
        raise InputError(f"--protocol: {unfit[0]}" if request.protocols else unfit[0])
    notes = [f"left out: {fault}" for fault in dict.fromkeys(unfit)]
    notes += dict.fromkeys(line for c in every for line in (*c.notes, *match_notes(c.data)))
    notes += coverage
    notes += [line for c in every for line in unstated(fitting[c.key], c.data)]
    variants = {t.id: t for t in (cell.assessment.task for cell in cells) if t.id != t.declared_id}
    notes += [
        f"{task.declared_id} is scored without a class, as {task.name}: a task that is on no "
        "leaderboard, and in the table below alone"
        for task in variants.values()
        if task.train_on is None
    ]
    catalogue = replace(catalogue, tasks={**catalogue.tasks, **variants})
    used = {each.key(side) for each in (cell.assessment for cell in cells) for side in each.sides}
    kept = {c.key: c for c in sorted(every, key=lambda c: c.key) if c.key in used}
    features = {
        key: _features_of_given(request, c.data, config) if given else features_of(c.data)
        for key, c in kept.items()
    }
    return Plan(catalogue, kept, tuple(cells), features, tuple(notes))


def task_and_training(
    declared: TaskSpec, catalogue: Catalogue, cohorts: Mapping[str, OpenCohort]
) -> tuple[TaskSpec, tuple[OpenCohort, TaskSpec] | None]:
    """Return a task with the user's label words, and what an external one is trained on."""
    task = cohorts[declared.cohort].task(declared)
    if declared.train_on is None:
        return task, None
    trained = catalogue.training_task(declared)
    other = cohorts[trained.cohort]
    training = other, other.task(trained)
    _require_alike(cohorts[declared.cohort].data, other.data)
    return task if task.train_on else external_task(task, training[1]), training


def assess(
    cohort: OpenCohort,
    task: TaskSpec,
    protocols: Sequence[ProtocolSpec],
    config: Config,
    results: Path,
    allow_partial: bool = False,
    training: tuple[OpenCohort, TaskSpec] | None = None,
) -> list[Assessment]:
    """Return a task of an open cohort under each protocol: its units, and its frozen splits.

    An external task is trained on all units of `training`, or on few-shot draws of them.

    Raises:
        InputError: labels or splits that cannot be used, slides of two cases that are equal, or,
            unless `allow_partial`, too few labelled units with features.
    """
    opened = [(cohort, task), *([training] if training else [])]
    sides = [_side(*each, allow_partial) for each in opened]
    units = join_units(*sides) if training else sides[0][2]
    # Of an external task draws are made of the units that it is trained on.
    drawn, source, drawn_units = sides[-1]
    given = config.splits_of(drawn) if isinstance(source, LocalCohort) else None
    folder = results / "splits" / board_of(cohort.data)
    found = []
    for protocol in protocols:
        if training and not protocol.shot_plan:
            splits = external_splits(units, drawn_units)
        else:
            splits = frozen_splits(folder, drawn, protocol, drawn_units, given)
            splits = external_splits(units, drawn_units, splits) if training else splits
        declared_hash = task_hash(task, protocol, units.hash, splits.hash)
        groups, trained = _groups(protocol, sides), (drawn, drawn_units) if training else None
        folders = tuple(each.folder for each, _ in opened)
        found.append(
            Assessment(task, protocol, units, splits, declared_hash, groups, trained, folders)
        )
    divided = [] if training else [(each.splits, scheme_of(task, each.protocol)) for each in found]
    for each, data, part in sides:
        require_sound(each, data, part, divided)
    return found


def _side(cohort: OpenCohort, task: TaskSpec, allow_partial: bool) -> Side:
    units = build_units(task, cohort.data, cohort.where)
    if not allow_partial:
        require_coverage(task, cohort.data, units)
    return task, cohort.data, units


def _groups(protocol: ProtocolSpec, sides: Sequence[Side]) -> Groups | None:
    """Return which embeddings of a unit are averaged; None is the mean of all."""
    groups: dict[str, tuple[tuple[str, ...], ...]] = {}
    if protocol.fusion == "late" or all(task.unit != "case" for task, _, _ in sides):
        return None
    for task, data, units in sides:
        stain_of = dict(zip(data.slides["slide_id"], data.slides["stain"], strict=True))
        fusion = protocol.fusion if task.unit == "case" else "late"
        groups |= slide_groups(units, fusion, stain_of)
    return groups


def _require_alike(tested: CohortData, trained: CohortData) -> None:
    """Check that two cohorts can be joined.

    Raises:
        InputError: they are of two boards, or of two patch encoders.
    """
    pair = tested, trained
    boards = [board_of(data) for data in pair]
    encoders = [patch_encoder_of(data, slides_with_bags(data)) for data in pair]
    for what, facts in (("board", boards), ("patch encoder", encoders)):
        if all(facts) and facts[0] != facts[1]:
            raise InputError(
                f"the {what} of {tested.cohort_id} is {facts[0]}, that of {trained.cohort_id} is "
                f"{facts[1]}: to train on one and test on the other, name features of both from "
                "the same patch encoder under [cohorts] in mbench.toml, or use --source phantom"
            )


def _coverage(assessments: Sequence[Assessment], cohorts: Mapping[str, OpenCohort]) -> list[str]:
    """Return how much of a task is scored, and why the rest is not."""
    lines = []
    for each in assessments:
        sides = [(each.task, each.units)]
        if each.training:
            tested, (task, trained) = tested_units(each.units, each.training[1]), each.training
            sides = [(each.task, tested), (task, trained)]
            lines.append(
                f"{each.task.id}: trained on {len(trained.table)} {task.unit}s of {task.cohort}, "
                f"tested on {len(tested.table)} of {each.task.cohort}"
            )
        lines += [
            f"{cohorts[task.cohort].folder}: ".removeprefix(": ")
            + coverage_line(task, cohorts[task.cohort].data, units)
            for task, units in sides
        ]
    return lines


def with_embeddings(assessment: Assessment, embedded: Collection[str]) -> Assessment:
    """Return an assessment of the units whose slides all have an embedding.

    Folds are kept, less the other units. It is the same object where there are none.
    """
    units, ids, there = assessment.units, assessment.units.table["unit_id"], set(embedded)
    groups = assessment.groups or {unit: (slides,) for unit, slides in units.slides.items()}
    kept = np.array([all(there.issuperset(group) for group in groups[unit]) for unit in ids])
    if kept.all():
        return assessment
    names, place = list(ids[~kept]), np.cumsum(kept) - 1

    def moved(rows: NDArray[np.intp]) -> NDArray[np.intp]:
        still: NDArray[np.intp] = place[rows[kept[rows]]]
        return still

    units = replace(
        units,
        table=units.table[kept].reset_index(drop=True),
        missing={**units.missing, NOT_ENCODED: tuple(names)},
        hash=hash_json([units.hash, names]),
    )
    divided = [Split(s.key, moved(s.train), moved(s.test), moved(s.val)) for s in assessment.splits]
    splits = Splits(
        assessment.splits.key_names, divided, hash_json([assessment.splits.hash, names])
    )
    declared_hash = task_hash(assessment.task, assessment.protocol, units.hash, splits.hash)
    training = assessment.training
    if training:
        table = training[1].table
        table = table[~table["unit_id"].isin(names)].reset_index(drop=True)
        training = training[0], replace(training[1], table=table)
    return replace(
        assessment, units=units, splits=splits, task_hash=declared_hash, training=training
    )


def resume_key(embeddings: str, assessment: Assessment) -> str:
    """Return the hash of all a record is made from: embeddings, task, protocol, scoring version."""
    return hash_json([embeddings, assessment.task_hash, assessment.protocol.name, SCORING_VERSION])


def embeddings_key(encoder_fingerprint: str, data: CohortData, slide_ids: Sequence[str]) -> str:
    """Return the hash of all that embeddings are made from: encoder, bags, and facts of slides."""
    return hash_json([encoder_fingerprint, _bags(data, slide_ids)])


def features_of(data: CohortData) -> RecordFeatures:
    """Return what identifies the features of a cohort: their patch encoder and their content."""
    slides = slides_with_bags(data)
    content = hash_json(_bags(data, slides))
    return RecordFeatures(patch_encoder=patch_encoder_of(data, slides), content=content)


def _features_of_given(request: Request, data: CohortData, config: Config) -> RecordFeatures:
    """Return the features that mbench.toml has of the stated patch encoder, or else its name."""
    assert isinstance(data, EmbeddedCohort)
    assert request.given
    patch_encoder = request.given.card.patch_encoder
    for entry in config.cohorts[data.cohort_id].folders().values():
        is_there = isinstance(entry.features, Path) and entry.features.is_dir()
        if is_there and patch_encoder is not None and entry.patch_encoder == patch_encoder:
            return features_of(LocalCohort(data.spec, entry, request.workspace.results / "cache"))
    return data.features(patch_encoder)


def _bags(data: CohortData, slide_ids: Sequence[str]) -> list[list[str]]:
    """Return all that an encoder is given of each slide: its facts, and the hash of its bag."""
    facts = data.slides[["slide_id", "case_id", "stain", "site"]].itertuples(index=False)
    known = {row[0]: list(row) for row in facts}
    return [[*known[slide_id], data.content_key(slide_id)] for slide_id in slide_ids]


def fits_key(encoder_fingerprint: str, data: CohortData, assessment: Assessment) -> str:
    """Return the hash of all that trained networks are made from: bags, labels, splits and code."""
    slides = sorted({slide for ids in assessment.units.slides.values() for slide in ids})
    bags = embeddings_key(encoder_fingerprint, data, slides)
    return hash_json([bags, assessment.task_hash, assessment.protocol.name, _training_code()])


def bags_to_embed(
    assessment: Assessment, data: CohortData, side: TaskSpec | None = None
) -> tuple[str, CohortData]:
    """Return name and bags of what an assessment's embeddings are made from.

    The cohort itself, or its cases as bags of all their slides of the task's stains. `side` is the
    task of one side of an external task; None is the tested one.
    """
    task = side or assessment.task
    name = embedded_name(task, assessment.protocol) or task.cohort
    return name, data if name == task.cohort else CaseBags(data, task.stains)


@cache
def _training_code() -> str:
    """Return the hash of the code that trains networks."""
    package = Path(__file__).resolve().parents[1]
    return hash_code([package / "finetuning", package / "models" / "mil", package / "losses"])


def _find_encoders(names: Sequence[str]) -> tuple[tuple[EncoderEntry, str], ...]:
    if not names:
        raise InputError("no encoder given: --encoder NAME (mbench encoders list)")
    found: dict[str, EncoderEntry] = {}
    for name in names:
        entry = find_encoder(name)
        other = found.get(entry.card.name)
        if other is not None and other.path != entry.path:
            raise InputError(
                f"two encoders are called '{entry.card.name}': {other.path} and {entry.path}"
            )
        found[entry.card.name] = entry
    return tuple((entry, fingerprint(entry)) for entry in found.values())


def _protocols(
    request: Request, catalogue: Catalogue, task: TaskSpec, card: EncoderCard
) -> list[ProtocolSpec]:
    """Return what an encoder is scored by on a task; empty where nothing asked for fits."""
    if not request.protocols:
        names = (SUPERVISED_PROTOCOL,) if card.kind == "supervised" else task.protocols
        named = [catalogue.protocol(name) for name in names]
        named = [p for p in named if p.from_slides or request.given is None]
        return [p for p in named if not p.trains_networks or misfit(task, p) is None]
    asked = catalogue.select_protocols(request.protocols)
    if card.kind == "supervised":
        if not any(protocol.trains_networks for protocol in asked):
            raise InputError(
                f"--protocol: {card.name} is supervised, so that {asked[0].name} finds no "
                f"embedding to score; leave the encoder out, or add --protocol "
                f"{SUPERVISED_PROTOCOL}"
            )
        asked = [protocol for protocol in asked if protocol.trains_networks]
    return [protocol for protocol in asked if misfit(task, protocol) is None]


def _left_out(task: TaskSpec, asked: Sequence[ProtocolSpec]) -> list[str]:
    """Return why asked protocols do not score a task; one of labels of another type is no news.

    Unless it is the only kind that was asked for.
    """
    faults = [(protocol, misfit(task, protocol)) for protocol in asked]
    for_labels = [(p, fault) for p, fault in faults if task.labels.type in p.labels]
    return [fault for _, fault in for_labels or faults[:1] if fault]
